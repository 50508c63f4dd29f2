"""Code self-repair as a task of the self-training loop: an attempt is an episode of up to four answers.

After a failed answer comes feedback from the public tests, then another answer. Guided round t keeps the
first t answers of an episode whose public tests still fail, shows the reference solution once, and continues;
a placeholder stands for the reference in what is stored. All tests together decide whether an episode is
correct.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd

from grlib import sandbox
from grlib.errors import GrlibError
from grlib.runs.chunks import chunked
from grlib.runs.sources import code_digest
from grlib.sampling.pool import Request
from grlib.selftrain import Attempt, Example, Policy
from grlib.tasks.repair import episodes
from grlib.tasks.repair.episodes import PLACEHOLDER, Format, Turn
from grlib.tasks.repair.problems import Case, CodeProblem

TURNS = 4
LEARN_FROM = ("last", "all")
PORTION = 256  # programs in one chunk of tests


@dataclass(frozen=True)
class Episode(Attempt):
    """An attempt and its turns: `prompt` is the conversation before the last answer, `response` that one."""

    turns: tuple[Turn, ...] = ()
    solution: str = ""  # the problem's reference, to recognise copies
    group: str = ""  # of the problem: intervals resample whole groups
    unread: int = 0  # of the problem
    before: tuple[str, ...] = ()  # prompts of the earlier answers, if these are training examples too

    def details(self) -> dict[str, Any]:
        """Columns of results: the number of answers, whether the public tests pass, the first correct answer
        (0: none), whether the last program copies the reference, its similarity (0..1) to the reference and
        to the program before it, the group of problems that intervals resample as a whole, and how many
        steps of the problem are told in words that the base never read."""
        right = [number for number, turn in enumerate(self.turns, 1) if turn.correct]
        reference = self.solution.rstrip("\n")  # as `code_of` strips programs
        code, *before = [episodes.code_of(turn.answer).code for turn in reversed(self.turns[-2:])] or [None]
        return {
            "answers": len(self.turns),
            "public": bool(self.turns) and self.turns[-1].public,
            "right_answer": right[0] if right else 0,
            "copied": code is not None and code == reference,
            "like_reference": episodes.likeness(code, reference),
            "like_before": episodes.likeness(code, before[0]) if before else float("nan"),
            "group": self.group,
            "unread": self.unread,
        }

    def examples(self) -> list[Example]:
        """The last answer, or with `before` every answer, each with the conversation before it as prompt."""
        earlier = [
            Example(prompt, turn.answer, True) for prompt, turn in zip(self.before, self.turns, strict=False)
        ]
        return [
            one._replace(response=episodes.without_control(one.response))
            for one in (*earlier, *super().examples())
        ]


@dataclass(frozen=True)
class Start:
    """Where a guided round starts: the answers that stay, and the feedback to show after the last of them."""

    turns: tuple[Turn, ...]
    shown: str


Job = tuple[CodeProblem, str]  # a program to test


@dataclass(frozen=True)
class RepairTask:
    """The task of self-repair; its items are of type `CodeProblem`.

    `learn_from` is "last" to train on the last answer of a kept episode, as the paper's text says, or "all",
    as its code does. `fits` says whether a prompt leaves the model room for an answer. An episode ends early
    where its conversation does not fit or an answer exceeds the budget. The folder `work` keeps test results,
    so that an interrupted run does not test its programs again.
    """

    budget: int  # tokens of one answer, end token included
    turns: int = TURNS
    rounds: int = TURNS - 1
    limits: sandbox.Limits = sandbox.Limits()
    format: Format = episodes.PLAIN
    learn_from: str = "last"
    fits: Callable[[str], bool] = lambda prompt: True
    work: Path | None = None
    progress: Callable[[str], None] = lambda line: None

    def __post_init__(self) -> None:
        if self.learn_from not in LEARN_FROM:
            raise GrlibError(f"learn_from is {self.learn_from!r}; choose one of {', '.join(LEARN_FROM)}")

    def attempt(
        self, policy: Policy, items: Sequence[CodeProblem], starts: Sequence[Start | None]
    ) -> list[Attempt | None]:
        """One episode per item; None where the first answer after a start exceeds the budget.

        All items take a turn together: one call of the policy and one batch of tests per turn.
        """
        held = [list(start.turns) if start else [] for start in starts]
        # episodes that end early: tokens of the answer that exceeds the budget, 0 without room for one
        lost: dict[int, int] = {}
        for number in range(self.turns):
            open_episodes = [
                i
                for i, turns in enumerate(held)
                if len(turns) == number and i not in lost and not (turns and turns[-1].public)
            ]
            if not open_episodes:
                continue
            began = time.monotonic()
            requests = {i: self._request(items[i], held[i], starts[i]) for i in open_episodes}
            requests = {i: request for i, request in requests.items() if self.fits(request.prompt)}
            answers = dict(zip(requests, policy(list(requests.values())), strict=True)) if requests else {}
            whole = {i: answer for i, answer in answers.items() if answer.ended}
            lost |= {i: answers[i].tokens if i in answers else 0 for i in open_episodes if i not in whole}
            judged = self.judge([(items[i], answer.text, answer.tokens) for i, answer in whole.items()])
            for i, turn in zip(whole, judged, strict=True):
                held[i].append(turn)
            count, rate = len(open_episodes), len(open_episodes) / (time.monotonic() - began)
            self.progress(f"answer {number + 1} of {count:,} episodes: tested, {rate:.3g} episodes/s")
        return [
            None if start and len(turns) == len(start.turns) else self._episode(item, turns, lost.get(i))
            for i, (item, turns, start) in enumerate(zip(items, held, starts, strict=True))
        ]

    def _request(self, item: CodeProblem, turns: Sequence[Turn], start: Start | None) -> Request:
        if start and len(turns) == len(start.turns):  # the reference is shown this once
            turns = [*turns[:-1], turns[-1]._replace(feedback=start.shown)]
        return Request(self.format.prompt(item, turns), "", self.budget)

    def judge(self, answers: Sequence[tuple[CodeProblem, str, int]]) -> list[Turn]:
        """Test the program of each answer, equal ones once.

        An answer is a problem, the answer's text and its length in tokens.
        """
        read = [episodes.code_of(text) for _, text, _ in answers]
        programs = {
            (id(item), found.code): (item, found.code)
            for (item, _, _), found in zip(answers, read, strict=True)
            if found.code is not None
        }
        verdicts = dict(zip(programs, self._verdicts(list(programs.values())), strict=True))
        turns = []
        for (item, text, tokens), found in zip(answers, read, strict=True):
            if found.code is None:
                verdict = (episodes.feedback_without_program(found.reason), False, False)
            else:
                verdict = verdicts[id(item), found.code]
            turns.append(Turn(text, *verdict, tokens))
        return turns

    def _verdicts(self, jobs: Sequence[Job]) -> list[tuple[str, bool, bool]]:
        """For each program its feedback, whether the public tests pass, and whether all tests pass."""
        if not jobs:
            return []
        parts = [jobs[i : i + PORTION] for i in range(0, len(jobs), PORTION)]
        if self.work is None:
            frame = pd.concat([self._tested(part) for part in parts])
        else:
            content = hashlib.sha256(repr((list(jobs), self.limits)).encode()).hexdigest()
            key = {"jobs": content, "code": code_digest("grlib.tasks.repair.task"), "portion": PORTION}
            key["isolation"] = sandbox.isolation().name
            frame = chunked(
                self.work / content[:16], key, len(parts), lambda number: self._tested(parts[number]),
                progress=lambda line: None,
            )  # fmt: skip
        return list(frame.itertuples(index=False, name=None))

    def _tested(self, jobs: Sequence[Job]) -> pd.DataFrame:
        """The public tests of each program, then the private ones of those that pass."""
        public = self._outcomes((item, code, item.public) for item, code in jobs)
        solved = [all(one.passed for one in outcomes) for outcomes in public]
        rest = [job for job, passed in zip(jobs, solved, strict=True) if passed]
        private = iter(self._outcomes((item, code, item.private) for item, code in rest if item.private))
        rows = []
        for (item, _), outcomes, passed in zip(jobs, public, solved, strict=True):
            hidden = next(private) if passed and item.private else []
            reply = "" if passed else episodes.feedback(item, outcomes)
            rows.append((reply, passed, passed and all(one.passed for one in hidden)))
        return pd.DataFrame(rows, columns=["feedback", "public", "correct"])

    def _outcomes(
        self, jobs: Iterable[tuple[CodeProblem, str, Sequence[Case]]]
    ) -> list[list[sandbox.Outcome]]:
        return sandbox.run_all(
            (code, [case._asdict() for case in tests], item.style, item.entry, self.limits)
            for item, code, tests in jobs
        )

    def _episode(self, item: CodeProblem, turns: Sequence[Turn], lost: int | None) -> Episode:
        last = turns[-1] if turns else Turn("", "", False, False, 0)
        earlier = range(len(turns) - 1) if self.learn_from == "all" else ()
        failure = "budget" if lost is not None else "private" if last.public else "public"
        return Episode(
            prompt=self.format.prompt(item, turns[:-1]),
            response=last.answer,
            tokens=sum(turn.tokens for turn in turns) + (lost or 0),
            ended=lost is None,
            correct=last.correct,
            reason="correct" if last.correct else failure,
            turns=tuple(turns),
            solution=item.solution,
            group=item.group or str(item.number),
            unread=item.unread,
            before=tuple(self.format.prompt(item, turns[:number]) for number in earlier),
        )

    def guide(self, item: CodeProblem, attempt: Attempt, number: int, rng: Random) -> Start | None:
        """Keep `number` answers and show the reference after them, if public tests still fail."""
        assert isinstance(attempt, Episode)
        kept = attempt.turns[:number]
        if not kept or attempt.turns[-1].public or len(kept) == self.turns:
            return None
        stored, reference = kept[-1].feedback, episodes.as_answer(item.solution)
        last = kept[-1]._replace(feedback=episodes.with_reference(stored, PLACEHOLDER))
        return Start((*kept[:-1], last), episodes.with_reference(stored, reference))

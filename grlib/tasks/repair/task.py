"""Code self-repair as a task of the self-training loop: an attempt is an episode of up to four answers.

A failed answer is followed by what the public tests say, and another answer. Guided round t keeps the first t
answers of an episode whose public tests still fail, shows the reference solution once, and goes on; what is
stored has a placeholder in its place. All tests together decide whether an episode is correct.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pandas as pd

from grlib import sandbox
from grlib.errors import GrlibError
from grlib.runs.chunks import chunked
from grlib.runs.sources import code_digest
from grlib.sampling.pool import Request
from grlib.selftrain import Attempt, Example, Policy
from grlib.tasks.repair import episodes
from grlib.tasks.repair.episodes import PLACEHOLDER, Answer, Format, Turn
from grlib.tasks.repair.problems import Case, CodeProblem

TURNS = 4
LEARN_FROM = ("last", "all")
PORTION = 256  # programs of one resumable piece of testing


@dataclass(frozen=True)
class Episode(Attempt):
    """An attempt and its turns: `prompt` is the conversation before the last answer, `response` that one."""

    turns: tuple[Turn, ...] = ()
    solution: str = ""  # the problem's reference, to tell copies
    before: tuple[str, ...] = ()  # prompts of the answers before the last, where they are learnt from too

    def details(self) -> dict[str, Any]:
        """How many answers, whether the public tests pass, the first right answer (0: none), a copy of the
        reference, and how like the last program is to the reference and to the program before it (0..1)."""
        right = [number for number, turn in enumerate(self.turns, 1) if turn.correct]
        reference = self.solution.rstrip("\n")  # as programs come out of answers
        code, *before = [episodes.code_of(turn.answer).code for turn in reversed(self.turns[-2:])] or [None]
        return {
            "answers": len(self.turns),
            "public": bool(self.turns) and self.turns[-1].public,
            "right_answer": right[0] if right else 0,
            "copied": code is not None and code == reference,
            "like_reference": episodes.likeness(code, reference),
            "like_before": episodes.likeness(code, before[0]) if before else float("nan"),
        }

    def examples(self) -> list[Example]:
        """The last answer; with `before` every answer, each after the conversation up to it."""
        earlier = [
            Example(prompt, turn.answer, True) for prompt, turn in zip(self.before, self.turns, strict=False)
        ]
        return [
            one._replace(response=episodes.without_control(one.response))
            for one in (*earlier, *super().examples())
        ]


@dataclass(frozen=True)
class Start:
    """Where a guided round goes on: the answers that stay, and what the last feedback says this once."""

    turns: tuple[Turn, ...]
    shown: str


class Job(NamedTuple):
    """A program to be tested."""

    item: CodeProblem
    answer: Answer


@dataclass(frozen=True)
class RepairTask:
    """Items are `CodeProblem`s.

    `learn_from` says which answers of a kept episode are learnt from: the last one, as the paper's text says,
    or all, as its code does. `fits` tells whether a prompt leaves the model room for an answer; an episode
    whose conversation grows too long ends there, as one whose answer runs into the budget. With a folder
    `work`, programs that were tested are not run again after an interruption.
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
        if self.budget < 1 or self.turns < 1 or not 0 <= self.rounds < self.turns:
            raise GrlibError(
                f"budget {self.budget}, turns {self.turns}, rounds {self.rounds}: budget and turns must be 1 "
                "or more, rounds less than turns"
            )

    def attempt(
        self, policy: Policy, items: Sequence[CodeProblem], starts: Sequence[Start | None]
    ) -> list[Attempt | None]:
        """An episode an item; None where the first answer after a start runs into the budget.

        All items go through a turn together: one call of the policy and one round of testing a turn.
        """
        held = [list(start.turns) if start else [] for start in starts]
        lost: set[int] = set()  # the newest answer ran into the budget, or there was no room for one
        dropped: dict[int, int] = {}  # tokens of an answer that ran into the budget
        for number in range(self.turns):
            going = [
                i
                for i, turns in enumerate(held)
                if len(turns) == number and i not in lost and _failing(turns)
            ]
            if not going:
                continue
            began = time.monotonic()
            asked = {i: self._request(items[i], held[i], starts[i]) for i in going}
            asked = {i: request for i, request in asked.items() if self.fits(request.prompt)}
            answers = dict(zip(asked, policy(list(asked.values())), strict=True)) if asked else {}
            whole = {i: answer for i, answer in answers.items() if answer.ended}
            lost.update(set(going) - set(whole))
            dropped.update((i, answer.tokens) for i, answer in answers.items() if not answer.ended)
            judged = self.judge([(items[i], answer.text, answer.tokens) for i, answer in whole.items()])
            for i, turn in zip(whole, judged, strict=True):
                held[i].append(turn)
            rate = len(going) / (time.monotonic() - began)
            self.progress(f"answer {number + 1} of {len(going):,} episodes: tested, {rate:.3g} episodes/s")
        return [
            None
            if start and len(turns) == len(start.turns)
            else self._episode(item, turns, i in lost, dropped.get(i, 0))
            for i, (item, turns, start) in enumerate(zip(items, held, starts, strict=True))
        ]

    def _request(self, item: CodeProblem, turns: Sequence[Turn], start: Start | None) -> Request:
        shown = start.shown if start and len(turns) == len(start.turns) else None
        return Request(self.format.prompt(item, turns, shown), "", self.budget)

    def judge(self, answers: Sequence[tuple[CodeProblem, str, int]]) -> list[Turn]:
        """Run the tests of each answer's program, equal ones once, and say what the public tests found.

        An answer is a problem, the text and its tokens.
        """
        read = [Job(item, episodes.code_of(text)) for item, text, _ in answers]
        programs = {(id(job.item), job.answer.code): job for job in read if job.answer.code is not None}
        verdicts = dict(zip(programs, self._verdicts(list(programs.values())), strict=True))
        found = []
        for job, (_, text, tokens) in zip(read, answers, strict=True):
            if job.answer.code is None:
                verdict = (episodes.feedback(job.item, job.answer, ()), False, False)
            else:
                verdict = verdicts[id(job.item), job.answer.code]
            found.append(Turn(text, *verdict, tokens))
        return found

    def _verdicts(self, jobs: Sequence[Job]) -> list[tuple[str, bool, bool]]:
        """Feedback, do the public tests pass, do all: for each program."""
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
        public = self._outcomes(jobs, [job.item.public for job in jobs])
        solved = [all(one.passed for one in outcomes) for outcomes in public]
        rest = [job for job, passed in zip(jobs, solved, strict=True) if passed and job.item.private]
        private = iter(self._outcomes(rest, [job.item.private for job in rest]))
        rows = []
        for job, outcomes, passed in zip(jobs, public, solved, strict=True):
            hidden = next(private) if passed and job.item.private else []
            said = "" if passed else episodes.feedback(job.item, job.answer, outcomes)
            rows.append((said, passed, passed and all(one.passed for one in hidden)))
        return pd.DataFrame(rows, columns=["feedback", "public", "correct"])

    def _outcomes(self, jobs: Sequence[Job], cases: Sequence[Sequence[Case]]) -> list[list[sandbox.Outcome]]:
        return sandbox.run_all(
            (job.answer.code, [case._asdict() for case in tests], job.item.style, job.item.entry, self.limits)
            for job, tests in zip(jobs, cases, strict=True)
        )

    def _episode(self, item: CodeProblem, turns: Sequence[Turn], lost: bool, dropped: int) -> Episode:
        last = turns[-1] if turns else Turn("", "", False, False, 0)
        earlier = range(len(turns) - 1) if self.learn_from == "all" else ()
        reason = "correct" if last.correct else "budget" if lost else "private" if last.public else "public"
        return Episode(
            prompt=self.format.prompt(item, turns[:-1]),
            response=last.answer,
            tokens=sum(turn.tokens for turn in turns) + dropped,
            ended=not lost,
            correct=last.correct,
            reason=reason,
            turns=tuple(turns),
            solution=item.solution,
            before=tuple(self.format.prompt(item, turns[:number]) for number in earlier),
        )

    def guide(self, item: CodeProblem, attempt: Attempt, number: int, rng: Random) -> Start | None:
        """Keep `number` answers and show the reference after them, where public tests still fail."""
        assert isinstance(attempt, Episode)
        kept = attempt.turns[:number]
        if not kept or attempt.turns[-1].public or len(kept) == self.turns:
            return None
        stored, reference = kept[-1].feedback, episodes.as_answer(item.solution)
        last = kept[-1]._replace(feedback=episodes.with_reference(stored, PLACEHOLDER))
        return Start((*kept[:-1], last), episodes.with_reference(stored, reference))


def _failing(turns: Sequence[Turn]) -> bool:
    return not turns or not turns[-1].public

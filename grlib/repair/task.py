"""Code self-repair as a task of the self-training loop: an attempt is an episode of up to four answers.

A failed answer is followed by what the public tests say, and another answer. Guided round t keeps the first t
answers of an episode whose public tests still fail, shows the reference solution once, and goes on; what is
stored has a placeholder in its place. All tests together decide whether an episode is correct.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from grlib import sandbox
from grlib.errors import GrlibError
from grlib.repair import episodes
from grlib.repair.episodes import PLACEHOLDER, Format, Turn
from grlib.repair.problems import CodeProblem
from grlib.sampling import Request
from grlib.selftrain import Attempt, Policy

TURNS = 4


@dataclass(frozen=True)
class Episode(Attempt):
    """An attempt and its turns: `prompt` is the conversation before the last answer, `response` that one."""

    turns: tuple[Turn, ...] = ()
    solution: str = ""  # the problem's reference, to tell copies

    def row(self) -> dict[str, Any]:
        """Also: how many answers, whether the public tests pass, the first right answer (0: none), a copy?"""
        right = [number for number, turn in enumerate(self.turns, 1) if turn.correct]
        return super().row() | {
            "answers": len(self.turns),
            "public": bool(self.turns) and self.turns[-1].public,
            "right_answer": right[0] if right else 0,
            "copied": episodes.code_of(self.response).code == self.solution,
        }


@dataclass(frozen=True)
class Start:
    """Where a guided round goes on: the answers that stay, and what the last feedback says this once."""

    turns: tuple[Turn, ...]
    shown: str


@dataclass(frozen=True)
class RepairTask:
    """Items are `CodeProblem`s."""

    budget: int  # tokens of one answer, end token included
    turns: int = TURNS
    rounds: int = TURNS - 1
    limits: sandbox.Limits = sandbox.Limits()
    format: Format = episodes.PLAIN

    def __post_init__(self) -> None:
        if self.budget < 1 or self.turns < 1 or not 0 <= self.rounds < self.turns:
            raise GrlibError(
                f"budget {self.budget}, turns {self.turns}, rounds {self.rounds}: budget and turns must be 1 "
                "or more, rounds less than turns"
            )

    def attempt(
        self, policy: Policy, items: Sequence[CodeProblem], starts: Sequence[Start | None]
    ) -> list[Attempt | None]:
        """An episode an item; None where the first answer after a start runs into the budget."""
        held = [list(start.turns) if start else [] for start in starts]
        lost = [False] * len(items)  # the newest answer ran into the budget and was dropped
        for number in range(self.turns):
            going = [
                i for i, turns in enumerate(held) if len(turns) == number and not lost[i] and _failing(turns)
            ]
            if not going:
                continue
            answers = policy([self._request(items[i], held[i], starts[i]) for i in going])
            whole = [(i, answer) for i, answer in zip(going, answers, strict=True) if answer.ended]
            for i in set(going) - {i for i, _ in whole}:
                lost[i] = True
            judged = self.judge([(items[i], answer.text, answer.tokens) for i, answer in whole])
            for (i, _), turn in zip(whole, judged, strict=True):
                held[i].append(turn)
        return [
            None if start and len(turns) == len(start.turns) else self._episode(item, turns, gone)
            for item, turns, start, gone in zip(items, held, starts, lost, strict=True)
        ]

    def _request(self, item: CodeProblem, turns: Sequence[Turn], start: Start | None) -> Request:
        shown = start.shown if start and len(turns) == len(start.turns) else None
        return Request(self.format.prompt(item, turns, shown), "", self.budget)

    def judge(self, answers: Sequence[tuple[CodeProblem, str, int]]) -> list[Turn]:
        """Run all tests of each answer's program, and say what the public ones found."""
        read = [episodes.code_of(text) for _, text, _ in answers]
        jobs = [
            (code.code, item.tests(), item.style, item.entry, self.limits)
            for (item, _, _), code in zip(answers, read, strict=True)
            if code.code is not None
        ]
        outcomes = iter(sandbox.run_all(jobs))
        found = []
        for (item, text, tokens), code in zip(answers, read, strict=True):
            passed = next(outcomes) if code.code is not None else []
            public = passed[: len(item.public)]
            solved = bool(passed) and all(one.passed for one in public)
            correct = solved and all(one.passed for one in passed)
            said = "" if solved else episodes.feedback(item, code, public)
            found.append(Turn(text, said, solved, correct, tokens))
        return found

    def _episode(self, item: CodeProblem, turns: Sequence[Turn], lost: bool) -> Episode:
        last = turns[-1] if turns else Turn("", "", False, False, 0)
        reason = "correct" if last.correct else "budget" if lost else "private" if last.public else "public"
        return Episode(
            prompt=self.format.prompt(item, turns[:-1]),
            response=last.answer,
            tokens=sum(turn.tokens for turn in turns),
            ended=not lost,
            correct=last.correct,
            reason=reason,
            turns=tuple(turns),
            solution=item.solution,
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

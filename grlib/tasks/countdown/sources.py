"""Countdown problems and traces from data sets in the layout of the authors' release, instead of our own."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from grlib.errors import GrlibError
from grlib.profiles import Profile
from grlib.tasks.countdown.data import Imitated, Solved, Splits, check_sizes, imitation_examples, make_splits
from grlib.tasks.countdown.fast import solve
from grlib.tasks.countdown.puzzle import Problem, problem_key
from grlib.tasks.countdown.rows import problems_from_rows, turns_from_rows
from grlib.tasks.countdown.vocabulary import read_question
from grlib.tasks.external import load_rows

_opened = lru_cache(maxsize=8)(load_rows)  # notebooks read a data set in many parts
SPLITS = {"train": "train", "valid": "validation", "seen": "test_seen", "unseen": "test_unseen"}


def splits_of(profile: Profile, seed: int) -> Splits:
    """The problems of a run: drawn by `make_splits`, or the first rows of each split of `problems_source`.

    Problems from a data set are the same for every seed. GrlibError if they are too few, or if a test or
    validation problem, or one with a target that is held out, is among those to train on.
    """
    train, valid, test = profile.self_training.train_problems, profile.valid_problems, profile.test_list
    check_sources(profile)
    place = profile.problems_source
    if not place:
        return make_splits(profile.countdown, train, valid, test, seed)
    held, solved = _held_back(place, valid, test), _problems(place, "train", train)
    for problem, _ in solved:
        held.refuse(problem, f"{place}, split train")
    return Splits(solved, held.valid, held.seen, held.unseen)


def check_sources(profile: Profile) -> None:
    """Refuse a pair of sources, or sizes, that could let a base model learn from test problems."""
    if not profile.problems_source:
        check_sizes(profile.countdown, profile.valid_problems, profile.test_list)
    if bool(profile.problems_source) != bool(profile.imitation_source):
        raise GrlibError(
            f"problems_source {profile.problems_source!r}, imitation_source {profile.imitation_source!r}: "
            "give both or none, else the base model may have learnt from test problems"
        )
    if profile.imitation_source and not profile.model.pretrained:
        raise GrlibError(
            f"imitation_source {profile.imitation_source!r}: the base of profile {profile.name} learns from "
            "examples that are drawn here, three numbers first; take a profile with a pretrained model"
        )


def examples_of(profile: Profile, n: int, start: int = 0) -> list[Imitated]:
    """Examples start .. start+n-1 of what a base imitates: drawn here, or rows of `imitation_source`.

    For rows of a data set the solution is the one that `solve` finds; the searcher is unknown. What
    `splits_of` refuses in the training problems is refused here, too.
    """
    check_sources(profile)
    if not profile.imitation_source:
        return imitation_examples(profile.countdown, n, start=start)
    frame = _first(profile.imitation_source, "train", n, start)
    place, found = f"{profile.imitation_source}, split train", []
    held = _held_back(profile.problems_source, profile.valid_problems, profile.test_list)
    for number, (prompt, trace) in enumerate(turns_from_rows(frame), start):
        problem = read_question(prompt)
        solution = solve(problem) if problem else None
        if not problem or solution is None:
            raise GrlibError(
                f"{place}, row {number}: {prompt[:80]!r} poses no Countdown problem with a solution"
            )
        held.refuse(problem, f"{place}, row {number}")
        found.append(Imitated(problem, tuple(solution), "", "", 0, trace))
    return found


def _problems(place: str, role: str, n: int) -> list[Solved]:
    frame = _first(place, SPLITS[role], n)
    try:
        return problems_from_rows(frame)
    except GrlibError as error:
        raise GrlibError(f"{place}, split {SPLITS[role]}: {error}") from error


def _first(place: str, split: str, n: int, start: int = 0) -> Any:
    """Rows start .. start+n-1 of a split as a pandas table."""
    rows = _opened(place, split)
    if len(rows) < start + n:
        raise GrlibError(
            f"{place}, split {split}: has {len(rows):,} rows, {start + n:,} are wanted; take fewer"
        )
    return rows.select(range(start, start + n)).to_pandas()


class _HeldBack:
    """Problems of a data set that nothing may be trained on."""

    def __init__(self, place: str, valid: int, test: int) -> None:
        self.seen, self.unseen = (_problems(place, role, test) for role in ("seen", "unseen"))
        self.keys = {problem_key(problem) for problem, _ in self.seen + self.unseen}
        self.targets = {problem.target for problem, _ in self.unseen}
        self.valid = _problems(place, "valid", valid)
        for problem, _ in self.valid:
            self.refuse(problem, f"{place}, split {SPLITS['valid']}")
        self.keys |= {problem_key(problem) for problem, _ in self.valid}

    def refuse(self, problem: Problem, where: str) -> None:
        """GrlibError for one of these problems, or one whose target is held out."""
        if problem.target in self.targets or problem_key(problem) in self.keys:
            raise GrlibError(
                f"{where}: {problem} is a test or validation problem, or its target is held out; no accuracy "
                "on such a split means anything"
            )


_held_back = lru_cache(maxsize=8)(_HeldBack)

"""Countdown problems and traces from data sets in the layout of the authors' release, instead of our own."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

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
    train, valid, test = profile.self_training.train_problems, profile.valid_problems, profile.test_problems
    check_sources(profile)
    place = profile.problems_source
    if not place:
        return make_splits(profile.countdown, train, valid, test, seed)
    kept = _held_back(place, valid, test)
    solved = _problems(place, SPLITS["train"], train)
    for problem, _ in solved:
        _refuse_leak(problem, kept, f"{place}, split {SPLITS['train']}")
    return Splits(solved, *kept.lists)


def check_sources(profile: Profile) -> None:
    """Refuse a pair of sources, or sizes, that could let a base model learn from test problems."""
    if not profile.problems_source:
        check_sizes(profile.countdown, profile.valid_problems, profile.test_problems)
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
    kept = _held_back(profile.problems_source, profile.valid_problems, profile.test_problems)
    for number, (prompt, trace) in enumerate(turns_from_rows(frame), start):
        problem = read_question(prompt)
        solution = solve(problem) if problem else None
        if not problem or solution is None:
            raise GrlibError(
                f"{place}, row {number}: {prompt[:80]!r} poses no Countdown problem with a solution"
            )
        _refuse_leak(problem, kept, f"{place}, row {number}")
        found.append(Imitated(problem, tuple(solution), "", "", 0, trace))
    return found


def _problems(place: str, split: str, n: int) -> list[Solved]:
    try:
        return problems_from_rows(_first(place, split, n))
    except GrlibError as error:
        raise GrlibError(f"{place}, split {split}: {error}") from error


def _first(place: str, split: str, n: int, start: int = 0) -> Any:
    """Rows start .. start+n-1 of a split as a pandas table."""
    rows = _opened(place, split)
    if len(rows) < start + n:
        raise GrlibError(
            f"{place}, split {split}: has {len(rows):,} rows, {start + n:,} are wanted; take fewer"
        )
    return rows.select(range(start, start + n)).to_pandas()


class _HeldBack(NamedTuple):
    """Problems of a data set that nothing may be trained on: validation, seen and unseen test problems."""

    lists: tuple[list[Solved], list[Solved], list[Solved]]
    keys: set[tuple[int, ...]]
    targets: set[int]  # of the unseen ones


@lru_cache(maxsize=8)
def _held_back(place: str, valid: int, test: int) -> _HeldBack:
    valids, seen, unseen = (
        _problems(place, SPLITS[role], n) for role, n in (("valid", valid), ("seen", test), ("unseen", test))
    )
    tests = {problem_key(problem) for problem, _ in seen + unseen}
    kept = _HeldBack((valids, seen, unseen), tests, {problem.target for problem, _ in unseen})
    for problem, _ in valids:
        _refuse_leak(problem, kept, f"{place}, split {SPLITS['valid']}")
    return kept._replace(keys=tests | {problem_key(problem) for problem, _ in valids})


def _refuse_leak(problem: Problem, kept: _HeldBack, where: str) -> None:
    if problem.target in kept.targets or problem_key(problem) in kept.keys:
        raise GrlibError(
            f"{where}: {problem} is a test or validation problem, or its target is held out; no accuracy on "
            "such a split means anything"
        )

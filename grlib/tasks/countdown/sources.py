"""Countdown problems and traces from data sets in the layout of the authors' release, instead of our own."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from grlib.errors import GrlibError
from grlib.profiles import Profile
from grlib.tasks.countdown.data import Imitated, Solved, Splits, check_sizes, imitation_examples, make_splits
from grlib.tasks.countdown.fast import solve
from grlib.tasks.countdown.puzzle import problem_key
from grlib.tasks.countdown.rows import problems_from_rows, turns_from_rows
from grlib.tasks.countdown.vocabulary import read_question
from grlib.tasks.external import load_rows

_opened = lru_cache(maxsize=8)(load_rows)  # notebooks read a data set in many parts
SPLITS = {"train": "train", "valid": "validation", "seen": "test_seen", "unseen": "test_unseen"}


def splits_of(profile: Profile, seed: int) -> Splits:
    """The problems of a run: drawn by `make_splits`, or the first rows of each split of `problems_source`.

    Problems from a data set are the same for every seed. GrlibError if they are too few, or if one of a test
    split, or one with a target that is held out, is among those to train on.
    """
    sizes = {
        "train": profile.self_training.train_problems,
        "valid": profile.valid_problems,
        "test": profile.test_problems,
    }
    check_sources(profile)
    if not profile.problems_source:
        return make_splits(profile.task, **sizes, seed=seed)
    roles = {
        role: _problems(profile.problems_source, split, sizes.get(role, profile.test_problems))
        for role, split in SPLITS.items()
    }
    _refuse_leaks(roles, profile.problems_source)
    return Splits(**roles)


def check_sources(profile: Profile) -> None:
    """Refuse a pair of sources, or sizes, that could let a base model learn from test problems."""
    if not profile.problems_source:
        check_sizes(profile.task, profile.valid_problems, profile.test_problems)
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

    For rows of a data set the solution is the one that `solve` finds; the searcher is unknown.
    """
    check_sources(profile)
    if not profile.imitation_source:
        return imitation_examples(profile.task, n, start=start)
    frame = _first(profile.imitation_source, "train", n, start)
    place, found = f"{profile.imitation_source}, split train", []
    for number, (prompt, trace) in enumerate(turns_from_rows(frame), start):
        problem = read_question(prompt)
        solution = solve(problem) if problem else None
        if not problem or solution is None:
            raise GrlibError(
                f"{place}, row {number}: {prompt[:80]!r} poses no Countdown problem with a solution"
            )
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


def _refuse_leaks(roles: dict[str, list[Solved]], place: str) -> None:
    held_out = {problem.target for problem, _ in roles["unseen"]}
    tests = {problem_key(problem) for role in ("seen", "unseen") for problem, _ in roles[role]}
    for role in ("train", "valid"):
        for problem, _ in roles[role]:
            if problem.target in held_out or problem_key(problem) in tests:
                raise GrlibError(
                    f"{place}, split {SPLITS[role]}: {problem} is a test problem, or its target is held "
                    "out; no accuracy on such a split means anything"
                )

"""Data sets of the Countdown experiments: problem splits, and the traces that SoS and BC imitate.

Everything here is an endless list fixed by a seed, so any part can be made alone, by any worker, and stays
the same.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

from grlib.countdown import Problem, problem_key, sample_problems, split_targets
from grlib.search import HEURISTICS, breadth_first, depth_first

RESERVED_TEST, RESERVED_VALID = 2000, 1000
Solved = tuple[Problem, tuple[str, ...]]  # a problem with its optimal solution


@dataclass(frozen=True)
class CountdownSettings:
    """The size of the task: which problems are drawn and which searchers write the traces."""

    num_count: int = 4
    max_number: int = 99
    target_low: int = 10
    target_high: int = 100
    unseen_fraction: float = 0.1
    dfs_widths: tuple[int | None, ...] = (None,)  # None: no cap, as in the reference
    bfs_beams: tuple[int, ...] = (1, 2, 3, 4, 5)
    target_seed: int = (
        0  # one split of the targets for every seed: a shipped base has seen its "seen" targets
    )


@dataclass(frozen=True)
class Splits:
    """Problems of every role; no two roles share a problem, and `unseen` alone uses the held-out targets."""

    train: list[Solved]  # self-training (ReST, PPO)
    valid: list[Solved]
    seen: list[Solved]
    unseen: list[Solved]


def make_splits(settings: CountdownSettings, train: int, valid: int, test: int, seed: int = 0) -> Splits:
    """`test` problems for each of the two test splits, `valid` and `train` problems with seen targets.

    Test and validation problems do not depend on the seed of a run (runs are compared on the same problems)
    nor on how many are taken of them; the training problems are new for every seed.
    """
    reserved = reserved_keys(settings, test, valid)
    return Splits(
        train=draw(settings, f"train/{seed}", train, exclude=reserved),
        valid=draw(settings, "valid", valid, exclude=reserved_keys(settings, test, 0)),
        seen=draw(settings, "test-seen", test),
        unseen=draw(settings, "test-unseen", test, unseen=True),
    )


def draw(
    settings: CountdownSettings,
    role: str,
    n: int,
    *,
    start: int = 0,
    unseen: bool = False,
    num_count: int = 0,
    exclude: frozenset = frozenset(),
) -> list[Solved]:
    """Problems start .. start+n-1 of the endless list named `role`."""
    targets = target_values(settings)[unseen]
    count = num_count or settings.num_count
    return sample_problems(
        n, f"{role}/{settings.target_seed}", targets, count, settings.max_number, exclude, start
    )


def target_values(settings: CountdownSettings) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(seen, unseen) target values."""
    return split_targets(
        settings.target_seed, settings.target_low, settings.target_high, settings.unseen_fraction
    )


@lru_cache(maxsize=8)
def reserved_keys(settings: CountdownSettings, test: int = 0, valid: int = 0) -> frozenset:
    """Keys of the problems kept out of every training set: the first 2,000 of the seen test list and 1,000 of
    the validation list, or more if more are in use. (A problem with an unseen target cannot be drawn for
    training.)
    """
    tests = frozenset(problem_key(p) for p, _ in draw(settings, "test-seen", max(test, RESERVED_TEST)))
    valids = draw(settings, "valid", max(valid, RESERVED_VALID), exclude=tests) if valid != 0 else []
    return tests | {problem_key(p) for p, _ in valids}


@dataclass(frozen=True)
class Imitated:
    """One example for SoS and BC: a problem, its optimal solution, the trace of a randomly drawn searcher."""

    problem: Problem
    solution: tuple[str, ...]
    solver: str  # "dfs" or "bfs"
    heuristic: str
    width: int  # children kept of a node (dfs) or beam (bfs); 0: no cap
    trace: str


def imitation_examples(
    settings: CountdownSettings, n: int, *, start: int = 0, num_count: int = 0
) -> list[Imitated]:
    """Examples start .. start+n-1 of the endless imitation set; solver, heuristic, width are drawn for each.

    Failed searches stay in (paper, section 4.1). `num_count` overrides the count of numbers (a curriculum).
    """
    num_count = num_count or settings.num_count
    reserved = reserved_keys(settings, RESERVED_TEST, RESERVED_VALID)
    solved = draw(settings, "imitate", n, start=start, num_count=num_count, exclude=reserved)
    return [_search(settings, f"{num_count}/{start + i}", *pair) for i, pair in enumerate(solved)]


def _search(settings: CountdownSettings, name: str, problem: Problem, solution: tuple[str, ...]) -> Imitated:
    rng = random.Random(f"search/{settings.target_seed}/{name}")
    heuristic = rng.choice(HEURISTICS)
    if rng.random() < 0.5:
        width = rng.choice(settings.dfs_widths)
        trace = depth_first(problem, heuristic, width)
        return Imitated(problem, solution, "dfs", heuristic, width or 0, trace)
    beam = rng.choice(settings.bfs_beams)
    return Imitated(problem, solution, "bfs", heuristic, beam, breadth_first(problem, beam, heuristic, rng))

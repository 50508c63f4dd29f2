"""Data sets of the Countdown experiments: problem splits, and the traces that SoS and BC imitate.

Everything here is an endless list fixed by a seed, so any part can be made alone, by any worker, and stays
the same.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

from grlib.errors import GrlibError
from grlib.profiles import CountdownSettings
from grlib.tasks.countdown.puzzle import Problem, problem_key, sample_problems, split_targets
from grlib.tasks.countdown.searchers import breadth_first, depth_first

Solved = tuple[Problem, tuple[str, ...]]  # a problem with its optimal solution


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
    for name, wanted, most in (
        ("test", test, settings.reserved_test),
        ("valid", valid, settings.reserved_valid),
    ):
        if wanted > most:
            raise GrlibError(
                f"{wanted} {name} problems: only {most} are kept out of the training sets; take fewer, or "
                f"raise reserved_{name} of the task and train the base anew"
            )
    return Splits(
        train=training_problems(settings, train, seed),
        valid=draw(settings, "valid", valid, exclude=reserved_keys(settings)[0]),
        seen=draw(settings, "test-seen", test),
        unseen=draw(settings, "test-unseen", test, unseen=True),
    )


def training_problems(settings: CountdownSettings, n: int, seed: int, start: int = 0) -> list[Solved]:
    """Training problems start .. start+n-1 of a seed: seen targets, no test and no validation problem."""
    tests, valids = reserved_keys(settings)
    return draw(settings, f"train/{seed}", n, start=start, exclude=tests | valids)


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
def reserved_keys(settings: CountdownSettings) -> tuple[frozenset, frozenset]:
    """Keys of the reserved test and validation problems. (Unseen targets are never drawn for training.)"""
    tests = frozenset(problem_key(p) for p, _ in draw(settings, "test-seen", settings.reserved_test))
    valids = draw(settings, "valid", settings.reserved_valid, exclude=tests)
    return tests, frozenset(problem_key(p) for p, _ in valids)


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

    Failed searches stay in (as in Stream of Search). `num_count` overrides the count of numbers.
    """
    num_count = num_count or settings.num_count
    tests, valids = reserved_keys(settings)
    solved = draw(settings, "imitate", n, start=start, num_count=num_count, exclude=tests | valids)
    seeds = [f"search/{settings.target_seed}/{num_count}/{start + i}" for i in range(n)]
    return [
        random_search(settings, *pair, random.Random(seed)) for pair, seed in zip(solved, seeds, strict=True)
    ]


def random_search(
    settings: CountdownSettings, problem: Problem, solution: tuple[str, ...], rng: random.Random
) -> Imitated:
    """The trace of a searcher drawn at random: kind, heuristic and width."""
    heuristic = rng.choice(settings.heuristics)
    if rng.random() < 0.5:
        width = rng.choice(settings.dfs_widths)
        trace = depth_first(problem, heuristic, width)
        return Imitated(problem, solution, "dfs", heuristic, width or 0, trace)
    beam = rng.choice(settings.bfs_beams)
    return Imitated(problem, solution, "bfs", heuristic, beam, breadth_first(problem, beam, heuristic, rng))

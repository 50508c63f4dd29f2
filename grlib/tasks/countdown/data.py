"""Data sets of the Countdown experiments: problem splits, and the traces that SoS and BC imitate.

Each data set is an endless list fixed by a seed, so that any worker can make any part of it alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from grlib.errors import GrlibError
from grlib.tasks.countdown.fast import solve
from grlib.tasks.countdown.puzzle import Problem, problem_key
from grlib.tasks.countdown.scale import Scale
from grlib.tasks.countdown.searchers import breadth_first, depth_first

Solved = tuple[Problem, tuple[str, ...]]  # a problem with its optimal solution


# --- drawing problems ---------------------------------------------------------------------------------------

MOST_REDRAWS = 1000  # of a test problem that is there already
BLOCK = 1000  # problems drawn from one random state: any block can be made alone, by any worker


def target_values(settings: Scale) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(seen, unseen) targets: a share of the range is held out at random (SoS: 10 %), at least one each."""
    low, high, share = settings.target_low, settings.target_high, settings.unseen_fraction
    if not 1 <= low < high or not 0 < share < 1:
        raise GrlibError(
            f"targets {low}..{high}, unseen_fraction {share}: must be two or more positive values, and "
            "between 0 and 1"
        )
    values = range(low, high + 1)
    held_out = max(1, min(len(values) - 1, round(share * len(values))))
    unseen = set(random.Random(f"targets/{settings.target_seed}").sample(values, held_out))
    return tuple(t for t in values if t not in unseen), tuple(sorted(unseen))


def draw(
    settings: Scale,
    role: str,
    n: int,
    *,
    start: int = 0,
    unseen: bool = False,
    num_count: int = 0,
    exclude: frozenset[tuple] = frozenset(),
) -> list[Solved]:
    """Problems start .. start+n-1 of the endless list named `role`, with optimal solutions.

    The target is drawn first and kept; the numbers (uniform on 1..max_number) are redrawn until it can be
    reached. `exclude` holds values of `problem_key` that must not be drawn: how test problems stay out of
    the training sets. `num_count` overrides the count of numbers.
    """
    targets, count = target_values(settings)[unseen], num_count or settings.num_count
    seed = f"problems/{role}/{settings.target_seed}/{count}/{settings.max_number}"
    found: list[Solved] = []
    for block in range(start // BLOCK, (start + n + BLOCK - 1) // BLOCK):
        rng = random.Random(f"{seed}/{block}")
        first = block * BLOCK
        for index in range(first, min(first + BLOCK, start + n)):
            drawn = _draw(rng, targets, count, settings.max_number, exclude)
            if index >= start:
                found.append(drawn)
    return found


def _draw(
    rng: random.Random, targets: Sequence[int], num_count: int, max_number: int, exclude: frozenset[tuple]
) -> Solved:
    uniform, places = rng.random, range(num_count)
    target = targets[int(uniform() * len(targets))]
    for _ in range(100_000):
        problem = Problem(tuple([int(uniform() * max_number) + 1 for _ in places]), target)
        solution = solve(problem)
        if solution is not None and problem_key(problem) not in exclude:
            return problem, solution
    raise GrlibError(
        f"target {target}: no solvable problem in 100,000 draws of {num_count} numbers up to {max_number}; "
        "choose a nearer target, more numbers or larger ones"
    )


# --- the splits of an experiment ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Splits:
    """Problems of every role; no two roles share a problem, and `unseen` alone uses the held-out targets."""

    train: list[Solved]  # self-training (ReST, PPO)
    valid: list[Solved]
    seen: list[Solved]
    unseen: list[Solved]


def make_splits(settings: Scale, train: int, valid: int, test: int, seed: int = 0) -> Splits:
    """`test` different problems for each of the two test splits, `valid` and `train` ones with seen targets.

    Test and validation problems do not depend on the seed of a run (runs are compared on the same problems)
    nor on how many are taken of them; the training problems are new for every seed.
    """
    check_sizes(settings, valid, test)
    tests, valids = reserved_keys(settings)
    return Splits(
        train=draw(settings, f"train/{seed}", train, exclude=tests | valids),
        valid=draw(settings, "valid", valid, exclude=tests),
        seen=draw_tests(settings, "test-seen", test),
        unseen=draw_tests(settings, "test-unseen", test, unseen=True),
    )


def check_sizes(settings: Scale, valid: int, test: int) -> None:
    """GrlibError for more test or validation problems than are kept out of the training sets."""
    reserved = {"test": (test, settings.reserved_test), "valid": (valid, settings.reserved_valid)}
    for name, (wanted, most) in reserved.items():
        if wanted > most:
            raise GrlibError(
                f"{wanted} {name} problems: only {most} are kept out of the training sets; take fewer, or "
                f"raise reserved_{name} of the task and train the base anew"
            )


def draw_tests(settings: Scale, role: str, n: int, *, unseen: bool = False) -> list[Solved]:
    """The first n problems of the list named `role`, but each that repeats an earlier one is drawn anew.

    The others stay as `draw` gives them. Raises GrlibError where the task has too few problems.
    """
    found, keys = draw(settings, role, n, unseen=unseen), set[tuple[int, ...]]()
    for place in range(n):
        for again in range(MOST_REDRAWS):
            if (key := problem_key(found[place][0])) not in keys:
                break
            [found[place]] = draw(settings, f"{role}/{place}/{again}", 1, unseen=unseen)
        else:
            raise GrlibError(
                f"{role}: after {place} problems, {MOST_REDRAWS} draws gave no other one; take fewer, or "
                "allow more numbers or larger ones"
            )
        keys.add(key)
    return found


@lru_cache(maxsize=8)
def reserved_keys(settings: Scale) -> tuple[frozenset, frozenset]:
    """Keys of the reserved test and validation problems. (Unseen targets are never drawn for training.)"""
    tests = frozenset(problem_key(p) for p, _ in draw_tests(settings, "test-seen", settings.reserved_test))
    valids = draw(settings, "valid", settings.reserved_valid, exclude=tests)
    return tests, frozenset(problem_key(p) for p, _ in valids)


# --- what SoS and BC imitate --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Imitated:
    """One example for SoS and BC: a problem, its optimal solution, the trace of a randomly drawn searcher."""

    problem: Problem
    solution: tuple[str, ...]
    solver: str  # "dfs" or "bfs"
    heuristic: str
    width: int  # children kept of a node (dfs) or beam (bfs); 0: no cap
    trace: str


def imitation_examples(settings: Scale, n: int, *, start: int = 0, num_count: int = 0) -> list[Imitated]:
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
    settings: Scale, problem: Problem, solution: tuple[str, ...], rng: random.Random
) -> Imitated:
    """The trace of a searcher drawn at random: kind, heuristic and width."""
    heuristic = rng.choice(settings.heuristics)
    if rng.random() < 0.5:
        width = rng.choice(settings.dfs_widths) or None
        trace = depth_first(problem, heuristic, width)
        return Imitated(problem, solution, "dfs", heuristic, width or 0, trace)
    beam = rng.choice(settings.bfs_beams)
    return Imitated(problem, solution, "bfs", heuristic, beam, breadth_first(problem, beam, heuristic, rng))

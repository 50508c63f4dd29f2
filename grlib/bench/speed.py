"""Speed of what needs no model: problems, solver, traces, rewriting, grading, hostile text, import time.

Both sides get the same inputs in turns, a portion each, so that whatever else the machine does slows both
alike; their outputs are compared before a ratio is reported.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from grlib import countdown, guidance, search, traces
from grlib.bench import plain
from grlib.countdown import Problem
from grlib.errors import GrlibError

Item = TypeVar("Item")
SEED = 20_240
NUM_COUNT, MAX_NUMBER = 4, 99  # the paper's task
PORTIONS = 10


@dataclass(frozen=True)
class Row:
    """One line of the report. Of times the smaller is better, of rates (unit ending in /s) the larger."""

    what: str
    unit: str
    plain: float | None
    grlib: float
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times faster grlib is; None where there is nothing to compare with."""
        if not self.plain or not self.grlib:
            return None
        return self.grlib / self.plain if self.unit.endswith("/s") else self.plain / self.grlib


def compare(
    what: str,
    inputs: Sequence[Item],
    slow: Callable[[Item], Any],
    fast: Callable[[Item], Any],
    note: str = "",
    must_agree: float = 1.0,
) -> Row:
    """Time two functions on the same inputs, in CPU microseconds an input, and require equal outputs.

    `must_agree` below 1 is for a plain rule that is known to do less; the share that agrees is then reported.
    """
    seconds = {slow: 0.0, fast: 0.0}
    agree = 0
    for first in range(PORTIONS):
        portion = inputs[first::PORTIONS]
        outputs = []
        for side in (slow, fast):
            start = time.process_time()
            outputs.append([side(item) for item in portion])
            seconds[side] += time.process_time() - start
        agree += sum(a == b for a, b in zip(*outputs, strict=True))
    share = agree / len(inputs)
    if share < must_agree:
        raise GrlibError(f"bench {what}: only {share:.1%} of the outputs are equal; no ratio is reported")
    if must_agree < 1:
        note = f"{note}; {share:.1%} of the outputs equal"
    micro = 1e6 / len(inputs)
    return Row(what, "us", seconds[slow] * micro, seconds[fast] * micro, note)


# --- problems, solutions, traces ----------------------------------------------------------------------------


def _targets() -> tuple[int, ...]:
    return countdown.split_targets(0)[0]


def _searched(problem: Problem, number: int) -> str:
    """grlib's trace with searcher, heuristic and beam drawn as in the imitation set."""
    rng = random.Random(number)
    heuristic = rng.choice(search.HEURISTICS)
    if rng.random() < 0.5:
        return search.depth_first(problem, heuristic)
    return search.breadth_first(problem, rng.choice((1, 2, 3, 4, 5)), heuristic, rng)


def _searched_plainly(nums: list[int], target: int, number: int) -> str:
    rng = random.Random(number)
    heuristic = rng.choice(search.HEURISTICS)
    if rng.random() < 0.5:
        return plain.depth_first(nums, target, heuristic)
    return plain.breadth_first(nums, target, rng.choice((1, 2, 3, 4, 5)), heuristic, rng)


def bench_problems(quick: bool) -> Iterator[Row]:
    """Draw solvable problems, solve them, write a trace of each."""
    targets, size = _targets(), 3 if quick else 50

    def slow(block: int) -> list[tuple[list[int], list[str], str]]:
        rng = random.Random(f"problems/{SEED + block}/{NUM_COUNT}/{MAX_NUMBER}/0")
        drawn = [plain.draw_problem(rng, targets, NUM_COUNT, MAX_NUMBER) for _ in range(size)]
        return [(n, s, _searched_plainly(n, t, i)) for i, (n, t, s) in enumerate(drawn)]

    def fast(block: int) -> list[tuple[list[int], list[str], str]]:
        drawn = countdown.sample_problems(size, SEED + block, targets, NUM_COUNT, MAX_NUMBER)
        return [(list(p.nums), list(s), _searched(p, i)) for i, (p, s) in enumerate(drawn)]

    row = compare("problem + solution + trace", range(2 * PORTIONS), slow, fast)
    assert row.plain is not None
    yield Row(row.what, "us", row.plain / size, row.grlib / size, f"{2 * PORTIONS * size} problems")


def _draws(count: int, solvable: bool | None = None) -> list[Problem]:
    """Random draws as the problem generator makes them: most cannot be solved."""
    rng, targets = random.Random(SEED), _targets()
    found: list[Problem] = []
    while len(found) < count:
        nums = tuple(rng.randint(1, MAX_NUMBER) for _ in range(NUM_COUNT))
        problem = Problem(nums, rng.choice(targets))
        if solvable is None or solvable == (countdown.solve(problem) is not None):
            found.append(problem)
    return found


def bench_solver(quick: bool) -> Iterator[Row]:
    """Solve random draws, and those that can be solved."""
    for solvable, name, count in (
        (None, "solver, random draws", 6000),
        (True, "solver, solvable problems", 2000),
    ):
        inputs = _draws(count // (20 if quick else 1), solvable)
        share = sum(countdown.solve(p) is not None for p in inputs) / len(inputs)
        yield compare(
            name,
            inputs,
            lambda p: plain.solve(list(p.nums), p.target),
            lambda p: list(solution) if (solution := countdown.solve(p)) else None,
            f"{len(inputs)} problems, {share:.0%} solvable",
        )


def bench_trace(quick: bool) -> Iterator[Row]:
    """Write traces of given problems, by searcher."""
    problems = [p for p, _ in countdown.sample_problems(40 if quick else 1000, SEED, _targets())]
    items = [(list(p.nums), p, i) for i, p in enumerate(problems)]
    yield compare(
        "trace, all searchers",
        items,
        lambda item: _searched_plainly(item[0], item[1].target, item[2]),
        lambda item: _searched(item[1], item[2]),
        f"{len(items)} traces",
    )
    for heuristic in search.HEURISTICS:

        def slow(item: tuple[list[int], Problem, int], heuristic: str = heuristic) -> str:
            return plain.depth_first(item[0], item[1].target, heuristic)

        def fast(item: tuple[list[int], Problem, int], heuristic: str = heuristic) -> str:
            return search.depth_first(item[1], heuristic)

        yield compare(f"trace, depth first, {heuristic}", items[: len(items) // 2], slow, fast)


# --- rewriting and grading ----------------------------------------------------------------------------------


def _written(count: int) -> list[tuple[Problem, tuple[str, ...], str]]:
    """Problem, solution and trace of the searchers, finished or not."""
    solved = countdown.sample_problems(count, SEED + 1, _targets())
    return [(p, s, _searched(p, i)) for i, (p, s) in enumerate(solved)]


def bench_rewrite(quick: bool) -> Iterator[Row]:
    """One guided round on failed traces; a successful one is cut somewhere first, as if it had met its
    budget."""
    cut = random.Random(SEED)
    items = []
    for number, (problem, solution, trace) in enumerate(_written(60 if quick else 600)):
        if traces.grade(trace, problem):
            trace = trace[: int(cut.random() * len(trace))]
        items.append((problem, solution, trace, number))
    mean = sum(len(item[2]) for item in items) / len(items)
    yield compare(
        "rewrite",
        items,
        lambda i: plain.rewrite(i[2], list(i[0].nums), i[0].target, i[1], random.Random(i[3])),
        lambda i: guidance.rewrite(i[2], i[0], i[1], rng=random.Random(i[3])),
        f"{len(items)} traces of {mean:,.0f} characters",
        must_agree=0.9,
    )


def bench_grade(quick: bool) -> Iterator[Row]:
    """Grade traces of the searchers, right and wrong ones."""
    items = _written(60 if quick else 600)
    mean = sum(len(trace) for *_, trace in items) / len(items)
    yield compare(
        "grade",
        items,
        lambda i: plain.grade(i[2], list(i[0].nums), i[0].target),
        lambda i: traces.grade(i[2], i[0]).correct,
        f"{len(items)} traces of {mean:,.0f} characters",
    )


# --- hostile text -------------------------------------------------------------------------------------------

_PROBLEM = Problem((3, 4, 5, 6), 24)
_ROOT = traces.state_line(24, (3, 4, 5, 6), ())
_NODE = traces.exploring_line("3+4=7", (5, 6, 7)) + traces.generated_line("0,0", 24, (5, 6, 7), "3+4=7")
HOSTILE: dict[str, Callable[[int], str]] = {
    "one long number": lambda n: _ROOT + "Exploring Operation: " + "9" * n,
    "a long goal line": lambda n: _ROOT + "1" * n + ",24 equal: Goal Reached\n",
    "a long list": lambda n: "Current State: 24:[" + "3, " * (n // 3) + "3], Operations: []\n",
    "a long name": lambda n: (
        _ROOT + "Generated Node #0" + ",0" * (n // 2) + ": 24:[5, 6, 7] Operation: 3+4=7\n"
    ),
    "long operations": lambda n: (
        "Current State: 24:[24], Operations: [" + "'3+4=7', " * (n // 9) + "'3+4=7']\n"
    ),
    "many roots": lambda n: _ROOT * (n // len(_ROOT)),
    "many equal nodes": lambda n: _ROOT + _NODE * (n // len(_NODE)),
    "many moves": lambda n: _ROOT + _NODE + traces.moving_line("0,0") * (n // 21),
    "half lines": lambda n: _ROOT + "Exploring Operation: 3+4=7, Resulting Numbers: [5, 6, 7\n" * (n // 56),
    "many goals": lambda n: "24,24 equal: Goal Reache\n" * (n // 25),
    "no lines": lambda n: "Current State" * (n // 13),
}


def bench_hostile(quick: bool) -> Iterator[Row]:
    """Every function that reads a trace on text made to be slow to read, at three sizes: time must grow in
    step."""
    solution = countdown.solve(_PROBLEM) or ()
    readers: dict[str, Callable[[str], object]] = {
        "grade": lambda text: traces.grade(text, _PROBLEM),
        "parse": traces.parse,
        "audit": lambda text: traces.audit(text, _PROBLEM),
        "progress": lambda text: guidance.progress(text, _PROBLEM, solution),
        "rewrite": lambda text: guidance.rewrite(text, _PROBLEM, solution, rng=random.Random(0)),
    }
    top = 250_000 if quick else 1_000_000
    for name, reader in readers.items():
        worst = max((_seconds(reader, make(top)), kind) for kind, make in HOSTILE.items())[1]
        times = [_seconds(reader, HOSTILE[worst](size)) for size in (top // 4, top // 2, top)]
        shown = ", ".join(f"{seconds * 1e3:.0f}" for seconds in times)
        note = f"{shown} ms at {top // 4:,}, {top // 2:,}, {top:,} characters; slowest text: {worst}"
        yield Row(f"hostile text, {name}", "ms", None, times[-1] * 1e3, note)


def _seconds(function: Callable[[str], object], text: str) -> float:
    best = float("inf")
    for _ in range(2):
        start = time.process_time()
        function(text)
        best = min(best, time.process_time() - start)
    return best


# --- import -------------------------------------------------------------------------------------------------

LIGHT = "import grlib.countdown, grlib.search, grlib.traces"


def bench_import(quick: bool) -> Iterator[Row]:
    """A fresh Python that imports what problems and traces need, against an empty one."""

    def start(code: str) -> float:
        before = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - before

    tries = 2 if quick else 7
    empty = min(start("pass") for _ in range(tries))
    whole = min(start(LIGHT) for _ in range(tries))
    note = f"{whole * 1e3:.0f} ms with the start of Python"
    yield Row("import of countdown, search, traces", "ms", None, (whole - empty) * 1e3, note)

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
from typing import Any, NamedTuple, TypeVar

from benchmarks import plain
from grlib.errors import GrlibError
from grlib.tasks.countdown import guidance, traces
from grlib.tasks.countdown import searchers as search
from grlib.tasks.countdown.data import draw, target_values
from grlib.tasks.countdown.fast import solve
from grlib.tasks.countdown.puzzle import Problem
from grlib.tasks.countdown.scale import Scale

Item = TypeVar("Item")
SEED = 20_240
NUM_COUNT, MAX_NUMBER, TARGETS = 4, 99, target_values(Scale())[0]  # the paper's task
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
    each: int = 1,
) -> Row:
    """Time two functions on the same inputs, in CPU microseconds, and require equal outputs.

    `must_agree` below 1 is for a plain rule that is known to do less; the share that agrees is then reported.
    An input counts as `each`.
    """
    seconds = {slow: 0.0, fast: 0.0}
    agree = 0
    for first in range(PORTIONS):
        outputs = []
        for side in (slow, fast):
            start = time.process_time()
            outputs.append([side(item) for item in inputs[first::PORTIONS]])
            seconds[side] += time.process_time() - start
        agree += sum(a == b for a, b in zip(*outputs, strict=True))
    share = agree / len(inputs)
    if share < must_agree:
        raise GrlibError(f"bench {what}: only {share:.1%} of the outputs are equal; no ratio is reported")
    note = note or f"{len(inputs) * each} inputs"
    if must_agree < 1:
        note = f"{note}; {share:.1%} of the outputs equal"
    micro = 1e6 / len(inputs) / each
    return Row(what, "us", seconds[slow] * micro, seconds[fast] * micro, note)


class Task(NamedTuple):
    """A problem with its solution, and a searcher drawn as in the imitation set."""

    problem: Problem
    solution: tuple[str, ...]
    heuristic: str
    beam: int  # 0: depth first
    rng: random.Random  # each side gets its own: a breadth-first search uses it up


def _task(problem: Problem, solution: Sequence[str], number: int) -> Task:
    rng = random.Random(number)
    heuristic = rng.choice(search.HEURISTICS)
    return Task(problem, tuple(solution), heuristic, rng.choice((0, 0, 0, 0, 0, 1, 2, 3, 4, 5)), rng)


def _tasks(count: int, seed: int = SEED) -> list[Task]:
    return [_task(*solved, number) for number, solved in enumerate(draw(Scale(), str(seed), count))]


def _trace(task: Task) -> str:
    if not task.beam:
        return search.depth_first(task.problem, task.heuristic)
    return search.breadth_first(task.problem, task.beam, task.heuristic, task.rng)


def _plain_trace(task: Task) -> str:
    nums, target = list(task.problem.nums), task.problem.target
    if not task.beam:
        return plain.depth_first(nums, target, task.heuristic)
    return plain.breadth_first(nums, target, task.beam, task.heuristic, task.rng)


def _plain_solve(problem: Problem) -> tuple[str, ...] | None:
    solution = plain.solve(list(problem.nums), problem.target)
    return None if solution is None else tuple(solution)


# --- one section each: `quick` takes few inputs ------------------------------------------------------------


def bench_problems(quick: bool) -> Iterator[Row]:
    """Draw solvable problems, solve them, write a trace of each."""
    size = 3 if quick else 50

    def slow(block: int) -> list[tuple[Any, ...]]:
        rng = random.Random(f"problems/{SEED + block}/0/{NUM_COUNT}/{MAX_NUMBER}/0")
        drawn = [plain.draw_problem(rng, TARGETS, NUM_COUNT, MAX_NUMBER) for _ in range(size)]
        tasks = [_task(Problem(tuple(nums), t), steps, i) for i, (nums, t, steps) in enumerate(drawn)]
        return [(*task[:-1], _plain_trace(task)) for task in tasks]

    def fast(block: int) -> list[tuple[Any, ...]]:
        return [(*task[:-1], _trace(task)) for task in _tasks(size, SEED + block)]

    yield compare("problem + solution + trace", range(2 * PORTIONS), slow, fast, each=size)


def bench_solver(quick: bool) -> Iterator[Row]:
    """Solve random draws, as the problem generator makes them, and those of them that can be solved."""
    rng = random.Random(SEED)
    drawn = [
        tuple(rng.randint(1, MAX_NUMBER) for _ in range(NUM_COUNT)) for _ in range(300 if quick else 6000)
    ]
    problems = [Problem(nums, rng.choice(TARGETS)) for nums in drawn]
    solvable = [problem for problem in problems if solve(problem)]
    note = f"{len(problems)} inputs, {len(solvable) / len(problems):.0%} solvable"
    yield compare("solver, random draws", problems, _plain_solve, solve, note)
    yield compare("solver, solvable problems", solvable, _plain_solve, solve)


def bench_trace(quick: bool) -> Iterator[Row]:
    """Write traces of given problems: by all searchers, by depth-first and by breadth-first search alone."""
    count = 40 if quick else 1000
    pairs = list(zip(_tasks(count), _tasks(count), strict=True))
    choices = {"all searchers": pairs}
    for heuristic in search.HEURISTICS:
        alone = [task._replace(heuristic=heuristic, beam=0) for task, _ in pairs[::2]]
        choices[f"depth first, {heuristic}"] = list(zip(alone, alone, strict=True))
        beams = [
            (
                one._replace(heuristic=heuristic, beam=1 + i % 5),
                other._replace(heuristic=heuristic, beam=1 + i % 5),
            )
            for i, (one, other) in enumerate(pairs[::2])
        ]
        choices[f"breadth first, {heuristic}"] = beams
    for name, chosen in choices.items():
        yield compare(f"trace, {name}", chosen, lambda p: _plain_trace(p[0]), lambda p: _trace(p[1]))


def _written(quick: bool) -> tuple[list[tuple[Task, str]], str]:
    """Tasks and the traces of their searchers, finished or not; a note on their size."""
    written = [(task, _trace(task)) for task in _tasks(60 if quick else 600, SEED + 1)]
    mean = sum(len(trace) for _, trace in written) / len(written)
    return written, f"{len(written)} traces of {mean:,.0f} characters"


def bench_rewrite(quick: bool) -> Iterator[Row]:
    """One guided round on failed traces; a successful one is cut, as if it had met its budget."""
    cut = random.Random(SEED)
    written, note = _written(quick)
    items = []
    for number, (task, trace) in enumerate(written):
        if traces.grade(trace, task.problem):
            trace = trace[: int(cut.random() * len(trace))]
        items.append((trace, task.problem, task.solution, random.Random(number), random.Random(number)))
    yield compare(
        "rewrite",
        items,
        lambda i: plain.rewrite(i[0], list(i[1].nums), i[1].target, i[2], i[3]),
        lambda i: guidance.rewrite(*i[:3], rng=i[4]),
        f"{note} before cutting",
        must_agree=0.9,
    )


def bench_grade(quick: bool) -> Iterator[Row]:
    """Grade traces of the searchers, right and wrong ones."""
    written, note = _written(quick)
    yield compare(
        "grade",
        [(trace, task.problem) for task, trace in written],
        lambda item: plain.grade(item[0], list(item[1].nums), item[1].target),
        lambda item: traces.grade(*item).correct,
        note,
    )


# --- hostile text -------------------------------------------------------------------------------------------

_PROBLEM = Problem((3, 4, 5, 6), 24)
_ROOT = traces.state_line(24, (3, 4, 5, 6), ())
_NODE = traces.exploring_line("3+4=7", (5, 6, 7)) + traces.generated_line("0,0", 24, (5, 6, 7), "3+4=7")
_MISS = traces.exploring_line("3+9=12", (3,)) + traces.miss_line(3, 24)
HOSTILE: dict[str, tuple[str, str, str]] = {  # what begins, what is repeated to the wanted size, what ends
    "one long number": (_ROOT + "Exploring Operation: ", "9", ""),
    "a long goal line": (_ROOT, "1", ",24 equal: Goal Reached\n"),
    "a long list": ("Current State: 24:[", "3, ", "3], Operations: []\n"),
    "a long list, many operations": (
        "Current State: 24:[" + "3, " * 20_000 + "3], Operations: []\n",
        _MISS,
        "",
    ),
    "a long name": (_ROOT + "Generated Node #0", ",0", ": 24:[5, 6, 7] Operation: 3+4=7\n"),
    "long operations": ("Current State: 24:[24], Operations: [", "'3+4=7', ", "'3+4=7']\n"),
    "many roots": ("", _ROOT, ""),
    "many equal nodes": (_ROOT, _NODE, ""),
    "many moves": (_ROOT + _NODE, traces.moving_line("0,0"), ""),
    "half lines": (_ROOT, "Exploring Operation: 3+4=7, Resulting Numbers: [5, 6, 7\n", ""),
    "many goals": ("", "24,24 equal: Goal Reache\n", ""),
    "no lines": ("", "Current State", ""),
    "names without lines": (_ROOT, "Generated Node #0,0:", ""),
}


def _hostile(kind: str, size: int) -> str:
    begin, again, end = HOSTILE[kind]
    return begin + again * (size // len(again)) + end


def bench_hostile(quick: bool) -> Iterator[Row]:
    """Every reader of traces on text made to be slow to read, at three sizes: time must grow in step."""
    solution = solve(_PROBLEM) or ()
    readers: dict[str, Callable[[str], object]] = {
        "grade": lambda text: traces.grade(text, _PROBLEM),
        "parse": traces.parse,
        "audit": lambda text: traces.audit(text, _PROBLEM),
        "progress": lambda text: guidance.progress(text, _PROBLEM, solution),
        "rewrite": lambda text: guidance.rewrite(text, _PROBLEM, solution, rng=random.Random(0)),
    }
    top = 250_000 if quick else 1_000_000
    for name, reader in readers.items():
        worst = max(HOSTILE, key=lambda kind: _seconds(reader, _hostile(kind, top)))
        times = [_seconds(reader, _hostile(worst, size)) for size in (top // 4, top // 2, top)]
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


def bench_sandbox(quick: bool) -> Iterator[Row]:
    """Isolated runs a second of wall clock, one by one and on all cores, against a bare Python for each."""
    from grlib import sandbox

    program, test = "a, b = map(int, input().split())\nprint(a + b)", {"input": "3 4\n", "output": "7\n"}
    count = 40 if quick else 400

    def bare(_: int) -> bool:
        command = [sys.executable, "-I", "-S", "-c", program]
        done = subprocess.run(command, input=test["input"], capture_output=True, text=True, timeout=5)
        return done.stdout == test["output"]

    def rate(run: Callable[[int], Any]) -> float:
        start = time.perf_counter()
        if not all(run(number) for number in range(count)):
            raise GrlibError(
                "a program that adds two numbers does not pass; look at grlib.sandbox.isolation()"
            )
        return count / (time.perf_counter() - start)

    note, unguarded = sandbox.isolation().name, rate(bare)
    one = rate(lambda _: sandbox.run(program, [test])[0].passed)
    yield Row("programs in the sandbox", "runs/s", unguarded, one, f"one after another; {note}")
    sandbox.run_all([(program, [test])] * 8)  # servers of all cores are there
    start = time.perf_counter()
    if not all(found.passed for [found] in sandbox.run_all([(program, [test])] * count)):
        raise GrlibError("a program that adds two numbers does not pass where many run at once")
    both = count / (time.perf_counter() - start)
    yield Row("programs in the sandbox", "runs/s", unguarded, both, f"on all cores; {note}")


def bench_import(quick: bool) -> Iterator[Row]:
    """A fresh Python that imports what problems and traces need, against an empty one."""

    def start(code: str) -> float:
        before = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - before

    tries = range(2 if quick else 7)
    empty = min(start("pass") for _ in tries)
    whole = min(start("import grlib.tasks.countdown") for _ in tries)
    note = f"{whole * 1e3:.0f} ms with the start of Python"
    yield Row("import of countdown, search, traces", "ms", None, (whole - empty) * 1e3, note)

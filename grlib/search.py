"""The symbolic searchers whose traces the model imitates, written in the trace language of Stream of Search.

Depth-first and breadth-first search print every operation they try; `straight_path` prints a solution without
any search (BC and hints). With equal arguments the output equals the reference generator's, byte by byte.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import isqrt, lcm
from operator import attrgetter, itemgetter
from typing import Any

from grlib.countdown import Problem, apply_operation, check_solution, index_pairs
from grlib.errors import GrlibError
from grlib.traces import exploring_line, generated_line, goal_line, miss_line, moving_line, state_line

HEURISTICS = ("sum", "mult")
NO_SOLUTION = "No solution found."  # the last words of a breadth-first search whose heap ran empty
_score = itemgetter(0)

# A child before it is printed: heuristic, sign, left, right, result, places of the numbers its move leaves
# alone.
Child = tuple[int, str, int, int, int, tuple[int, ...]]


class _DistanceTable(dict):
    """number -> distance, filled on first use: one table serves all traces of a target."""

    def __init__(self, distance: Callable[[int], int]) -> None:
        self.distance = distance

    def __missing__(self, number: int) -> int:
        if len(self) > 1 << 16:
            self.clear()
        self[number] = value = self.distance(number)
        return value


@lru_cache(maxsize=256)
def _distances(heuristic: str, target: int) -> _DistanceTable:
    """How far one number is from where it should be: from the target, or from the nearest divisor of the
    target."""
    if heuristic not in HEURISTICS:
        raise GrlibError(f"heuristic is {heuristic!r}: it must be one of {', '.join(HEURISTICS)}")
    if heuristic == "sum":
        return _DistanceTable(lambda number: abs(number - target))
    divisors = _divisors(target)

    def nearest(number: int) -> int:
        right = bisect_left(divisors, number)
        below = number - divisors[right - 1] if right else divisors[0]
        return min(below, divisors[right] - number) if right < len(divisors) else below

    return _DistanceTable(nearest)


def _divisors(target: int) -> list[int]:
    """Divisors of the target among 2..target; 0 and 1 have none, their distance is to the target itself."""
    if target > 10**12:
        raise GrlibError(
            f"target is {target}: the 'mult' heuristic factors it, at most 10**12; use heuristic 'sum'"
        )
    small = [d for d in range(1, isqrt(target) + 1) if target % d == 0]
    return sorted({*small, *(target // d for d in small)} - {1}) or [target]


def _children(nums: tuple[int, ...], distance: _DistanceTable, unit: int) -> list[Child]:
    """All children, best first, ties in the order of `countdown.moves` (whose rules are repeated for speed).

    Heuristics are integers in units of 1/lcm(1..N): exact for numbers of any size. A move takes two distances
    away and adds one, so each child costs one look-up.
    """
    total = sum([distance[n] for n in nums])
    children: list[Child] = []
    add = children.append
    for i, j, others in index_pairs(len(nums)):
        a, b = nums[i], nums[j]
        kept = total - distance[a] - distance[b]
        low, high = (a, b) if a <= b else (b, a)
        add(((kept + distance[a + b]) * unit, "+", a, b, a + b, others))
        add(((kept + distance[a * b]) * unit, "*", a, b, a * b, others))
        add(((kept + distance[high - low]) * unit, "-", high, low, high - low, others))
        if low and not high % low:
            add(((kept + distance[high // low]) * unit, "/", high, low, high // low, others))
    children.sort(key=_score)
    return children


def _units(heuristic: str, count: int) -> list[int]:
    """Weight of a child's summed distance by its parent's size: 'sum' is a mean (times lcm), 'mult' a sum."""
    scale = lcm(*range(1, count + 1))
    return [0, 0] + [scale // size if heuristic == "sum" else scale for size in range(1, count)]


# The lines of the trace language cut where texts go in. Most lines share their numbers or operations with the
# lines before; to format those again and again would take most of the time.
_GAP: Any = "%s"
_STATE = state_line(_GAP, (), ()).replace("[]", "[%s]").split("%s")
_MAKE = (exploring_line(_GAP, ()) + generated_line(_GAP, _GAP, (), _GAP)).replace("[]", "[%s]").split("%s")
_MISS = (exploring_line(_GAP, ()).replace("[]", "[%s]") + miss_line(_GAP, _GAP)).split("%s")


class _Writer:
    """Spells the lines of one search from texts: numbers as `27, 61, 88`, operations as `'80+8=88'`."""

    def __init__(self, target: int) -> None:
        self.target = str(target)

    def visit(self, numbers: str, done: str) -> str:
        """The state line of a node."""
        a, b, c, d = _STATE
        return f"{a}{self.target}{b}{numbers}{c}{done}{d}"

    def make(self, name: str, numbers: str, operation: str) -> str:
        """The two lines that try an operation and name the node it makes."""
        a, b, c, d, e, f, g = _MAKE
        return f"{a}{operation}{b}{numbers}{c}{name}{d}{self.target}{e}{numbers}{f}{operation}{g}"

    def miss(self, number: str, operation: str) -> str:
        """The two lines that try an operation and find that it does not leave the target."""
        a, b, c, d, e = _MISS
        return f"{a}{operation}{b}{number}{c}{number}{d}{self.target}{e}"


def _after(done: str, operation: str) -> str:
    """The text of the operations so far with one more."""
    return f"{done}, '{operation}'" if done else f"'{operation}'"


def depth_first(problem: Problem, heuristic: str = "sum", width: int | None = None) -> str:
    """The trace of a depth-first search: best children first, those with a heuristic above the target pruned.

    `width` keeps only that many children of a node (the reference has no such cap: None). A search that fails
    just ends.
    """
    if width is not None and (type(width) is not int or width < 1):
        raise GrlibError(f"width is {width!r}: it must be a positive integer, or None for no cap")
    search = _DepthFirst(problem, heuristic, width)
    search.visit(problem.nums, [*map(str, problem.nums)], "", "0")
    return "".join(search.lines)[len(moving_line("0")) :]


class _DepthFirst:
    """One depth-first search and the lines it has written."""

    def __init__(self, problem: Problem, heuristic: str, width: int | None) -> None:
        self.target, self.width = problem.target, width
        self.distance = _distances(heuristic, problem.target)
        self.units = _units(heuristic, len(problem.nums))
        self.threshold = problem.target * lcm(*range(1, len(problem.nums) + 1))
        self.writer = _Writer(problem.target)
        self.lines: list[str] = []

    def visit(self, nums: tuple[int, ...], digits: list[str], done: str, name: str) -> bool:
        """Move to a node and search below it; `digits` are its numbers as text. True at the goal."""
        target, threshold, writer, write = self.target, self.threshold, self.writer, self.lines.append
        here = moving_line(name) + writer.visit(", ".join(digits), done)
        write(here)
        children = _children(nums, self.distance, self.units[len(nums)])
        for k, (score, sign, left, right, result, others) in enumerate(children[: self.width]):
            if score > threshold:
                break
            if k:
                write(here)
            shown = str(result)
            operation = f"{left}{sign}{right}={shown}"
            if others:
                child, child_name = [digits[o] for o in others], f"{name},{k}"
                child.append(shown)
                write(writer.make(child_name, ", ".join(child), operation))
                left_over = (*[nums[o] for o in others], result)
                if self.visit(left_over, child, _after(done, operation), child_name):
                    return True
            elif result == target:
                write(exploring_line(operation, (target,)) + goal_line(target, target))
                return True
            else:
                write(writer.miss(shown, operation))
        return False


class _HeapNode:
    """A node of the breadth-first heap: compared by heuristic alone, ties left to the heap as it is built."""

    __slots__ = ("digits", "done", "name", "nums", "score")

    def __init__(self, score: int, nums: tuple[int, ...], digits: list[str], done: str, name: str) -> None:
        self.score, self.nums, self.digits, self.done, self.name = score, nums, digits, done, name

    def __lt__(self, other: _HeapNode) -> bool:
        return self.score < other.score


def breadth_first(problem: Problem, beam: int, heuristic: str, rng: random.Random) -> str:
    """The trace of a best-first search that expands `beam` nodes a round and keeps `beam` children of each.

    `rng` shuffles the kept children of every expanded node; nothing else consumes randomness.
    """
    if type(beam) is not int or beam < 1:
        raise GrlibError(f"beam is {beam!r}: it must be a positive integer")
    target, distance = problem.target, _distances(heuristic, problem.target)
    units = _units(heuristic, len(problem.nums))
    writer = _Writer(target)
    lines: list[str] = []
    write = lines.append
    heap = [_HeapNode(0, problem.nums, list(map(str, problem.nums)), "", "0")]
    while heap:
        expanded = [heapq.heappop(heap) for _ in range(min(beam, len(heap)))]
        for position, node in enumerate(expanded):
            if position:
                write(moving_line(node.name))
            write(writer.visit(", ".join(node.digits), node.done))
            if len(node.nums) == 1:
                continue
            kept = _children(node.nums, distance, units[len(node.nums)])[:beam]
            rng.shuffle(kept)
            made: list[_HeapNode] = []
            for generated, (score, sign, left, right, result, others) in enumerate(kept):
                shown = str(result)
                operation = f"{left}{sign}{right}={shown}"
                child, digits = (*[node.nums[o] for o in others], result), [node.digits[o] for o in others]
                digits.append(shown)
                name = f"{node.name},{generated if others else 0}"  # leaves are not generated
                made.append(_HeapNode(score, child, digits, _after(node.done, operation), name))
                if others:
                    write(writer.make(name, ", ".join(digits), operation))
                elif result == target:
                    write(exploring_line(operation, child) + goal_line(target, target))
                    return "".join(lines)
                else:
                    write(writer.miss(shown, operation))
            made.sort(key=attrgetter("score"))
            for new in made:
                heapq.heappush(heap, new)
        if heap:
            write(moving_line(heap[0].name))
    write(NO_SOLUTION)
    return "".join(lines)


def straight_path(problem: Problem, solution: Sequence[str], steps: int | None = None) -> str:
    """The first `steps` operations of a solution (None: all) as a trace without search.

    With steps short of the whole it ends in a state line, so that a model can go on from it: a hint (the
    paper's motivation, Table 1).
    """
    check_solution(problem, solution)
    count = len(solution)
    if steps is None:
        steps = count
    if type(steps) is not int or not 0 <= steps <= count:
        raise GrlibError(
            f"steps is {steps!r}: it must be an integer from 0 to {count}, the length of the solution"
        )
    nums, name = problem.nums, "0"
    lines = [state_line(problem.target, nums, ())]
    for t, operation in enumerate(solution[:steps]):
        left = apply_operation(nums, operation)
        assert left is not None  # check_solution saw to it
        nums, name = left, f"{name},0"
        lines.append(exploring_line(operation, nums))
        if len(nums) == 1:
            lines.append(goal_line(nums[0], problem.target))
        else:
            lines.append(generated_line(name, problem.target, nums, operation) + moving_line(name))
            lines.append(state_line(problem.target, nums, solution[: t + 1]))
    return "".join(lines)

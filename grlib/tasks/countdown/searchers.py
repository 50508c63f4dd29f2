"""The symbolic searchers whose traces the model imitates, written in the trace language of Stream of Search.

Depth-first and breadth-first search print every operation they try; `straight_path` prints a solution without
any search (BC and hints). With equal arguments the output equals the reference generator's, byte by byte.
The two searchers spell their lines themselves, from texts made once and shared: it is what takes their time.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from math import inf, isqrt, lcm
from operator import itemgetter
from typing import Any

from grlib.errors import GrlibError
from grlib.tasks.countdown.puzzle import Memo, Problem, check_length, check_solution
from grlib.tasks.countdown.traces import exploring_line, generated_line, goal_line, moving_line, state_line

HEURISTICS = ("sum", "mult")
NO_SOLUTION = "No solution found."  # the last words of a breadth-first search whose heap ran empty
_score = itemgetter(0)

# A child before it is printed: distance, sign, places of left and right operand, result, and what picks
# the other numbers.
Child = tuple[int, str, int, int, int, Any]
Distances = Sequence[int] | Mapping[int, int]  # of the numbers 0..target


@lru_cache(maxsize=256)
def _distances(heuristic: str, target: int) -> Distances:
    """How far a number up to the target is from where it should be: from the target, or from the nearest
    divisor of the target. (Any larger number is n - target away, by both heuristics.)"""
    if heuristic not in HEURISTICS:
        raise GrlibError(f"heuristic is {heuristic!r}: it must be one of {', '.join(HEURISTICS)}")
    if heuristic == "sum":
        down = range(target, -1, -1)
        return down if target > 10_000 else tuple(down)
    divisors = _divisors(target)

    def nearest(number: int) -> int:
        right = bisect_left(divisors, number)
        return min(abs(number - divisor) for divisor in divisors[max(right - 1, 0) : right + 1])

    return Memo(nearest) if target > 10_000 else [nearest(number) for number in range(target + 1)]


def _divisors(target: int) -> list[int]:
    """Divisors of the target among 2..target; 0 and 1 have none, their distance is to the target itself."""
    if target > 10**12:
        raise GrlibError(
            f"target is {target}: the 'mult' heuristic factors it, at most 10**12; use heuristic 'sum'"
        )
    small = [d for d in range(1, isqrt(target) + 1) if target % d == 0]
    return sorted({*small, *(target // d for d in small)} - {1}) or [target]


@lru_cache(maxsize=64)
def _pairs(count: int) -> tuple[tuple[int, int, Any], ...]:
    """All index pairs i < j of `count` numbers in order, each with what picks the other numbers."""
    found = []
    for i, j in combinations(range(count), 2):
        others: list[Any] = [k for k in range(count) if k not in (i, j)]
        if len(others) == 1:
            others = [slice(others[0], others[0] + 1)]  # picks a tuple of one, not the number itself
        found.append((i, j, itemgetter(*others) if others else None))
    return tuple(found)


def _children(nums: tuple[int, ...], near: Distances, target: int, limit: float = inf) -> list[Child]:
    """The children within the limit, best first, ties in the order of `countdown.moves` (whose rules are
    repeated for speed). A move takes two distances away and adds one."""
    count, total = len(nums), 0
    far: Sequence[int] = (0, 0)
    if count > 2:
        far = [n - target if n > target else near[n] for n in nums]
        total = sum(far)
    children: list[Child] = []
    add = children.append
    for i, j, pick in _pairs(count):
        a, b = nums[i], nums[j]
        kept = total - far[i] - far[j]
        result = a + b
        if (score := kept + (result - target if result > target else near[result])) <= limit:
            add((score, "+", i, j, result, pick))
        result = a * b
        if (score := kept + (result - target if result > target else near[result])) <= limit:
            add((score, "*", i, j, result, pick))
        low, high, left, right = (a, b, j, i) if a <= b else (b, a, i, j)
        result = high - low
        if (score := kept + (result - target if result > target else near[result])) <= limit:
            add((score, "-", left, right, result, pick))
        if low and not high % low:
            result = high // low
            if (score := kept + (result - target if result > target else near[result])) <= limit:
                add((score, "/", left, right, result, pick))
    children.sort(key=_score)
    return children


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
        check_length(problem.nums, problem.target)
        self.target, self.width, self.mean = problem.target, width, heuristic == "sum"
        self.near = _distances(heuristic, problem.target)
        self.shown = str(problem.target)
        self.lines: list[str] = []

    def visit(self, nums: tuple[int, ...], digits: Sequence[str], done: str, name: str) -> bool:
        """Move to a node and search below it; `digits` are its numbers as text. True at the goal."""
        goal, write = self.shown, self.lines.append
        here = f"Moving to Node #{name}\nCurrent State: {goal}:[{', '.join(digits)}], Operations: [{done}]\n"
        limit = self.target * (len(nums) - 1) if self.mean else self.target
        write(here)
        children = _children(nums, self.near, self.target, limit)[: self.width]
        for k, (_, sign, left, right, result, pick) in enumerate(children):
            if k:
                write(here)
            shown = str(result)
            operation = f"{digits[left]}{sign}{digits[right]}={shown}"
            if pick:
                child, child_name = (*pick(digits), shown), f"{name},{k}"
                numbers = ", ".join(child)
                write(
                    f"Exploring Operation: {operation}, Resulting Numbers: [{numbers}]\n"
                    f"Generated Node #{child_name}: {goal}:[{numbers}] Operation: {operation}\n"
                )
                child_done = f"{done}, '{operation}'" if done else f"'{operation}'"
                if self.visit((*pick(nums), result), child, child_done, child_name):
                    return True
                continue
            end = "equal: Goal Reached" if shown == goal else "unequal: No Solution"
            write(f"Exploring Operation: {operation}, Resulting Numbers: [{shown}]\n{shown},{goal} {end}\n")
            if shown == goal:
                return True
        return False


class _HeapNode(int):
    """A node of the breadth-first heap: compared by heuristic alone, ties left to the heap as it is built."""

    state: tuple[tuple[int, ...], Sequence[str], str, str]  # numbers, the same as text, operations, name


def breadth_first(problem: Problem, beam: int, heuristic: str, rng: random.Random) -> str:
    """The trace of a best-first search that expands `beam` nodes a round and keeps `beam` children of each.

    `rng` shuffles the kept children of every expanded node; nothing else consumes randomness.
    """
    if type(beam) is not int or beam < 1:
        raise GrlibError(f"beam is {beam!r}: it must be a positive integer")
    search = _BreadthFirst(problem, beam, heuristic, rng)
    lines = search.lines
    while search.heap:
        for node in [heapq.heappop(search.heap) for _ in range(min(beam, len(search.heap)))]:
            if search.visit(node):
                return "".join(lines)[len(moving_line("0")) :]
    return "".join(lines)[len(moving_line("0")) :] + NO_SOLUTION


class _BreadthFirst:
    """One breadth-first search, its open nodes and the lines it has written."""

    def __init__(self, problem: Problem, beam: int, heuristic: str, rng: random.Random) -> None:
        check_length(problem.nums, problem.target)
        self.target, self.beam, self.mean = problem.target, beam, heuristic == "sum"
        self.near, self.getrandbits = _distances(heuristic, problem.target), rng.getrandbits
        self.scale = lcm(*range(1, len(problem.nums) + 1))  # heuristics in this unit are integers: exact
        self.shown = str(problem.target)
        self.lines: list[str] = []
        root = _HeapNode(0)
        root.state = problem.nums, [*map(str, problem.nums)], "", "0"
        self.heap = [root]

    def visit(self, node: _HeapNode) -> bool:
        """Move to a node, try its best children in random order and push them. True at the goal."""
        nums, digits, done, name = node.state
        goal, write = self.shown, self.lines.append
        write(f"Moving to Node #{name}\nCurrent State: {goal}:[{', '.join(digits)}], Operations: [{done}]\n")
        if len(nums) == 1:
            return False
        children = _children(nums, self.near, self.target)[: self.beam]
        _shuffle(children, self.getrandbits)
        unit = self.scale // (len(nums) - 1) if self.mean else self.scale
        made: list[_HeapNode] = []
        for k, (score, sign, left, right, result, pick) in enumerate(children):
            shown = str(result)
            operation = f"{digits[left]}{sign}{digits[right]}={shown}"
            new = _HeapNode(score * unit)
            made.append(new)
            child_done = f"{done}, '{operation}'" if done else f"'{operation}'"
            if pick:
                child, child_name = (*pick(digits), shown), f"{name},{k}"
                numbers = ", ".join(child)
                write(
                    f"Exploring Operation: {operation}, Resulting Numbers: [{numbers}]\n"
                    f"Generated Node #{child_name}: {goal}:[{numbers}] Operation: {operation}\n"
                )
                new.state = (*pick(nums), result), child, child_done, child_name
                continue
            end = "equal: Goal Reached" if shown == goal else "unequal: No Solution"
            write(f"Exploring Operation: {operation}, Resulting Numbers: [{shown}]\n{shown},{goal} {end}\n")
            if shown == goal:
                return True
            new.state = (result,), (shown,), child_done, f"{name},0"  # leaves are not generated
        for new in sorted(made):
            heapq.heappush(self.heap, new)
        return False


def _shuffle(items: list[Any], getrandbits: Callable[[int], int]) -> None:
    """`random.Random.shuffle`, draw by draw, without its calls of calls."""
    for last in range(len(items) - 1, 0, -1):
        bits = (last + 1).bit_length()
        place = getrandbits(bits)
        while place > last:
            place = getrandbits(bits)
        items[last], items[place] = items[place], items[last]


def straight_path(problem: Problem, solution: Sequence[str], steps: int | None = None) -> str:
    """The first `steps` operations of a solution (None: all) as a trace without search.

    With steps short of the whole it ends in a state line, so that a model can go on from it: a hint (the
    paper's motivation, Table 1).
    """
    states = check_solution(problem, solution)
    count = len(solution)
    if steps is None:
        steps = count
    if type(steps) is not int or not 0 <= steps <= count:
        raise GrlibError(
            f"steps is {steps!r}: it must be an integer from 0 to {count}, the length of the solution"
        )
    name = "0"
    lines = [state_line(problem.target, problem.nums, ())]
    for t, (operation, nums) in enumerate(zip(solution[:steps], states, strict=False), 1):
        name += ",0"
        lines.append(exploring_line(operation, nums))
        if len(nums) == 1:
            lines.append(goal_line(nums[0], problem.target))
        else:
            lines.append(generated_line(name, problem.target, nums, operation) + moving_line(name))
            lines.append(state_line(problem.target, nums, solution[:t]))
    return "".join(lines)

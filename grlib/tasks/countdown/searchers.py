"""The symbolic searchers whose traces the model imitates, written in the trace language of Stream of Search.

Depth-first and breadth-first search print every operation they try; `straight_path` prints a solution without
any search (BC and hints). With equal arguments the output equals the reference generator's, byte by byte.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from heapq import heappop, heappush
from itertools import combinations
from math import inf, isqrt
from operator import itemgetter
from typing import Any

from grlib.errors import GrlibError
from grlib.tasks.countdown.puzzle import Problem, check_solution
from grlib.tasks.countdown.traces import exploring_line, generated_line, goal_line, moving_line, state_line

HEURISTICS = ("sum", "mult")  # a third one needs its distances in `_distances`
NO_SOLUTION = "No solution found."  # how a breadth-first search ends when its heap is empty

# A child before it is explored: heuristic, sign, indices of the left and right operand, result, and a
# function that picks the other numbers (None: there are none, the child is a leaf).
Child = tuple[int, str, int, int, int, Any]
_heuristic = itemgetter(0)
Distances = Sequence[int] | Mapping[int, int]  # of the numbers 0..target


# --- heuristics ---------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _distances(heuristic: str, target: int) -> Distances:
    """How far each number up to the target is from where it should be: from the target (sum), or from the
    nearest divisor of the target (mult). A larger number is `number - target` away by both heuristics."""
    if heuristic not in HEURISTICS:
        raise GrlibError(f"heuristic is {heuristic!r}: it must be one of {', '.join(HEURISTICS)}")
    if heuristic == "sum":
        down = range(target, -1, -1)
        return down if target > 10_000 else [*down]  # a list is quicker to read
    nearest = _NearestDivisor(target)
    return nearest if target > 10_000 else [nearest[number] for number in range(target + 1)]


class _NearestDivisor(dict[int, int]):
    """The distance of a number to the nearest divisor of the target among 2..target, kept once computed.

    The targets 0 and 1 have no such divisor: there the distance is to the target itself.
    """

    def __init__(self, target: int) -> None:
        if target > 10**12:
            raise GrlibError(
                f"target is {target}: the 'mult' heuristic factors it, at most 10**12; use heuristic 'sum'"
            )
        small = [d for d in range(1, isqrt(target) + 1) if target % d == 0]
        self.divisors = sorted({*small, *(target // d for d in small)} - {1}) or [target]

    def __missing__(self, number: int) -> int:
        right = bisect_left(self.divisors, number)
        distance = min(abs(number - divisor) for divisor in self.divisors[max(right - 1, 0) : right + 1])
        if len(self) < 1 << 15:
            self[number] = distance
        return distance


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
    """The children whose heuristic is within the limit, best first, ties in the order of `puzzle.moves`.

    The heuristic is the sum of the distances: a move takes two of them away and adds one. The rules of the
    four moves are written out once more, which makes the searchers 20 % faster.
    """
    count, total = len(nums), 0
    far: Sequence[int] = (0, 0)
    if count > 2:
        far = [n - target if n > target else near[n] for n in nums]
        total = sum(far)
    children: list[Child] = []
    add = children.append
    for i, j, others in _pairs(count):
        a, b = nums[i], nums[j]
        kept = total - far[i] - far[j]
        result = a + b
        if (score := kept + (result - target if result > target else near[result])) <= limit:
            add((score, "+", i, j, result, others))
        result = a * b
        if (score := kept + (result - target if result > target else near[result])) <= limit:
            add((score, "*", i, j, result, others))
        low, high, left, right = (a, b, j, i) if a <= b else (b, a, i, j)
        result = high - low
        if (score := kept + (result - target if result > target else near[result])) <= limit:
            add((score, "-", left, right, result, others))
        if low and not high % low:
            result = high // low
            if (score := kept + (result - target if result > target else near[result])) <= limit:
                add((score, "/", left, right, result, others))
    children.sort(key=_heuristic)
    return children


# --- lines --------------------------------------------------------------------------------------------------
# As those of `traces`, from numbers and operations that are text already; `goal` is the target as text.


def _visit_lines(goal: str, name: str, numbers: str, operations: str) -> str:
    """Move to a node and show its state."""
    return f"Moving to Node #{name}\nCurrent State: {goal}:[{numbers}], Operations: [{operations}]\n"


def _node_lines(goal: str, operation: str, numbers: str, name: str) -> str:
    """Explore an operation that leaves several numbers: a node with a name."""
    return (
        f"Exploring Operation: {operation}, Resulting Numbers: [{numbers}]\n"
        f"Generated Node #{name}: {goal}:[{numbers}] Operation: {operation}\n"
    )


def _leaf_lines(goal: str, operation: str, number: str) -> str:
    """Explore an operation that leaves one number, and compare it with the target."""
    end = "equal: Goal Reached" if number == goal else "unequal: No Solution"
    return f"Exploring Operation: {operation}, Resulting Numbers: [{number}]\n{number},{goal} {end}\n"


def _trace(lines: Sequence[str]) -> str:
    """The whole trace; the first line, which moves to the root, is not part of it."""
    return "".join(lines).removeprefix(moving_line("0"))


# --- searchers ----------------------------------------------------------------------------------------------


def depth_first(problem: Problem, heuristic: str = "sum", width: int | None = None) -> str:
    """The trace of a depth-first search: best children first, those with a heuristic above the target pruned.

    `width` keeps only that many children of a node (the reference has no such cap: None). A search that fails
    just ends.
    """
    if width is not None and (type(width) is not int or width < 1):
        raise GrlibError(f"width is {width!r}: it must be a positive integer, or None for no cap")
    target, goal = problem.target, str(problem.target)
    near = _distances(heuristic, target)
    lines: list[str] = []
    write = lines.append

    def visit(nums: tuple[int, ...], digits: Sequence[str], done: str, name: str) -> bool:
        """Search below a node; True at the goal. `digits` are its numbers as text, `done` its operations."""
        here = _visit_lines(goal, name, ", ".join(digits), done)
        write(here)
        limit = target * (len(nums) - 1) if heuristic == "sum" else target  # "sum" is a mean, not yet divided
        for k, child in enumerate(_children(nums, near, target, limit)[:width]):
            _, sign, left, right, result, others = child
            if k:
                write(here)
            shown = str(result)
            operation = f"{digits[left]}{sign}{digits[right]}={shown}"
            if others:
                rest, child_name = (*others(digits), shown), f"{name},{k}"
                write(_node_lines(goal, operation, ", ".join(rest), child_name))
                path = f"{done}, '{operation}'" if done else f"'{operation}'"
                if visit((*others(nums), result), rest, path, child_name):
                    return True
            else:
                write(_leaf_lines(goal, operation, shown))
                if shown == goal:
                    return True
        return False

    visit(problem.nums, [*map(str, problem.nums)], "", "0")
    return _trace(lines)


def breadth_first(problem: Problem, beam: int, heuristic: str, rng: random.Random) -> str:
    """The trace of a best-first search that expands `beam` nodes a round and keeps `beam` children of each.

    `rng` shuffles the kept children of every expanded node; nothing else consumes randomness.
    """
    if type(beam) is not int or beam < 1:
        raise GrlibError(f"beam is {beam!r}: it must be a positive integer")
    target, goal = problem.target, str(problem.target)
    near = _distances(heuristic, target)
    lines: list[str] = []
    write = lines.append
    # Open nodes: (heuristic, NaN, numbers, numbers as text, operations as text, name). Where heuristics are
    # equal Python compares the NaNs (`inf - inf` makes a new one each time), and none is less than another:
    # ties are left to the heap, as in the reference.
    heap: list[tuple[float, float, tuple[int, ...], Sequence[str], str, str]]
    heap = [(0, inf - inf, problem.nums, [*map(str, problem.nums)], "", "0")]
    while heap:
        for _, _, nums, digits, done, name in [heappop(heap) for _ in range(min(beam, len(heap)))]:
            write(_visit_lines(goal, name, ", ".join(digits), done))
            if len(nums) == 1:
                continue
            children = _children(nums, near, target)[:beam]
            _shuffle(children, rng.getrandbits)
            count = len(nums) - 1 if heuristic == "sum" else 1  # "sum" is a mean, not yet divided
            made = []
            for k, (score, sign, left, right, result, others) in enumerate(children):
                shown = str(result)
                operation = f"{digits[left]}{sign}{digits[right]}={shown}"
                path = f"{done}, '{operation}'" if done else f"'{operation}'"
                if others:
                    rest, child_name = (*others(digits), shown), f"{name},{k}"
                    write(_node_lines(goal, operation, ", ".join(rest), child_name))
                    made.append((score / count, inf - inf, (*others(nums), result), rest, path, child_name))
                    continue
                write(_leaf_lines(goal, operation, shown))
                if shown == goal:
                    return _trace(lines)
                leaf_name = f"{name},0"  # all leaves are called child 0
                made.append((score / count, inf - inf, (result,), (shown,), path, leaf_name))
            for entry in sorted(made):
                heappush(heap, entry)
    return _trace(lines) + NO_SOLUTION


def _shuffle(items: list[Any], getrandbits: Callable[[int], int]) -> None:
    """`random.Random.shuffle`, draw by draw, at half the cost."""
    for last in range(len(items) - 1, 0, -1):
        bits = (last + 1).bit_length()
        place = getrandbits(bits)
        while place > last:
            place = getrandbits(bits)
        items[last], items[place] = items[place], items[last]


def straight_path(problem: Problem, solution: Sequence[str], steps: int | None = None) -> str:
    """The first `steps` operations of a solution (None: all) as a trace without search.

    With fewer steps it ends in a state line, so that a model can continue it: a hint (the paper's motivation,
    Table 1).
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

"""The symbolic searchers whose traces the model imitates, written in the trace language of Stream of Search.

Depth-first and breadth-first search print every operation they try; `straight_path` prints a solution without
any search (BC and hints). With equal arguments the output equals the reference generator's, byte by byte.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from heapq import heappop, heappush
from math import inf
from operator import itemgetter

from grlib.errors import GrlibError
from grlib.tasks.countdown.puzzle import Problem, check_solution, index_pairs, pair_results
from grlib.tasks.countdown.traces import explored_lines, moving_line, state_line, visit_lines

HEURISTICS = ("sum", "mult")
LARGEST_TARGET = 10**5  # of the searchers, which keep the heuristic of every number below it
NO_SOLUTION = "No solution found."  # how a breadth-first search ends when its heap is empty

# A child before it is explored: heuristic, sign, left and right operand, result, places of the other numbers.
Child = tuple[int, str, int, int, int, tuple[int, ...]]


@lru_cache(maxsize=256)
def _distances(heuristic: str, target: int) -> Sequence[int]:
    """How far each number up to the target is from where it should be: from the target (sum), or from the
    nearest divisor of the target (mult). A larger number is `number - target` away by both heuristics."""
    if heuristic not in HEURISTICS:
        raise GrlibError(f"heuristic is {heuristic!r}: it must be one of {', '.join(HEURISTICS)}")
    if heuristic == "sum":
        return range(target, -1, -1)
    if target > LARGEST_TARGET:
        raise GrlibError(
            f"target is {target}: the 'mult' heuristic takes at most {LARGEST_TARGET:,}; use 'sum'"
        )
    divisors = [d for d in range(2, target + 1) if target % d == 0] or [target]
    return [min(abs(number - divisor) for divisor in divisors) for number in range(target + 1)]


def _children(nums: tuple[int, ...], near: Sequence[int], target: int, limit: float = inf) -> list[Child]:
    """The children whose heuristic is within the limit, best first, ties in the order of `puzzle.moves`.

    The heuristic is the sum of the distances: a move takes two of them away and adds one.
    """
    far = [n - target if n > target else near[n] for n in nums]
    total, children = sum(far), []
    for i, j, others in index_pairs(len(nums)):
        kept = total - far[i] - far[j]
        for sign, left, right, result in pair_results(nums[i], nums[j]):
            score = kept + (result - target if result > target else near[result])
            if score <= limit:
                children.append((score, sign, left, right, result, others))
    children.sort(key=itemgetter(0))
    return children


def depth_first(problem: Problem, heuristic: str = "sum", width: int | None = None) -> str:
    """The trace of a depth-first search: best children first, those with a heuristic above the target pruned.

    `width` keeps only that many children of a node (the reference has no such cap: None). A search that fails
    just ends.
    """
    if width is not None and (type(width) is not int or width < 1):
        raise GrlibError(f"width is {width!r}: it must be a positive integer, or None for no cap")
    target, near = problem.target, _distances(heuristic, problem.target)
    lines: list[str] = []

    def visit(nums: tuple[int, ...], done: tuple[str, ...], name: str) -> bool:
        """Search below a node; True at the goal."""
        here = visit_lines(name, target, nums, done)
        lines.append(here)
        limit = target * (len(nums) - 1) if heuristic == "sum" else target  # "sum" is a mean, not yet divided
        for k, child in enumerate(_children(nums, near, target, limit)[:width]):
            if k:
                lines.append(here)
            _, sign, left, right, result, others = child
            operation, child_name = f"{left}{sign}{right}={result}", f"{name},{k}"
            left_over = (*[nums[k] for k in others], result)
            lines.append(explored_lines(operation, left_over, target, child_name))
            if visit(left_over, (*done, operation), child_name) if others else result == target:
                return True
        return False

    visit(problem.nums, (), "0")
    return "".join(lines).removeprefix(moving_line("0"))


def breadth_first(problem: Problem, beam: int, heuristic: str, rng: random.Random) -> str:
    """The trace of a best-first search that expands `beam` nodes a round and keeps `beam` children of each.

    `rng` shuffles the kept children of every expanded node; nothing else consumes randomness.
    """
    if type(beam) is not int or beam < 1:
        raise GrlibError(f"beam is {beam!r}: it must be a positive integer")
    target, near = problem.target, _distances(heuristic, problem.target)
    lines: list[str] = []
    # Open nodes: (heuristic, NaN, numbers, operations, name). Where heuristics are equal Python compares the
    # NaNs (`inf - inf` makes a new one each time), and none is less than another: ties are left to the heap,
    # as in the reference.
    heap: list[tuple[float, float, tuple[int, ...], tuple[str, ...], str]]
    heap = [(0, inf - inf, problem.nums, (), "0")]
    while heap:
        for _, _, nums, done, name in [heappop(heap) for _ in range(min(beam, len(heap)))]:
            lines.append(visit_lines(name, target, nums, done))
            children = _children(nums, near, target)[:beam]
            rng.shuffle(children)
            count = len(nums) - 1 if heuristic == "sum" else 1  # "sum" is a mean, not yet divided
            made = []
            for k, (score, sign, left, right, result, others) in enumerate(children):
                operation = f"{left}{sign}{right}={result}"
                left_over = (*[nums[k] for k in others], result)
                child_name = f"{name},{k if others else 0}"  # all leaves are called child 0
                lines.append(explored_lines(operation, left_over, target, child_name))
                if left_over == (target,):
                    return "".join(lines).removeprefix(moving_line("0"))
                made.append((score / count, inf - inf, left_over, (*done, operation), child_name))
            for entry in sorted(made):
                heappush(heap, entry)
    return "".join(lines).removeprefix(moving_line("0")) + NO_SOLUTION


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
        lines.append(explored_lines(operation, nums, problem.target, name))
        if len(nums) > 1:
            lines.append(visit_lines(name, problem.target, nums, solution[:t]))
    return "".join(lines)

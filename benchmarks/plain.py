"""The textbook version of what grlib does, written straight from the description: the slow side of the
benchmark.

Problems, solver, searchers, rewriting and grading as a careful reader would first write them: lists,
f-strings, the `itertools` and `re` modules, nothing kept from one call to the next. The tests use it as a
second opinion.
"""

from __future__ import annotations

import heapq
import itertools
import random
import re
from collections.abc import Callable, Iterator, Sequence

Heuristic = Callable[[list[int], int], float]


# --- problems and solutions ---------------------------------------------------------------------------------


def combine(a: int, b: int) -> list[tuple[int, str]]:
    """The results of all operations on a pair in list order, each with its text."""
    found = [(a + b, f"{a}+{b}={a + b}"), (a * b, f"{a}*{b}={a * b}")]
    if a <= b:
        found.append((b - a, f"{b}-{a}={b - a}"))
        if a != 0 and b % a == 0:
            found.append((b // a, f"{b}/{a}={b // a}"))
    else:
        found.append((a - b, f"{a}-{b}={a - b}"))
        if b != 0 and a % b == 0:
            found.append((a // b, f"{a}/{b}={a // b}"))
    return found


def children(nums: list[int]) -> Iterator[tuple[list[int], str]]:
    """The numbers left by every operation, with its text."""
    for i, j in itertools.combinations(range(len(nums)), 2):
        rest = [nums[k] for k in range(len(nums)) if k != i and k != j]
        for result, operation in combine(nums[i], nums[j]):
            yield rest + [result], operation


def solve(nums: list[int], target: int, operations: Sequence[str] = ()) -> list[str] | None:
    """The first solution that depth-first enumeration finds."""
    if len(nums) == 1:
        return list(operations) if nums[0] == target else None
    for child, operation in children(nums):
        solution = solve(child, target, [*operations, operation])
        if solution is not None:
            return solution
    return None


def draw_problem(
    rng: random.Random, targets: Sequence[int], num_count: int, max_number: int
) -> tuple[list[int], int, list[str]]:
    """A solvable problem with its solution: the target is kept, the numbers are drawn again until it can be
    reached."""
    target = targets[int(rng.random() * len(targets))]
    while True:
        nums = [int(rng.random() * max_number) + 1 for _ in range(num_count)]
        solution = solve(nums, target)
        if solution is not None:
            return nums, target, solution


# --- searchers ----------------------------------------------------------------------------------------------


def sum_heuristic(nums: list[int], target: int) -> float:
    """Mean distance to the target."""
    return sum(abs(n - target) for n in nums) / len(nums)


def mult_heuristic(nums: list[int], target: int) -> float:
    """Summed distance to the nearest divisor of the target."""
    divisors = [d for d in range(2, target + 1) if target % d == 0] or [target]
    return sum(min(abs(n - d) for d in divisors) for n in nums)


HEURISTICS: dict[str, Heuristic] = {"sum": sum_heuristic, "mult": mult_heuristic}


def depth_first(nums: list[int], target: int, heuristic: str, width: int | None = None) -> str:
    """The trace of a depth-first search."""
    return _visit(nums, target, HEURISTICS[heuristic], width, [], "0")[0]


def _visit(
    nums: list[int], target: int, heuristic: Heuristic, width: int | None, operations: list[str], name: str
) -> tuple[str, bool]:
    trace = f"Current State: {target}:{nums}, Operations: {operations}\n"
    kept = []
    for child, operation in children(nums):
        score = heuristic(child, target)
        if score <= target:
            kept.append((score, child, operation))
    kept.sort(key=lambda node: node[0])
    for k, (_, child, operation) in enumerate(kept[:width]):
        if k > 0:
            trace += f"Moving to Node #{name}\n"
            trace += f"Current State: {target}:{nums}, Operations: {operations}\n"
        trace += f"Exploring Operation: {operation}, Resulting Numbers: {child}\n"
        if len(child) == 1:
            if child[0] == target:
                return trace + f"{child[0]},{target} equal: Goal Reached\n", True
            trace += f"{child[0]},{target} unequal: No Solution\n"
            continue
        trace += f"Generated Node #{name},{k}: {target}:{child} Operation: {operation}\n"
        trace += f"Moving to Node #{name},{k}\n"
        text, found = _visit(child, target, heuristic, width, [*operations, operation], f"{name},{k}")
        trace += text
        if found:
            return trace, True
    return trace, False


class HeapNode:
    """A node of the breadth-first search; nodes compare by heuristic alone."""

    def __init__(self, score: float, nums: list[int], operations: list[str], name: str) -> None:
        self.score = score
        self.nums = nums
        self.operations = operations
        self.name = name

    def __lt__(self, other: HeapNode) -> bool:
        return self.score < other.score


def breadth_first(nums: list[int], target: int, beam: int, heuristic: str, rng: random.Random) -> str:
    """The trace of a breadth-first search with a beam."""
    trace = ""
    heap = [HeapNode(0, nums, [], "0")]
    while heap:
        popped = [heapq.heappop(heap) for _ in range(min(beam, len(heap)))]
        for position, node in enumerate(popped):
            if position > 0:
                trace += f"Moving to Node #{node.name}\n"
            trace += f"Current State: {target}:{node.nums}, Operations: {node.operations}\n"
            text, nodes, found = _expand(node, target, beam, HEURISTICS[heuristic], rng)
            trace += text
            if found:
                return trace
            for new in nodes:
                heapq.heappush(heap, new)
        if heap:
            trace += f"Moving to Node #{heap[0].name}\n"
    return trace + "No solution found."


def _expand(
    node: HeapNode, target: int, beam: int, heuristic: Heuristic, rng: random.Random
) -> tuple[str, list[HeapNode], bool]:
    kept = [(heuristic(child, target), child, operation) for child, operation in children(node.nums)]
    kept.sort(key=lambda made: made[0])
    kept = kept[:beam]
    rng.shuffle(kept)
    trace = ""
    nodes = []
    generated = 0
    for score, child, operation in kept:
        trace += f"Exploring Operation: {operation}, Resulting Numbers: {child}\n"
        name = f"{node.name},{generated}"
        nodes.append(HeapNode(score, child, [*node.operations, operation], name))
        if len(child) > 1:
            trace += f"Generated Node #{name}: {target}:{child} Operation: {operation}\n"
            generated += 1
        elif child[0] == target:
            return trace + f"{child[0]},{target} equal: Goal Reached\n", nodes, True
        else:
            trace += f"{child[0]},{target} unequal: No Solution\n"
    nodes.sort(key=lambda made: made.score)
    return trace, nodes, False


# --- rewriting and grading with regular expressions ---------------------------------------------------------


def rewrite(trace: str, nums: list[int], target: int, solution: Sequence[str], rng: random.Random) -> str:
    """One round of guidance: follow the solution to the last node visited, then take its next step there.

    Numbers must stand in the solution's own order, and the first node with the right text is taken.
    """
    root = f"Current State: {target}:{nums}, Operations: []\n"
    if root not in trace:
        return root
    start = trace.index(root) + len(root)
    name, left = "0", nums
    done: list[str] = []
    for operation in solution[:-1]:
        child = _apply(left, operation)
        made = re.search(_made(name, r"\d+", target, child, operation), trace[start:])
        if made is None:
            return _take_step(trace, start, name, target, child, done, operation, rng)
        visit = re.search(_visited(made[1], target, child, [*done, operation]), trace[start + made.end() :])
        if visit is None:
            cut = trace[: start + made.end()]
            return cut + _visit_lines(made[1], target, child, [*done, operation])
        start += made.end() + visit.end()
        name, done, left = made[1], [*done, operation], child
    last = f"Exploring Operation: {solution[-1]}, Resulting Numbers: {[target]}\n"
    return trace[:start] + last + f"{target},{target} equal: Goal Reached"


def _take_step(
    trace: str,
    start: int,
    name: str,
    target: int,
    child: list[int],
    done: list[str],
    operation: str,
    rng: random.Random,
) -> str:
    """Put the next node in the place of a random child that was visited, or first if there is none."""
    options = []
    for made in re.finditer(_made(name, r"\d+", target, None, None), trace[start:]):
        visit = re.search(_visited(made[1], target, None, None), trace[start + made.end() :])
        if visit is not None:
            options.append((made, start + made.end() + visit.start()))
    if not options:
        lines = _node_lines(f"{name},0", target, child, operation)
        return trace[:start] + lines + _visit_lines(f"{name},0", target, child, [*done, operation])
    made, visited = rng.choice(options)
    between = trace[start + made.end() : visited]
    lines = _node_lines(made[1], target, child, operation)
    return (
        trace[: start + made.start()]
        + lines
        + between
        + _visit_lines(made[1], target, child, [*done, operation])
    )


def _made(parent: str, index: str, target: int, nums: list[int] | None, operation: str | None) -> str:
    """The pattern of an Exploring and a Generated line; the name is its first group."""
    numbers = r"\[[\d, ]+\]" if nums is None else re.escape(str(nums))
    text = r"\d+[-+*/]\d+=\d+" if operation is None else re.escape(operation)
    return (
        rf"Exploring Operation: {text}, Resulting Numbers: {numbers}\n"
        rf"Generated Node #({parent},{index}): {target}:{numbers} Operation: {text}\n"
    )


def _visited(name: str, target: int, nums: list[int] | None, operations: list[str] | None) -> str:
    """The pattern of a Moving line and a state line."""
    numbers = r"\[[\d, ]+\]" if nums is None else re.escape(str(nums))
    text = r"\[.*\]" if operations is None else re.escape(str(operations))
    return rf"Moving to Node #{name}\nCurrent State: {target}:{numbers}, Operations: {text}\n"


def _node_lines(name: str, target: int, nums: list[int], operation: str) -> str:
    return (
        f"Exploring Operation: {operation}, Resulting Numbers: {nums}\n"
        f"Generated Node #{name}: {target}:{nums} Operation: {operation}\n"
    )


def _visit_lines(name: str, target: int, nums: list[int], operations: list[str]) -> str:
    return f"Moving to Node #{name}\nCurrent State: {target}:{nums}, Operations: {operations}\n"


def _apply(nums: list[int], operation: str) -> list[int]:
    a, b, c = (int(number) for number in re.findall(r"\d+", operation))
    left = list(nums)
    left.remove(a)
    left.remove(b)
    return [*left, c]


def grade(trace: str, nums: list[int], target: int) -> bool:
    """Is the first goal line reached by true operations that use every number once?"""
    goal = re.search(r"^(\d+),(\d+) equal: Goal Reached$", trace, re.MULTILINE)
    if goal is None or int(goal[1]) != target or int(goal[2]) != target:
        return False
    before = trace[: goal.start()]
    states = re.findall(r"^Current State: (\d+):\[(.*)\], Operations: \[(.*)\]$", before, re.MULTILINE)
    explored = re.findall(r"^Exploring Operation: (.*), Resulting Numbers: \[(.*)\]$", before, re.MULTILINE)
    if not states or not explored or int(states[-1][0]) != target:
        return False
    operations = [text.strip("'") for text in states[-1][2].split(", ") if text]
    left = sorted(nums)
    for operation in operations:
        if not _carry_out(left, operation):
            return False
    if sorted(int(n) for n in states[-1][1].split(", ")) != sorted(left):
        return False
    return _carry_out(left, explored[-1][0]) and left == [target] and explored[-1][1] == str(target)


def _carry_out(left: list[int], operation: str) -> bool:
    """Carry out one operation on a list of numbers; False if it is not a true one."""
    parts = re.fullmatch(r"(\d+)([-+*/])(\d+)=(\d+)", operation)
    if parts is None:
        return False
    a, sign, b, c = int(parts[1]), parts[2], int(parts[3]), int(parts[4])
    for operand in (a, b):
        if operand not in left:
            return False
        left.remove(operand)
    left.append(c)
    return (c, f"{a}{sign}{b}={c}") in combine(a, b)

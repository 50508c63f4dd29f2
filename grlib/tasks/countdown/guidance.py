"""Guided-ReST's rewriting: lead a failed trace one subgoal further along a solution (paper, Algorithm 1).

A subgoal is the set of numbers after one more step of the solution. The trace is followed as far as it
generated *and* visited the solution's nodes; the next node is then inserted where the search could have
found it, so that the text stays a trace that the model might have written.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache
from operator import attrgetter
from re import Match
from typing import NamedTuple

from grlib.errors import GrlibError
from grlib.tasks.countdown.puzzle import OPERATION, Problem, apply_operation, check_solution
from grlib.tasks.countdown.traces import (
    explored_lines,
    read_numbers,
    read_operations,
    scan,
    state_line,
    visit_lines,
)

CHOICES = ("random", "first", "last")
CASES = {
    "a": "no root line: start over",
    "b": "last step: explore it at the parent and reach the goal",
    "c": "next node generated, never visited: visit it",
    "d": "parent without visited children: make the next node its first child",
    "e": "put the next node in the place of a visited child",
    "-": "a problem of one number: nothing to guide",
}


class Subgoal(NamedTuple):
    """One step of a solution: the operation and the numbers it leaves."""

    operation: str
    nums: tuple[int, ...]

    @property
    def spellings(self) -> tuple[str, ...]:
        """The operation and, for + and *, the one with its operands swapped."""
        a, sign, b, result = OPERATION.findall(self.operation)[0]
        return (self.operation, f"{b}{sign}{a}={result}") if sign in "+*" else (self.operation,)


class Edit(NamedTuple):
    """Characters start..end of the old trace give way to `text`."""

    start: int
    end: int
    text: str


class Rewrite(NamedTuple):
    """A rewritten trace and how it came about."""

    text: str
    case: str  # which rule applied, a key of CASES
    depth: int  # steps of the solution the old trace had reached: 0 at the root, -1 without a root line
    parent: str  # name of the node that the next step starts from ('' in case a)
    child: str  # name of the new node ('' in cases a and b)
    options: int  # children that case e could choose from (0 in the other cases)
    edits: tuple[Edit, ...]  # what changed, in the order of the text


def subgoals(problem: Problem, solution: Sequence[str]) -> tuple[Subgoal, ...]:
    """The steps of a solution; GrlibError unless it solves the problem."""
    return _plan(problem, tuple(solution))


@lru_cache(maxsize=4096)
def _plan(problem: Problem, solution: tuple[str, ...]) -> tuple[Subgoal, ...]:
    return tuple(map(Subgoal, solution, check_solution(problem, solution)))


# --- reading the trace ------------------------------------------------------------------------------


class _Made(NamedTuple):
    """A node as its Exploring and Generated lines make it."""

    start: int  # offset of the first line
    end: int  # offset after both
    name: str
    explored: Match[str]
    generated: Match[str]

    @property
    def parent(self) -> str:
        return self.name.rpartition(",")[0]


class _Visit(NamedTuple):
    """A node as its Moving and state lines visit it."""

    start: int
    end: int
    state: Match[str]


class _Lines:
    """The nodes that a trace makes, and the visits to each name, in the order of the text."""

    def __init__(self, trace: str) -> None:
        self.made: list[_Made] = []
        self.visits: dict[str, list[_Visit]] = {}
        begin, before = 0, None  # offset and match of the line before
        for start, line, match in scan(trace):
            kinds, end = (before and before.lastgroup, match and match.lastgroup), start + len(line) + 1
            if before and match and kinds == ("exploring", "generated"):
                self.made.append(_Made(begin, end, match["name"], before, match))
            elif before and match and kinds == ("moving", "state"):
                self.visits.setdefault(before["moving"], []).append(_Visit(begin, end, match))
            begin, before = start, match

    def visits_of(self, node: _Made) -> Iterator[_Visit]:
        """The visits to a node after it was made, in order."""
        visits = self.visits.get(node.name, [])
        for k in range(bisect_left(visits, node.end, key=attrgetter("start")), len(visits)):
            yield visits[k]


class _Reached(NamedTuple):
    """A node of the solution that the trace generated and visited, as the trace writes it."""

    inexact: bool  # its numbers or operations are written differently than in the solution
    start: int  # offset of its Exploring line
    end: int  # offset after the state line of its first visit
    name: str
    nums: tuple[int, ...]
    operations: tuple[str, ...]


def _follow(
    trace: str, problem: Problem, plan: tuple[Subgoal, ...], lines: _Lines
) -> tuple[_Reached | None, list[_Made], list[_Made]]:
    """The deepest node of the solution (None without a root line), the nodes made under it and its equals,
    and those of them that the next step makes.

    Of nodes equally deep those in the solution's own spelling come first: the authors' program finds these;
    then the earliest.
    """
    root, target = state_line(problem.target, problem.nums, ()), str(problem.target)
    start = 0 if trace.startswith(root) else trace.find("\n" + root) + 1
    if not start and not trace.startswith(root):
        return None, [], []
    reached = {"0": _Reached(False, start, start + len(root), "0", problem.nums, ())}
    made: list[_Made] = []
    steps: list[_Made] = []
    for depth in range(1, len(plan)):
        first = min(node.end for node in reached.values())
        made = [node for node in lines.made if node.start >= first and node.parent in reached]
        steps = _steps(made, plan[depth - 1], target)
        if not steps or not (deeper := _visited(steps, target, plan[:depth], reached, lines)):
            break
        reached = deeper
    return min(reached.values()), made, steps


def _steps(made: list[_Made], goal: Subgoal, target: str) -> list[_Made]:
    """The nodes that a step of the solution makes, in any order of operands or numbers."""
    spellings = goal.spellings
    return [
        node
        for node in made
        if node.explored["operation"] in spellings
        and node.explored["operation"] == node.generated["generated"]
        and node.explored["exploring"] == node.generated["nums"]
        and node.generated["target"] == target
        and sorted(read_numbers(node.generated["nums"])) == sorted(goal.nums)
    ]


def _visited(
    steps: list[_Made],
    target: str,
    path: tuple[Subgoal, ...],
    reached: dict[str, _Reached],
    lines: _Lines,
) -> dict[str, _Reached]:
    """The nodes one step below `reached` that the trace made and then visited, by name."""
    deeper: dict[str, _Reached] = {}
    tried = set()
    for node in steps:
        if node.name in tried or node.start < reached[node.parent].end:
            continue
        tried.add(node.name)
        for visit in lines.visits_of(node):
            state = visit.state
            nums, operations = read_numbers(state["state_nums"]), _spelled(state["state"], path)
            if operations and state["state_target"] == target and sorted(nums) == sorted(path[-1].nums):
                exact = nums == path[-1].nums and operations == tuple([step.operation for step in path])
                deeper[node.name] = _Reached(not exact, node.start, visit.end, node.name, nums, operations)
                break
    return deeper


def _spelled(text: str, path: tuple[Subgoal, ...]) -> tuple[str, ...] | None:
    """The operations of a state line if they are the solution's, up to the order of operands."""
    operations = read_operations(text)
    if len(operations) != len(path):
        return None
    same = all(o in step.spellings for o, step in zip(operations, path, strict=True))
    return operations if same else None


def progress(trace: str, problem: Problem, solution: Sequence[str]) -> int:
    """Steps of the solution a trace has reached: -1 without a root line, 0 at the root, all at its goal.

    A step counts when its node is generated and afterwards visited; the last one when its goal line follows.
    """
    plan = subgoals(problem, solution)
    node, *_ = _follow(trace, problem, plan, _Lines(trace))
    if node is None:
        return -1
    depth = len(node.operations)
    if depth == len(plan) - 1:
        for operation in plan[-1].spellings:
            at = trace.find("\n" + _last_lines(operation, problem.target), node.end - 1)
            here = trace.rfind("\nCurrent State: ", 0, max(at, 0)) + 1
            if at >= 0 and trace.startswith(state_line(problem.target, node.nums, node.operations), here):
                return depth + 1
    return depth


# --- rewriting ------------------------------------------------------------------------------------


def rewrite(
    trace: str,
    problem: Problem,
    solution: Sequence[str],
    choose: str = "random",
    rng: random.Random | None = None,
) -> str:
    """The trace, cut and changed so that it reaches one more subgoal; a model can continue it.

    `choose` says which visited child gives up its place in case (e): "first" or "last" in the order they were
    generated, or "random" with `rng` (None: Python's shared generator). Any text is accepted, cut anywhere; a
    solution that does not solve the problem is a GrlibError. As in the authors' program, what stands before
    the cut stays as it is: a goal that it claims falsely decides the verdict, and the round is lost.
    """
    return rewrite_steps(trace, problem, solution, choose, rng).text


def rewrite_steps(
    trace: str,
    problem: Problem,
    solution: Sequence[str],
    choose: str = "random",
    rng: random.Random | None = None,
) -> Rewrite:
    """`rewrite` with its reasons: which case applied, where, and what was replaced."""
    if choose not in CHOICES:
        raise GrlibError(f"choose is {choose!r}: it must be one of {', '.join(CHOICES)}")
    plan, target = subgoals(problem, solution), problem.target
    lines = _Lines(trace)
    parent, made, steps = _follow(trace, problem, plan, lines)
    whole = len(trace)
    if parent is None:
        return _edited(trace, "a", [Edit(0, whole, state_line(target, problem.nums, ()))])
    depth = len(parent.operations)
    if depth == len(plan):
        return _edited(trace, "-", [], parent)
    goal = plan[depth]
    if depth == len(plan) - 1:
        return _edited(trace, "b", [Edit(parent.end, whole, _last_lines(goal.operation, target))], parent)

    nums = apply_operation(parent.nums, goal.operation) if parent.inexact else goal.nums
    assert nums is not None  # the parent holds the solution's numbers, in whatever order
    own, same = (
        [node for node in nodes if node.parent == parent.name and node.start >= parent.end]
        for nodes in (made, steps)
    )
    if same:
        told = [(node.generated["generated"], read_numbers(node.generated["nums"])) for node in same]
        k = told.index(best) if (best := (goal.operation, nums)) in told else 0
        operation, nums = told[k]
        name = same[k].name
        new = visit_lines(name, target, nums, (*parent.operations, operation))
        return _edited(trace, "c", [Edit(same[k].end, whole, new)], parent, name)

    operations = (*parent.operations, goal.operation)
    visited = [(node, visit) for node in own if (visit := next(lines.visits_of(node), None))]
    if not visited:
        name = parent.name + ",0"
        new = explored_lines(goal.operation, nums, target, name) + visit_lines(name, target, nums, operations)
        return _edited(trace, "d", [Edit(parent.end, whole, new)], parent, name)
    if choose == "random":
        node, visit = (rng or random).choice(visited)
    else:
        node, visit = visited[0 if choose == "first" else -1]
    new_node = Edit(node.start, node.end, explored_lines(goal.operation, nums, target, node.name))
    new_visit = Edit(visit.start, whole, visit_lines(node.name, target, nums, operations))
    return _edited(trace, "e", [new_node, new_visit], parent, node.name, len(visited))


def _edited(
    trace: str,
    case: str,
    edits: list[Edit],
    parent: _Reached | None = None,
    child: str = "",
    options: int = 0,
) -> Rewrite:
    text = trace
    for start, end, new in reversed(edits):  # backward: the offsets of earlier edits stay valid
        text = text[:start] + new + text[end:]
    depth, name = (len(parent.operations), parent.name) if parent else (-1, "")
    return Rewrite(text, case, depth, name, child, options, tuple(edits))


def _last_lines(operation: str, target: int) -> str:
    """The final operation and the goal line, which has no newline here, as in the authors' release."""
    return explored_lines(operation, (target,), target, "").rstrip("\n")

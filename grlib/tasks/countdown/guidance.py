"""Guided-ReST's rewriting: lead a failed trace one subgoal further along a solution (paper, Algorithm 1).

A subgoal is the set of numbers after one more step of the solution. The trace is followed as far as it
generated *and* visited the solution's nodes; the next one is then worked in where the search could have
met it, so that the text stays a trace the model might have written.
"""

from __future__ import annotations

import random
import re
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from re import Match
from typing import NamedTuple

from grlib.errors import GrlibError
from grlib.tasks.countdown.puzzle import Problem, apply_operation, check_solution
from grlib.tasks.countdown.traces import (
    exploring_line,
    generated_line,
    goal_line,
    moving_line,
    read_operations,
    state_line,
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
        operands, _, result = self.operation.partition("=")
        a, sign, b = operands.partition("+" if "+" in operands else "*")
        return (self.operation, f"{b}{sign}{a}={result}") if sign else (self.operation,)

    @property
    def bag(self) -> list[str]:
        """The numbers as sorted digits: the same for every order."""
        return sorted(map(str, self.nums))


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
    steps = tuple(solution) if not isinstance(solution, str) and hasattr(solution, "__iter__") else None
    if steps is None or not {*map(type, steps)} <= {str}:
        raise GrlibError(f"solution is {solution!r}: it must be a list of operations such as '14+15=29'")
    return _plan(problem, steps)


@lru_cache(maxsize=4096)
def _plan(problem: Problem, solution: tuple[str, ...]) -> tuple[Subgoal, ...]:
    return tuple(map(Subgoal, solution, check_solution(problem, solution)))


# --- reading the trace ------------------------------------------------------------------------------

# A node visited (two lines; groups: name, target, nums, operations) and a node made (two lines; groups:
# operation, nums, parent's name with a comma, child index, target, nums, operation; and, since depth-first
# search visits a node at once, the name of the one visited next, if any); loose inside brackets.
_OPERATION = r"[0-9]++[-+*/][0-9]++=[0-9]++"
_VISIT = re.compile(
    r"\nMoving to Node #([0-9,]++)\nCurrent State: ([0-9]++):\[([^\]\n]*+)\], Operations: \[([^\n]*)\](?=\n)"
)
_MADE = re.compile(
    rf"\nExploring Operation: ({_OPERATION}), Resulting Numbers: \[([^\]\n]*+)\]"
    r"\nGenerated Node #((?:[0-9]++,)++)([0-9]++): ([0-9]++):\[([^\]\n]*+)\]"
    rf" Operation: ({_OPERATION})(?=\n)(?:{_VISIT.pattern})?"
)


@lru_cache(maxsize=64)
def _names(depth: int) -> re.Pattern[str]:
    """A Generated line's start with a name `depth` steps below the root; its group: the parent's, a comma."""
    return re.compile(rf"Generated Node #((?:[0-9]++,){{{depth}}})[0-9]++:")  # starts plainly: twice as fast


def _nodes_made(trace: str, parents: Collection[str], depth: int, start: int) -> list[Match[str]]:
    """The Exploring and Generated lines of all nodes made under `parents`, from offset `start` on."""
    found = []
    for name in _names(depth).finditer(trace, start):
        before = name.start() - 1
        if name[1] in parents and trace[before] == "\n":
            exploring = trace.rfind("\n", 0, before)  # where its Exploring line must begin
            if exploring >= start and (node := _MADE.match(trace, exploring)):
                found.append(node)
    return found


class _Visits:
    """Where a trace visits its nodes: by plain `find`, quickest for a usual trace, until searches add up."""

    def __init__(self, trace: str) -> None:
        self.trace = trace
        self.allowance = 4 * len(trace)  # characters to search before an index is made: keeps it all linear
        self.index: dict[str, list[Match[str]]] | None = None

    def after(self, name: str, position: int) -> Iterator[Match[str]]:
        """All visits (Moving and state line) to a node that begin at `position` or later, in order."""
        needle, at = "\n" + moving_line(name), position - 1
        while self.index is None:
            found = self.trace.find(needle, at)
            self.allowance -= (found if found >= 0 else len(self.trace)) - at
            if self.allowance < 0:
                self.index = {}
                for visit in _VISIT.finditer(self.trace):
                    self.index.setdefault(visit[1], []).append(visit)
                break
            if found < 0:
                return
            here = _VISIT.match(self.trace, found)
            if here:
                yield here
            at = found + 1
        visits = self.index.get(name, [])
        for k in range(bisect_left(visits, at, key=Match.start), len(visits)):
            yield visits[k]

    def first(self, name: str, made: Match[str]) -> int:
        """Where a node is visited first after it was made; 0 if it is not."""
        if made[8] == name:
            return made.end(7) + 1
        visit = next(self.after(name, made.end(7) + 1), None)
        return visit.start() + 1 if visit else 0


class _Reached(NamedTuple):
    """A node of the solution that the trace generated and visited, as the trace writes it."""

    inexact: bool  # numbers or operations are spelled otherwise than in the solution
    start: int  # offset of its Exploring line
    end: int  # offset after the state line of its first visit
    name: str
    nums: tuple[int, ...]
    operations: tuple[str, ...]


def _follow(
    trace: str, problem: Problem, plan: tuple[Subgoal, ...], visits: _Visits
) -> tuple[_Reached | None, list[Match[str]], list[Match[str]]]:
    """The deepest node of the solution (None without a root line), the nodes made under it and its equals,
    and those of them that the next step makes.

    Of nodes equally deep those in the solution's own spelling come first: the authors' program finds these;
    then the earliest.
    """
    root, target = state_line(problem.target, problem.nums, ()), str(problem.target)
    start = 0 if trace.startswith(root) else trace.find("\n" + root) + 1
    if not start and not trace.startswith(root):
        return None, [], []
    reached = {"0,": _Reached(False, start, start + len(root), "0", problem.nums, ())}
    made: list[Match[str]] = []
    steps: list[Match[str]] = []
    for depth in range(1, len(plan)):
        made = _nodes_made(trace, reached, depth, min([node.end for node in reached.values()]) - 1)
        steps = _steps(made, plan[depth - 1], target)
        if not steps or not (deeper := _visited(steps, target, plan[:depth], reached, visits)):
            break
        reached = deeper
    return min(reached.values()), made, steps


def _steps(made: list[Match[str]], goal: Subgoal, target: str) -> list[Match[str]]:
    """Those of the nodes that a step of the solution makes, in whatever order of operands or numbers."""
    spellings = goal.spellings
    return [
        node
        for node in made
        if node[1] in spellings
        and (node[1], node[2], target) == (node[7], node[6], node[5])
        and sorted(node[2].split(", ")) == goal.bag
    ]


def _visited(
    steps: list[Match[str]],
    target: str,
    path: tuple[Subgoal, ...],
    reached: dict[str, _Reached],
    visits: _Visits,
) -> dict[str, _Reached]:
    """The nodes one step below `reached` that the trace made and then visited, by name with a comma."""
    deeper: dict[str, _Reached] = {}
    tried = set()
    for node in steps:
        name = node[3] + node[4]
        if name in tried or node.start() < reached[node[3]].end - 1:
            continue
        tried.add(name)
        for visit in visits.after(name, node.end(7) + 1):
            operations = _spelled(visit[4], path)
            if operations and visit[2] == target and sorted(visit[3].split(", ")) == path[-1].bag:
                nums = _numbers(visit[3])
                exact = nums == path[-1].nums and operations == tuple([step.operation for step in path])
                new = _Reached(not exact, node.start() + 1, visit.end() + 1, name, nums, operations)
                deeper[name + ","] = new
                break
    return deeper


def _numbers(nums: str) -> tuple[int, ...]:
    return tuple(map(int, nums.split(", ")))


def _spelled(text: str, path: tuple[Subgoal, ...]) -> tuple[str, ...] | None:
    """The operations of a state line if they are the solution's, up to the order of operands."""
    operations = read_operations(text)
    if len(operations) != len(path) or text != "'" + "', '".join(operations) + "'":
        return None
    return operations if all(o in step.spellings for o, step in zip(operations, path, strict=True)) else None


def progress(trace: str, problem: Problem, solution: Sequence[str]) -> int:
    """Steps of the solution a trace has reached: -1 without a root line, 0 at the root, all at its goal.

    A step counts when its node is generated and afterwards visited; the last one when its goal line follows.
    """
    plan = subgoals(problem, solution)
    node, *_ = _follow(trace, problem, plan, _Visits(trace))
    if node is None:
        return -1
    depth = len(node.operations)
    if depth == len(plan) - 1:
        for operation in plan[-1].spellings:
            at = trace.find("\n" + _last_lines(operation, problem), node.end - 1)
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
    """The trace, cut and changed so that it reaches one more subgoal; a model can go on from its end.

    `choose` says which visited child gives up its place in case (e): "first" or "last" in the order they were
    generated, or "random" with `rng` (None: Python's shared generator). Any text is accepted, cut anywhere; a
    solution that does not solve the problem is a GrlibError.
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
    plan = subgoals(problem, solution)
    visits = _Visits(trace)
    parent, made, steps = _follow(trace, problem, plan, visits)
    whole = len(trace)
    if parent is None:
        return _edited(trace, "a", [Edit(0, whole, state_line(problem.target, problem.nums, ()))])
    depth = len(parent.operations)
    if depth == len(plan):
        return _edited(trace, "-", [], parent)
    goal = plan[depth]
    if depth == len(plan) - 1:
        return _edited(trace, "b", [Edit(parent.end, whole, _last_lines(goal.operation, problem))], parent)

    path, first = parent.name + ",", parent.end - 1
    nums = apply_operation(parent.nums, goal.operation) if parent.inexact else goal.nums
    assert nums is not None  # the parent holds the solution's numbers, in whatever order
    if same := [node for node in steps if node[3] == path and node.start() >= first]:
        node = min(same, key=lambda node: node[1] != goal.operation or _numbers(node[2]) != nums)
        lines = _visit_lines(path + node[4], problem, _numbers(node[2]), (*parent.operations, node[1]))
        return _edited(trace, "c", [Edit(node.end(7) + 1, whole, lines)], parent, path + node[4])

    operations = (*parent.operations, goal.operation)
    own = [node for node in made if node[3] == path and node.start() >= first]
    visited = [(n, at) for n in own if (at := visits.first(path + n[4], n))]
    if not visited:
        name = path + "0"
        lines = _node_lines(name, problem, nums, goal.operation)
        lines += _visit_lines(name, problem, nums, operations)
        return _edited(trace, "d", [Edit(parent.end, whole, lines)], parent, name)
    if choose == "random":
        node, at = (rng or random).choice(visited)
    else:
        node, at = visited[0 if choose == "first" else -1]
    name = path + node[4]
    new_node = Edit(node.start() + 1, node.end(7) + 1, _node_lines(name, problem, nums, goal.operation))
    new_visit = Edit(at, whole, _visit_lines(name, problem, nums, operations))
    return _edited(trace, "e", [new_node, new_visit], parent, name, len(visited))


def _edited(
    trace: str,
    case: str,
    edits: list[Edit],
    parent: _Reached | None = None,
    child: str = "",
    options: int = 0,
) -> Rewrite:
    text = trace
    for start, end, new in reversed(edits):  # from behind: those before stay where they are
        text = text[:start] + new + text[end:]
    depth, name = (len(parent.operations), parent.name) if parent else (-1, "")
    return Rewrite(text, case, depth, name, child, options, tuple(edits))


def _node_lines(name: str, problem: Problem, nums: tuple[int, ...], operation: str) -> str:
    return exploring_line(operation, nums) + generated_line(name, problem.target, nums, operation)


def _visit_lines(name: str, problem: Problem, nums: tuple[int, ...], operations: tuple[str, ...]) -> str:
    return moving_line(name) + state_line(problem.target, nums, operations)


def _last_lines(operation: str, problem: Problem) -> str:
    """The final operation and the goal line, which has no newline here, as in the authors' release."""
    goal = goal_line(problem.target, problem.target).rstrip("\n")
    return exploring_line(operation, (problem.target,)) + goal

"""Guided-ReST's rewriting: lead a failed trace one subgoal further along a solution (paper, Algorithm 1).

A subgoal is the set of numbers after one more step of the solution. The trace is followed as far as it
generated *and* visited the solution's nodes; the next one is then worked in where the search could have
met it, so that the text stays a trace the model might have written.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache
from re import Match
from typing import NamedTuple

from grlib.countdown import Problem, apply_operation, check_solution
from grlib.errors import GrlibError
from grlib.traces import (
    PARTS,
    VISIT,
    arithmetic_holds,
    exploring_line,
    generated_line,
    goal_line,
    moving_line,
    nodes_made,
    split_operations,
    state_line,
)

_LONGEST = 4000  # digits: Python writes and reads no integer of more than 4300
CHOICES = ("random", "first", "last")


class Subgoal(NamedTuple):
    """One step of a solution: the operation and the numbers it leaves."""

    operation: str
    nums: tuple[int, ...]

    @property
    def spellings(self) -> tuple[str, ...]:
        """The operation and, for + and *, the one with its operands swapped."""
        a, sign, rest = self.operation.partition("+" if "+" in self.operation else "*")
        b, _, c = rest.partition("=")
        return (self.operation, f"{b}{sign}{a}={c}") if sign else (self.operation,)


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


CASES = {
    "a": "no root line: start over",
    "b": "last step: explore it at the parent and reach the goal",
    "c": "next node generated, never visited: visit it",
    "d": "parent without visited children: make the next node its first child",
    "e": "put the next node in the place of a visited child",
    "-": "a problem of one number: nothing to guide",
}


def subgoals(problem: Problem, solution: Sequence[str]) -> list[Subgoal]:
    """The steps of a solution; GrlibError unless it solves the problem."""
    return list(_plan(problem, _as_steps(solution)))


def _as_steps(solution: Sequence[str]) -> tuple[str, ...]:
    steps = tuple(solution) if not isinstance(solution, str) and hasattr(solution, "__iter__") else None
    if steps is None or not all(isinstance(step, str) for step in steps):
        raise GrlibError(f"solution is {solution!r}: it must be a list of operations such as '14+15=29'")
    return steps


@lru_cache(maxsize=4096)
def _plan(problem: Problem, solution: tuple[str, ...]) -> tuple[Subgoal, ...]:
    if any(len(step) > _LONGEST for step in solution) or max(problem.nums).bit_length() > 3 * _LONGEST:
        raise GrlibError(
            f"solution with numbers of more than {_LONGEST} digits: they cannot be written into a trace"
        )
    steps: list[Subgoal] = []
    left = [*problem.nums]
    for operation in solution:
        parts = PARTS.fullmatch(operation)
        if not parts or not arithmetic_holds(*parts.groups()):
            break
        a, b, c = int(parts[1]), int(parts[3]), int(parts[4])
        if a not in left:
            break
        left.remove(a)
        if b not in left:
            break
        left.remove(b)
        left.append(c)
        steps.append(Subgoal(operation, tuple(left)))
    if len(steps) < len(solution) or left != [problem.target]:
        check_solution(problem, solution)  # raises, with the reason
        raise GrlibError(f"solution {list(solution)!r} does not solve {problem}")
    return tuple(steps)


# --- how far the trace follows the solution -------------------------------------------------------


class _Visits:
    """Where a trace visits its nodes: by plain `find`, quickest for a usual trace, until searches add up."""

    def __init__(self, trace: str) -> None:
        self.trace = trace
        self.allowance = 4 * len(trace)  # characters to search before an index is made: keeps it all linear
        self.index: dict[str, list[Match[str]]] | None = None
        self.known: dict[str, Match[str] | None] = {}

    def after(self, name: str, position: int) -> Iterator[Match[str]]:
        """All visits (Moving and state line) to a node that begin at `position` or later, in order."""
        needle, at = "\n" + moving_line(name), position - 1
        while self.index is None:
            found = self.trace.find(needle, at)
            self.allowance -= (found if found >= 0 else len(self.trace)) - at
            if self.allowance < 0:
                self.index = {}
                for visit in VISIT.finditer(self.trace):
                    self.index.setdefault(visit[1], []).append(visit)
                break
            if found < 0:
                return
            here = VISIT.match(self.trace, found)
            if here:
                yield here
            at = found + 1
        visits = self.index.get(name, [])
        for k in range(bisect_left(visits, at, key=Match.start), len(visits)):
            yield visits[k]

    def first(self, name: str, position: int) -> Match[str] | None:
        """The first visit at `position` or later. Ask for a name with rising positions: answers are kept."""
        if self.trace.startswith(moving_line(name), position):  # depth-first traces visit a node at once
            visit = VISIT.match(self.trace, position - 1)
            if visit:
                return visit
        visit = self.known.get(name)
        if name not in self.known or (visit and visit.start() < position - 1):
            visit = self.known[name] = next(self.after(name, position), None)
        return visit


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
) -> tuple[_Reached | None, list[Match[str]]]:
    """The deepest node of the solution (None without a root line; earliest of several) and the nodes below.

    Of nodes equally deep those in the solution's own spelling come first: the authors' program finds these.
    """
    root = state_line(problem.target, problem.nums, ())
    start = 0 if trace.startswith(root) else trace.find("\n" + root) + 1
    if not start and not trace.startswith(root):
        return None, []
    reached = {"0,": _Reached(False, start, start + len(root), "0", problem.nums, ())}
    made: list[Match[str]] = []
    for depth in range(1, len(plan)):
        made = nodes_made(trace, depth, min(node.end for node in reached.values()) - 1)
        deeper = _step(problem, plan[:depth], reached, made, visits)
        if not deeper:
            break
        reached = deeper
    return min(reached.values()), made


def _step(
    problem: Problem,
    path: tuple[Subgoal, ...],
    reached: dict[str, _Reached],
    made: list[Match[str]],
    visits: _Visits,
) -> dict[str, _Reached]:
    """The nodes one step below `reached` that the trace made and then visited, by name with a comma."""
    goal, spellings, bag, target = path[-1], path[-1].spellings, _bag(path[-1]), str(problem.target)
    deeper: dict[str, _Reached] = {}
    tried = set()
    for node in made:
        if node[1] not in spellings or node[3] not in reached or not _agree(node, target, bag):
            continue
        name = node[3] + node[4]
        if name in tried or node.start() < reached[node[3]].end - 1:
            continue
        tried.add(name)
        for visit in visits.after(name, node.end() + 1):
            operations = _spelled(visit[4], path)
            if operations and visit[2] == target and sorted(visit[3].split(", ")) == bag:
                nums = _numbers(visit[3])
                exact = nums == goal.nums and operations == tuple(step.operation for step in path)
                new = _Reached(not exact, node.start() + 1, visit.end() + 1, name, nums, operations)
                deeper[name + ","] = new
                break
    return deeper


def _bag(goal: Subgoal) -> list[str]:
    """The subgoal's numbers as sorted digits: the same for every order."""
    return sorted(map(str, goal.nums))


def _agree(made: Match[str], target: str, bag: list[str]) -> bool:
    """Do the Exploring and the Generated line of a new node say the same, with these numbers in any order?"""
    return (
        made[1] == made[7] and made[2] == made[6] and made[5] == target and sorted(made[2].split(", ")) == bag
    )


def _numbers(nums: str) -> tuple[int, ...]:
    return tuple(map(int, nums.split(", ")))


def _spelled(text: str, path: tuple[Subgoal, ...]) -> tuple[str, ...] | None:
    """The operations of a state line if they are the solution's, up to the order of operands."""
    operations = split_operations(text)
    if len(operations) != len(path) or text != "'" + "', '".join(operations) + "'":
        return None
    return operations if all(o in step.spellings for o, step in zip(operations, path, strict=True)) else None


def progress(trace: str, problem: Problem, solution: Sequence[str]) -> int:
    """Steps of the solution a trace has reached: -1 without a root line, 0 at the root, all at its goal.

    A step counts when its node is generated and afterwards visited; the last one when its goal line follows.
    """
    plan = _plan(problem, _as_steps(solution))
    node, _ = _follow(trace, problem, plan, _Visits(trace))
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
    plan = _plan(problem, _as_steps(solution))
    visits = _Visits(trace)
    parent, made = _follow(trace, problem, plan, visits)
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
    own = [node for node in made if node[3] == path and node.start() >= first]
    nums = apply_operation(parent.nums, goal.operation) if parent.inexact else goal.nums
    assert nums is not None  # the parent holds the solution's numbers, in whatever order
    spellings = goal.spellings
    same = [node for node in own if node[1] in spellings]
    if same and (same := [node for node in same if _agree(node, str(problem.target), _bag(goal))]):
        node = min(same, key=lambda node: node[1] != goal.operation or _numbers(node[2]) != nums)
        lines = _visit_lines(path + node[4], problem, _numbers(node[2]), (*parent.operations, node[1]))
        return _edited(trace, "c", [Edit(node.end() + 1, whole, lines)], parent, path + node[4])

    operations = (*parent.operations, goal.operation)
    visited = [(node, visit) for node in own if (visit := visits.first(path + node[4], node.end() + 1))]
    if not visited:
        name = path + "0"
        lines = _node_lines(name, problem, nums, goal.operation)
        lines += _visit_lines(name, problem, nums, operations)
        return _edited(trace, "d", [Edit(parent.end, whole, lines)], parent, name)
    if choose == "random":
        node, visit = (rng or random).choice(visited)
    else:
        node, visit = visited[0 if choose == "first" else -1]
    name = path + node[4]
    new_node = Edit(node.start() + 1, node.end() + 1, _node_lines(name, problem, nums, goal.operation))
    new_visit = Edit(visit.start() + 1, whole, _visit_lines(name, problem, nums, operations))
    return _edited(trace, "e", [new_node, new_visit], parent, name, len(visited))


def _edited(
    trace: str,
    case: str,
    edits: list[Edit],
    parent: _Reached | None = None,
    child: str = "",
    options: int = 0,
) -> Rewrite:
    pieces: list[str] = []
    at = 0
    for start, end, text in edits:
        pieces += (trace[at:start], text)
        at = end
    pieces.append(trace[at:])
    depth, name = (len(parent.operations), parent.name) if parent else (-1, "")
    return Rewrite("".join(pieces), case, depth, name, child, options, tuple(edits))


def _node_lines(name: str, problem: Problem, nums: tuple[int, ...], operation: str) -> str:
    return exploring_line(operation, nums) + generated_line(name, problem.target, nums, operation)


def _visit_lines(name: str, problem: Problem, nums: tuple[int, ...], operations: tuple[str, ...]) -> str:
    return moving_line(name) + state_line(problem.target, nums, operations)


def _last_lines(operation: str, problem: Problem) -> str:
    """The final operation and the goal line, which has no newline here, as in the authors' release."""
    goal = goal_line(problem.target, problem.target).rstrip("\n")
    return exploring_line(operation, (problem.target,)) + goal

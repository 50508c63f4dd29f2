"""Guided-ReST's rewriting: lead a failed trace one subgoal further along a solution (paper, Algorithm 1).

A subgoal is the set of numbers after one more step of the solution. The trace is followed as far as it
generated *and* visited the solution's nodes; the next node is then inserted where the search could have
found it, so that the text stays a trace that the model might have written.
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
from grlib.tasks.countdown.puzzle import OPERATION, Problem, apply_operation, check_solution
from grlib.tasks.countdown.traces import (
    EXPLORING,
    GENERATED,
    MOVING,
    STATE,
    exploring_line,
    generated_line,
    goal_line,
    moving_line,
    read_numbers,
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
        """The operation and, for `+` and `*`, the one with its operands swapped."""
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
    steps = tuple(solution) if not isinstance(solution, str) and hasattr(solution, "__iter__") else None
    if steps is None or not {*map(type, steps)} <= {str}:
        raise GrlibError(f"solution is {solution!r}: it must be a list of operations such as '14+15=29'")
    return _plan(problem, steps)


@lru_cache(maxsize=4096)
def _plan(problem: Problem, solution: tuple[str, ...]) -> tuple[Subgoal, ...]:
    return tuple(map(Subgoal, solution, check_solution(problem, solution)))


# --- reading the trace ------------------------------------------------------------------------------

# A node visited and a node made, two lines each, from the newline before them to that after them. Since
# depth-first search visits a node at once, its visit is read along with it.
_VISIT = re.compile(rf"\n{MOVING}\n{STATE}(?=\n)")
_MADE = re.compile(rf"\n{EXPLORING}\n{GENERATED}(?=\n)(?:{_VISIT.pattern})?")


@lru_cache(maxsize=64)
def _lines_at(depth: int) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """The beginning of a Generated line, and a Moving line, of a node `depth` steps below the root.

    Their groups are the name of its parent, and its own name.
    """
    parent = rf"[0-9]++(?:,[0-9]++){{{depth - 1}}}"
    generated = re.compile(rf"Generated Node #({parent}),[0-9]++:")
    return generated, re.compile(rf"\nMoving to Node #({parent},[0-9]++)(?=\n)")


def _nodes_made(trace: str, parents: Collection[str], depth: int, start: int) -> list[Match[str]]:
    """The Exploring and Generated lines of all nodes made under `parents`, from offset `start` on."""
    found = []
    generated, _ = _lines_at(depth)
    for name in generated.finditer(trace, start):
        before = name.start() - 1
        if name[1] in parents and trace[before] == "\n":
            exploring = trace.rfind("\n", 0, before)  # where its Exploring line must begin
            if exploring >= start and (node := _MADE.match(trace, exploring)):
                found.append(node)
    return found


def _parent(name: str) -> str:
    return name.rpartition(",")[0]


class _Visits:
    """Where a trace visits its nodes. What is read is kept, so that the time stays linear in any text."""

    def __init__(self, trace: str) -> None:
        self.trace = trace
        self.moves: dict[int, dict[str, list[int]]] = {}  # depth -> name -> offsets of its Moving lines
        self.read: dict[str, list[Match[str]]] = {}  # name -> its visits

    def of(self, node: Match[str]) -> Iterator[Match[str]]:
        """The visits (two lines each) to a node after it was made, in order; the first may be `node`."""
        name = node["name"]
        if node["moving"] == name:
            yield node
        if name not in self.read:
            found = [_VISIT.match(self.trace, move) for move in self._moves(name.count(",")).get(name, ())]
            self.read[name] = [visit for visit in found if visit]
        visits = self.read[name]
        for k in range(bisect_left(visits, node.end(), key=Match.start), len(visits)):
            yield visits[k]

    def _moves(self, depth: int) -> dict[str, list[int]]:
        """Offsets of the newlines before the Moving lines to each node of a depth, by its name."""
        if depth not in self.moves:
            moves = self.moves[depth] = {}
            for move in _lines_at(depth)[1].finditer(self.trace):
                moves.setdefault(move[1], []).append(move.start())
        return self.moves[depth]

    def first(self, node: Match[str]) -> int:
        """Where a node is visited first after it was made; 0 if it is not."""
        visit = next(self.of(node), None)
        return visit.start("moving") - len("Moving to Node #") if visit else 0


class _Reached(NamedTuple):
    """A node of the solution that the trace generated and visited, as the trace writes it."""

    inexact: bool  # its numbers or operations are written differently than in the solution
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
    reached = {"0": _Reached(False, start, start + len(root), "0", problem.nums, ())}
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
    """The nodes that a step of the solution makes, in any order of operands or numbers."""
    spellings = goal.spellings
    return [
        node
        for node in made
        if node["operation"] in spellings
        and node["operation"] == node["generated"]
        and node["exploring"] == node["nums"]
        and node["target"] == target
        and sorted(read_numbers(node["nums"])) == sorted(goal.nums)
    ]


def _visited(
    steps: list[Match[str]],
    target: str,
    path: tuple[Subgoal, ...],
    reached: dict[str, _Reached],
    visits: _Visits,
) -> dict[str, _Reached]:
    """The nodes one step below `reached` that the trace made and then visited, by name."""
    deeper: dict[str, _Reached] = {}
    tried = set()
    for node in steps:
        name = node["name"]
        if name in tried or node.start() < reached[_parent(name)].end - 1:
            continue
        tried.add(name)
        for visit in visits.of(node):
            nums, operations = read_numbers(visit["state_nums"]), _spelled(visit["state"], path)
            if operations and visit["state_target"] == target and sorted(nums) == sorted(path[-1].nums):
                exact = nums == path[-1].nums and operations == tuple([step.operation for step in path])
                deeper[name] = _Reached(not exact, node.start() + 1, visit.end() + 1, name, nums, operations)
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

    first = parent.end - 1
    nums = apply_operation(parent.nums, goal.operation) if parent.inexact else goal.nums
    assert nums is not None  # the parent holds the solution's numbers, in whatever order
    if same := [node for node in steps if _parent(node["name"]) == parent.name and node.start() >= first]:
        node = min(
            same, key=lambda node: node["operation"] != goal.operation or read_numbers(node["nums"]) != nums
        )
        operations = (*parent.operations, node["operation"])
        lines = _visit_lines(node["name"], problem, read_numbers(node["nums"]), operations)
        return _edited(trace, "c", [Edit(node.end("generated") + 1, whole, lines)], parent, node["name"])

    operations = (*parent.operations, goal.operation)
    own = [node for node in made if _parent(node["name"]) == parent.name and node.start() >= first]
    visited = [(node, at) for node in own if (at := visits.first(node))]
    if not visited:
        name = parent.name + ",0"
        lines = _node_lines(name, problem, nums, goal.operation)
        lines += _visit_lines(name, problem, nums, operations)
        return _edited(trace, "d", [Edit(parent.end, whole, lines)], parent, name)
    if choose == "random":
        node, at = (rng or random).choice(visited)
    else:
        node, at = visited[0 if choose == "first" else -1]
    name = node["name"]
    new_node = Edit(
        node.start() + 1, node.end("generated") + 1, _node_lines(name, problem, nums, goal.operation)
    )
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
    for start, end, new in reversed(edits):  # backward: the offsets of earlier edits stay valid
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

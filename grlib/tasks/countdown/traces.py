"""The trace language of Stream of Search: rendering, grading, parsing and auditing traces.

A trace is text that a model may have written. So everything that reads one accepts any text, evaluates
nothing, and takes time and memory linear in its length. A number of more than 18 digits is not of the
language, and neither is the line that holds it.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from grlib.tasks.countdown.puzzle import NUMBER, OPERATION, Problem, carry_out, holds

# --- rendering ------------------------------------------------------------------------------------


def state_line(target: int, nums: Sequence[int], operations: Sequence[str]) -> str:
    """The line that visits a node: the numbers it holds and the operations that led to it."""
    return f"Current State: {target}:{[*nums]}, Operations: {[*operations]}\n"


def exploring_line(operation: str, resulting: Sequence[int]) -> str:
    """The line that tries an operation and shows the numbers it leaves."""
    return f"Exploring Operation: {operation}, Resulting Numbers: {[*resulting]}\n"


def generated_line(name: str, target: int, nums: Sequence[int], operation: str) -> str:
    """The line that gives the node just explored its name, a path of child indices such as `0,2,1`."""
    return f"Generated Node #{name}: {target}:{[*nums]} Operation: {operation}\n"


def moving_line(name: str) -> str:
    """The line that moves to a node; its state line follows."""
    return f"Moving to Node #{name}\n"


def goal_line(n: int, target: int) -> str:
    """The line that ends a successful trace."""
    return f"{n},{target} equal: Goal Reached\n"


def miss_line(n: int, target: int) -> str:
    """The line that closes a leaf whose number is not the target."""
    return f"{n},{target} unequal: No Solution\n"


def visit_lines(name: str, target: int, nums: Sequence[int], operations: Sequence[str]) -> str:
    """The lines that move to a node and show its state."""
    return moving_line(name) + state_line(target, nums, operations)


def explored_lines(operation: str, nums: Sequence[int], target: int, name: str) -> str:
    """The lines that try an operation: it makes a node with a name, or a leaf, which is compared at once."""
    tried = exploring_line(operation, nums)
    if len(nums) > 1:
        return tried + generated_line(name, target, nums, operation)
    return tried + (goal_line if nums[0] == target else miss_line)(nums[0], target)


# --- the shape of a line --------------------------------------------------------------------------

# One pattern for each kind of line, without its newline. Possessive repeats (`*+`) never give characters
# back: a line that does not match is dropped in one pass.
_NUMBERS = rf"{NUMBER}(?:, {NUMBER})*+"
_OPERATION = rf"{NUMBER}[-+*/]{NUMBER}={NUMBER}"
_OPERATIONS = rf"(?:'{_OPERATION}'(?:, '{_OPERATION}')*+)?+"
_INDEX = r"(?:0|[1-9][0-9]{0,8}+)"
_LEVELS = 256  # bounded: leaves and nodes without a name get names made from their parent's
_NAME = rf"{_INDEX}(?:,{_INDEX}){{0,{_LEVELS - 1}}}+"
STATE = (
    rf"Current State: (?P<state_target>{NUMBER}):\[(?P<state_nums>{_NUMBERS})\]"
    rf", Operations: \[(?P<state>{_OPERATIONS})\]"
)
EXPLORING = (
    rf"Exploring Operation: (?P<operation>{_OPERATION}), Resulting Numbers: \[(?P<exploring>{_NUMBERS})\]"
)
GENERATED = (
    rf"Generated Node #(?P<name>{_NAME}): (?P<target>{NUMBER}):\[(?P<nums>{_NUMBERS})\]"
    rf" Operation: (?P<generated>{_OPERATION})"
)
MOVING = rf"Moving to Node #(?P<moving>{_NAME})"
GOAL = rf"{NUMBER},(?P<goal>{NUMBER}) equal: Goal Reached"
MISS = rf"{NUMBER},(?P<miss>{NUMBER}) unequal: No Solution"
END = r"(?P<end>No solution found\.)"
# Any line; the last group of each kind tells which it is.
LINE = re.compile("|".join((STATE, EXPLORING, GENERATED, MOVING, GOAL, MISS, END)))
_NEEDS_NO_NEWLINE = ("goal", "miss", "end")  # lines that cannot be the beginning of a longer one


def scan(trace: str) -> Iterator[tuple[int, str, re.Match[str] | None]]:
    """All whole lines as (offset, line, match of LINE or None); a last line that is cut is left out."""
    start = 0
    lines = trace.split("\n")
    last = lines.pop()
    for line in lines:
        yield start, line, LINE.fullmatch(line)
        start += len(line) + 1
    match = LINE.fullmatch(last)
    if match and match.lastgroup in _NEEDS_NO_NEWLINE:
        yield start, last, match


def read_numbers(text: str) -> tuple[int, ...]:
    """The numbers of a line's list: `84, 29`."""
    return tuple(map(int, text.split(", ")))


def read_operations(text: str) -> tuple[str, ...]:
    """The operations inside a state line's brackets: `'2+3=5', '5*4=20'`."""
    return tuple(text[1:-1].split("', '")) if text else ()


# --- grading --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a trace solves its problem, and if not, why: `reason` is one of REASONS. True when correct."""

    correct: bool
    reason: str

    def __bool__(self) -> bool:
        return self.correct


REASONS = (
    "correct",
    "no goal line",
    "malformed goal line",
    "wrong goal line",
    "no state line",
    "malformed state line",
    "no final operation",
    "malformed final operation",
    "wrong target",
    "number not available",
    "wrong arithmetic",
    "wrong numbers in state line",
    "wrong resulting numbers",
    "numbers left over",
    "target missed",
)
_VERDICTS = {reason: Verdict(reason == "correct", reason) for reason in REASONS}


def grade(trace: str, problem: Problem) -> Verdict:
    """Does the trace solve the problem? Its first goal line decides, more strictly than the authors' grader.

    The goal line, the last state line before it and the last Exploring line between them must be whole lines
    of the language with the right target and numbers, must use every number of the problem exactly once, and
    must lead to the target. Branches given up earlier may hold errors; text after the goal line is ignored.
    """
    return _VERDICTS[_judge(trace, problem)]


_STATE_LINE = re.compile(STATE + r"\n")
_EXPLORING_LINE = re.compile(EXPLORING + r"\n")
_GOAL_END = "equal: Goal Reached"
_GOAL_SIGN = "h"  # stands in no other line of the language, and one character is found ten times as fast


def _judge(trace: str, problem: Problem) -> str:
    first = trace.find(_GOAL_SIGN)
    goal = trace.find(_GOAL_END, max(first - _GOAL_END.index(_GOAL_SIGN), 0)) if first >= 0 else -1
    if goal < 0:
        return "no goal line"
    start = trace.rfind("\n", 0, goal) + 1
    end = trace.find("\n", goal)
    target = str(problem.target)
    line = trace[start:] if end < 0 else trace[start:end]
    if line != f"{target},{target} {_GOAL_END}":
        match = LINE.fullmatch(line)
        return "wrong goal line" if match and match.lastgroup == "goal" else "malformed goal line"
    state = trace.rfind("Current State", 0, start)
    if state < 0:
        return "no state line"
    visit = _STATE_LINE.match(trace, state)
    if not visit or (state and trace[state - 1] != "\n"):
        return "malformed state line"
    final = trace.rfind("Exploring Operation", state, start)
    if final < 0:
        return "no final operation"
    explored = _EXPLORING_LINE.match(trace, final)
    if not explored or trace[final - 1] != "\n":
        return "malformed final operation"
    written_target, written_nums, operations = visit.groups()
    if written_target != target:
        return "wrong target"
    nums = [*problem.nums]
    if wrong := _carry_out_all(nums, operations):
        return wrong
    if sorted(nums) != sorted(read_numbers(written_nums)):
        return "wrong numbers in state line"
    operation, resulting = explored.groups()
    if wrong := _carry_out_all(nums, operation):
        return wrong
    if nums == [problem.target]:
        return "correct" if resulting == target else "wrong resulting numbers"
    return "target missed" if len(nums) == 1 else "numbers left over"


def _carry_out_all(nums: list[int], operations: str) -> str:
    """Carry out the (well-formed) operations in a text, in place: '', or the reason why one is illegal."""
    for parts in OPERATION.findall(operations):
        if wrong := carry_out(nums, parts):
            return wrong
    return ""


# --- parsing into a tree --------------------------------------------------------------------------


@dataclass(slots=True)
class Node:
    """One node of the search tree, as the trace writes it (a wrong operation stays wrong)."""

    index: int  # position in Tree.nodes
    name: str  # path of child indices; leaves have none in the trace and get the next free child index
    operation: str  # the operation that made it, '' for the root
    nums: tuple[int, ...]
    parent: int | None
    children: list[int]  # in the order of the trace
    generated_at: int  # character offset of its Exploring line (Generated line if that is missing)
    visited_at: int | None  # character offset of its first state line
    leaf: bool = False  # holds one number
    outcome: str | None = None  # leaves: 'goal' or 'miss' once the trace says so


@dataclass(slots=True)
class Tree:
    """The search tree of a trace; nodes[0] is the root, and a text without any state line has no nodes."""

    target: int | None = None
    nodes: list[Node] = field(default_factory=list)
    goal: int | None = None  # index of the leaf where the goal was claimed

    def path(self, index: int) -> list[int]:
        """Indices from the root to a node."""
        path = [index]
        while (parent := self.nodes[path[-1]].parent) is not None:
            path.append(parent)
        return path[::-1]


def parse(trace: str) -> Tree:
    """The search tree up to the first goal line or the end. Lines not of the language are skipped."""
    last = deque(walk(trace), maxlen=1)
    return last[0][1] if last else Tree()


def walk(trace: str) -> Iterator[tuple[int, Tree, int]]:
    """`parse`, line by line: (offset of the line, the tree so far, index of the node where the search is)."""
    builder = _TreeBuilder()
    for start, _, match in scan(trace):
        if match:
            builder.read(start, match)
        yield start, builder.tree, builder.here
        if builder.tree.goal is not None:
            return


class _TreeBuilder:
    """Follows the search line by line: `here` is the node it stands at, new nodes become its children."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.names: dict[str, int] = {}  # the newest node of each name
        self.leaves: dict[tuple[str, str], int] = {}  # (name of the parent, operation) -> leaf
        self.here = 0
        self.moved = ""  # where the last line moved to
        self.explored: tuple[int, str] | None = None  # offset and operation of a node still without a name
        self.open_leaf: Node | None = None  # explored, not yet compared with the target

    def read(self, start: int, match: re.Match[str]) -> None:
        """Take in one line, which begins at offset `start`."""
        kind = match.lastgroup
        if kind == "state":
            self.state(start, match)
        elif kind == "exploring":
            self.exploring(start, match)
        elif kind == "generated":
            self.generated(start, match)
        elif kind == "moving":
            self.moved = match["moving"]
        elif kind in ("goal", "miss"):
            self.outcome(kind)

    def add(self, name: str, operation: str, nums: tuple[int, ...], parent: int | None, start: int) -> Node:
        nodes = self.tree.nodes
        node = Node(len(nodes), name, operation, nums, parent, [], start, None, leaf=len(nums) == 1)
        nodes.append(node)
        if parent is not None:
            nodes[parent].children.append(node.index)
        return node

    def state(self, start: int, match: re.Match[str]) -> None:
        nums, name, nodes = read_numbers(match["state_nums"]), self.moved, self.tree.nodes
        operation = match["state"].rpartition("'")[0].rpartition("'")[2]
        self.moved, self.explored, self.open_leaf = "", None, None
        if not nodes:
            self.tree.target = int(match["state_target"])
            self.names["0"] = self.add("0", operation, nums, None, start).index
            nodes[0].leaf = False
            index: int | None = 0
        elif len(nums) == 1 and name:  # breadth-first search visits its leaves by names that several share
            index = self.leaves.get((name.rpartition(",")[0], operation), self.names.get(name))
        else:
            index = self.names.get(name) if name else self.by_state(operation, nums)
        if index is None:  # never generated: a node of its own, where its name or the search suggests
            parent = self.names.get(name.rpartition(",")[0], self.here) if name else self.here
            if not name:
                if nodes[parent].name.count(",") >= _LEVELS:
                    parent = 0
                name = f"{nodes[parent].name},{len(nodes[parent].children)}"
            index = self.names[name] = self.add(name, operation, nums, parent, start).index
        if nodes[index].visited_at is None:
            nodes[index].visited_at = start
        self.here = index

    def by_state(self, operation: str, nums: tuple[int, ...]) -> int | None:
        """The node of a state line without a Moving line: where the search stands, or the newest child."""
        here = self.tree.nodes[self.here]
        for index in (here.index, *here.children[-1:]):
            node = self.tree.nodes[index]
            if (node.operation, node.nums) == (operation, nums):
                return index
        return None

    def exploring(self, start: int, match: re.Match[str]) -> None:
        operation, written = match["operation"], match["exploring"]
        self.explored, self.open_leaf = (start, operation), None
        if self.tree.nodes and "," not in written:
            here = self.tree.nodes[self.here]
            name = f"{here.name},{len(here.children)}"
            self.open_leaf = self.add(name, operation, read_numbers(written), here.index, start)
            self.leaves[here.name, operation] = self.open_leaf.index

    def generated(self, start: int, match: re.Match[str]) -> None:
        if not self.tree.nodes or self.open_leaf:
            return
        operation, name, nums = match["generated"], match["name"], read_numbers(match["nums"])
        if self.explored and self.explored[1] == operation:
            start = self.explored[0]
        self.explored = None
        self.names[name] = self.add(name, operation, nums, self.here, start).index

    def outcome(self, kind: str) -> None:
        leaf, self.open_leaf = self.open_leaf, None
        if leaf:
            leaf.outcome = kind
            if kind == "goal":
                self.tree.goal = leaf.index


# --- auditing -------------------------------------------------------------------------------------


AUDITED = (
    "lines",
    "malformed_lines",
    "operations",
    "wrong_arithmetic",
    "unavailable_numbers",
    "wrong_resulting_numbers",
    "states",
    "wrong_states",
    "outcomes",
    "wrong_outcomes",
)


def audit(trace: str, problem: Problem) -> dict[str, int]:
    """Counts of what a trace does, and does wrong, up to its first goal line: where a model still errs.

    Each Exploring line is judged against the state line before it, each state line against the problem;
    `wrong_outcomes` counts goal and miss lines that contradict their own numbers or the problem's target.
    """
    counts = dict.fromkeys(AUDITED, 0)
    target, here = str(problem.target), problem.nums  # what the last state line says
    left = Counter(here)
    for _, line, match in scan(trace):
        kind = match.lastgroup if match else None
        counts["lines"] += 1
        if not match:
            counts["malformed_lines"] += 1
        elif kind == "exploring":
            counts["operations"] += 1
            _audit_operation(counts, left, len(here), match)
        elif kind == "state":
            counts["states"] += 1
            here = read_numbers(match["state_nums"])
            left = Counter(here)
            follows = len(here) + match["state"].count("=") == len(problem.nums)  # cheap, before the copy
            if follows:
                reached = [*problem.nums]
                follows = not _carry_out_all(reached, match["state"]) and Counter(reached) == left
            counts["wrong_states"] += not follows or match["state_target"] != target
        elif kind in ("goal", "miss"):
            counts["outcomes"] += 1
            n, claimed = line.split(" ", 1)[0].split(",")
            counts["wrong_outcomes"] += (n == claimed) != (kind == "goal") or claimed != target
            if kind == "goal":
                break
    return counts


def _audit_operation(counts: dict[str, int], here: Counter[int], size: int, match: re.Match[str]) -> None:
    """Judge an Exploring line on the `size` numbers of the state line before it."""
    first, sign, second, result = OPERATION.findall(match["operation"])[0]
    a, b, c = int(first), int(second), int(result)
    counts["wrong_arithmetic"] += not holds(a, sign, b, c)
    if here[a] < 1 + (a == b) or not here[b]:
        counts["unavailable_numbers"] += 1
        return
    written = read_numbers(match["exploring"])
    right = len(written) == size - 1 and Counter([*written, a, b]) == here + Counter([c])
    counts["wrong_resulting_numbers"] += not right

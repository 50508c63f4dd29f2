"""The trace language of Stream of Search: rendering, grading, parsing and auditing traces.

A trace is text a model may have written, so everything that reads one accepts any text, evaluates nothing and
takes time linear in its length. Other modules spell a line through the renderers here; only
the searchers, for speed, spell most of theirs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import MAX_EMAX, Context, Decimal, localcontext

from grlib.tasks.countdown.puzzle import NUMBER, OPERATION, Problem, holds

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


# --- the shape of a line --------------------------------------------------------------------------

# Possessive repeats (`*+`) never give characters back: a line that does not match is dropped in one pass.
_NUMBERS = rf"{NUMBER}(?:, {NUMBER})*+"
_OPERATION = rf"{NUMBER}[-+*/]{NUMBER}={NUMBER}"
_OPERATIONS = rf"(?:'{_OPERATION}'(?:, '{_OPERATION}')*+)?+"
_INDEX = r"(?:0|[1-9][0-9]{0,8}+)"
_NAME = rf"{_INDEX}(?:,{_INDEX}){{0,255}}+"  # bounded: leaves get names made from their parent's
# The last group of each alternative tells the kind of line.
LINE = re.compile(
    rf"Current State: (?P<state_target>{NUMBER}):\[(?P<state_nums>{_NUMBERS})\]"
    rf", Operations: \[(?P<state>{_OPERATIONS})\]"
    rf"|Exploring Operation: (?P<operation>{_OPERATION}), Resulting Numbers: \[(?P<exploring>{_NUMBERS})\]"
    rf"|Generated Node #(?P<name>{_NAME}): {NUMBER}:\[(?P<nums>{_NUMBERS})\]"
    rf" Operation: (?P<generated>{_OPERATION})"
    rf"|Moving to Node #(?P<moving>{_NAME})"
    rf"|{NUMBER},(?P<goal>{NUMBER}) equal: Goal Reached"
    rf"|{NUMBER},(?P<miss>{NUMBER}) unequal: No Solution"
    r"|(?P<end>No solution found\.)"
)
_STATE = re.compile(rf"Current State: ({NUMBER}):\[({_NUMBERS})\], Operations: \[({_OPERATIONS})\]\n")
_EXPLORING = re.compile(rf"Exploring Operation: ({_OPERATION}), Resulting Numbers: \[({_NUMBERS})\]\n")
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


def split_operations(text: str) -> tuple[str, ...]:
    """The operations inside a state line's brackets: `'2+3=5', '5*4=20'`."""
    return tuple(text[1:-1].split("', '")) if text else ()


# --- grading --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a trace solves its problem, and why not: `reason` is one of REASONS. True when correct."""

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


_GOAL = "equal: Goal Reached"
_GOAL_SIGN = "h"  # stands in no other line of the language


def _judge(trace: str, problem: Problem) -> str:
    first = trace.find(_GOAL_SIGN)  # looking for one character is ten times as fast
    goal = trace.find(_GOAL, max(first - _GOAL.index(_GOAL_SIGN), 0)) if first >= 0 else -1
    if goal < 0:
        return "no goal line"
    start = trace.rfind("\n", 0, goal) + 1
    end = trace.find("\n", goal)
    target = digits(problem.target)
    line = trace[start:] if end < 0 else trace[start:end]
    if line != f"{target},{target} equal: Goal Reached":
        match = LINE.fullmatch(line)
        return "wrong goal line" if match and match.lastgroup == "goal" else "malformed goal line"
    state = trace.rfind("Current State", 0, start)
    if state < 0:
        return "no state line"
    visit = _STATE.match(trace, state)
    if not visit or (state and trace[state - 1] != "\n"):
        return "malformed state line"
    final = trace.rfind("Exploring Operation", state, start)
    if final < 0:
        return "no final operation"
    explored = _EXPLORING.match(trace, final)
    if not explored or trace[final - 1] != "\n":
        return "malformed final operation"
    written_target, written_nums, operations = visit.groups()
    if written_target != target:
        return "wrong target"
    try:
        pool = [*map(str, problem.nums)]
    except ValueError:
        pool = [*map(digits, problem.nums)]
    if wrong := _take(pool, operations):
        return wrong
    if sorted(pool) != sorted(written_nums.split(", ")):
        return "wrong numbers in state line"
    if wrong := _take(pool, explored[1]):
        return wrong
    if pool == [target]:
        return "correct" if explored[2] == target else "wrong resulting numbers"
    return "target missed" if len(pool) == 1 else "numbers left over"


def _take(pool: list[str], operations: str) -> str:
    """Carry out all (well-formed) operations in a text on numbers; the reason why that fails, or ''.

    Canonical digits stand for the numbers: none is converted before it is found in the pool.
    """
    short = len(operations) < _INT_DIGITS
    for a, sign, b, c in OPERATION.findall(operations):
        try:
            pool.remove(a)
            pool.remove(b)
        except ValueError:
            return "number not available"
        if not (holds(int(a), sign, int(b), int(c)) if short else arithmetic_holds(a, sign, b, c)):
            return "wrong arithmetic"
        pool.append(c)
    return ""


_INT_DIGITS = 4300  # Python converts no longer text to an integer, and needs quadratic time for it


def arithmetic_holds(a: str, sign: str, b: str, c: str) -> bool:
    """Is `a sign b = c` (canonical digits) true and allowed? Exact; the larger operand first in - and /."""
    if len(a) + len(b) + len(c) > _INT_DIGITS:
        if len(c) > len(a) + len(b):
            return False
        with localcontext(Context(prec=len(a) + len(b) + len(c), Emax=MAX_EMAX)):
            return holds(Decimal(a), sign, Decimal(b), Decimal(c))  # type: ignore[arg-type]
    return holds(int(a), sign, int(b), int(c))


def digits(number: int) -> str:
    """Decimal digits of an integer of any size (`str` refuses more than 4300)."""
    try:
        return str(number)
    except ValueError:
        return str(Decimal(number))


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
    truncated_at: int | None = None  # offset of the last line if it is cut

    def path(self, index: int) -> list[int]:
        """Indices from the root to a node."""
        path = [index]
        while (parent := self.nodes[path[-1]].parent) is not None:
            path.append(parent)
        return path[::-1]


def parse(trace: str) -> Tree:
    """The search tree up to the first goal line or the end. Lines not of the language are skipped."""
    builder = _TreeBuilder()
    end = 0
    for start, line, match in scan(trace):
        end = start + len(line) + 1
        if match and match.lastgroup in builder.readers:
            try:
                builder.readers[match.lastgroup](start, match)
            except ValueError:  # a number with more digits than Python converts
                continue
            if builder.tree.goal is not None:
                return builder.tree
    if end < len(trace):
        builder.tree.truncated_at = end
    return builder.tree


class _TreeBuilder:
    """Follows the search line by line: `here` is the node it stands at, new nodes become its children."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.names: dict[str, int] = {}  # the newest node of each name
        self.leaves: dict[tuple[str, str], int] = {}  # (name of the parent, operation) -> leaf
        self.here = 0
        self.moved = ""  # where the last line moved to
        self.explored: tuple[int, str, str] | None = None  # offset, operation, numbers still without a name
        self.open_leaf: Node | None = None  # explored, not yet compared with the target
        self.readers = {
            "state": self.state,
            "exploring": self.exploring,
            "generated": self.generated,
            "moving": self.moving,
            "goal": self.outcome,
            "miss": self.outcome,
        }

    def add(self, name: str, operation: str, nums: tuple[int, ...], parent: int | None, start: int) -> Node:
        nodes = self.tree.nodes
        node = Node(len(nodes), name, operation, nums, parent, [], start, None, leaf=len(nums) == 1)
        nodes.append(node)
        if parent is not None:
            nodes[parent].children.append(node.index)
        return node

    def moving(self, start: int, match: re.Match[str]) -> None:
        self.moved = match["moving"]

    def state(self, start: int, match: re.Match[str]) -> None:
        nums, name, nodes = _numbers(match["state_nums"]), self.moved, self.tree.nodes
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
            name = name or f"{nodes[parent].name},{len(nodes[parent].children)}"
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
        self.explored, self.open_leaf = (start, operation, written), None
        if self.tree.nodes and "," not in written:
            here = self.tree.nodes[self.here]
            name = f"{here.name},{len(here.children)}"
            self.open_leaf = self.add(name, operation, _numbers(written), here.index, start)
            self.leaves[here.name, operation] = self.open_leaf.index

    def generated(self, start: int, match: re.Match[str]) -> None:
        if not self.tree.nodes or self.open_leaf:
            return
        operation, name, nums = match["generated"], match["name"], _numbers(match["nums"])
        if self.explored and self.explored[1] == operation:
            start = self.explored[0]
        self.explored = None
        self.names[name] = self.add(name, operation, nums, self.here, start).index

    def outcome(self, start: int, match: re.Match[str]) -> None:
        leaf, self.open_leaf = self.open_leaf, None
        if leaf:
            leaf.outcome = match.lastgroup
            if match.lastgroup == "goal":
                self.tree.goal = leaf.index


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(", ")))


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
    target, inputs = digits(problem.target), [*map(digits, problem.nums)]
    here, size = Counter(inputs), len(inputs)  # what the last state line says
    for _, line, match in scan(trace):
        kind = match.lastgroup if match else None
        counts["lines"] += 1
        if not match:
            counts["malformed_lines"] += 1
        elif kind == "exploring":
            counts["operations"] += 1
            _audit_operation(counts, here, size, match)
        elif kind == "state":
            counts["states"] += 1
            nums = match["state_nums"].split(", ")
            here, size = Counter(nums), len(nums)
            follows = size + match["state"].count("=") == len(inputs)  # cheap, before the copy
            if follows:
                reached = [*inputs]
                follows = not _take(reached, match["state"]) and sorted(reached) == sorted(nums)
            counts["wrong_states"] += not follows or match["state_target"] != target
        elif kind in ("goal", "miss"):
            counts["outcomes"] += 1
            n, claimed = line.split(" ", 1)[0].split(",")
            counts["wrong_outcomes"] += (n == claimed) != (kind == "goal") or claimed != target
            if kind == "goal":
                break
    return counts


def _audit_operation(counts: dict[str, int], here: Counter[str], size: int, match: re.Match[str]) -> None:
    ((a, sign, b, c),) = OPERATION.findall(match["operation"])
    counts["wrong_arithmetic"] += not arithmetic_holds(a, sign, b, c)
    if here[a] < 1 + (a == b) or not here[b]:
        counts["unavailable_numbers"] += 1
        return
    written = match["exploring"].split(", ")
    right = len(written) == size - 1 and Counter([*written, a, b]) == here + Counter([c])
    counts["wrong_resulting_numbers"] += not right

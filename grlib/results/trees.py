"""Search trees as pictures, and a text diff of what a rewrite changed (Figures 1 and 2 of the paper).

A tree is drawn from left to right: a box holds the numbers that remain, the text on the edge into it is the
operation that leads there, and the small number is the order of visits. Use `draw_tree`, `draw_rewrite` and
`trace_diff`.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from grlib.errors import GrlibError
from grlib.results.style import Sheet, SignedText
from grlib.tasks.countdown.puzzle import OPERATION, apply_operation
from grlib.tasks.countdown.traces import Node, Tree

Steps = Sequence[str] | None  # operations of a solution


@dataclass(frozen=True)
class Look:
    """One kind of node: its name in the legend, colours, border, and the sign after its numbers."""

    label: str
    fill: str
    edge: str
    width: float = 1.2
    line: str = "-"
    shape: str = "round"
    sign: str = ""

    def border(self) -> dict[str, Any]:
        """Fill and border, for a box or a legend entry."""
        names = ("facecolor", "edgecolor", "linewidth", "linestyle")
        return dict(zip(names, (self.fill, self.edge, self.width, self.line), strict=True))


LOOKS = {
    "root": Look("start", "white", "black", 2.2),
    "correct": Look("on the solution", "#C9EBDF", "#009E73", 2.2),
    "goal": Look("goal", "#66C9A9", "#00543D", 2.4, sign=" ★"),
    "wrong": Look("explored, off the solution", "#FFF0CC", "#B87F00", 1.2, "-", "square"),
    "unvisited": Look("generated, never visited", "white", "#777777", 1.1, "--", "square"),
    "miss": Look("leaf that misses", "#EEEEEE", "#777777", 0.8, ":", "square", " ✗"),
    "selected": Look("selected for rewriting", "#FBD9C4", "#D55E00", 3.0, "-", "sawtooth", " ◄"),
    "illegal": Look("step that breaks the rules", "#F3D6E6", "#AA0066", 2.0, "--", "square", " !"),
    "dropped": Look("dropped by the rewrite", "white", "#BBBBBB", 0.8, ":", "square"),
    "rewritten": Look("step written by the rewrite", "#C9EBDF", "#D55E00", 3.0, "-", "round", " ◄"),
    "more": Look("", "none", "none", 0.0),
}
FADED, STRONG = ("dropped", "more"), ("correct", "goal", "rewritten")


def _canonical(operation: str) -> object:
    """The same for 2+3=5 and 3+2=5: operands of + and * sorted, without the result."""
    match = OPERATION.fullmatch(operation)
    if match and match[2] in "+*":
        return match[2], *sorted((match[1], match[3]))
    return operation


def correct_nodes(tree: Tree, solution: Steps = None) -> set[int]:
    """Indices of the nodes on the solution (all matching branches); without one, on the path to the goal."""
    if solution is None:
        return set() if tree.goal is None else set(tree.path(tree.goal))
    level, found = [0], {0}
    for step in map(_canonical, solution):
        children = [child for index in level for child in tree.nodes[index].children]
        level = [child for child in children if _canonical(tree.nodes[child].operation) == step]
        found.update(level)
    return found


def _kept(tree: Tree, important: set[int], max_nodes: int) -> set[int]:
    """The nodes to draw: all important ones, then others up to `max_nodes`, visited ones first."""
    nodes = sorted(tree.nodes, key=lambda node: (node.visited_at is None, node.generated_at))
    kept = {0}
    for node in sorted(nodes, key=lambda node: node.index not in important):
        path = set(tree.path(node.index))
        if node.index in important or len(kept | path) <= max_nodes:
            kept |= path
    return kept


def _is_illegal(tree: Tree, node: Node) -> bool:
    """Whether a node's operation uses numbers that its parent lacks, or gives other numbers."""
    if node.parent is None:
        return False
    left = apply_operation(tree.nodes[node.parent].nums, node.operation)
    return left is None or sorted(left) != sorted(node.nums)


def _role(tree: Tree, node: Node, correct: set[int], special: dict[int, str]) -> str:
    """The kind of a node (a key of `LOOKS`): the first that fits."""
    if node.index in special:
        return special[node.index]
    if node.index == 0:
        return "root"
    if _is_illegal(tree, node):
        return "illegal"
    if node.outcome == "goal":
        return "goal"
    if node.index in correct:
        return "correct"
    if node.outcome == "miss":
        return "miss"
    return "unvisited" if node.visited_at is None else "wrong"


def layout(tree: Tree, correct: set[int], special: dict[int, str], max_nodes: int) -> pd.DataFrame:
    """One row per box: node, name, parent, operation, text, role, order of visit, x (depth), y (row)."""
    if not tree.nodes:
        raise GrlibError("a tree without nodes: its trace has no root line; give the whole trace")
    kept = _kept(tree, {i for i in correct | set(special) if special.get(i) != "dropped"}, max_nodes)
    visits = sorted((n.visited_at, n.index) for n in tree.nodes if n.visited_at is not None)
    order = {index: number for number, (_, index) in enumerate(visits, start=1)}
    rows: list[tuple[object, ...]] = []
    free_row = itertools.count()

    def place(index: int, depth: int) -> float:
        node = tree.nodes[index]
        ys = [place(child, depth + 1) for child in node.children if child in kept]
        folded = set(node.children) - kept
        if folded:
            hidden = sum(not folded.isdisjoint(tree.path(other.index)) for other in tree.nodes)
            ys.append(next(free_row))
            rows.append((-1, "", index, "", f"+{hidden} more", "more", 0, depth + 1, ys[-1]))
        y = (ys[0] + ys[-1]) / 2 if ys else next(free_row)
        role, numbers = _role(tree, node, correct, special), ", ".join(map(str, node.nums))
        text = (numbers if len(numbers) <= 20 else numbers[:19] + "…") + LOOKS[role].sign
        parent = -1 if node.parent is None else node.parent
        rows.append((index, node.name, parent, node.operation, text, role, order.get(index, 0), depth, y))
        return y

    place(0, 0)
    columns = ["node", "name", "parent", "operation", "text", "role", "order", "x", "y"]
    return pd.DataFrame(rows, columns=columns).astype({"x": float, "y": float})


def _draw(axis: Axes, boxes: pd.DataFrame) -> None:
    """Boxes, elbow edges with their operations, visit numbers."""
    at = {row.node: row for row in boxes.itertuples()}
    for row in boxes.itertuples():
        look, faded, strong = LOOKS[row.role], row.role in FADED, row.role in STRONG
        ink = "#666666" if faded else "black"
        if row.parent >= 0:
            start, bend = at[row.parent], row.x - 0.46
            path = [start.x, bend, bend, row.x], [start.y, start.y, row.y, row.y]
            edge = axis.plot(*path, ":" if faded else "-", color="#999999", linewidth=1, zorder=1)[0]
            if strong:
                edge.set(color=look.edge, linewidth=2.2)
            axis.text(bend + 0.025, row.y - 0.12, row.operation[:18], fontsize=9.5, color=ink, zorder=4)
        box = look.border() | {"boxstyle": f"{look.shape},pad=0.28"} if row.role != "more" else None
        text = axis.text(row.x, row.y, row.text, bbox=box, fontsize=10, va="center", color=ink, zorder=3)
        text.set_fontweight("bold" if strong or row.role in ("root", "selected") else "normal")
        if row.order:
            axis.text(row.x - 0.035, row.y + 0.44, row.order, fontsize=8, ha="right", color="#444444")
    axis.set(xlim=(-0.09, max(3.0, boxes["x"].max()) + 0.62), ylim=(boxes["y"].max() + 0.75, -0.75))
    axis.axis("off")


def _sheet(panels: Mapping[str, pd.DataFrame], title: str = "", note: str = "", profile: str = "") -> Figure:
    """Panels one above the other, each as high as its rows need, and a legend of the node kinds drawn."""
    heights = [boxes["y"].max() + 1.5 for boxes in panels.values()]
    found = set(pd.concat(panels.values())["role"]) - {"more"}
    looks = [look for role, look in LOOKS.items() if role in found]
    handles = [Patch(label=look.label + look.sign, **look.border()) for look in looks]
    height = 0.36 * sum(heights) + 0.4 * len(panels) + 0.75 + 0.21 * math.ceil(len(handles) / 3)
    sheet = Sheet(title, profile, height=height, nrows=len(panels), height_ratios=heights)
    for axis, (name, boxes) in zip(sheet.axes, panels.items(), strict=True):
        axis.set_title(name, loc="left", weight="bold")
        _draw(axis, boxes)
    sheet.legend(handles, columns=3)
    sheet.close(f"Small numbers: order of visits. {note}".strip())
    return sheet.fig


def draw_tree(
    tree: Tree, solution: Steps = None, *, max_nodes: int = 25, **texts: str
) -> tuple[Figure, pd.DataFrame]:
    """A parsed trace as a tree: the figure and one row per box (`layout`).

    The nodes on the `solution` (operations) are coloured; without one, the path to the goal. Nodes beyond
    `max_nodes` boxes fold into '+n more', those on the solution never. `texts`: title, note and profile.
    Raises GrlibError for a tree without nodes.
    """
    boxes = layout(tree, correct_nodes(tree, solution), {}, max_nodes)
    heading = f"target {tree.target}" if tree.target is not None else ""
    return _sheet({heading: boxes}, **texts), boxes


def draw_rewrite(
    before: Tree,
    after: Tree,
    child: str | None,
    solution: Steps = None,
    cut: int | None = None,
    *,
    max_nodes: int = 16,
    **texts: str,
) -> tuple[Figure, pd.DataFrame]:
    """A rewrite in two panels: the failed trace with the child to rewrite, then the new trace (Figure 2).

    `child` is the node's name (`Rewrite.child`), None marks no node. What the old trace holds after offset
    `cut` (`Rewrite.edits[-1].start`) is dropped and drawn faint.
    """
    end = math.inf if cut is None else cut
    old = {n.index: "dropped" for n in before.nodes[1:] if n.generated_at >= end}
    chosen = [n.index for n in before.nodes if n.name == child and n.generated_at < end]
    old |= dict.fromkeys(chosen[:1], "selected")
    new = {n.index: "rewritten" for n in after.nodes if n.name == child and not n.leaf}
    target = f"target {before.target}: " if before.target is not None else ""
    first = layout(before, correct_nodes(before, solution) - set(old), old, max_nodes)
    second = layout(after, correct_nodes(after, solution) - set(new), new, max_nodes)
    panels = {f"{target}the failed search": first, "after the rewrite": second}
    drawn = pd.concat([first.assign(panel="before"), second.assign(panel="after")], ignore_index=True)
    return _sheet(panels, **texts), drawn


def trace_diff(before: str, after: str, continued: str = "", context: int = 3) -> SignedText:
    """What a rewrite kept, cut (-) and wrote (+), line by line, then the model's continuation (>).

    More than 2 * `context` + 1 kept, cut or continued lines in a row are folded.
    """
    old, new = before.splitlines(), after.splitlines()
    pairs = enumerate(zip(old, new, strict=False))
    same = next((i for i, (a, b) in pairs if a != b), min(len(old), len(new)))
    out = _fold(old[:same], "  ", context, "kept")
    matcher = difflib.SequenceMatcher(None, old[same:], new[same:], autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        sign, what = ("  ", "kept") if kind == "equal" else ("- ", "cut")
        out += _fold(old[same + a : same + b], sign, context, what)
        out += [f"+ {line}" for line in new[same + c : same + d] if kind != "equal"]
    out += _fold(continued.splitlines(), "> ", context, "continued")
    return SignedText("\n".join(out))


def _fold(lines: Sequence[str], sign: str, context: int, what: str) -> list[str]:
    if len(lines) > 2 * context + 1:
        middle = f"... {len(lines) - 2 * context} lines {what} ..."
        lines = [*lines[:context], middle, *lines[-context:]]
    return [sign + line for line in lines]

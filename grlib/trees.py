"""Search trees as pictures, and what a rewrite changed as a text diff (Figures 1 and 2 of the paper).

A tree is drawn from left to right: a box holds the numbers that remain, the text on the edge into it is the
operation that leads there, and the small number is the order of visits.
"""

from __future__ import annotations

import difflib
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from grlib.errors import GrlibError
from grlib.style import profile_tag
from grlib.traces import Tree

ROW_INCHES, WIDTH_INCHES = 0.36, 9.0
_OPERATION = re.compile(r"(\d+)([-+*/])(\d+)=\d+")


@dataclass(frozen=True)
class Look:
    """One kind of node: its name in the legend, colours, border and the sign that goes with it."""

    label: str
    fill: str
    edge: str
    width: float = 1.2
    line: str = "-"
    shape: str = "round"
    sign: str = ""


LOOKS = {
    "root": Look("start", "white", "black", 2.2),
    "correct": Look("on the solution", "#C9EBDF", "#009E73", 2.2),
    "goal": Look("goal", "#009E73", "#00543D", 2.4, sign=" ★"),
    "wrong": Look("explored, off the solution", "#FFF0CC", "#B87F00", 1.2, "-", "square"),
    "unvisited": Look("generated, never visited", "white", "#777777", 1.1, "--", "square"),
    "miss": Look("leaf that misses", "#EEEEEE", "#777777", 0.8, ":", "square", " ✗"),
    "selected": Look("selected for rewriting", "#FBD9C4", "#D55E00", 3.0, "-", "sawtooth", " ◄"),
    "dropped": Look("dropped by the rewrite", "white", "#BBBBBB", 0.8, ":", "square"),
    "rewritten": Look("step written by the rewrite", "#C9EBDF", "#D55E00", 3.0, "-", "round", " ◄"),
    "more": Look("", "none", "none", 0.0),
}


def _same_operation(a: str, b: str) -> bool:
    """Equal up to the order of operands of + and *."""
    left, right = _OPERATION.fullmatch(a), _OPERATION.fullmatch(b)
    if not left or not right or left[2] != right[2] or left[2] not in "+*":
        return a == b
    return sorted((left[1], left[3])) == sorted((right[1], right[3]))


def correct_nodes(tree: Tree, solution: Sequence[str] | None = None) -> set[int]:
    """Indices of the nodes on the solution (all matching branches); without one, on the path to the goal."""
    if solution is None:
        found, index = set(), tree.goal
        while index is not None:
            found.add(index)
            index = tree.nodes[index].parent
        return found
    level, found = [0], {0}
    for operation in solution:
        level = [
            c
            for i in level
            for c in tree.nodes[i].children
            if _same_operation(tree.nodes[c].operation, operation)
        ]
        found.update(level)
    return found


def _kept(tree: Tree, important: set[int], max_nodes: int) -> set[int]:
    """About `max_nodes` nodes at most: important ones first, then visited ones, in order of appearance."""
    nodes = tree.nodes
    order = sorted(nodes, key=lambda n: (n.index not in important, n.visited_at is None, n.generated_at))
    kept: set[int] = {0}
    for node in order:
        line, index = [], node.index
        while index not in kept:
            line.append(index)
            index = nodes[index].parent or 0
        if len(kept) + len(line) <= max_nodes or node.index in important:
            kept.update(line)
    return kept


def _size(tree: Tree, index: int) -> int:
    """Nodes in the subtree, its root included."""
    total, stack = 0, [index]
    while stack:
        total += 1
        stack.extend(tree.nodes[stack.pop()].children)
    return total


def _roles(tree: Tree, correct: set[int], special: dict[int, str]) -> dict[int, str]:
    roles = {}
    for node in tree.nodes:
        if node.index in special:
            role = special[node.index]
        elif node.index == 0:
            role = "root"
        elif node.outcome == "goal":
            role = "goal"
        elif node.index in correct:
            role = "correct"
        elif node.outcome == "miss":
            role = "miss"
        else:
            role = "unvisited" if node.visited_at is None else "wrong"
        roles[node.index] = role
    return roles


def _layout(tree: Tree, correct: set[int], special: dict[int, str], max_nodes: int) -> pd.DataFrame:
    """One row a drawn box: node, name, parent, operation, text, role, order of visit, x (depth), y (row)."""
    important = correct | {i for i, role in special.items() if role != "dropped"} | {0}
    kept, roles = _kept(tree, important, max_nodes), _roles(tree, correct, special)
    visited = sorted((n for n in tree.nodes if n.visited_at is not None), key=lambda n: n.visited_at or 0)
    order = {node.index: i + 1 for i, node in enumerate(visited)}
    rows: list[dict[str, object]] = []
    next_row = 0.0

    def place(index: int, depth: int) -> float:
        nonlocal next_row
        node, ys = tree.nodes[index], []
        for child in node.children:
            if child in kept:
                ys.append(place(child, depth + 1))
        folded = [child for child in node.children if child not in kept]
        if folded:
            count = sum(_size(tree, child) for child in folded)
            rows.append(
                {
                    "node": -1,
                    "parent": index,
                    "text": f"+{count} more",
                    "role": "more",
                    "x": depth + 1,
                    "y": next_row,
                }
            )
            ys.append(next_row)
            next_row += 1
        y = (ys[0] + ys[-1]) / 2 if ys else next_row
        next_row += 0 if ys else 1
        numbers = ", ".join(map(str, node.nums))
        text = (numbers if len(numbers) <= 20 else numbers[:19] + "…") + LOOKS[roles[index]].sign
        head = {"node": index, "name": node.name, "parent": -1 if node.parent is None else node.parent}
        rest = {
            "operation": node.operation,
            "text": text,
            "role": roles[index],
            "order": order.get(index, 0),
            "x": depth,
            "y": y,
        }
        rows.append(head | rest)
        return y

    place(0, 0)
    columns = ["node", "name", "parent", "operation", "text", "role", "order", "x", "y"]
    frame = pd.DataFrame(rows, columns=columns).fillna({"name": "", "operation": "", "order": 0})
    return frame.astype({"order": int, "x": float, "y": float})


def _draw(axis: Axes, boxes: pd.DataFrame) -> None:
    """Boxes, elbow edges with their operations, visit numbers."""
    at = {row.node: row for row in boxes.itertuples() if row.node >= 0}
    for row in boxes.itertuples():
        look = LOOKS[row.role]
        faded = row.role in ("dropped", "more")
        if row.parent >= 0:
            start, bend = at[row.parent], row.x - 0.46
            strong = row.role in ("correct", "goal", "rewritten")
            edge: dict[str, Any] = {
                "color": look.edge if strong else "#999999",
                "linewidth": 2.2 if strong else 1.0,
                "zorder": 1,
            }
            edge |= {"linestyle": ":" if faded else "-"}
            axis.plot([start.x, bend, bend, row.x], [start.y, start.y, row.y, row.y], **edge)
            op: dict[str, Any] = {
                "fontsize": 9,
                "ha": "left",
                "va": "bottom",
                "color": "#888888" if faded else "black",
                "zorder": 4,
            }
            axis.text(bend + 0.025, row.y - 0.06, row.operation[:18], **op)
        colour = "white" if row.role == "goal" else "#888888" if faded else "black"
        box: dict[str, Any] = {
            "boxstyle": f"{look.shape},pad=0.28",
            "facecolor": look.fill,
            "edgecolor": look.edge,
        }
        box |= {"linewidth": look.width, "linestyle": look.line}
        weight = "bold" if row.role in ("correct", "goal", "root", "selected", "rewritten") else "normal"
        style: dict[str, Any] = {
            "fontsize": 9.5,
            "ha": "left",
            "va": "center",
            "color": colour,
            "weight": weight,
            "zorder": 3,
        }
        axis.text(row.x, row.y, row.text, bbox=box if row.role != "more" else None, **style)
        if row.order:
            number: dict[str, Any] = {
                "fontsize": 7.5,
                "ha": "right",
                "va": "bottom",
                "color": "#444444",
                "zorder": 5,
            }
            axis.text(row.x - 0.035, row.y + 0.44, str(row.order), **number)
    axis.set_xlim(-0.09, max(3.0, boxes["x"].max()) + 0.62)
    axis.set_ylim(boxes["y"].max() + 0.75, -0.75)
    axis.axis("off")


def _sheet(panels: Sequence[tuple[str, pd.DataFrame]], title: str, note: str, profile: str) -> Figure:
    """Panels one above the other, each as high as its rows need, a legend of the node kinds that occur."""
    heights = [boxes["y"].max() + 1.5 for _, boxes in panels]
    roles = [
        role for role in LOOKS if role != "more" and any((boxes["role"] == role).any() for _, boxes in panels)
    ]
    legend_rows = -(-len(roles) // 4)
    top, bottom, gap = (0.32 if title else 0.05), 0.32 + 0.22 * legend_rows, 0.34
    total = top + bottom + ROW_INCHES * sum(heights) + gap * len(panels)
    fig = plt.figure(figsize=(WIDTH_INCHES, total))
    plt.close(fig)  # notebooks show the returned figure; keeping it open would show it twice
    below = total - top
    for (name, boxes), height in zip(panels, heights, strict=True):
        below -= ROW_INCHES * height + gap
        axis = fig.add_axes((0.01, below / total, 0.98, ROW_INCHES * height / total))
        axis.set_title(name, loc="left", fontsize=11, weight="bold", pad=4)
        _draw(axis, boxes)
    fig.text(0.01, 1 - 0.08 / total, title, ha="left", va="top", fontsize=13, weight="bold")
    text = " ".join(part for part in ("Small numbers: order of visits.", note) if part)
    fig.text(0.01, 0.06 / total, text, ha="left", va="bottom", fontsize=8.5, color="#444444")
    handles = []
    for role in roles:
        look = LOOKS[role]
        border: dict[str, Any] = {
            "facecolor": look.fill,
            "edgecolor": look.edge,
            "linewidth": look.width,
            "linestyle": look.line,
        }
        handles.append(Patch(label=look.label + look.sign, **border))
    place: dict[str, Any] = {
        "loc": "lower left",
        "bbox_to_anchor": (0.0, 0.24 / total),
        "ncols": 4,
        "fontsize": 9,
    }
    fig.legend(handles=handles, frameon=False, borderpad=0.2, handlelength=1.6, columnspacing=1.4, **place)
    profile_tag(fig, profile)
    return fig


def draw_tree(
    tree: Tree,
    solution: Sequence[str] | None = None,
    selected: int | None = None,
    *,
    title: str = "",
    note: str = "",
    profile: str = "",
    max_nodes: int = 25,
) -> tuple[Figure, pd.DataFrame]:
    """A parsed trace as a tree: the figure and one row a drawn box (`_layout`).

    `solution` (operations) colours the nodes on it; without one, the path to the goal. `selected` marks the
    node that a rewrite picks. Siblings beyond `max_nodes` boxes fold into '+n more', the solution never.
    """
    _check(tree, selected, max_nodes)
    special = {} if selected is None else {selected: "selected"}
    boxes = _layout(tree, correct_nodes(tree, solution), special, max_nodes)
    heading = f"target {tree.target}" if tree.target is not None else ""
    return _sheet([(heading, boxes)], title, note, profile), boxes


def draw_rewrite(
    before: Tree,
    after: Tree,
    selected: int | str | None,
    solution: Sequence[str] | None = None,
    cut: int | None = None,
    *,
    title: str = "",
    note: str = "",
    profile: str = "",
    max_nodes: int = 16,
) -> tuple[Figure, pd.DataFrame]:
    """A rewrite in two panels: the failed trace with the selected node, and the trace it becomes (Figure 2).

    `selected` is the node's index in `before` or its name (`Rewrite.child`), which it keeps in `after`; `cut`
    is the offset in the old trace from which all is dropped (`Rewrite.edits[-1].start`), by default the
    selected node's first visit. Dropped nodes are drawn faint. None marks no node.
    """
    _check(before, None if isinstance(selected, str) else selected, max_nodes)
    _check(after, None, max_nodes)
    name = before.nodes[selected].name if isinstance(selected, int) else selected
    chosen = next((n for n in before.nodes if n.name == name and (cut is None or n.generated_at < cut)), None)
    if cut is None and chosen is not None:
        cut = chosen.generated_at if chosen.visited_at is None else chosen.visited_at
    old = {n.index: "dropped" for n in before.nodes if n.index and cut is not None and n.generated_at >= cut}
    if chosen is not None:
        old[chosen.index] = "selected"
    made = next((n for n in after.nodes if n.name == name and not n.leaf), None)
    new = {} if made is None else {made.index: "rewritten"}
    target = f"target {before.target}: " if before.target is not None else ""
    first = _layout(before, correct_nodes(before, solution) - set(old), old, max_nodes)
    second = _layout(after, correct_nodes(after, solution) - set(new), new, max_nodes)
    panels = [(f"{target}the failed search", first), ("after the rewrite", second)]
    drawn = pd.concat([first.assign(panel="before"), second.assign(panel="after")], ignore_index=True)
    return _sheet(panels, title, note, profile), drawn


def _check(tree: Tree, selected: int | None, max_nodes: int) -> None:
    if not tree.nodes:
        raise GrlibError(
            "a tree without nodes cannot be drawn: the trace has no root line; parse a whole trace"
        )
    if selected is not None and not 0 <= selected < len(tree.nodes):
        raise GrlibError(
            f"selected={selected}: must be a node index below {len(tree.nodes)}; take one of tree.nodes"
        )
    if max_nodes < 1:
        raise GrlibError(f"max_nodes={max_nodes}: must be at least 1; 25 fits a page")


class TraceDiff(str):
    """A diff as text, a sign before each line: - cut, + written, > continued; notebooks show it in colour."""

    def _repr_html_(self) -> str:
        looks = {
            "-": ("del", "color:#8C3A00;background:#FBE9DF"),
            "+": ("ins", "color:#00497A;background:#DDEEF9;font-weight:bold;text-decoration:none"),
            ">": ("i", "color:#4B2E83"),
            " ": ("span", ""),
        }
        lines = []
        for line in self.split("\n"):
            tag, style = looks.get(line[:1], looks[" "])
            lines.append(f'<{tag} style="{style}">{html.escape(line)}</{tag}>')
        return f'<pre style="line-height:1.35">{chr(10).join(lines)}</pre>'


def trace_diff(before: str, after: str, continued: str = "", context: int = 3) -> TraceDiff:
    """What a rewrite kept, cut (-) and wrote (+), line by line, then how the model `continued` it (>).

    Stretches of more than 2 * `context` + 1 kept, cut or continued lines are folded.
    """
    old, new = before.splitlines(), after.splitlines()
    same = next(
        (i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new))
    )
    out = _fold(old[:same], "  ", context, "kept")
    matcher = difflib.SequenceMatcher(None, old[same:], new[same:], autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            out += _fold(old[same + a : same + b], "  ", context, "kept")
            continue
        out += _fold(old[same + a : same + b], "- ", context, "cut")
        out += [f"+ {line}" for line in new[same + c : same + d]]
    out += _fold(continued.splitlines(), "> ", context, "continued")
    return TraceDiff("\n".join(out))


def _fold(lines: Sequence[str], sign: str, context: int, what: str) -> list[str]:
    if len(lines) <= 2 * context + 1:
        return [sign + line for line in lines]
    middle = f"{sign}... {len(lines) - 2 * context} lines {what} ..."
    return [*(sign + line for line in lines[:context]), middle, *(sign + line for line in lines[-context:])]

"""A page to play with: a search step by step, text and tree side by side.

`page` makes a whole HTML page that needs no server and no network. `Player` shows one in a notebook, and a
picture where scripts do not run. Keys: arrows, Home, End, space; 1, 2, 3 for the tabs.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grlib.errors import GrlibError
from grlib.results.trees import LOOKS, correct_nodes, draw_tree, layout
from grlib.tasks.countdown.traces import parse, walk

TEMPLATE = Path(__file__).with_suffix(".html")


def view(
    name: str, trace: str, solution: Sequence[str] | None = None, selected: str = "", written: int = -1
) -> dict[str, Any]:
    """One tab: the trace's lines, and the nodes of its tree with the lines that make and visit them.

    `selected`: name of the node to mark as selected for rewriting; `written`: offset from which the text is
    new, and where the tab opens (-1: nothing is new).
    """
    steps = list(walk(trace))
    if not steps or not steps[-1][1].nodes:
        raise GrlibError(f"{name}: a trace without a root line has no tree; give the whole trace")
    starts, tree, lines = [start for start, _, _ in steps], steps[-1][1], trace.split("\n")[: len(steps)]

    def line_at(offset: int | None) -> int:
        return -1 if offset is None else bisect_right(starts, offset) - 1

    right = correct_nodes(tree, solution)
    marked = {node.index: "selected" for node in tree.nodes if selected and node.name == selected}
    boxes = layout(tree, right, marked, len(tree.nodes)).sort_values("node")
    nodes = [
        {
            **box._asdict(),
            "index": box.node,
            "made": line_at(node.generated_at) if node.index else 0,
            "visited": line_at(node.visited_at),
            "late": not node.leaf,  # has one look when it is made and another one when it is visited
            "right": node.index in right,
        }
        for box, node in zip(boxes.itertuples(index=False), tree.nodes, strict=True)
    ]
    new = len(lines) if written < 0 else min(trace[:written].count("\n"), len(lines) - 1)
    found = {"name": name, "lines": lines, "nodes": nodes, "here": [index for _, _, index in steps]}
    return found | {"start": new % len(lines), "written": [new, len(lines)]}


def page(views: Sequence[Mapping[str, Any]], title: str, about: str = "", picture: bytes = b"") -> str:
    """The page with a tab for each view; `picture` is a PNG for browsers without scripts."""
    names = ("label", "fill", "edge", "width", "line")
    looks = {
        role: {name: getattr(look, name) for name in names} | {"round": look.shape == "round"}
        for role, look in LOOKS.items()
    }
    data = json.dumps({"views": views, "looks": looks, "title": title, "about": about})
    called = html.escape(title)
    image = f'<img alt="{called}" src="{_as_url(picture)}">' if picture else called
    parts = {"PICTURE": image, "DATA": data.replace("<", "\\u003c")}  # text in it cannot end the script
    # in one pass: a title or a picture may hold one of these words
    return re.sub("PICTURE|DATA", lambda name: parts[name[0]], TEMPLATE.read_text(encoding="utf-8"))


def _as_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


class Player:
    """A page in a notebook: shown in a frame; as a picture where a viewer runs no scripts."""

    def __init__(self, views: Sequence[Mapping[str, Any]], title: str, about: str, picture: bytes) -> None:
        self.title, self.picture = title, picture
        self.html = page(views, title, about, picture)

    def __repr__(self) -> str:
        return f"a page that plays {self.title}"

    def _repr_html_(self) -> str:
        shown = "this.style.display='block';this.previousElementSibling.style.display='none'"
        frame = f'style="display:none;width:100%;height:620px;border:1px solid #bbb" onload="{shown}"'
        image = f'<img style="max-width:100%" alt="a search tree" src="{_as_url(self.picture)}">'
        return f'<div>{image}<iframe {frame} srcdoc="{html.escape(self.html)}"></iframe></div>'


def play(
    traces: Mapping[str, str], solution: Sequence[str], title: str, child: str = "", cut: int = -1
) -> Player:
    """A player for one trace, or for those of a rewrite: before, rewritten, continued.

    `child` and `cut`: the node that the rewrite replaced and the offset from which its text is new
    (`Rewrite.child`, `Rewrite.edits[-1].start`).
    """
    views, (first, *_) = [], traces.values()
    for number, (name, trace) in enumerate(traces.items()):
        views.append(view(name, trace, solution, child if not number else "", cut if number else -1))
    figure, _ = draw_tree(parse(first), solution, title=title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return Player(views, title, "solution: " + ", ".join(solution), buffer.getvalue())

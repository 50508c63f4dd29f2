"""Two pages to play with: a search step by step, text and tree side by side, and pass@k against tokens.

`page` and `curves` make whole HTML pages that need no server and no network. `Player` shows one in a
notebook, and a picture where scripts do not run. Keys of the search: arrows, Home, End, space; 1, 2, 3 for
the tabs.
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

import pandas as pd

from grlib.errors import GrlibError
from grlib.results import style
from grlib.results.trees import LOOKS, correct_nodes, draw_tree, layout
from grlib.tasks.countdown.traces import parse, walk

FOLDER = Path(__file__).parent
PROBLEM = ["method", "split", "seed", "index"]
DASHES = {"-": "", "--": "7 4", ":": "2 3", "-.": "7 3 2 3"}


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
    return _filled("player.html", {"views": views, "looks": looks, "title": title, "about": about}, picture)


def curves(rows: pd.DataFrame, title: str, about: str = "", picture: bytes = b"") -> str:
    """A page of pass@k against the token budget, with sliders for k and the budget.

    `rows`: one sample each, with the columns method, split, seed, index, correct, tokens.
    """
    splits = list(dict.fromkeys(rows["split"]))
    series = []
    for method, own in rows.groupby("method", sort=False):
        look = style.STYLES[str(method)]
        problems: dict[str, list[Any]] = {split: [] for split in splits}
        for (split, *_), part in own.groupby(["split", "seed", "index"], sort=False):
            problems[split].append([len(part), part.loc[part["correct"], "tokens"].tolist()])
        dashes = DASHES[look.line]
        series.append({"label": look.label, "colour": look.colour, "dashes": dashes, "problems": problems})
    sizes = {"largest": int(rows["tokens"].max()), "k": int(rows.groupby(PROBLEM).size().min())}
    data = {"title": title, "about": about, "splits": splits, "series": series} | sizes
    return _filled("curves.html", data, picture)


def _filled(template: str, data: Mapping[str, Any], picture: bytes) -> str:
    """A page of a template with its data; text in it cannot end the script."""
    title = html.escape(str(data["title"]))
    image = f'<img alt="{title}" src="{_as_url(picture)}">' if picture else title
    drawing = (FOLDER / "draw.js").read_text(encoding="utf-8")
    parts = {"PICTURE": image, "DRAW": drawing, "DATA": json.dumps(data).replace("<", "\\u003c")}
    # in one pass: a title or a picture may hold one of these words
    return re.sub("PICTURE|DRAW|DATA", lambda name: parts[name[0]], (FOLDER / template).read_text("utf-8"))


def _as_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


class Player:
    """A page in a notebook: shown in a frame; as a picture (PNG) where a viewer runs no scripts."""

    def __init__(self, title: str, page: str, picture: bytes) -> None:
        self.title, self.html, self.picture = title, page, picture

    def __repr__(self) -> str:
        return f"a page that plays {self.title}"

    def _repr_html_(self) -> str:
        shown = "this.style.display='block';this.previousElementSibling.style.display='none'"
        frame = f'style="display:none;width:100%;height:620px;border:1px solid #bbb" onload="{shown}"'
        image = f'<img style="max-width:100%" alt="{html.escape(self.title)}" src="{_as_url(self.picture)}">'
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
    about, picture = "solution: " + ", ".join(solution), buffer.getvalue()
    return Player(title, page(views, title, about, picture), picture)

"""One look for every figure: colours, markers, tags, footnotes, and a `Sheet` that records what is drawn."""

from __future__ import annotations

import html
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from grlib.profiles import NO_EVIDENCE


@dataclass(frozen=True)
class Style:
    """How a series looks everywhere; colour is never the only difference."""

    label: str
    colour: str
    marker: str
    line: str = "-"


# Okabe-Ito colours. Methods of one family share a hue, the PPO version is darker and dashed. Other ways to
# reinforce Guided-ReST appear beside PPO in one figure, so they have different hues.
GREY, SKY, BLUE, GREEN = "#595959", "#56B4E9", "#0072B2", "#009E73"
ORANGE, VERMILLION, PURPLE = "#E69F00", "#D55E00", "#CC79A7"
STYLES = {
    "base": Style("Base", GREY, "o"),
    "bc": Style("BC", PURPLE, "v"),
    "sos": Style("SoS", GREY, "o"),
    "rest": Style("ReST", SKY, "s"),
    "rest_matched": Style("ReST, equal steps", BLUE, "D", "-."),
    "rest_more": Style("ReST, more problems", "#004D73", "p", "-."),
    "guided_rest": Style("Guided-ReST", VERMILLION, "^"),
    "guided_rest_own_goal": Style("Guided-ReST, own goals", "#B3446C", "h", "-."),
    "sos_ppo": Style("PPO", "#222222", "P", "--"),
    "rest_ppo": Style("ReST + PPO", "#1F6E9C", "X", "--"),
    "guided_rest_ppo": Style("Guided-ReST + PPO", "#8C3A00", "*", "--"),
    "guided_rest_ppo_token": Style("Guided-ReST + PPO, tokens", ORANGE, "<", ":"),
    "sos_ppo_dense": Style("PPO, dense reward", "#A63D5A", ">", ":"),
    "guided_rest_grpo": Style("Guided-ReST + GRPO", "#00664B", "d", "--"),
    "symbolic": Style("symbolic search", "#000000", ".", ":"),
    "self_generated": Style("self-generated", GREY, "o"),
    "hinted": Style("hinted", GREEN, "d", "--"),
    "guided": Style("guided", VERMILLION, "^", "-."),
    "first": Style("first", "#332288", "<"),
    "random": Style("random", "#999933", "h", "--"),
    "last": Style("last", "#44AA99", "p", ":"),
}
TAGS = {
    "smoke": "SMOKE RUN, NOT EVIDENCE",
    "rehearsal": "REHEARSAL, NOT EVIDENCE",
    "laptop": "LAPTOP PROFILE",
    "overnight": "OVERNIGHT PROFILE",
    "gpu_base": "LAPTOP PROFILE, BASE OF THE GPU",
    "gpu": "GPU PROFILE",
}
COUNTED = {  # columns with sizes, and how a footnote names them
    "problems": "problems: {}",
    "samples": "samples of each: {}",
    "greedy": "one greedy trace of each",
    "seeds": "seeds: {}",
}
SEED = r"^seed \d+$"  # the columns with each seed's value
COLUMNS = ["panel", "series", "kind", "x", "y", "low", "high"]
FONTS = {"font.size": 10.5, "axes.titlesize": 11, "axes.spines.top": False, "axes.spines.right": False}
FONTS |= {"axes.grid": True, "grid.alpha": 0.25, "axes.axisbelow": True, "hatch.linewidth": 0.6}


def span(numbers: pd.Series) -> str:
    """'3' or '3 to 5'."""
    return " to ".join(dict.fromkeys(f"{end:.0f}" for end in (numbers.min(), numbers.max())))


SIGNS = {
    "-": ("del", "color:#8C3A00;background:#FBE9DF"),
    "+": ("ins", "color:#00497A;background:#DDEEF9;font-weight:bold;text-decoration:none"),
    ">": ("i", "color:#4B2E83"),
}


class SignedText(str):
    """Text whose lines begin with a sign (`SIGNS`); a notebook shows them in colour."""

    def _repr_html_(self) -> str:
        lines = [(*SIGNS.get(line[:1], ("span", "")), html.escape(line)) for line in self.split("\n")]
        shown = "\n".join(f'<{tag} style="{look}">{text}</{tag}>' for tag, look, text in lines)
        return f'<pre style="line-height:1.35">{shown}</pre>'


class Sheet:
    """A figure being drawn, with a record of every point put on it."""

    def __init__(
        self, title: str, profile: str, panels: int = 1, height: float = 4.4, story: str = "", **subplots: Any
    ) -> None:
        rows = subplots.pop("nrows", 1)
        with plt.rc_context(FONTS):
            self.fig, axes = plt.subplots(rows, panels, figsize=(9, height), layout="constrained", **subplots)
        plt.close(self.fig)  # notebooks show the returned figure; keeping it open would show it twice
        self.axes: list[Axes] = list(np.ravel(axes))
        self.points: list[pd.DataFrame] = []
        self.handles: list[Line2D | Patch] = []
        self.height, self.top = height, 0.70 if story else 0.42
        first = 1 - 0.07 / height
        self.fig.text(0.008, first, title, ha="left", va="top", fontsize=13, weight="bold")
        self.fig.text(0.008, 1 - 0.38 / height, story, ha="left", va="top", fontsize=10, color="#444444")
        if profile in TAGS:  # not at the paper's scale
            colour = VERMILLION if profile in NO_EVIDENCE else BLUE
            box = {"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": colour}
            look: dict[str, Any] = {"fontsize": 9, "weight": "bold", "color": colour, "bbox": box}
            self.fig.text(0.992, first, TAGS[profile], ha="right", va="top", **look)

    def record(
        self, panel: str, series: Any, kind: str, x: Any, y: Any, low: Any = None, high: Any = None
    ) -> None:
        """Record points as drawn; `low` and `high` are the ends of their intervals, where they have any."""
        rows = pd.DataFrame({"x": np.atleast_1d(np.asarray(x))})
        for name, values in (("y", y), ("low", low), ("high", high)):
            rows[name] = math.nan if values is None else np.asarray(values, dtype=float)
        self.points.append(rows.assign(panel=panel, series=series, kind=kind)[COLUMNS])

    def line(
        self, axis: Axes, panel: str, key: str, data: pd.DataFrame, y: str = "measured", **look: Any
    ) -> None:
        """A series (columns x, `y`, low, high): published hollow and thin, measured with interval.

        With columns "seed 0", "seed 1", ... each seed is a thin line. `shift` moves intervals, and marks that
        no line joins, to the right by so many points: those at the same x stand side by side. `suffix`
        follows the name in the legend.
        """
        style, shift = STYLES.get(key, Style(key, GREY, "")), look.pop("shift", 0) / 72
        hollow = y.startswith("published")
        kind, suffix = ("published", " (published)") if hollow else ("measured", "")
        options: dict[str, Any] = {"color": style.colour, "marker": style.marker, "linestyle": style.line}
        options |= {"markersize": 6, "linewidth": 1 if hollow else 2, "label": style.label} | look
        options |= {"markerfacecolor": "white"} if hollow else {}
        options["label"] += options.pop("suffix", suffix)
        data = data[data[y].notna()]
        seeds = data.filter(regex=SEED).dropna(axis=1)
        thin = {"marker": "", "linestyle": "-", "linewidth": 0.6, "alpha": 0.5, "label": ""}
        for name in seeds if seeds.shape[1] > 1 and not hollow else ():
            axis.plot(data["x"], seeds[name], gid=f"{panel}|{key}|{name}", **(options | thin))
            self.record(panel, key, name, data["x"], seeds[name])
        moved = axis.transData + ScaledTranslation(shift, 0, self.fig.dpi_scale_trans)
        [marks] = axis.plot(data["x"], data[y], gid=f"{panel}|{key}|{kind}", **options)
        if options["linestyle"] == "none":
            marks.set_transform(moved)
        ends = [data["low"], data["high"]] if "low" in data and not hollow else []
        if ends:  # moved after plotting, so that the limits follow the data
            bars = axis.vlines(data["x"], *ends, linewidth=1.4, color=options["color"])
            bars.set_transform(moved)
        self.record(panel, key, kind, data["x"], data[y], *ends)

    def legend(self, handles: Iterable[Line2D | Patch] | None = None, columns: int = 6) -> None:
        """One legend under the panels: each label that is drawn in them, or the `handles`."""
        drawn: Any = [axis.get_legend_handles_labels() for axis in self.axes]
        named = {label: each for shown, labels in drawn for each, label in zip(shown, labels, strict=True)}
        self.handles = list(named.values() if handles is None else handles)
        self.columns = max(1, min(columns, len(self.handles)))

    def finish(self, profile: str, table: pd.DataFrame, extra: str = "") -> tuple[Figure, pd.DataFrame]:
        """Mark empty panels, add legend and footnote: profile, sizes of the table, intervals if any, `extra`;
        the figure and the points drawn on it (`COLUMNS`)."""
        for axis in self.axes:
            if not axis.has_data():
                axis.text(0.5, 0.5, "not measured yet", ha="center", transform=axis.transAxes, color=GREY)
        drawn = pd.concat(self.points, ignore_index=True) if self.points else pd.DataFrame(columns=COLUMNS)
        known = table.dropna(axis=1, how="all")
        known = known.assign(seeds=known["seed"].nunique()) if "seed" in known else known
        sizes = [text.format(span(known[name])) for name, text in COUNTED.items() if name in known]
        thin = " (thin lines)" if drawn["kind"].astype(str).str.contains(SEED).any() else ""
        interval = "bars: 95 % bootstrap interval" if drawn["low"].notna().any() else ""
        parts = [f"profile {profile}", ", ".join(sizes) + thin, interval, extra]
        self.close("; ".join(filter(None, parts)))
        return self.fig, drawn

    def close(self, line: str) -> None:
        """Put legend and footnote below the panels, and the panels into the rest of the figure."""
        foot = 0.29
        self.fig.text(0.008, 0.05 / self.height, line, va="bottom", fontsize=8.5, color="#444444")
        if self.handles:
            look: dict[str, Any] = {"fontsize": 9.5, "frameon": False, "borderpad": 0.2}
            look["bbox_to_anchor"] = (0.5, (foot - 0.02) / self.height)
            self.fig.legend(handles=self.handles, loc="lower center", ncols=self.columns, **look)
            foot += 0.06 + 0.21 * math.ceil(len(self.handles) / self.columns)
        space = (self.top + foot) / self.height
        self.fig.get_layout_engine().set(rect=(0.004, foot / self.height, 0.992, 1 - space))


def steady(value: float) -> float:
    """The value rounded to six digits, so that noise in the last ones never changes how 23.25 is printed."""
    return round(value, 6)


def percent_axis(axis: Axes, label: str, values: Collection[float] = (), top: float = 100) -> None:
    """A percent axis from 0 to `top`, or to the first multiple of 5 above all values."""
    limit = min(top, max(5 * math.ceil(value / 5) for value in (*values, 1))) if len(values) else top
    axis.set(ylim=(0, 1.03 * limit), ylabel=label)


def plain(axis: Axis) -> None:
    """Write the numbers of a logarithmic axis as 0.1, 0.3, 1, 3."""
    axis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.set_major_formatter("{x:,g}")
    axis.set_minor_locator(NullLocator())


def k_axis(axis: Axes, ks: Sequence[int], room: float = 1.25) -> None:
    """A logarithmic x axis with the numbers of samples, and `room` to the right of the last."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(ks, [str(k) for k in ks])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set(xlim=(min(ks) / 1.25, max(ks) * room), xlabel="k, samples per problem")


def label_ends(axis: Axes, ends: Mapping[str, tuple[float, float]], gap: float = 8) -> None:
    """Write each series' name at the right end (x, y) of its line, at least `gap` units of y apart."""
    height = -gap
    for key, (x, y) in sorted(ends.items(), key=lambda end: end[1][1]):
        height, style = max(y, height + gap), STYLES[key]
        name = axis.annotate(style.label, (x, height), (9, 0), textcoords="offset points", va="center")
        name.set(color=style.colour, weight="bold")
        name.set_in_layout(False)  # the axis has room for it

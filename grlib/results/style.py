"""One look for every figure: colours, markers, tags, footnotes, and a `Sheet` that records what is drawn."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator
from matplotlib.transforms import ScaledTranslation

from grlib.profiles import NO_EVIDENCE


@dataclass(frozen=True)
class Style:
    """How a series looks everywhere; colour is never the only difference."""

    label: str
    colour: str
    marker: str
    line: str = "-"
    hatch: str = ""


# Okabe-Ito colours. Methods of one family share a hue, the PPO version is darker and dashed. Other ways to
# reinforce Guided-ReST appear beside PPO in one figure, so they have different hues.
GREY, SKY, BLUE, GREEN = "#777777", "#56B4E9", "#0072B2", "#009E73"
ORANGE, VERMILLION, PURPLE = "#E69F00", "#D55E00", "#CC79A7"
STYLES = {
    "base": Style("Base", GREY, "o"),
    "bc": Style("BC", PURPLE, "v", "-", ".."),
    "sos": Style("SoS", GREY, "o"),
    "rest": Style("ReST", SKY, "s", "-", "//"),
    "rest_matched": Style("ReST, equal steps", BLUE, "D", "-.", "xx"),
    "guided_rest": Style("Guided-ReST", VERMILLION, "^", "-", "\\\\"),
    "sos_ppo": Style("PPO", "#333333", "P", "--", "++"),
    "rest_ppo": Style("ReST + PPO", "#1F6E9C", "X", "--", "--"),
    "guided_rest_ppo": Style("Guided-ReST + PPO", "#8C3A00", "*", "--", "**"),
    "guided_rest_ppo_token": Style("Guided-ReST + PPO, tokens", ORANGE, "<", ":", "oo"),
    "sos_ppo_dense": Style("PPO, dense reward", "#A63D5A", ">", ":", "OO"),
    "guided_rest_grpo": Style("Guided-ReST + GRPO", "#00664B", "d", "--", "++"),
    "symbolic": Style("symbolic search", "#000000", ".", ":"),
    "self_generated": Style("self-generated", GREY, "o"),
    "hinted": Style("hinted", PURPLE, "v", "-", ".."),
    "guided": Style("guided", VERMILLION, "^", "-", "\\\\"),
    "first": Style("first", SKY, "s", "-", "//"),
    "random": Style("random", VERMILLION, "^", "-", "\\\\"),
    "last": Style("last", GREEN, "D", "-", "xx"),
}
TAGS = {
    "smoke": "SMOKE RUN, NOT EVIDENCE",
    "rehearsal": "REHEARSAL, NOT EVIDENCE",
    "laptop": "LAPTOP PROFILE",
    "gpu_base": "LAPTOP PROFILE, BASE OF THE GPU",
    "gpu": "GPU PROFILE",
}
FOOTNOTE_WIDTH = 140  # characters that fit under a figure
INTERVAL = "95 % interval over problems and seeds"
SPREAD = ["low", "high", "seed_sd"]
COLUMNS = ["panel", "series", "kind", "x", "y", *SPREAD]
FONTS = {"font.size": 10.5, "axes.titlesize": 11, "axes.spines.top": False, "axes.spines.right": False}
FONTS |= {"axes.grid": True, "grid.alpha": 0.25, "axes.axisbelow": True, "hatch.linewidth": 0.6}


def _span(numbers: pd.Series) -> str:
    """'3' or '3 to 5'."""
    ends = dict.fromkeys(f"{end:.0f}" for end in (numbers.min(), numbers.max()))
    return " to ".join(ends)


def footnote(profile: str, table: pd.DataFrame, extra: str = "", interval: str = INTERVAL) -> list[str]:
    """The lines under a figure: sizes, interval, profile; then the traces cut off; then `extra`."""
    known = table.dropna(axis=1, how="all")
    counts = {"problems": "problems", "samples": "samples of each", "seeds": "seeds"}
    counted = [f"{label}: {_span(known[name])}" for name, label in counts.items() if name in known]
    spread = "dashes: ± 1 s.d. of the seeds" if "seed_sd" in known else ""
    first = [", ".join(counted) or "no measured data yet", interval, spread, f"profile {profile}"]
    lines = ["; ".join(filter(None, first))]
    if "truncated" in known:
        keys = known["method"] if "method" in known else pd.Series("traces", index=known.index)
        names = keys.map(lambda key: STYLES[key].label if key in STYLES else key)
        cut = known["truncated"].dropna().groupby(names, sort=False)
        shares = [f"{name} {_span(part)} %" for name, part in cut]
        lines.append(f"cut off by the token budget: {', '.join(shares)}")
    lines += [extra] if extra else []
    return [part for line in lines for part in textwrap.wrap(line, FOOTNOTE_WIDTH)]


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

    def record(self, panel: str, series: Any, kind: str, x: Any, y: Any, *spread: Any) -> None:
        """Record points as drawn; `spread` is low, high and seed_sd, as far as they are known."""
        rows = pd.DataFrame({"x": np.atleast_1d(np.asarray(x))})
        for name, values in zip(("y", *SPREAD), (y, *spread, None, None, None), strict=False):
            rows[name] = math.nan if values is None else np.asarray(values, dtype=float)
        self.points.append(rows.assign(panel=panel, series=series, kind=kind)[COLUMNS])

    def line(
        self, axis: Axes, panel: str, key: str, data: pd.DataFrame, y: str = "measured", **look: Any
    ) -> None:
        """A series (columns x, `y`, low, high, seed_sd): published hollow and thin, measured with interval.

        `shift` moves it to the right by this many points, so that intervals at the same x stand side by side.
        """
        shift = look.pop("shift", 0) / 72
        style, kind = STYLES[key], "published" if y.startswith("published") else "measured"
        options: dict[str, Any] = {"color": style.colour, "marker": style.marker, "linestyle": style.line}
        options |= {"markersize": 6, "linewidth": 2, "gid": f"{panel}|{key}|{kind}", "label": kind}
        if kind == "published":
            options |= {"markerfacecolor": "white", "linewidth": 1}
            data = data.drop(columns=SPREAD, errors="ignore")
        data = data[data[y].notna()]
        artists = axis.plot(data["x"], data[y], **(options | look)) + spread(axis, data, y, style.colour)
        for artist in artists:  # after plotting, so that the limits follow the data
            artist.set_transform(axis.transData + ScaledTranslation(shift, 0, self.fig.dpi_scale_trans))
        self.record(panel, key, kind, data["x"], data[y], *map(data.get, SPREAD))

    def bars(self, axis: Axes, panel: str, data: pd.DataFrame, y: str, notes: pd.Series) -> None:
        """One bar per row with its interval, its note on top; the row's index is its key in `STYLES`."""
        data = data[data[y].notna()]
        styles = [STYLES[key] for key in data.index]
        look: Any = {"color": [style.colour for style in styles], "hatch": [style.hatch for style in styles]}
        look["yerr"] = [data[y] - data["low"], data["high"] - data[y]]
        bars = axis.bar([style.label for style in styles], data[y], 0.6, edgecolor="white", **look)
        axis.bar_label(bars, notes[data.index], padding=4, fontsize=9.5)
        spread(axis, data[[y, "seed_sd"]].assign(x=range(len(data))), y, "black")
        axis.set_ylim(0, 1.3 * max(data["high"], default=0) or 1)
        self.record(panel, data.index, "measured", range(len(data)), data[y], *map(data.get, SPREAD))

    def legend(self, handles: Iterable[Line2D | Patch] | None = None, columns: int = 6) -> None:
        """One legend under the panels."""
        drawn: Any = self.axes[0].get_legend_handles_labels()[0]
        self.handles = list(drawn if handles is None else handles)
        self.columns = max(1, min(columns, len(self.handles)))

    def finish(
        self, profile: str, table: pd.DataFrame, extra: str = "", interval: str = INTERVAL
    ) -> tuple[Figure, pd.DataFrame]:
        """Mark empty panels, add legend and footnote; the figure and the points drawn on it (`COLUMNS`)."""
        for axis in self.axes:
            if not axis.has_data():
                axis.text(0.5, 0.5, "not measured yet", ha="center", transform=axis.transAxes, color=GREY)
        self.close(footnote(profile, table, extra, interval))
        drawn = pd.concat(self.points, ignore_index=True) if self.points else pd.DataFrame(columns=COLUMNS)
        return self.fig, drawn

    def close(self, lines: Sequence[str]) -> None:
        """Put legend and footnote lines below the panels, and the panels into the rest of the figure."""
        foot = 0.14 + 0.15 * len(lines)
        self.fig.text(0.008, 0.05 / self.height, "\n".join(lines), va="bottom", fontsize=8.5, color="#444444")
        if self.handles:
            look: dict[str, Any] = {"fontsize": 9.5, "frameon": False, "borderpad": 0.2}
            look["bbox_to_anchor"] = (0.5, (foot - 0.02) / self.height)
            self.fig.legend(handles=self.handles, loc="lower center", ncols=self.columns, **look)
            foot += 0.06 + 0.21 * math.ceil(len(self.handles) / self.columns)
        space = (self.top + foot) / self.height
        self.fig.get_layout_engine().set(rect=(0.004, foot / self.height, 0.992, 1 - space))


def spread(axis: Axes, data: pd.DataFrame, y: str, colour: str) -> list[Artist]:
    """Draw intervals as lines, and a dash one standard deviation of the seeds above and below."""
    artists: list[Artist] = []
    if "low" in data:
        artists.append(axis.vlines(data["x"], data["low"], data["high"], linewidth=1.4, color=colour))
    if "seed_sd" in data:
        ends = [data[y] - data["seed_sd"], data[y] + data["seed_sd"]]
        artists += axis.plot(data["x"], pd.concat(ends, axis=1), "_", markersize=7, color=colour)
    return artists


def handle(key: str, kind: str = "measured") -> Line2D:
    """A legend entry: hollow and named (published) for published numbers."""
    style, hollow = STYLES[key], kind == "published"
    look: dict[str, Any] = {"markerfacecolor": "white", "linewidth": 1} if hollow else {"linewidth": 2}
    look |= {"color": style.colour, "marker": style.marker, "linestyle": style.line}
    return Line2D([], [], label=f"{style.label} (published)" if hollow else style.label, **look)


def steady(value: float) -> float:
    """The value rounded to six digits, so that noise in the last ones never changes how 23.25 is printed."""
    return round(value, 6)


def percent_axis(axis: Axes, label: str, values: Sequence[float] = (), top: float = 100) -> None:
    """A percent axis from 0 to the first round number above all values, or to `top`."""
    highest = max(values, default=100)
    limits = [limit for limit in (10, 20, 30, 40, 50, 60, 80) if highest <= 0.98 * limit]
    axis.set(ylim=(0, 1.03 * limits[0] if limits else 1.03 * top), ylabel=label)


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


def measured_methods(table: pd.DataFrame, y: str = "measured") -> list[str]:
    """Methods with a value, in the usual order."""
    return [key for key in STYLES if key in set(table.loc[table[y].notna(), "method"])]

"""One look for every figure: colours, markers, tags, footnotes, and a sheet that records what is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from grlib.errors import GrlibError


@dataclass(frozen=True)
class Style:
    """How a series looks everywhere; colour is never the only difference."""

    label: str
    colour: str
    marker: str
    line: str = "-"
    hatch: str = ""


# Okabe-Ito colours; methods that share a hue are one family, its PPO version darker and dashed.
GREY, SKY, BLUE, GREEN, ORANGE, VERMILLION, PURPLE = (
    *("#777777", "#56B4E9", "#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7"),
)
STYLES = {
    "base": Style("Base", GREY, "o", "-", ""),
    "bc": Style("BC", PURPLE, "v", "-", ".."),
    "sos": Style("SoS", GREY, "o", "-", ""),
    "rest": Style("ReST", SKY, "s", "-", "//"),
    "rest_matched": Style("ReST, equal steps", BLUE, "D", "-.", "xx"),
    "guided_rest": Style("Guided-ReST", VERMILLION, "^", "-", "\\\\"),
    "sos_ppo": Style("PPO", "#333333", "P", "--", "++"),
    "rest_ppo": Style("ReST + PPO", "#1F6E9C", "X", "--", "--"),
    "guided_rest_ppo": Style("Guided-ReST + PPO", "#8C3A00", "*", "--", "**"),
    "guided_rest_ppo_token": Style("token-level PPO", "#B5651D", "<", ":", "oo"),
    "guided_rest_ppo_dense": Style("dense reward", "#A63D5A", ">", ":", "OO"),
    "symbolic": Style("symbolic search", "#000000", ".", ":", ""),
    "self_generated": Style("self-generated", GREY, "o", "-", ""),
    "hinted": Style("hinted", PURPLE, "v", "-", ".."),
    "guided": Style("guided", VERMILLION, "^", "-", "\\\\"),
    "first": Style("first", SKY, "s", "-", "//"),
    "random": Style("random", VERMILLION, "^", "-", "\\\\"),
    "last": Style("last", GREEN, "D", "-", "xx"),
}
TAGS = {"smoke": "SMOKE RUN, NOT EVIDENCE", "laptop": "LAPTOP PROFILE", "gpu": "GPU PROFILE"}
SPLIT_TITLES = {
    "seen": "seen targets",
    "unseen": "unseen targets",
    "valid": "validation",
    "train": "training",
}
INTERVAL = "95 % bootstrap interval over problems"
COLUMNS = ["panel", "series", "kind", "x", "y", "low", "high"]
FONTS = {"font.size": 10.5, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11}
FONTS |= {
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    "axes.axisbelow": True,
}


def style_of(key: str) -> Style:
    """The style of a method, trace kind or node choice; GrlibError for a key no figure knows."""
    if key not in STYLES:
        raise GrlibError(
            f"series {key!r} has no style: must be one of {', '.join(STYLES)}; add it to figures.STYLES"
        )
    return STYLES[key]


def profile_tag(fig: Figure, profile: str) -> None:
    """Mark a figure that is not at the paper's scale, top right."""
    if profile in TAGS:
        colour = VERMILLION if profile == "smoke" else BLUE
        box: dict[str, Any] = {"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": colour}
        fig.text(
            0.992,
            0.985,
            TAGS[profile],
            ha="right",
            va="top",
            fontsize=9,
            color=colour,
            weight="bold",
            bbox=box,
        )


def footnote(
    fig: Figure, profile: str, table: pd.DataFrame, extra: str = "", interval: str = INTERVAL
) -> None:
    """State n, seeds, interval and profile under a figure."""
    parts = []
    for column, one, many in (
        ("problems", "problem", "problems"),
        ("samples", "sample each", "samples each"),
    ):
        numbers = pd.to_numeric(table.get(column, pd.Series(dtype=float))).dropna().astype(int)
        if len(numbers):
            low, high = numbers.min(), numbers.max()
            parts.append(f"{low if low == high else f'{low} to {high}'} {one if high == 1 else many}")
    seeds = pd.to_numeric(table.get("seeds", pd.Series(dtype=float))).dropna()
    if len(seeds):
        parts.append(f"{int(seeds.max())} seed{'s' if seeds.max() > 1 else ''}")
    parts = [", ".join(parts)] if parts else ["no measured data yet"]
    text = "; ".join(part for part in (*parts, interval, f"profile {profile}", extra) if part)
    fig.text(0.008, 0.012, text, ha="left", va="bottom", fontsize=8.5, color="#444444", wrap=True)


class Sheet:
    """A figure being drawn, with a record of every point put on it."""

    def __init__(
        self,
        title: str,
        profile: str,
        panels: int = 1,
        height: float = 4.4,
        story: str = "",
        **subplots: Any,
    ) -> None:
        with plt.rc_context(FONTS):
            self.fig, axes = plt.subplots(1, panels, figsize=(9, height), layout="constrained", **subplots)
        plt.close(self.fig)  # notebooks show the returned figure; keeping it open would show it twice
        self.axes: list[Axes] = list(np.atleast_1d(axes))
        self.points: list[pd.DataFrame] = []
        self.height, self.top, self.bottom = height, 0.70 if story else 0.42, 0.30
        self.fig.text(0.008, 1 - 0.07 / height, title, ha="left", va="top", fontsize=13, weight="bold")
        self.fig.text(0.008, 1 - 0.38 / height, story, ha="left", va="top", fontsize=10, color="#444444")
        profile_tag(self.fig, profile)

    def record(
        self,
        panel: str,
        series: str,
        kind: str,
        x: object,
        y: object,
        low: object = None,
        high: object = None,
    ) -> None:
        """Note points as drawn; without an interval low and high are missing."""
        rows = pd.DataFrame({"x": np.atleast_1d(np.asarray(x)), "y": np.asarray(y, dtype=float)})
        rows["low"] = math.nan if low is None else np.asarray(low, dtype=float)
        rows["high"] = math.nan if high is None else np.asarray(high, dtype=float)
        self.points.append(rows.assign(panel=panel, series=series, kind=kind)[COLUMNS])

    def line(
        self, axis: Axes, panel: str, key: str, data: pd.DataFrame, y: str = "measured", **look: Any
    ) -> Line2D:
        """A series (columns x, `y`, low, high): published hollow and thin, measured filled with interval."""
        is_published, band, style = y.startswith("published"), look.pop("band", False), style_of(key)
        data = data[data[y].notna()]
        x, values = data["x"].to_numpy(), data[y].to_numpy(dtype=float)
        kind = "published" if is_published else "measured"
        options: dict[str, Any] = {
            "color": style.colour,
            "marker": style.marker,
            "linestyle": style.line,
            "markersize": 6,
            "linewidth": 2,
        }
        if is_published:
            options |= {"markerfacecolor": "white", "linewidth": 1, "markersize": 5.5, "alpha": 0.9}
        (drawn,) = axis.plot(x, values, **(options | look), gid=f"{panel}|{key}|{kind}", label=kind)
        if is_published or "low" not in data:
            self.record(panel, key, kind, x, values)
            return drawn
        low, high = data["low"].to_numpy(dtype=float), data["high"].to_numpy(dtype=float)
        if band:
            axis.fill_between(x, low, high, color=style.colour, alpha=0.15, linewidth=0)
        else:
            axis.vlines(x, low, high, color=style.colour, linewidth=1.4, alpha=0.8)
        self.record(panel, key, kind, x, values, low, high)
        return drawn

    def bars(
        self,
        axis: Axes,
        panel: str,
        key: str,
        x: Sequence[float],
        data: pd.DataFrame,
        y: str = "measured",
        width: float = 0.8,
    ) -> None:
        """Filled bars with their intervals."""
        style, values = style_of(key), data[y].to_numpy(dtype=float)
        low, high = data["low"].to_numpy(dtype=float), data["high"].to_numpy(dtype=float)
        axis.bar(
            x, values, width, color=style.colour, edgecolor="white", hatch=style.hatch, label=style.label
        )
        axis.vlines(x, low, high, color="black", linewidth=1.4)
        self.record(panel, key, "measured", x, values, low, high)

    def legend(self, handles: Iterable[Line2D | Patch] | None = None, columns: int = 6) -> None:
        """One legend under the panels."""
        chosen = list(handles) if handles is not None else self.axes[0].get_legend_handles_labels()[0]
        if chosen:
            columns = min(columns, len(chosen))
            place: dict[str, Any] = {
                "loc": "lower center",
                "bbox_to_anchor": (0.5, 0.26 / self.height),
                "borderpad": 0.2,
            }
            self.fig.legend(handles=chosen, ncols=columns, fontsize=9.5, frameon=False, **place)
            self.bottom = 0.36 + 0.21 * math.ceil(len(chosen) / columns)

    def finish(
        self, profile: str, table: pd.DataFrame, extra: str = "", interval: str = INTERVAL
    ) -> tuple[Figure, pd.DataFrame]:
        """Mark empty panels, add the footnote, and give the figure with the points drawn on it."""
        for axis in self.axes:
            if not axis.has_data():
                axis.text(
                    0.5,
                    0.5,
                    "not measured yet",
                    ha="center",
                    va="center",
                    transform=axis.transAxes,
                    color=GREY,
                )
        bottom, space = self.bottom / self.height, (self.top + self.bottom) / self.height
        self.fig.get_layout_engine().set(rect=(0.004, bottom, 0.992, 1 - space))
        footnote(self.fig, profile, table, extra, interval)
        drawn = pd.concat(self.points, ignore_index=True) if self.points else pd.DataFrame(columns=COLUMNS)
        return self.fig, drawn


def handle(key: str, kind: str = "measured") -> Line2D:
    """A legend entry: hollow and named (published) for published numbers."""
    style = style_of(key)
    look: dict[str, Any]
    if kind == "published":
        look = {"markerfacecolor": "white", "linewidth": 1, "label": f"{style.label} (published)"}
    else:
        look = {"linewidth": 2, "label": style.label}
    return Line2D([], [], color=style.colour, marker=style.marker, linestyle=style.line, **look)


def percent_axis(axis: Axes, label: str = "", top: float = 100) -> None:
    """A percent axis from 0."""
    axis.set_ylim(0, top * 1.03)
    axis.set_ylabel(label)


def top_of(values: pd.Series) -> float:
    """A round upper limit of a percent axis that starts at 0."""
    highest = float(values.max()) if values.notna().any() else 0.0
    return next(
        limit for limit in (10, 20, 30, 40, 50, 60, 80, 100) if highest <= limit * 0.98 or limit == 100
    )


def k_axis(axis: Axes, ks: Sequence[int], room: float = 1.25) -> None:
    """A logarithmic axis of the numbers of samples."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(ks, [str(k) for k in ks])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlim(min(ks) / 1.25, max(ks) * room)
    axis.set_xlabel("k, samples a problem")


def label_ends(axis: Axes, ends: Sequence[tuple[float, float, str, str]], gap: float) -> None:
    """Write each line's name (x, y, text, colour) at its right end, at least `gap` of the y axis apart."""
    placed: list[float] = []
    for _, y, _, _ in sorted(ends, key=lambda end: end[1]):
        placed.append(max(y, placed[-1] + gap) if placed else y)
    overflow = max(0.0, placed[-1] - axis.get_ylim()[1]) if placed else 0.0
    for (x, _, text, colour), y in zip(sorted(ends, key=lambda end: end[1]), placed, strict=True):
        at: dict[str, Any] = {"xy": (x, y - overflow), "xytext": (9, 0), "textcoords": "offset points"}
        axis.annotate(
            text, **at, color=colour, va="center", weight="bold", fontsize=10, annotation_clip=False
        )


def measured_methods(table: pd.DataFrame) -> list[str]:
    """Methods with a measured value, in the usual order."""
    measured = table.dropna(subset=["measured"])
    return [key for key in STYLES if key in set(measured["method"])]

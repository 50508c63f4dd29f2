"""One function per figure, each returning the figure and exactly what it draws.

Every function takes a table of `grlib.results.tables`, or stored rows, and a profile name, and returns
(figure, drawn). `drawn` has one row per plotted point, with panel, series, kind ("measured", "published", or
"seed 0", "seed 1", ... for the thin lines), x, y, low and high. Accuracies are in percent. Missing
measurements leave an empty panel or the published marks alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grlib.results import style, tables
from grlib.results.rows import STARTS
from grlib.results.style import STYLES, Sheet, percent_axis
from grlib.results.tables import TEST_SPLITS, in_order

Drawing = tuple[Figure, pd.DataFrame]
SMOOTHED = 20  # steps in the running mean of a learning curve
POINTS = 200  # at most, of a curve of single steps or traces
LINES = ("-", "--", ":", "-.")
SHADES = (style.BLUE, style.SKY, style.ORANGE, style.VERMILLION, style.PURPLE, style.GREEN, style.GREY)
ROUNDS = ("#666666", "#FBD9C0", "#F0A56B", "#D55E00")
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "--")
NATS, SOLVED = "cross-entropy, nats per token", "problems solved, %"
MEANS = "marks: mean over all tokens, with 95 % interval"


def _lines(
    sheet: Sheet, axis: Axes, panel: str, table: pd.DataFrame, x: str, y: str = "measured", *,
    apart: float = 2, **look: Any,
) -> list[str]:  # fmt: skip
    """One line per method of the table against column `x`, with intervals `apart` points from each other; the
    methods drawn."""
    keys = [key for key in STYLES if key in set(table.loc[table[y].notna(), "method"])]
    for i, key in enumerate(keys):
        part = table[table["method"] == key].rename(columns={x: "x"}).sort_values("x")
        sheet.line(axis, panel, key, part, y, shift=apart * (i - (len(keys) - 1) / 2), **look)
    return keys


def _compare(
    table: pd.DataFrame, profile: str, title: str, x: str, ylabel: str = SOLVED, *, y: str = "measured",
    by: Sequence[str] = ("split",), story: str = "", look: Mapping[str, Any] | None = None, **axes: Any,
) -> Drawing:  # fmt: skip
    """A panel for each value of the columns `by`, with one scale: a line per method against column `x`."""
    panels = list(table.groupby(list(by), sort=False)) or [((), table)]
    differ = len({part["problems"].max() for _, part in panels}) > 1
    sheet = Sheet(title, profile, len(panels), 4.4, story, sharex=True, sharey=True)
    for axis, (key, part) in zip(sheet.axes, panels, strict=True):
        kinds = {"split": "{} targets" if set(key) & set(TEST_SPLITS) else "{} problems", "k": "pass@{}"}
        name = ", ".join(kinds[column].format(value) for column, value in zip(by, key, strict=False))
        _lines(sheet, axis, name, part, x, y, **look or {})
        axis.set_title(f"{name}, n = {style.span(part['problems'])}" if differ else name, loc="left", size=10)
        percent_axis(axis, ylabel, table[["high", y]].max().dropna())
        if x == "k":
            style.k_axis(axis, sorted(table["k"].unique()) or [1])
        axis.set(**axes)
        if "xscale" in axes:
            style.plain(axis.xaxis)
        axis.label_outer()
    sheet.legend()
    return sheet.finish(profile, table)


def learning_curve(curve: pd.DataFrame, profile: str, to: str = "search") -> Drawing:
    """Training loss (line) and validation loss (marks) against tokens seen, by method.

    The title says that the models learn to do `to`. Seeds that share a model are counted once.
    """
    sheet = Sheet(f"How the loss falls while the models learn to {to}", profile)
    axis, runs = sheet.axes[0], curve.drop_duplicates(list(curve.columns.difference(["seed"])))
    numbers = runs.astype({"tokens_seen": float, "loss": float})
    table = numbers.groupby(["method", "step"], as_index=False).mean(numeric_only=True)
    table["millions"] = table["tokens_seen"] / 1e6
    for _, rows in table.groupby("method"):
        apart = int(rows["step"].diff().median()) if len(rows) > 1 else 1  # steps that one row averages
        running = rows["loss"].rolling(max(1, SMOOTHED // max(1, apart)), min_periods=1).mean()
        shown = np.linspace(0, len(rows) - 1, min(len(rows), POINTS)).astype(int)
        table.loc[rows.index, "loss"] = running.iloc[shown]  # nan elsewhere: a line needs no more points
    look: dict[str, Any] = {"marker": "", "linewidth": 1.6, "suffix": f", mean of {SMOOTHED} steps"}
    _lines(sheet, axis, "training", table, "millions", "loss", **look)
    if "valid_loss" in table:
        task = " on the full task" if to == "search" else ""  # the one with a curriculum
        look = {"linestyle": "none", "suffix": f", validation{task}"}
        _lines(sheet, axis, "validation", table, "millions", "valid_loss", apart=0, **look)
    axis.set_yscale("log")  # most of the fall is in the first twentieth, most of the learning after it
    style.plain(axis.yaxis)
    axis.set(xlabel="million tokens seen", ylabel=NATS)
    sheet.legend(columns=2)
    return sheet.finish(profile, runs)


def accuracy_against_budget(
    table: pd.DataFrame, profile: str, title: str = "Accuracy against token budget",
    asked: Sequence[str] = (), story: str = "",
) -> Drawing:  # fmt: skip
    """Accuracy within a token budget, on seen and on unseen targets (Figures 3 to 6), with the interval at
    the full budget. The line under the title holds `story` and the methods of `asked` that have no rows."""
    absent = ", ".join(STYLES[key].label for key in asked if key not in set(table["method"]))
    story = "; ".join(filter(None, [story, absent and f"not run: {absent}"]))
    ends, apart = table["budget"] == table["budget"].max(), max(1, table["budget"].nunique() // 4)
    return _compare(
        table.assign(**{name: table[name].where(ends) for name in ("low", "high")}), profile, title,
        "budget", "accuracy, %", xlabel="token budget (whole response)", xlim=(0, None),
        story=story, look={"drawstyle": "steps-post", "markevery": (apart, apart)},
    )  # fmt: skip


def pass_at_k(
    table: pd.DataFrame, profile: str, title: str = "pass@k: how much does drawing more samples help?"
) -> Drawing:
    """pass@k by split (Tables 2 and 3): what is measured, or if nothing is, what is published."""
    kind = "measured"
    if table["measured"].isna().all():
        kind, title, profile = "published", f"{title} (published)", "paper"
    return _compare(table.dropna(subset=kind), profile, title, "k", y=kind)


def sharpening(table: pd.DataFrame, profile: str) -> Drawing:
    """pass@1 and pass@k, the largest k that all models have, before and after PPO."""
    table = table.dropna(subset="measured")
    table = table[table["k"].isin([1, table.groupby("method")["k"].max().min()])]
    after = table["method"].isin(list(STARTS))
    table = table.assign(x=after.astype(int), method=table["method"].replace(STARTS))[after.any() | after]
    title, ticks = "Does PPO make likely what the model could do already?", {0: "before", 1: "after PPO"}
    axes: Any = {"xticks": list(ticks), "xticklabels": ticks.values(), "xlim": (-0.3, 1.3)}
    return _compare(table, profile, title, "x", by=["split", "k"], **axes)


def pass_at_tokens(table: pd.DataFrame, profile: str) -> Drawing:
    """pass@k against the cost of k samples: k times the mean tokens of the method's traces."""
    table = table.dropna(subset="measured").assign(spent=table["k"] * table["mean_tokens"].astype(float))
    title, ylabel = "Solved problems for the same number of tokens", "solved by at least one sample, %"
    return _compare(table, profile, title, "spent", ylabel, xlabel="tokens sampled per problem", xscale="log")


def accuracy_by_iteration(table: pd.DataFrame, profile: str) -> Drawing:
    """pass@1 and pass@k (the largest k measured) after each iteration, from the SoS model at 0."""
    title, ticks = "What each iteration of self-training adds", sorted(table["iteration"].unique())
    axes: Any = {"xlabel": "iteration (0: SoS)", "xticks": ticks}
    table = table[table["k"].isin([1, table["k"].max()])]
    return _compare(table, profile, title, "iteration", by=["split", "k"], **axes)


def by_difficulty(table: pd.DataFrame, profile: str) -> Drawing:
    """pass@1 and pass@k of the self-trained methods against how often the SoS model solves a problem."""
    sizes = table.groupby(["group", "solved_by_sos"])["problems"].max().items()
    names = {group: f"{name}\nn = {size}" for (group, name), size in sizes}
    axes: Any = {"xticks": list(names), "xticklabels": names.values()}
    axes["xlabel"] = "share of SoS samples that solve the problem"
    return _compare(table, profile, "Which problems does each method gain?", "group", by=["k"], **axes)


def repair_by_answer(table: pd.DataFrame, profile: str) -> Drawing:
    """Percent of the episodes of code self-repair that are right after at most 1, 2, ... answers."""
    title, ticks = "What does repairing add to the first answer?", sorted(table["answer"].unique())
    axes: Any = {"xlabel": "answers of an episode, at most", "xticks": ticks}
    return _compare(table, profile, title, "answer", "episodes right, %", **axes)


def repair_by_unread(table: pd.DataFrame, profile: str) -> Drawing:
    """pass@1 and pass@k of code self-repair against the number of steps in words that the base never read."""
    sizes = table.groupby("unread")["problems"].max()
    axes: Any = {"xticks": list(sizes.index), "xticklabels": [f"{i}\nn = {n}" for i, n in sizes.items()]}
    axes["xlabel"] = "steps of a problem in words that the base never read"
    return _compare(table, profile, "Where do the gains come from?", "unread", by=["k"], **axes)


def headline(table: pd.DataFrame, profile: str) -> Drawing:
    """The first figure of README.md: pass@k of SoS, ReST and Guided-ReST, published left, measured right."""
    title = "Does guidance teach a model to solve more problems?"
    story = "ReST retrains a search model (SoS) on its own successes; Guided-ReST repairs its failures first."
    sheet = Sheet(title, profile, 2, 6.6, story, nrows=2, sharex=True, sharey=True)
    table = table[table["method"].isin(["sos", "rest", "guided_rest"])]
    names = {"published": "The paper (published)", "measured": f"This repository (measured, {profile})"}
    for axis, (split, kind) in zip(sheet.axes, product(TEST_SPLITS, names), strict=True):
        part = table[table["split"] == split]
        keys = _lines(sheet, axis, split, part, "k", kind, markersize=7)
        style.k_axis(axis, sorted(table["k"].unique()), room=4.3)
        percent_axis(axis, f"{split} targets: solved by\nat least one of k samples, %")
        axis.label_outer()
        last = part[part["k"] == part.loc[part[kind].notna(), "k"].max()].set_index("method")
        style.label_ends(axis, {key: (last.loc[key, "k"], last.loc[key, kind]) for key in keys})
        axis.text(0, 1.03, _gap(part, kind), transform=axis.transAxes, fontsize=9.5, color=style.VERMILLION)
        if split == "seen":
            axis.set_title(names[kind], loc="left", pad=20, fontsize=12, weight="bold")
    return sheet.finish(profile, table, "published: Llama-3.2-1B, 10,000 problems")


def _gap(part: pd.DataFrame, kind: str) -> str:
    """What Guided-ReST adds to ReST at the fewest and the most samples."""
    wide = part.pivot(index="k", columns="method", values=kind).reindex(columns=["guided_rest", "rest"])
    gap = wide.diff(-1, axis=1)["guided_rest"].dropna()
    ends = dict.fromkeys([*gap.index[:1], *gap.index[-1:]])
    points = ", ".join(f"{style.steady(gap[k]):+.1f} at k = {k}" for k in ends).replace("-", "\u2212")
    return f"Guided-ReST minus ReST: {points}" if points else ""


def hints(table: pd.DataFrame, profile: str) -> Drawing:
    """Accuracy and cross-entropy of the successful traces against the optimal steps given (Table 1)."""
    sheet = Sheet("Hints make problems easier, and the traces less likely?", profile, 2)
    surprise = table.drop(columns=table.filter(regex="^(low|high|seed .*)$"))  # those of the accuracy
    columns = {
        "accuracy": table,
        "cross_entropy": surprise.rename(columns=lambda name: name.removeprefix("ce_")),
    }
    for axis, (column, part) in zip(sheet.axes, columns.items(), strict=True):
        for y in (f"published_{column}", column):
            sheet.line(axis, column, "sos", part.rename(columns={"steps": "x"}), y)
        axis.set(xlabel="optimal steps given", ylabel=NATS, xticks=part["steps"], ylim=(0, None))
    percent_axis(sheet.axes[0], "accuracy, %")
    sheet.legend()
    return sheet.finish(profile, table, "published: 10,000 problems")


def data_yield(table: pd.DataFrame, profile: str, of: str = "problems") -> Drawing:
    """Share of training problems (or of other items `of`) that become training data, by method, iteration and
    guided round."""
    sheet = Sheet(f"How many {of} become training data?", profile)
    ticks: dict[float, str] = {}
    axis, table = sheet.axes[0], in_order(table, ["iteration", "method", "round"])
    for (iteration, key), part in table.groupby(["iteration", "method"], sort=False):
        at = len(ticks) + 0.4 * iteration
        ticks[at] = f"{STYLES[key].label}\niteration {iteration}"
        below = part["measured"].shift(fill_value=0)
        bars = axis.bar([at] * len(part), part["measured"] - below, 0.9, bottom=below)
        for bar, r in zip(bars, part["round"], strict=True):  # grey, then tints of the colour of Guided-ReST
            bar.set(facecolor=ROUNDS[r % 4], hatch=HATCHES[r % 7], edgecolor="white")
            bar.set_label(f"after guided round {r}" if r else "own sample")
        top, low, high = part[["measured", "low", "high"]].iloc[-1]
        axis.vlines(at, low, high, linewidth=1.4, color="black")
        share = f"{top:.1f}" if 99.5 <= top < 100 else f"{top:.0f}"
        axis.annotate(share, (at, high), (0, 4), textcoords="offset points", ha="center")
        numbers = [part[name] for name in ("round", "measured", "low", "high")]
        sheet.record(f"iteration {iteration}", key, "measured", *numbers)
    axis.set_xticks(list(ticks), list(ticks.values()))
    axis.tick_params(axis="x", length=0)
    percent_axis(axis, f"training {of} solved, %", top=108)
    sheet.legend()
    return sheet.finish(profile, table)


PPO_PANELS = {
    "accuracy": "samples correct, %",
    "truncated": "cut off by the budget, %",
    "clipped": "actions clipped, %",
    "entropy": "entropy, nats per token",
}


def ppo_curves(curve: pd.DataFrame, profile: str) -> Drawing:
    """What happens while PPO runs: one panel for each of `PPO_PANELS`, one line per method."""
    sheet = Sheet("What happens while PPO runs", profile, 2, 6.6, nrows=2, sharex=True)
    curve = curve if "seed" in curve else curve.assign(seed=0)
    for axis, (column, label) in zip(sheet.axes, PPO_PANELS.items(), strict=True):
        seeds = curve.pivot(index=["method", "step"], columns="seed", values=column).astype(float)
        seeds *= 100 if label.endswith("%") else 1
        table = seeds.add_prefix("seed ").assign(measured=seeds.mean(axis=1)).reset_index()
        _lines(sheet, axis, column, table, "step", markevery=4, markersize=5, linewidth=1.6)
        axis.set_title(label, loc="left")
        axis.set(xlabel="step", xticks=sorted({*table["step"] // 5 * 5}))
        axis.tick_params(labelbottom=True)
        if label.endswith("%"):
            axis.set(ylim=(0, None))
        elif len(table):  # logarithmic: a run that collapses has a hundred times the entropy of the others
            axis.set(yscale="log")
            style.plain(axis.yaxis)
    sheet.legend(columns=3)
    return sheet.finish(profile, curve, "mean over the responses of a step")


def actions(lines: pd.DataFrame, profile: str) -> Drawing:
    """A trace as PPO sees it: a bar per line (columns start, tokens, text, reward), along its tokens."""
    sheet = Sheet("One line of the trace is one action", profile, height=1.4 + 0.24 * len(lines))
    axis, places = sheet.axes[0], range(len(lines))
    colours = np.where(lines["reward"] != 0, style.GREEN, style.SKY)
    bars = axis.barh(places, lines["tokens"], left=lines["start"], color=colours)
    paid = [f"reward {r:+g}" if r >= 1 else f"{r:+g} (dense)" if r else "" for r in lines["reward"]]
    axis.bar_label(bars, paid, padding=4)
    texts = [text if len(text) <= 70 else f"{text[:67]}..." for text in lines["text"]]
    axis.set_yticks(places, texts, fontsize=8, family="monospace")
    axis.set(xlabel="tokens of the response")
    axis.margins(x=0.25)
    axis.invert_yaxis()
    sheet.record("actions", "line", "measured", lines["start"], lines["tokens"])
    return sheet.finish(profile, pd.DataFrame(), f"{len(lines)} actions")


def _share(sheet: Sheet, axis: Axes, panel: str, key: str, values: pd.Series, **look: Any) -> None:
    """The share of values that are at most x, in percent, as steps."""
    shares = np.linspace(1 / len(values), 1, min(len(values), POINTS))
    points = {"x": np.quantile(values, shares, method="inverted_cdf"), "measured": 100 * shares}
    sheet.line(axis, panel, key, pd.DataFrame(points), drawstyle="steps-post", marker="", **look)


def _surprise(sheet: Sheet, axis: Axes, rows: pd.DataFrame, by: str) -> None:
    """The cross-entropies of single traces by the column `by`, with each group's mean over tokens."""
    for key, mean in in_order(tables.cross_entropy(rows, by), [by]).set_index(by).iterrows():
        values = (rows["nll"] / rows["nll_tokens"])[rows[by] == key].dropna()
        told = f"mean {mean['cross_entropy']:.3f}, median {values.median():.3f} (n = {len(values)})"
        _share(sheet, axis, "surprise", str(key), values, suffix=f": {told}")
        share = 100 * (values <= mean["cross_entropy"]).mean()
        mark = pd.DataFrame({"x": [mean["cross_entropy"]], "measured": [share]})
        sheet.line(axis, "mean", str(key), mark, label="", markersize=9)
        axis.hlines(share, mean["ce_low"], mean["ce_high"], color=STYLES[str(key)].colour)
    axis.set(xscale="log", xlabel=f"{NATS} of a trace")
    style.plain(axis.xaxis)
    percent_axis(axis, "traces at most as unlikely, %")


def likelihood(rows: pd.DataFrame, profile: str) -> Drawing:
    """Cross-entropy under the SoS model of successful self-generated, hinted and guided traces (rows)."""
    sheet = Sheet("How likely does the SoS model find each kind of trace?", profile)
    _surprise(sheet, sheet.axes[0], rows, "kind")
    sheet.legend(columns=1)
    return sheet.finish(profile, rows, MEANS)


def node_selection(rows: pd.DataFrame, profile: str) -> Drawing:
    """Node selection: success by guided round, beside the cross-entropy of the resulting traces."""
    sheet = Sheet("Which child to rewrite: success against likelihood", profile, 2)
    table = tables.selection_rounds(rows)
    _lines(sheet, sheet.axes[0], "success", table, "round", apart=10, label="", linestyle="none")
    sheet.axes[0].margins(x=0.1)
    sheet.axes[0].set(xlabel="guided rounds (0: own sample)", xticks=sorted(table["round"].unique()))
    percent_axis(sheet.axes[0], "training problems solved, %")
    _surprise(sheet, sheet.axes[1], rows[rows["correct"].astype(bool)], "choose")
    sheet.legend(columns=2)
    return sheet.finish(profile, table, MEANS)


def trace_lengths(rows: pd.DataFrame, profile: str, group: str = "solver") -> Drawing:
    """Cumulative share of traces by length in tokens, one line per value of the column `group`."""
    sheet = Sheet(f"How long are the traces, by {group}?", profile)
    axis = sheet.axes[0]
    for i, (name, part) in enumerate(rows.groupby(group)):
        solved = f", {100 * part['correct'].mean():.0f} % reach the goal" if "correct" in part else ""
        look = {"color": SHADES[i % 7], "linestyle": LINES[i % 4]}
        look["suffix"] = f": {len(part)} traces{solved}"
        _share(sheet, axis, "lengths", str(name), part["tokens"], **look)
    percent_axis(axis, "traces of at most this length, %")
    axis.set(xlabel="tokens", xscale="log")
    style.plain(axis.xaxis)
    sheet.legend(columns=2)
    return sheet.finish(profile, rows, f"{len(rows)} traces")

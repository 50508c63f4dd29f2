"""One function a figure, each returning the figure and exactly what it draws.

Every function takes a table of `grlib.tables` and a profile name and returns (figure, drawn): `drawn` has one
row a plotted point with the columns panel, series, kind ("measured" or "published"), x, y, low, high.
Accuracies are in percent. Missing measurements leave an empty panel or the published marks alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from grlib.style import (
    SPLIT_TITLES,
    STYLES,
    Sheet,
    handle,
    k_axis,
    label_ends,
    measured_methods,
    percent_axis,
    profile_tag,
    style_of,
    top_of,
)
from grlib.tables import TEST_SPLITS

__all__ = ["STYLES", "profile_tag", "style_of"]
Drawing = tuple[Figure, pd.DataFrame]
PUBLISHED_RUN = "published: Llama-3.2-1B, 10,000 test problems"


def _part(table: pd.DataFrame, x: str, **where: object) -> pd.DataFrame:
    """Rows where the columns equal the values, with column `x` named x and sorted."""
    for column, value in where.items():
        table = table[table[column] == value]
    return table.rename(columns={x: "x"}).sort_values("x")


SMOOTHED = 20  # steps in the running mean of a learning curve


def learning_curve(curve: pd.DataFrame, profile: str) -> Drawing:
    """Training loss (line) and validation loss (marks) against tokens seen, by method."""
    sheet = Sheet("How the loss falls while the models learn to search", profile)
    axis, table = sheet.axes[0], curve.groupby(["method", "step"], as_index=False).mean(numeric_only=True)
    methods = [key for key in STYLES if key in set(table["method"])]
    for key in methods:
        part = _part(table, "tokens_seen", method=key).assign(x=lambda rows: rows["x"] / 1e6)
        part["loss"] = part["loss"].rolling(SMOOTHED, min_periods=1).mean()
        sheet.line(axis, "training", key, part, "loss", marker="", linewidth=1.6)
        if "valid_loss" in part:
            sheet.line(axis, "validation", key, part, "valid_loss", linestyle="none")
    axis.set_yscale("log")  # most of the fall is in the first twentieth, most of the learning after it
    axis.set(xlabel="million tokens seen", ylabel="cross-entropy, nats a token")
    look: list[dict[str, Any]] = [
        {"linewidth": 1.6, "label": f"training, mean of {SMOOTHED} steps"},
        {"marker": "o", "linestyle": "none", "label": "validation"},
    ]
    sheet.legend([*map(handle, methods), *(Line2D([], [], color="#444444", **options) for options in look)])
    return sheet.finish(profile, curve.assign(seeds=curve.get("seed", pd.Series(0)).nunique()), interval="")


def accuracy_against_budget(table: pd.DataFrame, profile: str) -> Drawing:
    """Accuracy within a token budget, seen targets solid, unseen ones dotted (Figures 3 and 4)."""
    sheet = Sheet("Accuracy against token budget", profile, 2, 4.8, sharex=True, sharey=True)
    methods = measured_methods(table)
    for axis, split, line in zip(sheet.axes, TEST_SPLITS, ("-", ":"), strict=True):
        for key in methods:
            part = _part(table, "budget", method=key, split=split)
            sheet.line(axis, split, key, part, linestyle=line, markersize=6)
        axis.set_title(SPLIT_TITLES[split], loc="left")
        axis.set_xlabel("token budget (whole response)")
    percent_axis(sheet.axes[0], "accuracy, %", top_of(table["high"]))
    sheet.axes[0].set_xlim(0, None)
    sheet.legend([handle(key) for key in methods])
    return sheet.finish(profile, table.dropna(subset=["measured"]))


def pass_at_k(table: pd.DataFrame, profile: str) -> Drawing:
    """pass@k on seen and unseen targets, measured filled, published hollow (Table 2)."""
    sheet = Sheet(
        "pass@k: how much does drawing more samples help?", profile, 2, 5.2, sharex=True, sharey=True
    )
    paper = table.dropna(subset=["published"])
    printed = [key for key in STYLES if key in set(paper["method"])]
    methods = measured_methods(table)
    for axis, split in zip(sheet.axes, TEST_SPLITS, strict=True):
        for key in printed:
            sheet.line(axis, split, key, _part(paper, "k", method=key, split=split), "published")
        for key in methods:
            sheet.line(axis, split, key, _part(table, "k", method=key, split=split))
        k_axis(axis, sorted(table["k"].unique()))
        axis.set_title(SPLIT_TITLES[split], loc="left")
    percent_axis(sheet.axes[0], "problems solved, %")
    sheet.axes[1].set_ylim(sheet.axes[0].get_ylim())
    sheet.legend([handle(key) for key in methods] + [handle(key, "published") for key in printed], columns=4)
    return sheet.finish(profile, table.dropna(subset=["measured"]), PUBLISHED_RUN)


def headline(table: pd.DataFrame, profile: str, split: str = "seen") -> Drawing:
    """The README's first figure: pass@k of SoS, ReST and Guided-ReST, published left, measured right."""
    story = (
        "ReST retrains a searching model (SoS) on its own successes; Guided-ReST repairs its failures first."
    )
    title = "Does guidance teach a model to solve more problems?"
    sheet = Sheet(title, profile, 2, 5.0, story, sharex=True, sharey=True)
    keys, ks = ("sos", "rest", "guided_rest"), sorted(table["k"].unique())
    for axis, column in zip(sheet.axes, ("published", "measured"), strict=True):
        panel = table[(table["split"] == split) & table["method"].isin(keys) & table[column].notna()]
        k_axis(axis, ks, room=3.4)
        ends = []
        for key in [key for key in keys if key in set(panel["method"])]:
            part = _part(panel, "k", method=key)
            sheet.line(axis, column, key, part, column, markersize=7)
            ends.append(
                (part["x"].iloc[-1], part[column].iloc[-1], style_of(key).label, style_of(key).colour)
            )
        percent_axis(axis)
        label_ends(axis, ends, gap=6)
        _gap_note(axis, panel, column)
    sheet.axes[0].set_title("the paper (published)", loc="left")
    sheet.axes[1].set_title(f"this repository (measured, {profile})", loc="left")
    sheet.axes[0].set_ylabel(f"{SPLIT_TITLES[split]}: problems solved\nby at least one of k samples, %")
    marks = [("white", 1, "published"), ("#444444", 2, "measured, with 95 % interval")]
    look: dict[str, Any] = {"color": "#444444", "marker": "o"}
    sheet.legend(
        [Line2D([], [], markerfacecolor=face, linewidth=w, label=text, **look) for face, w, text in marks]
    )
    return sheet.finish(profile, table[table["split"] == split].dropna(subset=["measured"]), PUBLISHED_RUN)


def _gap_note(axis: Axes, panel: pd.DataFrame, column: str) -> None:
    """Say in the panel what Guided-ReST adds to ReST at the fewest and the most samples."""
    wide = panel.pivot(index="k", columns="method", values=column)
    if not {"rest", "guided_rest"} <= set(wide):
        return
    gap = (wide["guided_rest"] - wide["rest"]).dropna()
    if gap.empty:
        return
    lines = [
        f"{value:+.1f} points at k = {k}"
        for k, value in ((gap.index[i], gap.iloc[i]) for i in sorted({0, len(gap) - 1}))
    ]
    text = "Guided-ReST less ReST:\n" + "\n".join(lines).replace("-", "\u2212")
    look: dict[str, Any] = {"ha": "right", "va": "bottom", "fontsize": 10, "linespacing": 1.4}
    x, y = 0.99, 0.03
    late = panel.loc[panel["k"] >= panel["k"].median(), column]
    if late.min() < 32:  # lines run low: the note goes to the free corner above them
        (x, y), look = (0.02, 0.98), look | {"ha": "left", "va": "top"}
    axis.text(x, y, text, transform=axis.transAxes, **look, color=STYLES["guided_rest"].colour)


def hints(table: pd.DataFrame, profile: str) -> Drawing:
    """Accuracy and cross-entropy of the successful traces against the optimal steps given (Table 1)."""
    sheet = Sheet("Hints make problems easier, and the traces less likely?", profile, 2, 4.4)
    columns = (
        ("accuracy", ("low", "high"), "accuracy, %"),
        ("cross_entropy", ("ce_low", "ce_high"), "cross-entropy, nats a token"),
    )
    for axis, (column, ends, label) in zip(sheet.axes, columns, strict=True):
        part = _part(table, "steps")
        part = part.assign(low=part[ends[0]], high=part[ends[1]])
        sheet.line(axis, column, "sos", part, f"published_{column}")
        sheet.line(axis, column, "sos", part, column)
        axis.set(xlabel="optimal steps given", ylabel=label, xticks=sorted(table["steps"].unique()))
        axis.set_ylim(0, None)
    percent_axis(sheet.axes[0], "accuracy, %")
    sheet.legend([handle("sos"), handle("sos", "published")])
    return sheet.finish(profile, table.dropna(subset=["accuracy"]), "published: 10,000 training problems")


def data_yield(table: pd.DataFrame, profile: str) -> Drawing:
    """Share of training problems that each method turns into training data, by iteration and guided round."""
    sheet = Sheet("How many problems become training data?", profile)
    axis, methods = sheet.axes[0], measured_methods(table)
    iterations = sorted(table["iteration"].unique())
    shades = ["#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#CC79A7"]
    hatches, width, rounds, ticks = ["", "//", "..", "xx", "\\\\"], 0.8 / max(1, len(methods)), set(), {}
    for i, iteration in enumerate(iterations):
        for j, key in enumerate(methods):
            part, at = (
                _part(table, "round", method=key, iteration=iteration),
                i + width * (j - (len(methods) - 1) / 2),
            )
            below = 0.0
            for row in part.itertuples():
                shade = int(row.x) % len(shades)
                axis.bar(
                    at,
                    row.measured - below,
                    width * 0.92,
                    bottom=below,
                    color=shades[shade],
                    hatch=hatches[shade],
                    edgecolor="white",
                )
                below = row.measured
                rounds.add(int(row.x))
            if len(part):
                last = part.iloc[-1]
                axis.vlines(at, last["low"], last["high"], color="black", linewidth=1.4)
                axis.annotate(
                    f"{below:.0f}",
                    (at, last["high"]),
                    (0, 3),
                    textcoords="offset points",
                    ha="center",
                    weight="bold",
                )
                sheet.record(
                    f"iteration {iteration}",
                    key,
                    "measured",
                    part["x"],
                    part["measured"],
                    part["low"],
                    part["high"],
                )
                ticks[at] = f"{style_of(key).label}\niteration {iteration}"
    axis.set_xticks(list(ticks), list(ticks.values()))
    axis.tick_params(axis="x", length=0)
    percent_axis(axis, "training problems solved, %")
    names = {0: "own sample"} | {r: f"after guided round {r}" for r in rounds if r}
    order = sorted(rounds)
    boxes = [
        Patch(facecolor=shades[r % 5], hatch=hatches[r % 5], edgecolor="white", label=names[r]) for r in order
    ]
    sheet.legend(boxes)
    return sheet.finish(profile, table)


def rewriting_rounds(table: pd.DataFrame, profile: str, method: str = "guided_rest") -> Drawing:
    """Share of training problems solved after each round of rewriting, one line an iteration."""
    sheet = Sheet("Training problems solved after each round of rewriting", profile, height=4.2)
    axis, rows = sheet.axes[0], table[table["method"] == method]
    ends = []
    for iteration, line in zip(sorted(rows["iteration"].unique()), ("-", "--", ":", "-."), strict=False):
        part = _part(rows, "round", iteration=iteration)
        sheet.line(axis, f"iteration {iteration}", method, part, linestyle=line)
        ends.append(
            (part["x"].iloc[-1], part["measured"].iloc[-1], f"iteration {iteration}", style_of(method).colour)
        )
    percent_axis(axis, "training problems solved, %")
    label_ends(axis, ends, gap=5)
    axis.set(xlabel="guided rounds (0: the model's own sample)", xticks=sorted(rows["round"].unique()))
    return sheet.finish(profile, rows)


def accuracy_by_iteration(table: pd.DataFrame, profile: str, k: int | None = None) -> Drawing:
    """pass@k (default: the largest k measured) after each iteration, from the SoS model at 0."""
    k = k or int(table["k"].max()) if len(table) else 1
    sheet = Sheet("What each iteration of self-training adds", profile, 2, 4.6, sharey=True)
    ks, low_k = sorted({1, k}), 1
    for axis, split in zip(sheet.axes, TEST_SPLITS, strict=True):
        for key in measured_methods(table):
            for value in ks:
                look: dict[str, Any] = {"linestyle": ":" if value == low_k and k > 1 else "-"}
                part = _part(table, "iteration", method=key, split=split, k=value)
                sheet.line(axis, f"{split} pass@{value}", key, part, **look)
        axis.set(xlabel="iteration (0: the SoS model)", xticks=sorted(table["iteration"].unique()))
        axis.set_title(SPLIT_TITLES[split], loc="left")
    percent_axis(sheet.axes[0], "problems solved, %", top_of(table["high"]))
    lines = [
        Line2D([], [], color="#444444", linestyle=":" if v == 1 and k > 1 else "-", label=f"pass@{v}")
        for v in ks
    ]
    sheet.legend([handle(key) for key in measured_methods(table)] + lines)
    return sheet.finish(profile, table)


def likelihood(table: pd.DataFrame, profile: str) -> Drawing:
    """Cross-entropy under the SoS model of successful self-generated, hinted and guided traces."""
    sheet = Sheet("How likely does the SoS model find each kind of trace?", profile, height=4.0)
    axis = sheet.axes[0]
    rows = table.rename(columns={"cross_entropy": "measured", "ce_low": "low", "ce_high": "high"})
    order = [kind for kind in ("self_generated", "guided", "hinted") if kind in set(rows["kind"])]
    for i, kind in enumerate(order):
        part = rows[rows["kind"] == kind]
        sheet.bars(axis, "likelihood", kind, [i], part, width=0.6)
        note = f"{part['measured'].iloc[0]:.3f}\n{int(part['traces'].iloc[0])} traces"
        axis.annotate(
            note, (i, part["high"].iloc[0]), (0, 4), textcoords="offset points", ha="center", fontsize=9.5
        )
    axis.set_xticks(range(len(order)), [style_of(kind).label for kind in order])
    axis.set_ylim(0, 1.3 * float(rows["high"].max()) if len(rows) else 1)
    axis.set_ylabel("cross-entropy, nats a token\n(lower is likelier)")
    return sheet.finish(profile, table)


def node_selection(table: pd.DataFrame, profile: str) -> Drawing:
    """Node selection: success after the guided rounds against cross-entropy of the traces it makes."""
    sheet = Sheet("Which child to rewrite: success against likelihood", profile, height=4.4)
    axis = sheet.axes[0]
    for row in table.dropna(subset=["cross_entropy"]).itertuples():
        style = style_of(row.choose)
        axis.hlines(row.success, row.ce_low, row.ce_high, color=style.colour, linewidth=1.4)
        part = pd.DataFrame(
            {"x": [row.cross_entropy], "measured": [row.success], "low": [row.low], "high": [row.high]}
        )
        sheet.line(axis, "choice", row.choose, part, markersize=10)
        at: dict[str, Any] = {
            "xy": (row.cross_entropy, row.success),
            "xytext": (9, 9),
            "textcoords": "offset points",
        }
        axis.annotate(style.label, **at, color=style.colour, weight="bold")
    percent_axis(axis, "problems solved, %")
    axis.margins(x=0.2)
    axis.set_xlabel(
        "cross-entropy of the successful traces under the SoS model, nats a token (left is likelier)"
    )
    return sheet.finish(profile, table)


def trace_lengths(rows: pd.DataFrame, profile: str, group: str = "solver") -> Drawing:
    """Cumulative share of traces by length in tokens, one line a value of `group` (solver or method)."""
    sheet = Sheet(f"How long are the traces, by {group}?", profile)
    axis, colours = (
        sheet.axes[0],
        ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#777777"],
    )
    groups = list(rows.groupby(group, sort=True))
    for i, (name, part) in enumerate(groups):
        lengths = np.sort(part["tokens"].to_numpy())
        share = 100 * np.arange(1, len(lengths) + 1) / len(lengths)
        look: dict[str, Any] = {
            "color": colours[i % 7],
            "linestyle": ("-", "--", ":", "-.")[i % 4],
            "linewidth": 2,
        }
        solved = f", {100 * part['correct'].mean():.0f} % reach the goal" if "correct" in part else ""
        label = style_of(str(name)).label if name in STYLES else str(name)
        axis.plot(
            lengths, share, drawstyle="steps-post", label=f"{label}: {len(part)} traces{solved}", **look
        )
        sheet.record("lengths", str(name), "measured", lengths, share)
    percent_axis(axis, "traces of at most this length, %")
    longest = rows["tokens"].max() if len(rows) else 1
    if longest > 4 * (rows["tokens"].median() if len(rows) else 1):
        axis.set_xscale("log")
    axis.set_xlabel("tokens")
    sheet.legend(columns=2)
    return sheet.finish(profile, pd.DataFrame({"seeds": [1]}), f"{len(rows)} traces", interval="")

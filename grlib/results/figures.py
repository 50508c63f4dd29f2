"""One function per figure, each returning the figure and exactly what it draws.

Every function takes a table of `grlib.results.tables` and a profile name and returns (figure, drawn): `drawn`
has one row per plotted point, with panel, series, kind ("measured" or "published"), x, y, low, high and
seed_sd. Accuracies are in percent. Missing measurements leave an empty panel or the published marks alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from grlib.results import style
from grlib.results.rows import STARTS
from grlib.results.style import Sheet, handle, percent_axis
from grlib.results.tables import BENCHMARKS, REPAIR_SPLITS, TEST_SPLITS, in_order

Drawing = tuple[Figure, pd.DataFrame]
PUBLISHED_RUN = "published: Llama-3.2-1B, 10,000 problems per split, 32 samples each, no interval given"
SMOOTHED = 20  # steps in the running mean of a learning curve
CURVE_POINTS = 200  # of that mean that are drawn per method
LINES = ("-", "--", ":", "-.")
SHADES = (style.BLUE, style.SKY, style.ORANGE, style.VERMILLION, style.PURPLE, style.GREEN, style.GREY)
ROUNDS = ("#666666", "#FBD9C0", "#F0A56B", "#D55E00")
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "--")
NATS = "cross-entropy, nats per token"


def _lines(
    sheet: Sheet, axis: Axes, panel: str, table: pd.DataFrame, x: str, y: str = "measured", **look: Any
) -> list[str]:
    """One line per method of the table against column `x`; returns the methods drawn. Measured points stand
    side by side, except on an axis of tokens, where a reader reads the exact place."""
    keys = style.measured_methods(table, y)
    apart = 3 if y == "measured" and x not in ("budget", "spent") else 0
    for i, key in enumerate(keys):
        part = table[table["method"] == key].rename(columns={x: "x"}).sort_values("x")
        sheet.line(axis, panel, key, part, y, shift=apart * (i - (len(keys) - 1) / 2), **look)
    return keys


def _key(label: str, **look: Any) -> Line2D:
    """A legend entry that stands for no single method."""
    return Line2D([], [], color="#444444", label=label, **look)


def _seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """The number of seeds, for the footnote of a figure without intervals."""
    return pd.DataFrame({"seeds": [rows["seed"].nunique() if "seed" in rows else 1]})


def _nats(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the interval and spread of its cross-entropy in the columns low, high and seed_sd."""
    table = table.drop(columns=style.SPREAD, errors="ignore")
    return table.rename(columns={"ce_low": "low", "ce_high": "high", "ce_seed_sd": "seed_sd"})


def _splits(
    sheet: Sheet, table: pd.DataFrame, splits: tuple[str, ...] = TEST_SPLITS
) -> Iterator[tuple[Axes, str, pd.DataFrame]]:
    """Each panel with its split and the rows of that split."""
    for axis, split in zip(sheet.axes, splits, strict=True):
        axis.set_title(f"{split} {'targets' if split in TEST_SPLITS else 'problems'}", loc="left")
        yield axis, split, table[table["split"] == split]
        axis.label_outer()


def _by_split(
    table: pd.DataFrame, profile: str, title: str, x: str, ylabel: str, note: str = "", **axes: Any
) -> Drawing:
    """Two panels, one per split, with a measured line per method against column `x`."""
    sheet = Sheet(title, profile, 2, 4.8, sharex=True, sharey=True)
    for axis, split, part in _splits(sheet, table, REPAIR_SPLITS if x == "answer" else TEST_SPLITS):
        _lines(sheet, axis, split, part, x)
        if x == "k":
            style.k_axis(axis, sorted(table["k"].unique()) or [1])
        percent_axis(axis, ylabel, table["high"])
        axis.set(**axes)
    sheet.legend(map(handle, style.measured_methods(table)))
    return sheet.finish(profile, table, note)


def learning_curve(curve: pd.DataFrame, profile: str, to: str = "search") -> Drawing:
    """Training loss (line) and validation loss (marks) against tokens seen, by method.

    The title says that the models learn to do `to`.
    """
    sheet = Sheet(f"How the loss falls while the models learn to {to}", profile)
    axis, numbers = sheet.axes[0], curve.astype({"tokens_seen": float, "loss": float})
    table = numbers.groupby(["method", "step"], as_index=False).mean(numeric_only=True)
    table["millions"] = table["tokens_seen"] / 1e6
    for _, rows in table.groupby("method"):
        apart = int(rows["step"].diff().median()) if len(rows) > 1 else 1  # steps that one row averages
        running = rows["loss"].rolling(max(1, SMOOTHED // max(1, apart)), min_periods=1).mean()
        shown = np.linspace(0, len(rows) - 1, min(len(rows), CURVE_POINTS)).astype(int)
        table.loc[rows.index, "loss"] = running.iloc[shown]  # nan elsewhere: a line needs no more points
    methods = _lines(sheet, axis, "training", table, "millions", "loss", marker="", linewidth=1.6)
    if "valid_loss" in table:
        _lines(sheet, axis, "validation", table, "millions", "valid_loss", linestyle="none")
    axis.set_yscale("log")  # most of the fall is in the first twentieth, most of the learning after it
    axis.set(xlabel="million tokens seen", ylabel=NATS)
    marks = [_key(f"training, mean of {SMOOTHED} steps"), _key("validation", marker="o", linestyle="none")]
    sheet.legend([*map(handle, methods), *marks])
    return sheet.finish(profile, _seeds(curve), interval="")


def accuracy_against_budget(
    table: pd.DataFrame, profile: str, title: str = "Accuracy against token budget", asked: Sequence[str] = ()
) -> Drawing:
    """Accuracy within a token budget, on seen and on unseen targets (Figures 3 to 6). The footnote names the
    methods of `asked` that have no rows."""
    absent = [style.STYLES[key].label for key in asked if key not in set(table["method"])]
    note = f"not run: {', '.join(absent)}" if absent else ""
    axes: dict[str, Any] = {"xlabel": "token budget (whole response)", "xlim": (0, None)}
    return _by_split(table, profile, title, "budget", "accuracy, %", note, **axes)


def pass_at_k(table: pd.DataFrame, profile: str) -> Drawing:
    """pass@k on seen and unseen targets, measured filled, published hollow (Table 2)."""
    title = "pass@k: how much does drawing more samples help?"
    sheet = Sheet(title, profile, 2, 5.4, sharex=True, sharey=True)
    for axis, split, part in _splits(sheet, table):
        _lines(sheet, axis, split, part, "k", "published")
        _lines(sheet, axis, split, part, "k")
        style.k_axis(axis, sorted(table["k"].unique()))
        percent_axis(axis, "problems solved, %")
    sheet.legend(_measured_and_published(table), columns=4)
    return sheet.finish(profile, table, PUBLISHED_RUN if table["published"].notna().any() else "")


def _measured_and_published(table: pd.DataFrame) -> list[Line2D]:
    """Legend entries of the methods with measured values, then of those with published ones."""
    kinds = ("measured", "published")
    return [handle(key, kind) for kind in kinds for key in style.measured_methods(table, kind)]


def sharpening(table: pd.DataFrame, profile: str) -> Drawing:
    """pass@k of models before (solid) and after PPO (dashed), up to the largest k that all of them have."""
    table = table.dropna(subset="measured")
    largest = table.groupby("method")["k"].max().min()
    table = table[table["k"] <= largest] if table["method"].isin(list(STARTS)).any() else table.head(0)
    title = "Does PPO make likely what the model could do already?"
    return _by_split(table, profile, title, "k", "problems solved, %")


def pass_at_tokens(table: pd.DataFrame, profile: str) -> Drawing:
    """pass@k against the cost of k samples: k times the mean tokens of the method's traces."""
    table = table.dropna(subset="measured").assign(spent=table["k"] * table["mean_tokens"].astype(float))
    title = "Solved problems for the same number of tokens"
    axes = {"xlabel": "tokens sampled per problem", "xscale": "log"}
    return _by_split(table, profile, title, "spent", "problems solved by at least one sample, %", **axes)


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
    hollow = _key("published", marker="o", markerfacecolor="white", linewidth=1)
    sheet.legend([hollow, _key("measured, with 95 % interval", marker="o", linewidth=2)])
    return sheet.finish(profile, table, PUBLISHED_RUN)


def _gap(part: pd.DataFrame, kind: str) -> str:
    """What Guided-ReST adds to ReST at the fewest and the most samples."""
    wide = part.pivot(index="k", columns="method", values=kind).reindex(columns=["guided_rest", "rest"])
    gap = wide.diff(-1, axis=1)["guided_rest"].dropna()
    ends = dict.fromkeys([*gap.index[:1], *gap.index[-1:]])
    points = ", ".join(f"{style.steady(gap[k]):+.1f} at k = {k}" for k in ends).replace("-", "\u2212")
    return f"Guided-ReST minus ReST: {points}" if points else ""


def hints(table: pd.DataFrame, profile: str) -> Drawing:
    """Accuracy and cross-entropy of the successful traces against the optimal steps given (Table 1)."""
    sheet = Sheet("Hints make problems easier, and the traces less likely?", profile, 2, 4.4)
    columns = {"accuracy": table, "cross_entropy": _nats(table)}
    for axis, (column, part) in zip(sheet.axes, columns.items(), strict=True):
        part = part.rename(columns={"steps": "x"})
        sheet.line(axis, column, "sos", part, f"published_{column}")
        sheet.line(axis, column, "sos", part, column)
        axis.set(xlabel="optimal steps given", ylabel=NATS, xticks=part["x"], ylim=(0, None))
    percent_axis(sheet.axes[0], "accuracy, %")
    sheet.legend([handle("sos"), handle("sos", "published")])
    return sheet.finish(profile, table, "published: Llama-3.2-1B, 10,000 training problems")


def data_yield(table: pd.DataFrame, profile: str, of: str = "problems") -> Drawing:
    """Share of training problems (or of other items `of`) that become training data, by method, iteration and
    guided round."""
    sheet = Sheet(f"How many {of} become training data?", profile)
    ticks: dict[float, str] = {}
    axis, table = sheet.axes[0], in_order(table, ["iteration", "method", "round"])
    for (iteration, key), part in table.groupby(["iteration", "method"], sort=False):
        at = len(ticks) + 0.4 * iteration
        ticks[at] = f"{style.STYLES[key].label}\niteration {iteration}"
        below = part["measured"].shift(fill_value=0)
        bars = axis.bar([at] * len(part), part["measured"] - below, 0.9, bottom=below)
        for bar, r in zip(bars, part["round"], strict=True):
            bar.set(**_fill(r))
        style.spread(axis, part.tail(1).assign(x=at), "measured", "black")
        top, high = part[["measured", "high"]].iloc[-1]
        axis.annotate(f"{top:.0f}", (at, high), (0, 4), textcoords="offset points", ha="center")
        numbers = [part[name] for name in ("round", "measured", *style.SPREAD)]
        sheet.record(f"iteration {iteration}", key, "measured", *numbers)
    axis.set_xticks(list(ticks), list(ticks.values()))
    axis.tick_params(axis="x", length=0)
    percent_axis(axis, f"training {of} solved, %", top=108)
    names = {r: f"after guided round {r}" if r else "own sample" for r in sorted(table["round"].unique())}
    sheet.legend([Patch(label=name, **_fill(r)) for r, name in names.items()])
    return sheet.finish(profile, table)


def _fill(number: int) -> dict[str, Any]:
    """The look of a guided round: grey for a model's own samples, then tints of the colour of Guided-ReST."""
    return {"facecolor": ROUNDS[number % 4], "hatch": HATCHES[number % 7], "edgecolor": "white"}


def rewriting_rounds(table: pd.DataFrame, profile: str) -> Drawing:
    """Share of training problems that Guided-ReST solves after each round, one line per iteration."""
    sheet = Sheet("Training problems solved after each round of rewriting", profile, height=4.2)
    axis, rows = sheet.axes[0], table[table["method"] == "guided_rest"]
    iterations = list(zip(sorted(rows["iteration"].unique()), LINES, strict=False))
    for iteration, line in iterations:
        part = rows[rows["iteration"] == iteration]
        _lines(sheet, axis, f"iteration {iteration}", part, "round", linestyle=line)
    percent_axis(axis, "training problems solved, %")
    axis.set(xlabel="guided rounds (0: the model's own sample)", xticks=sorted(rows["round"].unique()))
    sheet.legend([_key(f"iteration {iteration}", linestyle=line) for iteration, line in iterations])
    return sheet.finish(profile, rows)


def accuracy_by_iteration(table: pd.DataFrame, profile: str) -> Drawing:
    """pass@1 and pass@k (the largest k measured) after each iteration, from the SoS model at 0."""
    sheet = Sheet("What each iteration of self-training adds", profile, 2, 4.6, sharex=True, sharey=True)
    ks = sorted({1, max(table["k"], default=1)})
    lines = dict(zip(ks, [":", "-"][-len(ks) :], strict=True))
    table = table[table["k"].isin(ks)]
    for axis, split, part in _splits(sheet, table):
        for k, line in lines.items():
            _lines(sheet, axis, f"{split} pass@{k}", part[part["k"] == k], "iteration", linestyle=line)
        axis.set(xlabel="iteration (0: the SoS model)", xticks=sorted(table["iteration"].unique()))
        percent_axis(axis, "problems solved, %", table["high"])
    kinds = [_key(f"pass@{k}", linestyle=line) for k, line in lines.items()]
    sheet.legend([*map(handle, style.measured_methods(table)), *kinds])
    return sheet.finish(profile, table)


PUBLISHED_REPAIR = "published: Qwen2.5-7B on CodeContests and CodeForces, 128 samples per problem"


def repair_pass_at_k(table: pd.DataFrame, profile: str) -> Drawing:
    """pass@k of code self-repair: published above, measured below (Table 3)."""
    title = "Code self-repair: problems solved by at least one of k episodes"
    sheet = Sheet(title, profile, 2, 7.2, nrows=2, sharex=True)
    places = [*product(BENCHMARKS, ["published"]), *product(REPAIR_SPLITS, ["measured"])]
    names = {"codecontests": "CodeContests", "codeforces": "CodeForces", "near": "Near", "far": "Far"}
    for axis, (split, kind) in zip(sheet.axes, places, strict=True):
        part = table[table["split"] == split]
        _lines(sheet, axis, split, part, "k", kind)
        style.k_axis(axis, sorted(table["k"].unique()))
        percent_axis(axis, "problems solved, %", part[kind if kind == "published" else "high"].dropna())
        axis.set_title(f"{names[split]} problems ({kind})", loc="left")
    for axis in sheet.axes[:2]:
        axis.set_xlabel("")
    sheet.legend(_measured_and_published(table), columns=3)
    return sheet.finish(profile, table, PUBLISHED_REPAIR)


def repair_by_answer(table: pd.DataFrame, profile: str) -> Drawing:
    """Percent of the episodes of code self-repair that are right after at most 1, 2, ... answers."""
    title = "What does repairing add to the first answer?"
    answers = sorted(table["answer"].unique())
    axes: dict[str, Any] = {"xlabel": "answers of an episode, at most", "xticks": answers}
    return _by_split(table, profile, title, "answer", "episodes right, %", **axes)


def by_difficulty(table: pd.DataFrame, profile: str) -> Drawing:
    """pass@1 and pass@k of the self-trained methods against how often the SoS model solves a problem."""
    sheet = Sheet("Which problems does each method gain?", profile, 2, 4.6, sharex=True, sharey=True)
    names = table.drop_duplicates("group").set_index("group")["solved_by_sos"].sort_index()
    for axis, (k, part) in zip(sheet.axes, table.groupby("k"), strict=False):
        axis.set_title(f"pass@{k}", loc="left")
        _lines(sheet, axis, f"pass@{k}", part, "group")
        axis.set_xticks(names.index, names)
        axis.set_xlabel("share of SoS samples that solve the problem")
        percent_axis(axis, "problems solved, %", table["high"])
        axis.label_outer()
    sheet.legend(map(handle, style.measured_methods(table)))
    return sheet.finish(profile, table)


PPO_PANELS = {
    "accuracy": "samples correct, %",
    "reward": "reward of a response",
    "tokens": "tokens per response",
    "truncated": "cut off by the budget, %",
    "clipped": "actions clipped, %",
    "entropy": "entropy, nats per token",
    "value_error": "error of the critic",
    "explained": "returns explained, %",
    "ratio_01": "1 % quantile of the ratio",
    "ratio_99": "99 % quantile of the ratio",
}


def ppo_curves(curve: pd.DataFrame, profile: str) -> Drawing:
    """What happens while PPO runs: one panel for each of `PPO_PANELS`, one line per method."""
    sheet = Sheet("What happens while PPO runs", profile, 2, 13.5, nrows=len(PPO_PANELS) // 2, sharex=True)
    for axis, (column, label) in zip(sheet.axes, PPO_PANELS.items(), strict=True):
        scale = 100 if label.endswith("%") else 1
        part = curve.assign(y=scale * curve[column].astype(float))[["method", "step", "y"]]
        part = part.groupby(["method", "step"], as_index=False).mean()
        _lines(sheet, axis, column, part, "step", "y", markevery=4, markersize=5, linewidth=1.4)
        axis.set_ylabel(label)
    for axis in sheet.axes[-2:]:
        axis.set_xlabel("step")
    sheet.legend(map(handle, style.measured_methods(curve, "accuracy")), columns=3)
    shown = "each point the mean over the responses of one step, and over the seeds"
    return sheet.finish(profile, _seeds(curve), interval=shown)


def actions(lines: pd.DataFrame, profile: str) -> Drawing:
    """A trace as PPO sees it: a bar per line (columns start, tokens, text, reward), along its tokens."""
    sheet = Sheet("One line of the trace is one action", profile, height=1.4 + 0.24 * len(lines))
    axis = sheet.axes[0]
    colours = [SHADES[i % 2] for i in range(len(lines))]
    axis.barh(range(len(lines)), lines["tokens"], left=lines["start"], color=colours)
    font: dict[str, Any] = {"fontsize": 8, "family": "monospace", "va": "center"}
    for i, row in enumerate(lines.itertuples()):
        text = row.text if len(row.text) <= 70 else f"{row.text[:67]}..."
        earned = f"   reward {row.reward:+g}" if row.reward else ""
        end = (row.start + row.tokens, i)
        axis.annotate(text + earned, end, (4, 0), textcoords="offset points", **font)
    last = (lines["start"] + lines["tokens"]).max()
    axis.set(yticks=[], xlabel="tokens of the response", xlim=(0, 1.9 * last))  # room for the text
    axis.invert_yaxis()
    sheet.record("actions", "line", "measured", lines["start"], lines["tokens"])
    return sheet.finish(profile, _seeds(lines), f"{len(lines)} actions", interval="")


def likelihood(table: pd.DataFrame, profile: str) -> Drawing:
    """Cross-entropy under the SoS model of successful self-generated, hinted and guided traces."""
    sheet = Sheet("How likely does the SoS model find each kind of trace?", profile, height=4.0)
    rows = _nats(table).set_index("kind").reindex(["self_generated", "guided", "hinted"])
    notes = rows["cross_entropy"].map("{:.3f}\n".format) + rows["traces"].map("{:.0f} traces".format)
    sheet.bars(sheet.axes[0], "likelihood", rows, "cross_entropy", notes)
    sheet.axes[0].set_ylabel(f"{NATS}\n(lower is likelier)")
    differ = "each kind comes from the problems that it solves; the claim compares problems that have both"
    return sheet.finish(profile, rows, differ)


def node_selection(table: pd.DataFrame, profile: str) -> Drawing:
    """Node selection: success after the guided rounds, beside the cross-entropy of the resulting traces."""
    sheet = Sheet("Which child to rewrite: success against likelihood", profile, 2, 4.2)
    rows = table.set_index("choose")
    sheet.bars(sheet.axes[0], "success", rows, "success", rows["success"].map("{:.1f}".format))
    nats = rows["cross_entropy"].map("{:.3f}".format)
    sheet.bars(sheet.axes[1], "likelihood", _nats(rows), "cross_entropy", nats)
    percent_axis(sheet.axes[0], "training problems solved, %", top=108)
    sheet.axes[1].set_ylabel(f"{NATS}\n(successful traces; lower is likelier)")
    for axis in sheet.axes:
        axis.set_xlabel("explored child that the rewrite takes")
    return sheet.finish(profile, table)


def trace_lengths(rows: pd.DataFrame, profile: str, group: str = "solver") -> Drawing:
    """Cumulative share of traces by length in tokens, one line per value of the column `group`."""
    sheet = Sheet(f"How long are the traces, by {group}?", profile)
    axis = sheet.axes[0]
    for i, (name, part) in enumerate(rows.groupby(group)):
        lengths, share = np.sort(part["tokens"]), 100 * np.arange(1, len(part) + 1) / len(part)
        solved = f", {100 * part['correct'].mean():.0f} % reach the goal" if "correct" in part else ""
        (line,) = axis.plot(lengths, share, drawstyle="steps-post", linewidth=2, color=SHADES[i % 7])
        line.set(linestyle=LINES[i % 4], label=f"{name}: {len(part)} traces{solved}")
        sheet.record("lengths", str(name), "measured", lengths, share)
    percent_axis(axis, "traces of at most this length, %")
    if rows["tokens"].max() > 4 * rows["tokens"].median():
        axis.set_xscale("log")
    axis.set_xlabel("tokens")
    sheet.legend(columns=2)
    return sheet.finish(profile, _seeds(rows), f"{len(rows)} traces", interval="")

"""The tables: per-example rows summarised with intervals, published numbers beside them.

Accuracies are in percent. `low` and `high` are the 95 % bootstrap interval over problems and seeds, `seed_sd`
is the standard deviation of the seeds' means, `truncated` the percentage of traces that the token budget cut
off. Test problems are the same for every seed, training problems are not. A table whose results are missing
keeps its published rows, with nothing measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from grlib.results import metrics
from grlib.results.rows import IMITATED, METHODS, SPLITS, STARTS, Results, published

TEST_SPLITS = ("seen", "unseen")
KS = (1, 2, 4, 8, 16, 32)
PROBLEM = ["method", "iteration", "split", "seed", "index"]
REPAIR_SPLITS = ("near", "far")  # new chains of steps; chains with pairs of steps never trained on
GAINS = ("gain", "gain_low", "gain_high")
SHARPENED = ("sos", "sos_ppo", "rest", "rest_ppo", "guided_rest", "guided_rest_ppo")  # before and after
BENCHMARKS = ("codecontests", "codeforces")  # of the paper's Table 3
ORDERS = {"method": METHODS, "split": (*SPLITS, *BENCHMARKS), "choose": ("first", "random", "last")}
ORDERS["kind"] = ("self_generated", "hinted", "guided")


# Which rows


def training_rows(results: Results, kind: str) -> pd.DataFrame:
    """Rows of training problems, renumbered: problem 3 of another seed is another problem.

    Except in code self-repair, where a number means the same problem in every seed.
    """
    rows = results.rows(kind)
    if kind == "repair_yield" or rows.empty:
        return rows
    return rows.assign(index=rows.groupby(["seed", "index"]).ngroup())


def test_rows(
    results: Results, kind: str = "eval", last: bool = True, methods: Sequence[str] = IMITATED
) -> pd.DataFrame:
    """Rows of test problems of the `methods`; with `last`, of each method's last iteration only.

    If some are reinforced methods, only the problems and seeds that these were tested on.
    """
    rows = results.rows(kind)
    rows = _comparable(rows[rows["split"].isin(TEST_SPLITS) & rows["method"].isin(list(methods))])
    return last_iteration(rows) if last else rows


def _comparable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the problems and seeds that all reinforced methods were tested on: other problems would
    shift the accuracy of the methods that they start from, but not theirs."""
    reinforced = rows[rows["method"].isin(list(STARTS))]
    if reinforced.empty:
        return rows
    key = ["split", "seed", "index"]
    tested = reinforced[["method", *key]].drop_duplicates().groupby(key, observed=True).size()
    shared = tested.index[tested == reinforced["method"].nunique()]
    return rows[pd.MultiIndex.from_frame(rows[key]).isin(shared)]


def last_iteration(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of each method's last iteration."""
    return rows[rows["iteration"] == rows.groupby("method")["iteration"].transform("max")]


# A score for every problem and seed


def solved_counts(rows: pd.DataFrame) -> pd.DataFrame:
    """Per problem: number of samples, number of correct ones, mean tokens; after the columns `PROBLEM`."""
    problems = rows.astype({"correct": bool}).groupby(PROBLEM, observed=True)
    columns = {"samples": ("correct", "size"), "correct": ("correct", "sum"), "tokens": ("tokens", "mean")}
    return problems.agg(**columns).reset_index()


def scores_of(counts: pd.DataFrame, ks: Sequence[int]) -> pd.DataFrame:
    """pass@k (0..1) of each problem, from `solved_counts`: the columns `PROBLEM`, then one column per k."""
    pairs, scores = list(zip(counts["samples"], counts["correct"], strict=True)), counts[PROBLEM].copy()
    for k in ks:
        known = {(n, c): metrics.pass_at_k(n, c, k) for n, c in set(pairs)}
        scores[k] = np.asarray([known[pair] for pair in pairs], dtype=float)
    return scores


def pass_scores(rows: pd.DataFrame, ks: Sequence[int]) -> pd.DataFrame:
    """pass@k (0..1) of each problem, from rows: the columns `PROBLEM`, then one column per k."""
    return scores_of(solved_counts(rows), ks)


def largest_ks(rows: pd.DataFrame, ks: Sequence[int] = KS) -> list[int]:
    """The ks that every problem has enough samples for."""
    samples = int(rows.groupby(PROBLEM, observed=True).size().min()) if len(rows) else max(ks)
    return [k for k in ks if k <= samples]


def problem_means(values: pd.DataFrame, rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean of each column of `values`, which has a line per row, over the rows of each problem: the columns
    `by`, seed, index, then those of `values`."""
    keys = [rows[key] for key in (*by, "seed", "index")]
    return values.astype(float).groupby(keys, observed=True).mean().reset_index()


def correct_shares(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Share of correct samples of each problem: the columns `by`, seed, index, correct."""
    return problem_means(rows[["correct"]], rows, [by])


def budget_shares(rows: pd.DataFrame, budgets: Sequence[int]) -> pd.DataFrame:
    """Share of correct samples within each token budget: `PROBLEM`, then one column per budget.

    A sample counts if it is correct and its whole response, end token included, is at most the budget (the
    authors' rule).
    """
    tokens = rows["tokens"].where(rows["correct"].astype(bool), -1)
    return shares_up_to(rows.assign(tokens=tokens), "tokens", 0, budgets, PROBLEM[:3])


def shares_up_to(
    rows: pd.DataFrame, column: str, first: int, numbers: Sequence[int], by: Sequence[str]
) -> pd.DataFrame:
    """Share of each problem's rows whose `column` lies between `first` and each number: `by`, seed, index,
    then one column per number."""
    values = rows[column].astype(int)
    reached = pd.DataFrame({number: values.between(first, number) for number in numbers})
    return problem_means(reached, rows, by)


# Groups of rows summarised


def cells(scores: pd.DataFrame, names: Sequence[object]) -> np.ndarray:
    """Columns of scores as (problems, seeds, names), nan where a seed did not have a problem."""
    wide = scores.pivot(index="index", columns="seed", values=list(names)).astype(float)
    return wide.to_numpy().reshape(len(wide), len(names), -1).swapaxes(1, 2)


def summarise(scores: pd.DataFrame, by: Sequence[str], names: Sequence[object], label: str) -> pd.DataFrame:
    """Means of scores (0..1) in percent, with intervals: a row for each group `by` and each score of `names`,
    whose name goes to the column `label`. With several seeds, the last columns hold the mean of each."""
    columns, rows = [*by, label, "measured", "low", "high", "seed_sd", "problems", "seeds"], []
    for key, group in scores.groupby(list(by), sort=False, observed=True):
        table = cells(group, names)
        by_seed = group.groupby("seed")[list(names)].mean()
        numbers = [*metrics.bootstrap_interval(table), by_seed.std(ddof=1)]
        for name, *values in zip(names, *(100 * np.asarray(column) for column in numbers), strict=True):
            row = dict(zip(columns, [*key, name, *values, len(table), len(by_seed)], strict=True))
            rows.append(row | _of_seeds(100 * by_seed[name]))
    return pd.DataFrame(rows, columns=None if rows else columns)


def _of_seeds(means: pd.Series, prefix: str = "") -> dict[str, float]:
    """The columns "seed 0", "seed 1", ... of a row; none if there is one seed."""
    return {f"{prefix}seed {seed}": mean for seed, mean in means.items() if len(means) > 1}


def cross_entropy(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Nats per token of each group: pooled over tokens, with its interval; and mean and median over traces,
    which a few long or very unlikely traces do not dominate."""
    columns = [by, "cross_entropy", "ce_low", "ce_high", "ce_seed_sd", "trace_mean", "trace_median", "traces"]
    columns, out = [*columns, "problems", "mean_tokens", "seeds"], []
    scored = rows[rows["nll"].notna() & (rows["nll_tokens"] > 0)]
    for key, group in scored.groupby(by, sort=False, observed=True):
        sums = group.groupby(["seed", "index"], as_index=False)[["nll", "nll_tokens"]].sum()
        interval = metrics.bootstrap_ratio(cells(sums, ["nll", "nll_tokens"]))
        by_seed = sums.groupby("seed")[["nll", "nll_tokens"]].sum()
        means, each = by_seed["nll"] / by_seed["nll_tokens"], group["nll"] / group["nll_tokens"]
        sizes = [len(group), sums["index"].nunique(), group["nll_tokens"].mean(), len(by_seed)]
        values = [key, *interval, means.std(ddof=1), each.mean(), each.median(), *sizes]
        out.append(dict(zip(columns, values, strict=True)) | _of_seeds(means, "ce_"))
    return pd.DataFrame(out, columns=None if out else columns)


def with_truncation(table: pd.DataFrame, rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The table with the fewest samples of a problem, percent cut off and mean tokens of each group."""
    numbers = rows.reindex(columns=[*by, "seed", "index", "truncated", "tokens"])
    numbers = numbers.astype({"truncated": float, "tokens": float})
    problems = numbers.groupby([*by, "seed", "index"], sort=False, observed=True)
    wanted = {
        "samples": ("tokens", "size"),
        "truncated": ("truncated", "mean"),
        "mean_tokens": ("tokens", "mean"),
    }
    means = {"samples": "min", "truncated": "mean", "mean_tokens": "mean"}
    found = problems.agg(**wanted).groupby(list(by), sort=False, observed=True).agg(means).reset_index()
    return table.merge(found.assign(truncated=100 * found["truncated"]), on=list(by), how="left")


def in_order(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Rows sorted by `by`; methods, splits and node choices in their usual order."""

    def place(column: pd.Series) -> pd.Series:
        return column.map(ORDERS[column.name].index) if column.name in ORDERS else column

    return table.sort_values(list(by), key=place, kind="stable").reset_index(drop=True)


# The tables


def success_by(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Share of correct samples, cross-entropy of successful traces and truncation, grouped by a column."""
    table = summarise(correct_shares(rows, by), [by], ["correct"], "what").drop(columns="what")
    likelihood = cross_entropy(rows[rows["correct"].astype(bool)], by)
    likelihood = likelihood.drop(columns=["problems", "mean_tokens", "seeds"])
    return with_truncation(table.merge(likelihood, on=by, how="left"), rows, [by])


def table1(results: Results) -> pd.DataFrame:
    """Accuracy and cross-entropy of the successful traces by number of optimal steps given (Table 1)."""
    paper = published("table1_hints").pivot(index="steps", columns="quantity", values="value")
    paper = paper.add_prefix("published_").rename_axis(columns=None).reset_index()
    measured = success_by(training_rows(results, "hints"), "steps").rename(columns={"measured": "accuracy"})
    return in_order(paper.merge(measured.astype({"steps": "int64"}), on="steps", how="outer"), ["steps"])


def table2(results: Results, ks: Sequence[int] = KS, methods: Sequence[str] = IMITATED) -> pd.DataFrame:
    """pass@k by method, split and k, last iteration of each method (Table 2).

    Each method up to the largest k that its samples allow.
    """
    table = _pass_table(test_rows(results, methods=methods), "table2_countdown", ks)
    return table[table["method"].isin(list(methods))].reset_index(drop=True)


def table3(results: Results) -> pd.DataFrame:
    """pass@k of code self-repair by method, split and k (Table 3).

    The paper's splits are two benchmarks, ours near and far problems: no row has both numbers.
    """
    return _pass_table(last_iteration(results.rows("repair")), "table3_code_repair", KS)


def _pass_table(rows: pd.DataFrame, paper: str, ks: Sequence[int]) -> pd.DataFrame:
    """pass@k beside the published table `paper`; each k of the problems with so many samples."""
    by, parts = ["method", "split"], []
    drawn = rows.groupby(PROBLEM, observed=True)["correct"].transform("size")
    for fewer, samples in pairwise((0, *(sorted(set(drawn)) or [max(ks)]))):
        enough, own = rows[drawn >= samples], [k for k in ks if fewer < k <= samples]
        if own:
            parts.append(with_truncation(summarise(pass_scores(enough, own), by, own, "k"), enough, by))
    measured = pd.concat(parts).astype({"k": "int64"})
    known = published(paper)[["method", "split", "k", "value"]].rename(columns={"value": "published"})
    table = known.merge(measured, on=["method", "split", "k"], how="outer")
    return in_order(table, ["split", "method", "k"])


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """Table 2 as in the paper: a row per method, a column per split and k, cells "published / measured"."""
    texts = table[["published", "measured"]].map(lambda value: "-" if pd.isna(value) else f"{value:.1f}")
    cells = table.assign(cell=texts["published"] + " / " + texts["measured"])
    wide = cells.pivot(index="method", columns=["split", "k"], values="cell").fillna("-")
    return wide.reindex([method for method in METHODS if method in wide.index])


def default_budgets(rows: pd.DataFrame, points: int = 8) -> list[int]:
    """0 and `points` equal steps up to the longest response, as the paper's 0, 512, ..., 4096."""
    longest = int(rows["tokens"].max()) if len(rows) else 4096
    step = max(1, -(-longest // points))
    return [step * i for i in range(points + 1)]


def budget_table(
    results: Results, budgets: Sequence[int] = (), kind: str = "eval", methods: Sequence[str] = IMITATED
) -> pd.DataFrame:
    """Accuracy against token budget by method and split (Figures 3 to 6); no published points exist.

    With `kind` "eval", sampled at temperature 1, a point is the expected accuracy of one sample; the paper
    decodes greedily ("greedy").
    """
    rows, by = test_rows(results, kind, methods=methods), ["method", "split"]
    budgets = list(budgets) or default_budgets(rows)
    table = with_truncation(summarise(budget_shares(rows, budgets), by, budgets, "budget"), rows, by)
    table = table.rename(columns={"samples": "greedy"} if kind == "greedy" else {})
    return in_order(table, ["split", "method", "budget"])


def pass_at_budgets(rows: pd.DataFrame, budgets: Sequence[int], ks: Sequence[int]) -> pd.DataFrame:
    """pass@k of one method and split at each budget: columns budget, k, mean, std (percent, bootstrap)."""
    parts = []
    for budget in budgets:
        within = rows.assign(correct=rows["correct"].astype(bool) & (rows["tokens"] <= budget))
        table = cells(pass_scores(within, ks), ks)
        spread, mean = metrics.resampled_means(table).std(axis=0), np.nanmean(table, axis=(0, 1))
        columns = {"budget": budget, "k": list(ks), "mean": 100 * mean, "std": 100 * spread}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def iteration_table(results: Results) -> pd.DataFrame:
    """pass@k of every stored iteration; each method starts from the SoS model, its iteration 0."""
    rows = test_rows(results, last=False)
    trained, start = rows[rows["iteration"] > 0], rows[rows["method"] == "sos"]
    methods = trained["method"].unique()
    rows = pd.concat([trained, *(start.assign(method=method, iteration=0) for method in methods)])
    ks, by = largest_ks(rows, (1, 4, 8, 32)), ["method", "iteration", "split"]
    table = with_truncation(summarise(pass_scores(rows, ks), by, ks, "k"), rows, by)
    return in_order(table, ["split", "k", "method", "iteration"])


def difficulty_table(results: Results, edges: Sequence[float] = (0, 0.05, 0.15)) -> pd.DataFrame:
    """pass@1 and pass@k of the self-trained methods by how often SoS solves a problem; both splits together.

    `group` 0 holds the problems that no sample of SoS solves; in group i it solves them with a share of its
    samples above edges[i - 1], at most edges[i]. SoS itself is left out: its samples define the groups.
    """
    rows = test_rows(results)
    groups = correct_shares(rows[rows["method"] == "sos"], "split")
    groups["group"] = np.searchsorted(np.asarray(edges), groups.pop("correct"), side="left")
    rows = rows[rows["method"].isin(["rest", "rest_matched", "guided_rest"])]
    table = _by_group(rows.merge(groups, on=["split", "seed", "index"]), "group")
    names = ["none", *(f"up to {100 * edge:g} %" for edge in edges[1:]), f"over {100 * edges[-1]:g} %"]
    return table.assign(solved_by_sos=table["group"].map(dict(enumerate(names))))


def _by_group(rows: pd.DataFrame, group: str) -> pd.DataFrame:
    """pass@1 and pass@k by method and a column that groups the problems; all splits together."""
    by = ["method", group]
    # the splits number their problems alike
    rows = rows.assign(index=rows.groupby(["split", "index"]).ngroup())
    ks = sorted({1, *largest_ks(rows)[-1:]})
    known = rows[["seed", "index", group]].drop_duplicates()
    scores = pass_scores(rows, ks).merge(known, on=["seed", "index"])
    return in_order(with_truncation(summarise(scores, by, ks, "k"), rows, by), ["k", *by])


def greedy_table(results: Results) -> pd.DataFrame:
    """Greedy accuracy in percent at the full budget, by split and method; `gain` is what a reinforced method
    adds to the model that it starts from, in points, paired by problem."""
    rows, by = test_rows(results, "greedy", methods=METHODS), ["method", "split"]
    scores = pass_scores(rows, [1])
    table = with_truncation(summarise(scores, by, [1], "k").drop(columns="k"), rows, by)
    wide = scores.pivot(index=["split", "seed", "index"], columns="method", values=1).reindex(columns=METHODS)
    gains = {method: wide[method] - wide[start] for method, start in STARTS.items()}
    paired = pd.concat(gains, names=["method"]).dropna().reset_index(name=1)
    gained = summarise(paired, by, [1], "k")[[*by, "measured", "low", "high"]]
    gained = gained.set_axis([*by, *GAINS], axis=1).astype(dict.fromkeys(GAINS, float))
    return in_order(table.merge(gained, on=by, how="left"), ["split", "method"])


NO_GOAL = "no goal line"  # the verdict of `traces.grade` on a search that claims no goal
ENDINGS = ("right", "false_goal", "cut_off", "gave_up")


def ending_table(results: Results, methods: Sequence[str] = IMITATED) -> pd.DataFrame:
    """How samples end, in percent, by method, split and ending: right, false goal (a goal line after wrong
    arithmetic or an unavailable number), given up, cut off by the budget; together 100."""
    rows, by = test_rows(results, methods=methods), ["method", "split"]
    first = [rows["correct"].astype(bool), rows["reason"].ne(NO_GOAL), rows["truncated"].astype(bool)]
    ending = np.select(first, ENDINGS[:3], ENDINGS[3])
    ends = pd.DataFrame({name: ending == name for name in ENDINGS}, index=rows.index)
    table = summarise(problem_means(ends, rows, by), by, ENDINGS, "ending")
    return in_order(table, ["split", "method", "ending"])


def answer_table(results: Results) -> pd.DataFrame:
    """Percent of the episodes of code self-repair that are right after at most 1 to 4 answers."""
    rows, by, numbers = last_iteration(results.rows("repair")), ["method", "split"], [1, 2, 3, 4]
    shares = shares_up_to(rows, "right_answer", 1, numbers, by)
    table = with_truncation(summarise(shares, by, numbers, "answer"), rows, by)
    return in_order(table, ["split", "method", "answer"])


def unread_table(results: Results) -> pd.DataFrame:
    """pass@1 and pass@k of code self-repair by how many steps of a problem are told in words that the base
    never read; near and far problems together."""
    rows = last_iteration(results.rows("repair"))
    return _by_group(rows[rows["split"].isin(REPAIR_SPLITS)], "unread")


def copy_table(results: Results) -> pd.DataFrame:
    """Do the training episodes that a method keeps copy the reference program, or repair?

    By method and by whether the model was shown the reference (guided). `copied` is the percentage whose last
    program equals the reference; `like_reference` and `like_before` are the mean shares of equal lines (0..1)
    with the reference and with the previous answer.
    """
    rows = training_rows(results, "repair_yield")
    kept = rows[rows["round_solved"] >= 0].assign(guided=rows["round_solved"] > 0)
    out = []
    for (method, guided), part in kept.groupby(["method", "guided"]):
        sums = part.astype({"copied": float}).groupby(["seed", "index"])["copied"].agg(["sum", "size"])
        copied = 100 * np.asarray(metrics.bootstrap_ratio(cells(sums.reset_index(), ["sum", "size"])))
        likeness = [part[name].mean() for name in ("like_reference", "like_before")]
        out.append([method, guided, *copied, *likeness, len(part), part["index"].nunique()])
    columns = ["method", "guided", "copied", "low", "high", "like_reference", "like_before", "episodes"]
    return in_order(pd.DataFrame(out, columns=[*columns, "problems"]), ["method", "guided"])


def yield_table(results: Results, kind: str = "yield") -> pd.DataFrame:
    """Share of training problems that each method and iteration solves by guided round 0 (none), 1, 2, ...

    `measured` counts what is solved in that round or before: what becomes training data. For code self-repair
    (`kind` "repair_yield") it is the share of episodes.
    """
    rows, by = training_rows(results, kind), ["method", "iteration"]
    last = rows.groupby("method")["round_solved"].max().clip(lower=0)
    rounds = list(range(max(last, default=0) + 1))
    shares = shares_up_to(rows, "round_solved", 0, rounds, by)
    table = summarise(shares, by, rounds, "round")
    table = table[table["round"] <= table["method"].map(last)]  # ReST has no guided rounds
    return in_order(with_truncation(table, rows, by), [*by, "round"])


def likelihood_table(results: Results) -> pd.DataFrame:
    """Cross-entropy under the SoS model of successful self-generated, hinted and guided traces."""
    return cross_entropy(training_rows(results, "likelihood"), "kind")


def selection_table(results: Results) -> pd.DataFrame:
    """Node selection first / random / last: success after the guided rounds, likelihood of the traces."""
    rows = training_rows(results, "selection")
    means = rows[rows["correct"].astype(bool)].groupby("choose")[["round", "tokens"]].mean().reset_index()
    means = means.rename(columns={"round": "mean_rounds", "tokens": "mean_tokens"})
    table = success_by(rows, "choose").drop(columns="mean_tokens").rename(columns={"measured": "success"})
    return in_order(table.merge(means, on="choose", how="left"), ["choose"])


def selection_rounds(rows: pd.DataFrame) -> pd.DataFrame:
    """Share of training problems that each node choice (`method`) solves by guided round 0, 1, 2, ..."""
    rounds = list(range(int(rows["round"].max()) + 1)) if len(rows) else [0]
    solved = rows.assign(method=rows["choose"], round=rows["round"].where(rows["correct"].astype(bool), -1))
    return summarise(shares_up_to(solved, "round", 0, rounds, ["method"]), ["method"], rounds, "round")


def token_table(
    results: Results,
    method: str = "guided_rest",
    reference: str = "rest",
    shares: Sequence[float] = (0.25, 0.5, 0.75, 0.9),
    points: int = 64,
    kind: str = "eval",
    splits: Sequence[str] = TEST_SPLITS,
) -> pd.DataFrame:
    """Tokens that two methods need for equal accuracy, and their ratio (the paper's 2x claim, Figure 3).

    The levels are `shares` of the lower of the two final accuracies, computed again in each resample; the row
    with share nan is the geometric mean of the others. `ratio` is reference / method tokens, 2 for half the
    tokens; its interval is paired by problem and seed.
    """
    rows = test_rows(results, kind, methods=(method, reference))
    budgets, out = default_budgets(rows, points), []
    for split in splits:
        parts = [rows[(rows["method"] == name) & (rows["split"] == split)] for name in (method, reference)]
        scores = [budget_shares(part, budgets).set_index(["seed", "index"])[budgets] for part in parts]
        shared = scores[0].index.intersection(scores[1].index)
        if shared.empty:
            continue
        pair = [cells(score.loc[shared].reset_index(), budgets) for score in scores]
        curves = [np.nanmean(table, axis=(0, 1)) for table in pair]
        found = _ratios(budgets, [curve[None] for curve in curves], shares)[0]
        drawn = _ratios(budgets, [metrics.resampled_means(table) for table in pair], shares)
        by_seed = _ratios(budgets, [np.nanmean(table, axis=0) for table in pair], shares)
        cut = [100 * part["truncated"].astype(float).mean() for part in parts]
        for i, share in enumerate([*shares, np.nan]):
            level = share * min(curve[-1] for curve in curves)
            needed = [float(metrics.tokens_at_accuracy(budgets, curve, level)) for curve in curves]
            needed = needed if level > 0 else [np.nan, np.nan]
            interval = metrics.interval_of(found[i], drawn[:, i])
            sizes = [pd.Series(by_seed[:, i]).std(ddof=1), *pair[0].shape[:2]]
            out.append([split, method, reference, share, 100 * level, *needed, *cut, *interval, *sizes])
    columns = ["split", "method", "reference", "share", "accuracy", "tokens", "reference_tokens", "truncated"]
    columns += ["reference_truncated", "ratio", "low", "high", "seed_sd", "problems", "seeds"]
    return pd.DataFrame(out, columns=columns)


def _ratios(budgets: Sequence[int], pair: Sequence[np.ndarray], shares: Sequence[float]) -> np.ndarray:
    """Token ratios of a pair of curves (draws, budgets) at each share, and last their geometric mean."""
    found = np.column_stack([metrics.token_ratio(budgets, pair[0], pair[1], share) for share in shares])
    return np.column_stack([found, np.exp(np.log(found).mean(axis=1))])

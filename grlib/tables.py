"""The tables: per-example rows summarised with intervals, published numbers beside them.

Accuracies are in percent. `low` and `high` are the 95 % bootstrap interval over problems (each problem's
score averaged over seeds first), `seed_sd` is the standard deviation of the seeds' means. A table whose
results are missing keeps its published rows, unmeasured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from grlib import metrics
from grlib.results import METHODS, SPLITS, Results, published

TEST_SPLITS = ("seen", "unseen")
KS = (1, 2, 4, 8, 16, 32)
PROBLEM = ["method", "iteration", "split", "seed", "index"]


def last_iteration(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of each method's last iteration."""
    if rows.empty:
        return rows
    return rows[rows["iteration"] == rows.groupby("method")["iteration"].transform("max")]


def largest_ks(rows: pd.DataFrame, ks: Sequence[int] = KS) -> list[int]:
    """The ks that every problem has enough samples for."""
    samples = int(rows.groupby(PROBLEM, observed=True).size().min()) if len(rows) else max(ks)
    return [k for k in ks if k <= samples]


def pass_scores(rows: pd.DataFrame, ks: Sequence[int]) -> pd.DataFrame:
    """pass@k (0..1) of each problem: the columns of `PROBLEM`, then one column a k."""
    counts = rows.astype({"correct": bool}).groupby(PROBLEM, observed=True)["correct"].agg(["size", "sum"])
    pairs = list(zip(counts["size"], counts["sum"], strict=True))
    for k in ks:
        known = {(n, c): metrics.pass_at_k(n, c, k) for n, c in set(pairs)}
        counts[k] = np.asarray([known[pair] for pair in pairs], dtype=float)
    return counts.drop(columns=["size", "sum"]).reset_index()


def budget_shares(rows: pd.DataFrame, budgets: Sequence[int]) -> pd.DataFrame:
    """Share of samples correct within each token budget, per problem: `PROBLEM`, then one column a budget."""
    within = pd.DataFrame({b: rows["correct"].astype(bool) & (rows["tokens"] <= b) for b in budgets})
    return within.groupby([rows[key] for key in PROBLEM], observed=True).mean().reset_index()


def over_seeds(scores: pd.DataFrame, names: Sequence[object]) -> pd.DataFrame:
    """Each problem's score averaged over seeds, indexed by problem number."""
    return scores.groupby("index", observed=True)[list(names)].mean()


def summarise(
    scores: pd.DataFrame, by: Sequence[str], names: Sequence[object], label: str, scale: float = 100.0
) -> pd.DataFrame:
    """Means with intervals, long: columns `by`, `label` (the score's name), measured, low, high, ..."""
    rows = []
    for key, group in scores.groupby(list(by), sort=False, observed=True):
        problems = over_seeds(group, names)
        means, low, high = map(np.atleast_1d, metrics.bootstrap_interval(problems.to_numpy()))
        by_seed = group.groupby("seed")[list(names)].mean()
        spread = by_seed.std(ddof=1)
        for i, name in enumerate(names):
            numbers = {"measured": means[i], "low": low[i], "high": high[i], "seed_sd": spread[name]}
            numbers = {column: scale * value for column, value in numbers.items()}
            head = dict(zip(by, key, strict=True)) | {label: name}
            rows.append(head | numbers | {"problems": len(problems), "seeds": len(by_seed)})
    columns = [*by, label, "measured", "low", "high", "seed_sd", "problems", "seeds"]
    return pd.DataFrame(rows, columns=columns)


def cross_entropy(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Nats a token of each group, all tokens weighing the same, with the interval over problems."""
    out = []
    scored = rows[rows["nll"].notna() & (rows["nll_tokens"] > 0)]
    for key, group in scored.groupby(list(by), sort=False, observed=True):
        sums = group.groupby("index")[["nll", "nll_tokens"]].sum()
        value, low, high = metrics.bootstrap_ratio(sums["nll"], sums["nll_tokens"])
        head = dict(zip(by, key, strict=True))
        sizes = {"traces": len(group), "problems": len(sums), "mean_tokens": group["nll_tokens"].mean()}
        sizes["seeds"] = group["seed"].nunique() if "seed" in group else 1
        out.append(head | {"cross_entropy": value, "ce_low": low, "ce_high": high} | sizes)
    columns = [*by, "cross_entropy", "ce_low", "ce_high", "traces", "problems", "mean_tokens", "seeds"]
    return pd.DataFrame(out, columns=columns)


def truncation(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Samples a problem, percent cut off by the token limit and mean tokens of each group."""
    columns = [*by, "samples", "truncated", "mean_tokens"]
    if rows.empty:
        return pd.DataFrame(columns=columns)
    groups = rows.groupby(list(by), sort=False, observed=True)
    each = rows[[*by, "index", "seed"]].drop_duplicates()
    problems = each.groupby(list(by), sort=False, observed=True).size()
    table = pd.DataFrame(
        {"samples": groups.size() // problems, "truncated": 100 * groups["truncated"].mean()}
    )
    return table.assign(mean_tokens=groups["tokens"].mean()).reset_index()[columns]


def in_order(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Rows sorted by `by`, methods and splits in their usual order."""
    orders = {"method": METHODS, "split": SPLITS}

    def place(column: pd.Series) -> pd.Series:
        order = orders.get(str(column.name))
        return column.map({name: i for i, name in enumerate(order)}) if order else column

    return table.sort_values(list(by), key=place, kind="stable").reset_index(drop=True)


def _test_rows(results: Results, kind: str = "eval") -> pd.DataFrame:
    rows = results.rows(kind)
    return rows[rows["split"].isin(TEST_SPLITS)]


def table1(results: Results) -> pd.DataFrame:
    """Accuracy and cross-entropy of the successful traces by number of optimal steps given (Table 1)."""
    paper = published("table1_hints").pivot(index="steps", columns="quantity", values="value")
    paper = paper.rename(columns=lambda name: f"published_{name}").rename_axis(columns=None).reset_index()
    rows = results.rows("hints")
    shares = hint_scores(rows)
    accuracy = summarise(shares, ["steps"], ["accuracy"], "what").drop(columns="what")
    accuracy = accuracy.rename(columns={"measured": "accuracy"})
    likelihood = cross_entropy(rows[rows["correct"].astype(bool)], ["steps"])[
        ["steps", "cross_entropy", "ce_low", "ce_high", "traces"]
    ]
    cut = truncation(rows, ["steps"])
    table = paper
    for part in (accuracy, likelihood, cut):
        table = table.merge(part.astype({"steps": "int64"}), on="steps", how="outer")
    return in_order(table, ["steps"])


def hint_scores(rows: pd.DataFrame) -> pd.DataFrame:
    """Share of correct samples by steps given, seed and problem."""
    accuracy = rows["correct"].astype(float).groupby([rows[key] for key in ("steps", "seed", "index")]).mean()
    return accuracy.rename("accuracy").reset_index()


def table2(results: Results, ks: Sequence[int] = KS) -> pd.DataFrame:
    """pass@k by method, split and k, last iteration of each method, with truncation shares (Table 2)."""
    rows = last_iteration(_test_rows(results))
    ks = largest_ks(rows, ks)
    measured = summarise(pass_scores(rows, ks), ["method", "split"], ks, "k")
    measured = measured.merge(truncation(rows, ["method", "split"]), on=["method", "split"], how="left")
    paper = published("table2_countdown")[["method", "split", "k", "value"]].rename(
        columns={"value": "published"}
    )
    table = paper.merge(measured.astype({"k": "int64"}), on=["method", "split", "k"], how="outer")
    return in_order(table, ["split", "method", "k"])


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """Table 2 as the paper prints it: one row a method, one column a split and k, 'published / measured'."""

    def cell(row: pd.Series) -> str:
        return " / ".join(
            "-" if pd.isna(value) else f"{value:.1f}" for value in (row["published"], row["measured"])
        )

    cells = table.assign(cell=table.apply(cell, axis=1))
    wide = cells.pivot(index="method", columns=["split", "k"], values="cell").fillna("-")
    return wide.reindex([method for method in METHODS if method in wide.index])


def default_budgets(rows: pd.DataFrame, points: int = 8) -> list[int]:
    """0 and `points` equal steps up to the longest response, as the paper's 0, 512, ..., 4096."""
    longest = int(rows["tokens"].max()) if len(rows) else 4096
    step = max(1, -(-longest // points))
    return [step * i for i in range(points + 1)]


def budget_table(results: Results, budgets: Sequence[int] = (), kind: str = "eval") -> pd.DataFrame:
    """Accuracy against token budget by method and split (Figures 3 and 4); no published points exist.

    Rows of `kind` "eval" are sampled at temperature 1, so a point is the expected accuracy of one sample; the
    paper decodes greedily (kind "greedy").
    """
    rows = last_iteration(_test_rows(results, kind))
    budgets = list(budgets) or default_budgets(rows)
    table = summarise(budget_shares(rows, budgets), ["method", "split"], budgets, "budget")
    return in_order(table, ["split", "method", "budget"])


def pass_at_budgets(rows: pd.DataFrame, budgets: Sequence[int], ks: Sequence[int]) -> pd.DataFrame:
    """pass@k of one method and split at each budget: columns budget, k, mean, std (percent, bootstrap)."""
    parts = []
    for budget in budgets:
        within = rows.assign(correct=rows["correct"].astype(bool) & (rows["tokens"] <= budget))
        problems = over_seeds(pass_scores(within, ks), ks).to_numpy()
        spread = metrics.resampled_means(problems).std(axis=0)
        columns = {"budget": budget, "k": list(ks), "mean": 100 * problems.mean(axis=0), "std": 100 * spread}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def iteration_table(results: Results, ks: Sequence[int] = (1, 8, 32)) -> pd.DataFrame:
    """pass@k of every stored iteration; each method starts from the SoS model, its iteration 0."""
    rows = _test_rows(results)
    start = rows[rows["method"] == "sos"]
    trained = rows[rows["iteration"] > 0]
    found = set(trained["method"].unique())
    later = [method for method in METHODS if method in found]
    rows = pd.concat([trained, *(start.assign(method=m, iteration=0) for m in later)])
    ks = largest_ks(rows, ks)
    by = ["method", "iteration", "split"]
    table = summarise(pass_scores(rows, ks), by, ks, "k").merge(truncation(rows, by), on=by, how="left")
    return in_order(table, ["split", "k", "method", "iteration"])


def yield_table(results: Results) -> pd.DataFrame:
    """Share of training problems solved by each method and iteration after guided round 0 (none), 1, 2, ...

    `measured` is cumulative: what is solved in that round or before, so what becomes training data.
    """
    rows = results.rows("yield")
    parts = []
    for (method, iteration), group in rows.groupby(["method", "iteration"], observed=True):
        rounds = list(range(int(group["round_solved"].max()) + 1)) or [0]
        solved = pd.DataFrame({r: group["round_solved"].between(0, r) for r in rounds})
        scores = solved.groupby([group["seed"], group["index"]]).mean().reset_index()
        scores = scores.assign(method=method, iteration=iteration)
        parts.append(summarise(scores, ["method", "iteration"], rounds, "round"))
    table = pd.concat(parts) if parts else summarise(rows, ["method", "iteration"], [], "round")
    return in_order(table, ["method", "iteration", "round"])


def likelihood_table(results: Results) -> pd.DataFrame:
    """Cross-entropy under the SoS model of successful self-generated, hinted and guided traces."""
    return cross_entropy(results.rows("likelihood"), ["kind"])


def selection_table(results: Results) -> pd.DataFrame:
    """Node selection first / random / last: success after the guided rounds, likelihood of the traces."""
    rows = results.rows("selection")
    correct = rows["correct"].astype(float).groupby([rows[key] for key in ("choose", "seed", "index")]).mean()
    success = summarise(correct.rename("success").reset_index(), ["choose"], ["success"], "what").drop(
        columns="what"
    )
    good = rows[rows["correct"].astype(bool)]
    table = success.rename(columns={"measured": "success"}).merge(
        cross_entropy(good, ["choose"])[["choose", "cross_entropy", "ce_low", "ce_high"]],
        on="choose",
        how="left",
    )
    rounds = good.groupby("choose")[["round", "tokens"]].mean()
    table = table.merge(
        rounds.rename(columns={"round": "mean_rounds", "tokens": "mean_tokens"}), on="choose", how="left"
    )
    order = {"first": 0, "random": 1, "last": 2}
    return table.sort_values("choose", key=lambda column: column.map(order)).reset_index(drop=True)


def token_table(
    results: Results,
    method: str = "guided_rest",
    reference: str = "rest",
    shares: Sequence[float] = (0.25, 0.5, 0.75, 0.9),
    points: int = 64,
    kind: str = "eval",
) -> pd.DataFrame:
    """Tokens each of two methods needs for equal accuracy, and their ratio (the paper's 2x claim, Figure 3).

    Levels are `shares` of the lower of the two final accuracies. `ratio` is reference / method tokens, 2 for
    half the tokens; its interval is paired by problem.
    """
    rows = last_iteration(_test_rows(results, kind))
    budgets = default_budgets(rows, points)
    out = []
    for split in TEST_SPLITS:
        pair = [rows[(rows["method"] == m) & (rows["split"] == split)] for m in (method, reference)]
        scores = [over_seeds(budget_shares(part, budgets), budgets) for part in pair]
        shared = scores[0].index.intersection(scores[1].index)
        if shared.empty:
            continue
        ours, theirs = (score.loc[shared].to_numpy() for score in scores)
        ends = min(ours[:, -1].mean(), theirs[:, -1].mean())
        draws = list(zip(metrics.resampled_means(ours), metrics.resampled_means(theirs), strict=True))
        for share in shares:  # where a method solves nothing, the ratio is not a number
            level = share * ends
            ratios = np.array([metrics.token_ratio(budgets, a, b, level) for a, b in draws])
            ratio = metrics.token_ratio(budgets, ours.mean(axis=0), theirs.mean(axis=0), level)
            low, high = metrics.interval_of(ratio, ratios)[1:]
            needed = [
                metrics.tokens_at_accuracy(budgets, score.mean(axis=0), level) for score in (ours, theirs)
            ]
            head = {"split": split, "method": method, "reference": reference, "accuracy": 100 * level}
            tokens = {"tokens": needed[0], "reference_tokens": needed[1]}
            out.append(head | tokens | {"ratio": ratio, "low": low, "high": high, "problems": len(shared)})
    head_columns = ["split", "method", "reference", "accuracy", "tokens", "reference_tokens"]
    return pd.DataFrame(out, columns=[*head_columns, "ratio", "low", "high", "problems"])

"""The status of every published claim, computed from stored results.

A claim is 'reproduced' when its rule holds (usually: the 95 % paired bootstrap interval of a difference lies
above 0), 'not at this scale' when it was measured and the rule fails, 'not run' when its inputs are missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from grlib import metrics, tables
from grlib.results import Results, published

REPRODUCED, NOT_AT_THIS_SCALE, NOT_RUN = "reproduced", "not at this scale", "not run"
STATUS = {True: REPRODUCED, False: NOT_AT_THIS_SCALE, None: NOT_RUN}
NO_GAIN_POINTS = 2.0
BOUNDS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "above": ("above 0", lambda low, high: low > 0),
    "below": ("below 0", lambda low, high: high < 0),
    "no gain": (f"ends below +{NO_GAIN_POINTS:g} points", lambda low, high: high < NO_GAIN_POINTS),
    "87": ("at or above 87", lambda low, high: low >= 87),
}
COLUMNS = ["claim", "split", "statement", "published", "measured", "low", "high", "seed_sd", "unit"]
COLUMNS += ["problems", "seeds", "rule", "status", "source", "note"]

Found = dict[str, Any]  # rule; when measured also measured, low, high, seed_sd, problems, seeds, holds
Rule = Callable[[Results, str], Found]  # of a split, '' for a claim about training problems


def claims(results: Results) -> pd.DataFrame:
    """One row a claim and split: published, measured with interval, the rule used and the status it gives."""
    rows = []
    for claim in published("claims").to_dict("records"):
        name = claim["claim"]
        for split in splits_of(name):
            found = {"published": claim["value"], "problems": 0, "seeds": 0} | RULES[name](results, split)
            rows.append(claim | found | {"split": split, "status": STATUS[found.get("holds")]})
    return pd.DataFrame(rows, columns=COLUMNS)


def splits_of(claim: str) -> tuple[str, ...]:
    """The test splits that a claim is about; '' for one about training problems."""
    if claim in WHOLE:
        return ("",)
    return tables.REPAIR_SPLITS if claim in REPAIR else tables.TEST_SPLITS


def _judged(values: pd.DataFrame, test: str = "above") -> Found:
    """Mean of the values (problems by seeds), its interval over problems, and whether it passes the test."""
    values = values.dropna(how="all").dropna(how="all", axis=1)
    if values.empty:
        return {}
    interval = metrics.bootstrap_interval(values.mean(axis=1))
    return _finding(interval, values.mean(), len(values)) | {"holds": BOUNDS[test][1](*interval[1:])}


def _finding(interval: metrics.Interval, by_seed: pd.Series, problems: int) -> Found:
    found = dict(zip(("measured", "low", "high"), interval, strict=True))
    return found | {"seed_sd": by_seed.std(ddof=1), "problems": problems, "seeds": len(by_seed)}


def _percent(scores: pd.DataFrame, name: object = "correct", **where: object) -> pd.DataFrame:
    """Column `name` of the scores where the columns equal the values, in percent: problems by seeds."""
    for column, value in where.items():
        scores = scores[scores[column] == value]
    return 100 * scores.pivot(index="index", columns="seed", values=name).astype(float)


def _combination(formula: str, test: str = "above", greedy: bool = False, repair: bool = False) -> Rule:
    """The signed sum of pass@k values (method@k), paired by problem, has an interval that passes the test.

    Where fewer samples were drawn than the claim's k, the largest k measured takes its place.
    """

    def judge(results: Results, split: str) -> Found:
        kind = "greedy" if greedy and len(results.rows("greedy")) else "eval"
        methods = [method for _, method, _ in _terms(formula)]
        rows = tables.repair_rows(results) if repair else tables.test_rows(results, kind, methods=methods)
        rows = rows[rows["method"].isin(methods)]
        largest = max(tables.largest_ks(rows), default=1)
        used = re.sub(r"@(\d+)", lambda k: f"@{min(int(k[1]), largest)}", formula)
        terms, asked = _terms(used), {k for *_, k in _terms(formula)}
        paired = "paired " if len(terms) > 1 else ""
        scores = tables.pass_scores(rows, sorted({k for *_, k in terms}))
        values = sum(sign * _percent(scores, k, method=method, split=split) for sign, method, k in terms)
        found = {} if len(asked) > 1 and largest == 1 else _judged(values, test)
        rule = f"95 % {paired}bootstrap interval of {used} {BOUNDS[test][0]}"
        paper = _published_least(formula) if repair else _published_sum(formula, split)
        return {"rule": rule} | paper | found

    return judge


def _terms(formula: str) -> list[tuple[int, str, int]]:
    """Sign, method and k of each term."""
    found = re.findall(r"([-+]?) ?(\w+)@(\d+)", formula)
    return [(-1 if sign == "-" else 1, method, int(k)) for sign, method, k in found]


def _published_least(formula: str) -> Found:
    """The smaller of what the paper's two benchmarks of code self-repair give."""
    return min(
        (_published_sum(formula, benchmark, "table3_code_repair") for benchmark in tables.BENCHMARKS),
        key=lambda found: found["published"],
    )


def _published_sum(formula: str, split: str, table: str = "table2_countdown") -> Found:
    paper = published(table).set_index(["method", "split", "k"])["value"]
    values = [sign * paper.get((method, split, k), math.nan) for sign, method, k in _terms(formula)]
    return {} if np.isnan(values).any() else {"published": round(sum(values), 2)}


def _published_hints(quantity: str, digits: int) -> Found:
    paper = published("table1_hints").query("quantity == @quantity").set_index("steps")["value"]
    return {"published": round(paper[2] - paper[0], digits)}


def _hints_accuracy(results: Results, split: str) -> Found:
    shares = tables.correct_shares(tables.training_rows(results, "hints"), "steps")
    by_steps = {steps: _percent(shares, steps=steps) for steps in sorted(shares["steps"].unique())}
    rule = "95 % paired bootstrap interval of every further step's gain above 0; the value is 2 steps less 0"
    found = {"rule": rule} | _published_hints("accuracy", 2)
    if len(by_steps) < 2:
        return found
    columns = list(by_steps.values())
    gains = [_judged(after - before) for before, after in zip(columns, columns[1:], strict=False)]
    measured = _judged(columns[min(2, len(columns) - 1)] - columns[0])
    return found | measured | {"holds": all(gain.get("holds") for gain in gains)}


def _surprise(rows: pd.DataFrame, column: str, a: object, b: object) -> Found:
    """Nats a token of the successful traces with `column` a less those with b, resampling problems."""
    rows = rows[rows["nll"].notna() & (rows["nll_tokens"] > 0)]
    rows = rows[rows["correct"].astype(bool)] if "correct" in rows else rows
    sums = rows.groupby([column, "seed", "index"])[["nll", "nll_tokens"]].sum()
    if not {a, b} <= set(sums.index.unique(0)):
        return {}
    pair = pd.concat([sums.loc[a], sums.loc[b]], axis=1).fillna(0.0).astype(float)

    def nats(table: Any) -> metrics.Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray([n / t - m / u for n, t, m, u in np.atleast_2d(table)])

    interval = metrics.interval_of(nats(pair.sum())[0], nats(metrics.resampled_means(pair)))
    by_seed = pd.Series(nats(pair.groupby("seed").sum()))
    return _finding(interval, by_seed, len(pair)) | {"holds": interval.low > 0}


def _likelier(kind: str, column: str, a: object, b: object) -> Rule:
    """Cross-entropy of successful traces with `column` a exceeds that with b."""
    what = f"cross-entropy ({column} {a}) - ({column} {b})"
    rule = f"95 % bootstrap interval of {what} above 0, successful traces"

    def judge(results: Results, split: str) -> Found:
        paper = _published_hints("cross_entropy", 4) if kind == "hints" else {}
        return {"rule": rule} | paper | _surprise(tables.training_rows(results, kind), column, a, b)

    return judge


def _yield(results: Results, split: str) -> Found:
    what = "guided_rest - rest solved training problems, iteration 1"
    rows = tables.training_rows(results, "yield")
    rows = rows[rows["iteration"] == 1].assign(correct=rows["round_solved"] >= 0)
    shares = tables.correct_shares(rows, "method")
    gain = _percent(shares, method="guided_rest") - _percent(shares, method="rest")
    return {"rule": f"95 % paired bootstrap interval of {what}, above 0"} | _judged(gain)


def _node_choice(results: Results, split: str) -> Found:
    rule = "first - last: intervals of success and of cross-entropy both exclude 0 and have the same sign"
    rows = tables.training_rows(results, "selection")
    shares = tables.correct_shares(rows, "choose")
    success = _judged(_percent(shares, choose="first") - _percent(shares, choose="last"))
    surprise = _surprise(rows, "choose", "first", "last")
    if not success or not surprise:
        return {"rule": rule}
    rise = success["low"] > 0 and surprise["low"] > 0
    fall = success["high"] < 0 and surprise["high"] < 0
    return {"rule": rule} | success | {"holds": rise or fall}


def _tokens(method: str, reference: str, at_least: float) -> Rule:
    """At 90 % of the weaker method's accuracy, `reference` needs `at_least` times the tokens."""
    point = f" and the ratio at least {at_least:g}" if at_least > 1 else ""
    rule = f"95 % interval of tokens({reference}) / tokens({method}) at equal accuracy above 1{point}"

    def judge(results: Results, split: str) -> Found:
        kind = "greedy" if len(results.rows("greedy")) else "eval"
        table = tables.token_table(results, method, reference, shares=(0.9,), kind=kind)
        found: Found = {"rule": rule}
        for row in table[(table["split"] == split) & table["ratio"].notna()].to_dict("records"):
            found |= {name: row[name] for name in ("low", "high", "seed_sd", "problems", "seeds")}
            found |= {"measured": row["ratio"], "holds": row["low"] > 1 and row["ratio"] >= at_least}
        return found

    return judge


WHOLE: dict[str, Rule] = {
    "hints_accuracy": _hints_accuracy,
    "hints_cross_entropy": _likelier("hints", "steps", 2, 0),
    "guided_yield": _yield,
    "guided_likelier": _likelier("likelihood", "kind", "hinted", "guided"),
    "node_choice_trades": _node_choice,
}
BY_SPLIT: dict[str, Rule] = {
    "sos_above_bc": _combination("sos@1 - bc@1"),
    "rest_above_sos": _combination("rest@1 - sos@1"),
    "guided_above_rest": _combination("guided_rest@32 - rest@32"),
    "gap_grows": _combination("guided_rest@8 - rest@8 - guided_rest@1 + rest@1"),
    "rest_fades": _combination("rest@32 - sos@32 - rest@1 + sos@1", "below"),
    "guided_above_matched": _combination("guided_rest@32 - rest_matched@32"),
    "guided_tokens": _tokens("guided_rest", "rest", 1.0),
    "guided_ppo_accuracy": _combination("guided_rest_ppo@1", "87", greedy=True),
    "guided_ppo_above_ppo": _combination("guided_rest_ppo@1 - sos_ppo@1", greedy=True),
    "guided_ppo_tokens": _tokens("guided_rest_ppo", "sos_ppo", 1.5),
    "rest_ppo_no_gain": _combination("rest_ppo@1 - sos_ppo@1", "no gain", greedy=True),
    "operation_above_token": _combination("guided_rest_ppo@1 - guided_rest_ppo_token@1", greedy=True),
    "dense_no_gain": _combination("sos_ppo_dense@1 - sos_ppo@1", "no gain", greedy=True),
}
REPAIR: dict[str, Rule] = {
    "code_rest_above_base": _combination("rest@32 - base@32", repair=True),
    "code_guided_above_rest": _combination("guided_rest@32 - rest@32", repair=True),
}
RULES = WHOLE | BY_SPLIT | REPAIR

"""The status of every published claim, computed from stored results.

A claim is 'reproduced' when its rule holds (usually: the 95 % paired bootstrap interval of a difference lies
above 0), 'not at this scale' when it was measured and the rule fails, 'not run' when its inputs are missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
}
COLUMNS = ["claim", "split", "statement", "published", "measured", "low", "high", "seed_sd", "unit"]
COLUMNS += ["problems", "seeds", "rule", "status", "source", "note"]

Term = tuple[int, str, int]  # sign, method, k
Found = dict[str, Any]  # rule; when measured also measured, low, high, seed_sd, problems, seeds, holds
Rule = Callable[[Results, str], Found]  # of a split, '' for a claim about training problems


def claims(results: Results) -> pd.DataFrame:
    """One row a claim and split: published, measured with interval, the rule used and the status it gives."""
    rows = []
    for claim in published("claims").to_dict("records"):
        name = claim["claim"]
        for split in ("",) if name in WHOLE else tables.TEST_SPLITS:
            found = {"published": claim["value"], "problems": 0, "seeds": 0} | RULES[name](results, split)
            rows.append(claim | found | {"split": split, "status": STATUS[found.get("holds")]})
    return pd.DataFrame(rows, columns=COLUMNS)


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


def _test_rows(results: Results, greedy: bool) -> pd.DataFrame:
    return tables.test_rows(results, "greedy" if greedy and len(results.rows("greedy")) else "eval")


def _combination(terms: Sequence[Term], test: str = "above", greedy: bool = False) -> Rule:
    """The signed sum of pass@k values, paired by problem, has its interval above 0 / below 0 / shows no gain.

    Where fewer samples were drawn than the claim's k, the largest k measured takes its place.
    """

    def judge(results: Results, split: str) -> Found:
        every = _test_rows(results, greedy)
        rows = every[every["method"].isin([method for _, method, _ in terms])]
        largest = max(tables.largest_ks(rows), default=1)
        used = [(sign, method, min(k, largest)) for sign, method, k in terms]
        formula = " ".join(f"{'+' if sign > 0 else '-'} {method}@{k}" for sign, method, k in used)
        rule = f"95 % paired bootstrap interval of {formula.lstrip('+ ')} {BOUNDS[test][0]}"
        scores = tables.pass_scores(rows, sorted({k for *_, k in used}))
        values = sum(sign * _percent(scores, k, method=method, split=split) for sign, method, k in used)
        grows = len({k for *_, k in terms}) > 1
        found = {} if grows and largest == 1 else _judged(values, test)
        return {"rule": rule} | _published_sum(terms, split) | found

    return judge


def _published_sum(terms: Sequence[Term], split: str) -> Found:
    paper = published("table2_countdown").set_index(["method", "split", "k"])["value"]
    values = [sign * paper.get((method, split, k), math.nan) for sign, method, k in terms]
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
        measured = table[(table["split"] == split) & table["ratio"].notna()].rename(
            columns={"ratio": "measured"}
        )
        found = {"rule": rule}
        for row in measured[["measured", "low", "high", "seed_sd", "problems", "seeds"]].to_dict("records"):
            found |= row | {"holds": row["low"] > 1 and row["measured"] >= at_least}
        return found

    return judge


def _accuracy_at_least(method: str, percent: float) -> Rule:
    def judge(results: Results, split: str) -> Found:
        scores = tables.pass_scores(_test_rows(results, greedy=True), [1])
        found = _judged(_percent(scores, 1, method=method, split=split))
        holds = {"holds": found["low"] >= percent} if found else {}
        return {"rule": f"95 % bootstrap interval of {method}@1 at or above {percent:g}"} | found | holds

    return judge


def _not_built(results: Results, split: str) -> Found:
    return {"rule": "needs code self-repair results"}


def _above(method: str, other: str, k: int = 1, test: str = "above", greedy: bool = False) -> Rule:
    return _combination([(1, method, k), (-1, other, k)], test, greedy)


def _changes(method: str, other: str, first: int, last: int, test: str) -> Rule:
    terms = [(1, method, last), (-1, other, last), (-1, method, first), (1, other, first)]
    return _combination(terms, test)


WHOLE: dict[str, Rule] = {
    "hints_accuracy": _hints_accuracy,
    "hints_cross_entropy": _likelier("hints", "steps", 2, 0),
    "guided_yield": _yield,
    "guided_likelier": _likelier("likelihood", "kind", "hinted", "guided"),
    "node_choice_trades": _node_choice,
    "code_guided_above_rest": _not_built,
}
BY_SPLIT: dict[str, Rule] = {
    "sos_above_bc": _above("sos", "bc"),
    "rest_above_sos": _above("rest", "sos"),
    "guided_above_rest": _above("guided_rest", "rest", 32),
    "gap_grows": _changes("guided_rest", "rest", 1, 8, "above"),
    "rest_fades": _changes("rest", "sos", 1, 32, "below"),
    "guided_above_matched": _above("guided_rest", "rest_matched", 32),
    "guided_tokens": _tokens("guided_rest", "rest", 1.0),
    "guided_ppo_accuracy": _accuracy_at_least("guided_rest_ppo", 87),
    "guided_ppo_above_ppo": _above("guided_rest_ppo", "sos_ppo", greedy=True),
    "guided_ppo_tokens": _tokens("guided_rest_ppo", "sos_ppo", 1.5),
    "rest_ppo_no_gain": _above("rest_ppo", "sos_ppo", test="no gain", greedy=True),
    "operation_above_token": _above("guided_rest_ppo", "guided_rest_ppo_token", greedy=True),
    "dense_no_gain": _above("guided_rest_ppo_dense", "guided_rest_ppo", test="no gain", greedy=True),
}
RULES = WHOLE | BY_SPLIT

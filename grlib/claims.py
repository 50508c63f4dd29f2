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
NO_GAIN_POINTS = 2.0
COLUMNS = ["claim", "split", "statement", "published", "measured", "low", "high", "unit"]
COLUMNS += ["problems", "seeds", "rule", "status", "source", "note"]

Term = tuple[int, str, int]  # sign, method, k
Found = dict[str, Any]  # split, measured, low, high, problems, rule, holds, published
Rule = Callable[[Results], list[Found]]


def claims(results: Results) -> pd.DataFrame:
    """One row a claim and split: published, measured with interval, the rule used and the status it gives."""
    rows = []
    for claim in published("claims").to_dict("records"):
        for found in RULES[str(claim["claim"])](results):
            holds = found.pop("holds", None)
            status = NOT_RUN if holds is None else REPRODUCED if holds else NOT_AT_THIS_SCALE
            seeds = 0 if holds is None else len(results.seeds)
            blank = {"split": "", "measured": math.nan, "low": math.nan, "high": math.nan, "problems": 0}
            row = blank | {"published": claim["value"]} | found | {"status": status, "seeds": seeds}
            rows.append(row | {key: claim[key] for key in ("claim", "statement", "unit", "source", "note")})
    return pd.DataFrame(rows, columns=COLUMNS)


def _missing(rule: str, **found: object) -> Found:
    return {"rule": rule, "holds": None, **found}


def _score(rows: pd.DataFrame, method: str, split: str, k: int) -> pd.Series:
    """pass@k in percent by problem number, averaged over seeds; empty when not measured."""
    part = rows[(rows["method"] == method) & (rows["split"] == split)]
    return 100 * tables.over_seeds(tables.pass_scores(part, [k]), [k])[k]


def _test_rows(results: Results, greedy: bool) -> pd.DataFrame:
    kind = "greedy" if greedy and len(results.rows("greedy")) else "eval"
    return tables.last_iteration(results.rows(kind))


def _combination(terms: Sequence[Term], test: str = "above", greedy: bool = False) -> Rule:
    """The signed sum of pass@k values, paired by problem, has its interval above 0 / below 0 / shows no gain.

    Where fewer samples were drawn than the claim's k, the largest k measured takes its place.
    """
    bounds = {"above": "above 0", "below": "below 0", "no gain": f"ends below +{NO_GAIN_POINTS:g} points"}

    def judge(results: Results) -> list[Found]:
        every = _test_rows(results, greedy)
        rows = every[every["method"].isin([method for _, method, _ in terms])]
        largest = max(tables.largest_ks(rows), default=1)
        used = [(sign, method, min(k, largest)) for sign, method, k in terms]
        formula = " ".join(f"{'+' if sign > 0 else '-'} {method}@{k}" for sign, method, k in used).lstrip(
            "+ "
        )
        rule = f"95 % paired bootstrap interval of {formula} {bounds[test]}"
        out = []
        for split in tables.TEST_SPLITS:
            paper = _published_sum(terms, split)
            head = {"split": split} | ({} if math.isnan(paper) else {"published": round(paper, 2)})
            scores = [sign * _score(rows, method, split, k) for sign, method, k in used]
            joined = pd.concat(scores, axis=1, join="inner")
            grows = len({k for *_, k in terms}) > 1
            if joined.empty or (grows and largest == 1):
                out.append(_missing(rule, **head))
                continue
            value, low, high = metrics.bootstrap_interval(joined.sum(axis=1))
            holds = {"above": low > 0, "below": high < 0, "no gain": high < NO_GAIN_POINTS}[test]
            found = {
                "measured": value,
                "low": low,
                "high": high,
                "problems": len(joined),
                "rule": rule,
                "holds": bool(holds),
            }
            out.append(head | found)
        return out

    return judge


def _published_sum(terms: Sequence[Term], split: str) -> float:
    paper = published("table2_countdown").set_index(["method", "split", "k"])["value"]
    keys = [(method, split, k) for _, method, k in terms]
    if not set(keys) <= set(paper.index):
        return math.nan
    return float(sum(sign * paper[key] for (sign, *_), key in zip(terms, keys, strict=True)))


def _hints_accuracy(results: Results) -> list[Found]:
    rule = "95 % paired bootstrap interval of every further step's gain above 0; the value is 2 steps less 0"
    paper = published("table1_hints").query("quantity == 'accuracy'").set_index("steps")["value"]
    head = {"published": round(paper[2] - paper[0], 2)}
    scores = tables.hint_scores(results.rows("hints"))
    wide = 100 * scores.groupby(["index", "steps"])["accuracy"].mean().unstack().dropna()
    steps = sorted(wide.columns)
    if wide.empty or len(steps) < 2:
        return [_missing(rule, **head)]
    gains = [metrics.paired_difference(wide[b], wide[a]) for a, b in zip(steps, steps[1:], strict=False)]
    value, low, high = metrics.paired_difference(wide[min(2, steps[-1])], wide[steps[0]])
    holds = all(gain.low > 0 for gain in gains)
    return [
        head
        | {"measured": value, "low": low, "high": high, "problems": len(wide), "rule": rule, "holds": holds}
    ]


def cross_entropy_difference(a: pd.DataFrame, b: pd.DataFrame) -> metrics.Interval | None:
    """Nats a token of rows `a` less those of rows `b`, resampling problems; None when either is empty."""
    sums = []
    for rows in (a, b):
        scored = rows[rows["nll"].notna() & (rows["nll_tokens"] > 0)]
        sums.append(scored.groupby("index")[["nll", "nll_tokens"]].sum())
    if sums[0].empty or sums[1].empty:
        return None
    table = pd.concat(sums, axis=1).fillna(0.0).to_numpy(dtype=float)
    means = metrics.resampled_means(table)
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = means[:, 0] / means[:, 1] - means[:, 2] / means[:, 3]
    total = table.sum(axis=0)
    return metrics.interval_of(float(total[0] / total[1] - total[2] / total[3]), draws)


def _likelihood(kind: str, column: str, a: object, b: object, paper: float = math.nan) -> Rule:
    """Cross-entropy of successful traces with `column` a exceeds that with b."""
    rule = (
        f"95 % bootstrap interval of cross-entropy ({column} {a}) - ({column} {b}) above 0, successful traces"
    )

    def judge(results: Results) -> list[Found]:
        head = {} if math.isnan(paper) else {"published": paper}
        rows = results.rows(kind)
        rows = rows[rows["correct"].astype(bool)] if "correct" in rows else rows
        sides = [rows[rows[column] == value] for value in (a, b)]
        difference = cross_entropy_difference(*sides)
        if difference is None:
            return [_missing(rule, **head)]
        value, low, high = difference
        problems = len(set(sides[0]["index"]) | set(sides[1]["index"]))
        found = {
            "measured": value,
            "low": low,
            "high": high,
            "problems": problems,
            "rule": rule,
            "holds": bool(low > 0),
        }
        return [head | found]

    return judge


def _hints_cross_entropy(results: Results) -> list[Found]:
    paper = published("table1_hints").query("quantity == 'cross_entropy'").set_index("steps")["value"]
    return _likelihood("hints", "steps", 2, 0, round(paper[2] - paper[0], 4))(results)


def _yield(results: Results) -> list[Found]:
    rule = (
        "95 % paired bootstrap interval of guided_rest - rest solved training problems, iteration 1, above 0"
    )
    rows = results.rows("yield")
    rows = rows[rows["iteration"] == 1]
    solved = (
        (rows["round_solved"] >= 0).astype(float).groupby([rows["index"], rows["method"]]).mean().unstack()
    )
    if not {"guided_rest", "rest"} <= set(solved):
        return [_missing(rule)]
    pair = 100 * solved[["guided_rest", "rest"]].dropna()
    if pair.empty:
        return [_missing(rule)]
    value, low, high = metrics.paired_difference(pair["guided_rest"], pair["rest"])
    return [
        {
            "measured": value,
            "low": low,
            "high": high,
            "problems": len(pair),
            "rule": rule,
            "holds": bool(low > 0),
        }
    ]


def _node_choice(results: Results) -> list[Found]:
    rule = "first - last: intervals of success and of cross-entropy both exclude 0 and have the same sign"
    rows = results.rows("selection")
    by_choice = rows["correct"].astype(float).groupby([rows["index"], rows["choose"]]).mean().unstack()
    if not {"first", "last"} <= set(by_choice):
        return [_missing(rule)]
    pair = 100 * by_choice[["first", "last"]].dropna()
    good = rows[rows["correct"].astype(bool)]
    surprise = cross_entropy_difference(good[good["choose"] == "first"], good[good["choose"] == "last"])
    if pair.empty or surprise is None:
        return [_missing(rule)]
    success = metrics.paired_difference(pair["first"], pair["last"])
    holds = (success.low > 0 and surprise.low > 0) or (success.high < 0 and surprise.high < 0)
    found = {"measured": success.mean, "low": success.low, "high": success.high, "problems": len(pair)}
    return [found | {"rule": rule, "holds": bool(holds)}]


def _tokens(method: str, reference: str, at_least: float) -> Rule:
    """At 90 % of the weaker method's accuracy, `reference` needs `at_least` times the tokens."""
    point = f" and the ratio at least {at_least:g}" if at_least > 1 else ""
    rule = f"95 % interval of tokens({reference}) / tokens({method}) at equal accuracy above 1{point}"

    def judge(results: Results) -> list[Found]:
        kind = "greedy" if len(results.rows("greedy")) else "eval"
        table = tables.token_table(results, method, reference, shares=(0.9,), kind=kind).set_index("split")
        out = []
        for split in tables.TEST_SPLITS:
            if split not in table.index or math.isnan(table.loc[split, "ratio"]):
                out.append(_missing(rule, split=split))
                continue
            ratio, low, high, problems = table.loc[split, ["ratio", "low", "high", "problems"]]
            holds = bool(low > 1 and ratio >= at_least)
            found = {"split": split, "measured": ratio, "low": low, "high": high, "problems": problems}
            out.append(found | {"rule": rule, "holds": holds})
        return out

    return judge


def _accuracy_at_least(method: str, percent: float) -> Rule:
    rule = f"95 % bootstrap interval of {method}@1 at or above {percent:g}"

    def judge(results: Results) -> list[Found]:
        out = []
        for split in tables.TEST_SPLITS:
            score = _score(_test_rows(results, greedy=True), method, split, 1)
            if score.empty:
                out.append(_missing(rule, split=split))
                continue
            value, low, high = metrics.bootstrap_interval(score)
            found = {"split": split, "measured": value, "low": low, "high": high, "problems": len(score)}
            out.append(found | {"rule": rule, "holds": bool(low >= percent)})
        return out

    return judge


def _not_built(results: Results) -> list[Found]:
    return [_missing("needs code self-repair results")]


RULES: dict[str, Rule] = {
    "hints_accuracy": _hints_accuracy,
    "hints_cross_entropy": _hints_cross_entropy,
    "sos_above_bc": _combination([(1, "sos", 1), (-1, "bc", 1)]),
    "rest_above_sos": _combination([(1, "rest", 1), (-1, "sos", 1)]),
    "guided_above_rest": _combination([(1, "guided_rest", 32), (-1, "rest", 32)]),
    "gap_grows": _combination(
        [(1, "guided_rest", 8), (-1, "rest", 8), (-1, "guided_rest", 1), (1, "rest", 1)]
    ),
    "rest_fades": _combination([(1, "rest", 32), (-1, "sos", 32), (-1, "rest", 1), (1, "sos", 1)], "below"),
    "guided_above_matched": _combination([(1, "guided_rest", 32), (-1, "rest_matched", 32)]),
    "guided_tokens": _tokens("guided_rest", "rest", 1.0),
    "guided_yield": _yield,
    "guided_likelier": _likelihood("likelihood", "kind", "hinted", "guided"),
    "node_choice_trades": _node_choice,
    "guided_ppo_accuracy": _accuracy_at_least("guided_rest_ppo", 87),
    "guided_ppo_above_ppo": _combination([(1, "guided_rest_ppo", 1), (-1, "sos_ppo", 1)], greedy=True),
    "guided_ppo_tokens": _tokens("guided_rest_ppo", "sos_ppo", 1.5),
    "rest_ppo_no_gain": _combination([(1, "rest_ppo", 1), (-1, "sos_ppo", 1)], "no gain", greedy=True),
    "operation_above_token": _combination(
        [(1, "guided_rest_ppo", 1), (-1, "guided_rest_ppo_token", 1)], greedy=True
    ),
    "dense_no_gain": _combination(
        [(1, "guided_rest_ppo_dense", 1), (-1, "guided_rest_ppo", 1)], "no gain", greedy=True
    ),
    "code_guided_above_rest": _not_built,
}

"""The status of every claim of the paper, computed from stored results by rules fixed before the results.

A rule says where a value must lie, for instance a difference of two accuracies above 0. The claim is
*reproduced* if the whole 95 % interval of the value lies there, *contradicted* if the whole interval lies on
the other side, *undecided* otherwise, and *not run* if results are missing. Intervals resample problems and
seeds together; all runs of a profile start from one base. A claim may also have a mark: *by construction* (it
could not fail), *owed to the start* (a reinforced model is ahead by no more than the models that the two runs
started from), *same gradient* (the two methods take the same step).

`RULES` has a rule for each claim; the claims themselves, with their notes, are in
paper_results/published/claims.csv.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from grlib.results import metrics, tables
from grlib.results.rows import STARTS, Results, published

REPRODUCED, UNDECIDED, CONTRADICTED, NOT_RUN = "reproduced", "undecided", "contradicted", "not run"
STATUSES = (REPRODUCED, UNDECIDED, CONTRADICTED, NOT_RUN)
BY_CONSTRUCTION, OWED_TO_START, SAME_GRADIENT = "by construction", "owed to the start", "same gradient"
COLUMNS = ["claim", "split", "statement", "published", "measured", "low", "high", "seed_sd", "unit"]
COLUMNS += ["problems", "seeds", "rule", "status", "mark", "fails", "needed", "source", "note"]


class Side(NamedTuple):
    """Where a value must lie: above the limit (sign 1) or below it (sign -1)."""

    sign: int
    limit: float

    def __str__(self) -> str:
        return f"{'above' if self.sign > 0 else 'below'} {self.limit:g}"

    def status(self, low: float, high: float) -> str:
        """The status of a claim whose value has this interval."""
        nearest, farthest = sorted((self.sign * (low - self.limit), self.sign * (high - self.limit)))
        return REPRODUCED if nearest > 0 else CONTRADICTED if farthest < 0 else UNDECIDED

    def needed(self, interval: metrics.Interval, problems: int) -> float:
        """Problems at which the interval of the same value would exclude the limit: it shrinks with the root
        of their number. Infinite if the value equals the limit."""
        distance = abs(interval.mean - self.limit)
        reach = interval.mean - interval.low if interval.mean > self.limit else interval.high - interval.mean
        return max(problems + 1, problems * (reach / distance) ** 2) if distance else math.inf


ABOVE, BELOW = Side(1, 0.0), Side(-1, 0.0)
NO_GAIN, NO_LOSS = Side(-1, 2.0), Side(1, -2.0)  # below two points more; above two points fewer
# rule; when measured also measured, low, high, seed_sd, problems, seeds, status, and conditions that it fails
Found = dict[str, Any]


class Evidence:
    """Stored results with the counts of solved samples, which most rules share.

    `kind` below is "eval" (samples of test problems), "greedy" (one trace each) or "repair".
    """

    def __init__(self, results: Results) -> None:
        self.results = results
        self.decoded = "greedy" if len(results.rows("greedy")) else "eval"  # the paper decodes greedily
        paper = pd.concat([published("table2_countdown"), published("table3_code_repair")])
        self.paper = paper.set_index(["method", "split", "k"])["value"].to_dict()
        self.counts: dict[str, dict[tuple[str, str], pd.DataFrame]] = {}  # by kind, then method and split
        for kind in ("eval", "greedy", "repair"):
            counts = tables.solved_counts(tables.last_iteration(results.rows(kind)))
            self.counts[kind] = dict(iter(counts.groupby(["method", "split"])))

    def passed(self, kind: str, method: str, split: str, k: int) -> pd.DataFrame:
        """pass@k in percent of the problems with k samples, by seeds; empty if the method was not tested."""
        part = self.counts[kind].get((method, split))
        if part is None:
            return pd.DataFrame(dtype=float)
        return _percent(tables.scores_of(part[part["samples"] >= k], [k]), k)


Rule = Callable[[Evidence, str], Found]  # for a split; '' for a claim about training problems


def claims(results: Results) -> pd.DataFrame:
    """One row per claim and split (`COLUMNS`): published, measured with interval, rule and status.

    The split is '' for a claim about training problems.
    """
    rows, evidence = [], Evidence(results)
    for claim in published("claims").to_dict("records"):
        name = claim["claim"]
        splits = ("",) if name in WHOLE else tables.REPAIR_SPLITS if name in REPAIR else tables.TEST_SPLITS
        for split in splits:
            found = {"published": claim["value"], "problems": 0, "seeds": 0, "status": NOT_RUN}
            found |= {"mark": "", "fails": ""} | RULES[name](evidence, split)
            if found["status"] != NOT_RUN and name in MARKS:
                found["mark"] = MARKS[name](evidence, split, found)
            note = "; ".join(filter(None, (claim["note"], found.get("note", ""))))
            statement = claim["statement"] + found.pop("drawn", "")
            rows.append(claim | found | {"split": split, "note": note, "statement": statement})
    return pd.DataFrame(rows, columns=COLUMNS)


def in_words(judged: pd.DataFrame) -> str:
    """The measured rows of `claims` as sentences, a line each: status, statement, value with interval."""
    lines = []
    for row in judged[judged["status"] != NOT_RUN].to_dict("records"):
        head = ", ".join(filter(None, (row["status"].capitalize(), row["mark"], row["split"])))
        unit = row["unit"].replace("ratio", "times")
        value = f"measured {row['measured']:.3g} {unit} [{row['low']:.3g}, {row['high']:.3g}]"
        paper = "" if pd.isna(row["published"]) else f", published {row['published']:.3g}"
        other = f"; but {row['fails']}" if row["fails"] else ""
        lines.append(f"{head}: {row['statement']}: {value}{paper}{other}.")
    return "\n".join(lines)


# From values to a status


def _judged(values: pd.DataFrame, groups: pd.Series | None = None, side: Side = ABOVE) -> Found:
    """Mean of the values (problems by seeds), its interval, and the status; empty if nothing was measured."""
    values = values.dropna(how="all").dropna(how="all", axis=1)
    if values.empty:
        return {}
    shared = None if groups is None else groups.reindex(values.index).to_numpy()
    found = metrics.bootstrap_interval(values.to_numpy()[:, :, None], groups=shared)
    interval = metrics.Interval(*(float(part[0]) for part in found))
    return _finding(interval, values.mean(), len(values), side)


def _finding(interval: metrics.Interval, by_seed: pd.Series, problems: int, side: Side) -> Found:
    if math.isnan(interval.low):
        return {}
    found: Found = {"measured": interval.mean, "low": interval.low, "high": interval.high}
    found |= {"seed_sd": by_seed.std(ddof=1), "problems": problems, "seeds": len(by_seed)}
    found["status"] = side.status(interval.low, interval.high)
    if found["status"] == UNDECIDED:
        found["needed"] = side.needed(interval, problems)
    return found


def _all_of(findings: Sequence[Found]) -> Found:
    """Several conditions as one, with the values of the first: reproduced if all are, contradicted if one is;
    empty if one was not measured."""
    if not all(findings):
        return {}
    statuses = {found["status"] for found in findings}
    status = next(status for status in (CONTRADICTED, UNDECIDED, REPRODUCED) if status in statuses)
    return findings[0] | {"status": status, "needed": _most_needed(findings, status)}


def _most_needed(findings: Sequence[Found], status: str) -> float:
    """Problems that would decide all conditions; nan if they are decided."""
    needed = [found["needed"] for found in findings if "needed" in found]
    return max(needed) if status == UNDECIDED else math.nan


def _percent(scores: pd.DataFrame, name: object = "correct", **where: object) -> pd.DataFrame:
    """Column `name` of the scores in percent, problems by seeds, of the rows with the values `where`."""
    for column, value in where.items():
        scores = scores[scores[column] == value]
    return 100 * scores.pivot(index="index", columns="seed", values=name).astype(float)


# Rules: signed sums of pass@k


def _sums(*conditions: tuple[str, Side], greedy: bool = False, repair: bool = False) -> Rule:
    """Rule: signed sums of pass@k (method@k), paired by problem and seed, each lie on their side.

    The first sum is the claim's value. If no trace is drawn k times on Countdown, the largest k measured is
    used, and the statement says so. Of the paper's two benchmarks of code self-repair, the smaller sum is the
    published value; their claims name several k, each of which is judged only where it is measured.
    """
    terms = {formula: _terms(formula) for formula, _ in conditions}
    methods = {method for formula in terms.values() for _, method, _ in formula}

    def judge(evidence: Evidence, split: str) -> Found:
        kind = "repair" if repair else evidence.decoded if greedy else "eval"
        counts = [part for (method, _), part in evidence.counts[kind].items() if method in methods]
        samples = min((part["samples"].min() for part in counts), default=max(tables.KS))
        largest = max(tables.KS) if repair else max(k for k in tables.KS if k <= samples)
        rows = evidence.results.rows(kind)
        rows = rows[rows["split"] == split]
        groups = rows.groupby("index")["group"].first() if "group" in rows else None  # resampled as a whole
        findings, rules, fails = list[Found](), list[str](), list[str]()
        for formula, side in conditions:
            used = re.sub(r"@(\d+)", lambda k: f"@{min(int(k[1]), largest)}", formula)
            rules.append(f"{used} {side}")
            too_few = len({k for *_, k in terms[formula]}) > 1 and largest == 1
            # a sum is nan where one of its methods lacks a problem or seed
            values = sum(s * evidence.passed(kind, method, split, k) for s, method, k in _terms(used))
            one = {} if too_few else _judged(values, groups, side)
            if findings and one.get("status") == CONTRADICTED:  # the first sum is the value, shown anyway
                interval = f"[{one['low']:.3g}, {one['high']:.3g}]"
                fails.append(f"{used} is {one['measured']:.3g} {interval}, not {side}")
            findings.append(one)
        decoded = "greedy" if kind == "greedy" else "sampled"
        found: Found = {"rule": f"95 % interval of {', and of '.join(rules)} ({decoded})"}
        found["fails"] = "; ".join(fails)
        if largest < max(k for formula in terms.values() for *_, k in formula):
            found["drawn"] = f" (measured at k = {largest})"
        first = terms[conditions[0][0]]
        paper = [
            sum(s * evidence.paper.get((m, name, k), math.nan) for s, m, k in first)
            for name in (tables.BENCHMARKS if repair else (split,))
        ]
        found |= {} if math.isnan(paper[0]) else {"published": round(min(paper), 2)}
        return found | _all_of(findings)

    return judge


def _terms(formula: str) -> list[tuple[int, str, int]]:
    """Sign, method and k of each term."""
    found = re.findall(r"([-+]?) ?(\w+)@(\d+)", formula)
    return [(-1 if sign == "-" else 1, method, int(k)) for sign, method, k in found]


def _bc(evidence: Evidence, split: str) -> Found:
    """BC against SoS by greedy decoding, as in the paper; the note compares them by samples."""
    found = _sums(("sos@1 - bc@1", ABOVE), ("bc@1", Side(-1, 40.0)), greedy=True)(evidence, split)
    counts = evidence.counts["eval"]
    if "measured" not in found or not {("bc", split), ("sos", split)} <= set(counts):
        return found
    bc, sos = (counts[method, split]["tokens"].mean() for method in ("bc", "sos"))
    samples = min(counts[method, split]["samples"].min() for method in ("bc", "sos"))
    ks = [k for k in tables.KS if k <= samples]
    k, fair = ks[-1], max((k for k in ks if k * bc <= sos), default=1)

    def solved(method: str, k: int) -> str:
        return f"{np.nanmean(evidence.passed('eval', method, split, k)):.1f} %"

    note = (
        f"sampled, BC solves {solved('bc', k)} at {k} samples ({k * bc:,.0f} tokens), SoS {solved('sos', k)} "
        f"({k * sos:,.0f}); for the tokens of one trace of SoS ({sos:,.0f}; {solved('sos', 1)}) BC draws "
        f"{fair} and solves {solved('bc', fair)}"
    )
    return found | {"note": note}


# Rules: tokens at equal accuracy


def _tokens(method: str, reference: str, at_least: float, evidence: Evidence, split: str) -> Found:
    """The geometric mean of the token ratios at four levels of accuracy lies above `at_least`."""
    table = tables.token_table(evidence.results, method, reference, kind=evidence.decoded, splits=[split])
    rows, side = table.dropna(subset="ratio").to_dict("records"), Side(1, at_least)
    rule = (
        f"95 % interval of tokens({reference}) / tokens({method}), the geometric mean at 0.25, 0.5, 0.75 and "
        f"0.9 of the weaker accuracy, {side}"
    )
    if not rows or not math.isnan(rows[-1]["share"]):
        return {"rule": rule}
    *levels, mean = rows
    interval = metrics.Interval(mean["ratio"], mean["low"], mean["high"])
    found = _finding(interval, pd.Series(dtype=float), mean["problems"], side)
    ratios = ", ".join(f"{level['ratio']:.2f} at {level['share']:g}" for level in levels)
    spread = {"seed_sd": mean["seed_sd"], "seeds": mean["seeds"]}
    return {"rule": rule, "note": f"ratios {ratios}"} | found | spread


# Rules: training problems


def _training(kind: str, rule: str, judge: Callable[[pd.DataFrame], Found]) -> Rule:
    """Rule about the rows of training problems of one kind."""
    return lambda evidence, split: {"rule": rule} | judge(tables.training_rows(evidence.results, kind))


def _published_hints(quantity: str, digits: int) -> Found:
    """The published value with two steps given minus that with none (Table 1)."""
    paper = published("table1_hints").query("quantity == @quantity").set_index("steps")["value"]
    return {"published": round(paper[2] - paper[0], digits)}


def _hints_accuracy(rows: pd.DataFrame) -> Found:
    found = _published_hints("accuracy", 2)
    shares = tables.correct_shares(rows, "steps")
    by_steps = [_percent(shares, steps=steps) for steps in sorted(set(shares["steps"]) - {3})]
    if len(by_steps) < 2:
        return found
    gains = [_judged(after - before) for before, after in pairwise(by_steps)]
    return found | _all_of([_judged(by_steps[-1] - by_steps[0]), *gains])


def _surprise(rows: pd.DataFrame, column: str, a: object, b: object, same: bool = False) -> Found:
    """Pooled nats per token of the successful traces with `column` a minus those with b; with `same`, on the
    problems that have both only."""
    rows = rows[rows["nll"].notna() & (rows["nll_tokens"] > 0)]
    rows = rows[rows["correct"].astype(bool)] if "correct" in rows else rows
    sums = rows.groupby([column, "seed", "index"])[["nll", "nll_tokens"]].sum()
    if not {a, b} <= set(sums.index.unique(0)):
        return {}
    pair = pd.concat([sums.loc[a], sums.loc[b]], axis=1).astype(float)
    pair = pair.dropna() if same else pair.fillna(0.0)
    if pair.empty:
        return {}
    pair.columns = ["nll_a", "tokens_a", "nll_b", "tokens_b"]

    def nats(totals: np.ndarray) -> metrics.Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(totals[:, 0] / totals[:, 1] - totals[:, 2] / totals[:, 3])

    drawn = metrics.resampled_means(tables.cells(pair.reset_index(), list(pair)))
    interval = metrics.interval_of(nats(pair.sum().to_numpy()[None])[0], nats(drawn))
    by_seed = pd.Series(nats(pair.groupby("seed").sum().to_numpy()))
    return _finding(interval, by_seed, len(pair), ABOVE)


def _hints_surprise(rows: pd.DataFrame) -> Found:
    given = [steps for steps in (2, 1, 3) if steps in rows["steps"].unique()]
    found = _published_hints("cross_entropy", 4)
    return found | (_all_of([_surprise(rows, "steps", steps, 0) for steps in given]) if given else {})


def _yield(rows: pd.DataFrame) -> Found:
    rows = rows[rows["iteration"] == 1].assign(correct=rows["round_solved"] >= 0)
    shares = tables.correct_shares(rows, "method")
    return _judged(_percent(shares, method="guided_rest") - _percent(shares, method="rest"))


def _yield_at_equal_samples(rows: pd.DataFrame) -> Found:
    last = rows["round"].max()
    within = rows.assign(correct=rows["round"].between(0, last - 1)) if len(rows) else rows.assign(correct=[])
    shares = tables.correct_shares(within, "choose")
    return _judged(_percent(shares, choose="random") - _percent(shares, choose="sample_again"))


def _node_choice(rows: pd.DataFrame) -> Found:
    shares = tables.correct_shares(rows, "choose")
    gain = _judged(_percent(shares, choose="first") - _percent(shares, choose="last"))
    findings = [gain, _surprise(rows, "choose", "first", "last")]
    if not all(findings):
        return {}
    statuses = {found["status"] for found in findings}
    status = UNDECIDED if UNDECIDED in statuses else REPRODUCED if len(statuses) == 1 else CONTRADICTED
    return findings[0] | {"status": status, "needed": _most_needed(findings, status)}


def _random_balances(rows: pd.DataFrame) -> Found:
    shares, choices = tables.correct_shares(rows, "choose"), ("first", "random", "last")
    if not set(choices) <= set(shares["choose"]):
        return {}
    success = {choose: _percent(shares, choose=choose) for choose in choices}
    worse = min(("first", "last"), key=lambda choose: success[choose].stack().mean())
    likelihood = tables.cross_entropy(rows[rows["correct"].astype(bool)], "choose").set_index("choose")
    nats = likelihood["cross_entropy"]
    unlikely = max(("first", "last"), key=lambda choose: nats.get(choose, -math.inf))
    gain = _judged(success["random"] - success[worse])
    return _all_of([gain, _surprise(rows, "choose", unlikely, "random")])


# Marks


def _owed_to_start(a: str, b: str, evidence: Evidence, split: str, found: Found) -> str:
    """Mark if a leads b by no more than the models that they start from."""
    more = _sums((f"{a}@1 - {b}@1 - {STARTS[a]}@1 + {STARTS[b]}@1", ABOVE), greedy=True)(evidence, split)
    ahead = found["measured"] > 0 and more.get("status") in (UNDECIDED, CONTRADICTED)
    return OWED_TO_START if ahead else ""


def _same_gradient(evidence: Evidence, split: str, found: Found) -> str:
    """Mark if lines and tokens give the same gradient, as with a critic that explains nothing."""
    cosine = evidence.results.rows("gradient")["cosine"].astype(float)
    curve = evidence.results.rows("ppo_curve").query("method == 'guided_rest_ppo'")
    explained = curve["explained"].astype(float)
    same = len(cosine) and cosine.min() > 0.99 and (explained.empty or explained.mean() < 0.1)
    return SAME_GRADIENT if same else ""


MARKS: dict[str, Callable[[Evidence, str, Found], str]] = {
    "guided_yield": lambda evidence, split, found: BY_CONSTRUCTION,
    "guided_ppo_above_ppo": partial(_owed_to_start, "guided_rest_ppo", "sos_ppo"),
    "guided_ppo_above_rest_ppo": partial(_owed_to_start, "guided_rest_ppo", "rest_ppo"),
    "operation_above_token": _same_gradient,
}
WHOLE: dict[str, Rule] = {
    "hints_accuracy": _training(
        "hints",
        "95 % interval of the gain of each further step above 0 (the third is 100 % by construction and not "
        "counted); the value is 2 steps minus 0",
        _hints_accuracy,
    ),
    "hints_cross_entropy": _training(
        "hints",
        "95 % interval of the cross-entropy of successful traces with 1, 2, 3 steps given minus that with 0, "
        "each above 0; the value is 2 steps minus 0",
        _hints_surprise,
    ),
    "guided_yield": _training(
        "yield",
        "95 % interval of guided_rest - rest solved training problems, iteration 1, the last round counted, "
        "above 0",
        _yield,
    ),
    "guided_yield_equal": _training(
        "rounds",
        "95 % interval of problems solved by guided rounds minus solved by as many new samples of the failed "
        "ones, above 0; the round that can insert the goal is left out",
        _yield_at_equal_samples,
    ),
    "guided_likelier": _training(
        "likelihood",
        "95 % interval of pooled nats per token, hinted (1 to 3 steps) minus guided, above 0: successful "
        "traces of the same problems",
        lambda rows: _surprise(rows, "kind", "hinted", "guided", same=True),
    ),
    "node_choice_trades": _training(
        "selection",
        "95 % intervals of first - last in success and in cross-entropy both exclude 0, with the same sign",
        _node_choice,
    ),
    "random_balances": _training(
        "selection",
        "95 % intervals above 0: success of random minus that of the less successful of first and last, and "
        "cross-entropy of the less likely of the two minus that of random",
        _random_balances,
    ),
}
BY_SPLIT: dict[str, Rule] = {
    "sos_above_bc": _bc,
    "rest_above_sos": _sums(("rest@1 - sos@1", ABOVE)),
    "guided_above_rest": _sums(("guided_rest@32 - rest@32", ABOVE)),
    "guided_not_below_rest": _sums(("guided_rest@1 - rest@1", NO_LOSS)),
    "gap_grows": _sums(
        ("guided_rest@8 - rest@8 - guided_rest@1 + rest@1", ABOVE),
        ("guided_rest@8 - rest@8", ABOVE),
        ("guided_rest@1 - rest@1", NO_LOSS),
    ),
    "rest_fades": _sums(("rest@32 - sos@32 - rest@1 + sos@1", BELOW)),
    "rest_no_gain": _sums(("rest@32 - sos@32", NO_GAIN)),
    "guided_above_matched": _sums(("guided_rest@32 - rest_matched@32", ABOVE)),
    "guided_tokens": partial(_tokens, "guided_rest", "rest", 1.0),
    "sos_ppo_gains": _sums(("sos_ppo@1 - sos@1", ABOVE), greedy=True),
    "rest_ppo_gains": _sums(("rest_ppo@1 - rest@1", ABOVE), greedy=True),
    "guided_ppo_gains": _sums(("guided_rest_ppo@1 - guided_rest@1", ABOVE), greedy=True),
    "guided_ppo_above_ppo": _sums(("guided_rest_ppo@1 - sos_ppo@1", Side(1, 10.0)), greedy=True),
    "guided_ppo_above_rest_ppo": _sums(("guided_rest_ppo@1 - rest_ppo@1", ABOVE), greedy=True),
    "ppo_widens_gap": _sums(("guided_rest_ppo@1 - sos_ppo@1 - guided_rest@1 + sos@1", ABOVE), greedy=True),
    "guided_ppo_tokens": partial(_tokens, "guided_rest_ppo", "sos_ppo", 1.5),
    "rest_ppo_no_gain": _sums(("rest_ppo@1 - sos_ppo@1", NO_GAIN), greedy=True),
    "operation_above_token": _sums(("guided_rest_ppo@1 - guided_rest_ppo_token@1", ABOVE), greedy=True),
    "dense_no_gain": _sums(("sos_ppo_dense@1 - sos_ppo@1", NO_GAIN), greedy=True),
}
REPAIR: dict[str, Rule] = {
    "code_rest_above_base_once": _sums(("rest@1 - base@1", ABOVE), repair=True),
    "code_rest_above_base_8": _sums(("rest@8 - base@8", ABOVE), repair=True),
    "code_rest_above_base": _sums(("rest@32 - base@32", ABOVE), repair=True),
    "code_guided_above_rest_once": _sums(("guided_rest@1 - rest@1", ABOVE), repair=True),
    "code_guided_above_rest_8": _sums(("guided_rest@8 - rest@8", ABOVE), repair=True),
    "code_guided_above_rest": _sums(("guided_rest@32 - rest@32", ABOVE), repair=True),
}
RULES = WHOLE | BY_SPLIT | REPAIR

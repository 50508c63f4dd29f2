"""The status of every claim, computed from stored results by rules fixed before the results were seen.

A rule says where a value must lie, for instance a difference of two accuracies above 0. The claim is
*reproduced* when the 95 % interval of the value lies there as a whole, *contradicted* when it lies on the
other side as a whole, *undecided* when it holds both, *not run* when its inputs are missing. Intervals
resample problems and seeds together; all runs of a profile start from one base. A claim may also be
marked: *by construction* (it could not fail), *owed to the start* (a reinforced model is ahead by no more
than the models that the two runs started from), *same gradient* (the two methods take the same step).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from grlib.results import metrics, tables
from grlib.results.rows import Results, published

REPRODUCED, UNDECIDED, CONTRADICTED, NOT_RUN = "reproduced", "undecided", "contradicted", "not run"
STATUSES = (REPRODUCED, UNDECIDED, CONTRADICTED, NOT_RUN)
BY_CONSTRUCTION, OWED_TO_START, SAME_GRADIENT = "by construction", "owed to the start", "same gradient"
COLUMNS = ["claim", "split", "statement", "published", "measured", "low", "high", "seed_sd", "unit"]
COLUMNS += ["problems", "seeds", "rule", "status", "mark", "needed", "source", "note"]


class Side(NamedTuple):
    """Where a claim says that a value lies: above the limit (sign 1) or below it (sign -1)."""

    sign: int
    limit: float

    def __str__(self) -> str:
        return f"{'above' if self.sign > 0 else 'below'} {self.limit:g}"

    def status(self, low: float, high: float) -> str:
        """What an interval says of the claim."""
        ends = sorted((self.sign * (low - self.limit), self.sign * (high - self.limit)))
        return REPRODUCED if ends[0] > 0 else CONTRADICTED if ends[1] < 0 else UNDECIDED

    def needed(self, interval: metrics.Interval, problems: int) -> float:
        """Problems at which an interval around the same value would no longer hold the limit: it shrinks with
        the root of their number. Infinite where the value is the limit itself."""
        distance = abs(interval.mean - self.limit)
        reach = interval.mean - interval.low if interval.mean > self.limit else interval.high - interval.mean
        return max(problems + 1, problems * (reach / distance) ** 2) if distance else math.inf


ABOVE, BELOW = Side(1, 0.0), Side(-1, 0.0)
NO_GAIN, NO_LOSS = Side(-1, 2.0), Side(1, -2.0)  # less than two points more; not two points less
Found = dict[str, Any]  # rule; when measured also measured, low, high, seed_sd, problems, seeds, status


class Evidence:
    """Stored results, and pass@k of every problem, counted once for all rules.

    `kind` below is "eval" (samples of test problems), "greedy" (one trace each) or "repair".
    """

    def __init__(self, results: Results) -> None:
        self.results = results
        self.decoded = "greedy" if len(results.rows("greedy")) else "eval"  # the paper decodes greedily
        paper = pd.concat([published("table2_countdown"), published("table3_code_repair")])
        self.paper = paper.set_index(["method", "split", "k"])["value"].to_dict()
        self._counts: dict[str, dict[tuple[str, str], pd.DataFrame]] = {}
        self._passed: dict[tuple[str, str, str, int], pd.DataFrame] = {}

    def counts(self, kind: str) -> dict[tuple[str, str], pd.DataFrame]:
        """`tables.solved_counts` of each method's last iteration, by method and split."""
        if kind not in self._counts:
            rows = tables.last_iteration(self.results.rows(kind))
            self._counts[kind] = dict(iter(tables.solved_counts(rows).groupby(["method", "split"])))
        return self._counts[kind]

    def passed(self, kind: str, method: str, split: str, k: int) -> pd.DataFrame:
        """pass@k in percent, problems by seeds; empty where the method was not tested."""
        key = (kind, method, split, k)
        if key not in self._passed:
            part = self.counts(kind).get((method, split))
            scores = pd.DataFrame(dtype=float)
            self._passed[key] = scores if part is None else _percent(tables.scores_of(part, [k]), k)
        return self._passed[key]

    def groups(self, kind: str, split: str) -> pd.Series | None:
        """What the problems of a split share, by problem; None where each stands alone."""
        rows = self.results.rows(kind)
        return rows[rows["split"] == split].groupby("index")["group"].first() if "group" in rows else None


Rule = Callable[[Evidence, str], Found]  # of a split, '' for a claim about training problems


def claims(results: Results) -> pd.DataFrame:
    """One row per claim and split: published, measured with interval, the rule and the status it gives."""
    rows, evidence = [], Evidence(results)
    for claim in published("claims").to_dict("records"):
        name = claim["claim"]
        for split in splits_of(name):
            found = {"published": claim["value"], "problems": 0, "seeds": 0, "status": NOT_RUN, "mark": ""}
            found |= RULES[name](evidence, split)
            if found["status"] != NOT_RUN and name in MARKS:
                found["mark"] = MARKS[name](evidence, split, found)
            said = "; ".join(filter(None, (claim["note"], found.get("note", ""))))
            rows.append(claim | found | {"split": split, "note": said})
    return pd.DataFrame(rows, columns=COLUMNS)


def splits_of(claim: str) -> tuple[str, ...]:
    """The test splits that a claim is about; '' for one about training problems."""
    if claim in WHOLE:
        return ("",)
    return tables.REPAIR_SPLITS if claim in REPAIR else tables.TEST_SPLITS


# From values to a status


def _judged(values: pd.DataFrame, groups: pd.Series | None = None, side: Side = ABOVE) -> Found:
    """Mean of the values (problems by seeds), its interval, and what it says."""
    values = values.dropna(how="all").dropna(how="all", axis=1)
    if values.empty:
        return {}
    shared = None if groups is None else groups.reindex(values.index).to_numpy()
    found = metrics.bootstrap_interval(values.to_numpy()[:, :, None], groups=shared)
    interval = metrics.Interval(*(float(part[0]) for part in found))
    return _finding(interval, values.mean(), len(values), side)


def _finding(interval: metrics.Interval, by_seed: pd.Series, problems: int, side: Side) -> Found:
    found: Found = dict(zip(("measured", "low", "high"), interval, strict=True))
    found |= {"seed_sd": by_seed.std(ddof=1), "problems": problems, "seeds": len(by_seed)}
    if math.isnan(interval.low):
        return {}
    found["status"] = side.status(interval.low, interval.high)
    if found["status"] == UNDECIDED:
        found["needed"] = side.needed(interval, problems)
    return found


def _all_of(findings: Sequence[Found]) -> Found:
    """Several conditions as one, with the values of the first: reproduced where all hold, contradicted where
    one is contradicted."""
    if not all(findings):
        return {}
    statuses = {found["status"] for found in findings}
    status = next(status for status in (CONTRADICTED, UNDECIDED, REPRODUCED) if status in statuses)
    needed = [found["needed"] for found in findings if "needed" in found]
    return findings[0] | {"status": status, "needed": max(needed) if status == UNDECIDED else math.nan}


def _percent(scores: pd.DataFrame, name: object = "correct", **where: object) -> pd.DataFrame:
    """Column `name` of the scores where the columns equal the values, in percent: problems by seeds."""
    for column, value in where.items():
        scores = scores[scores[column] == value]
    return 100 * scores.pivot(index="index", columns="seed", values=name).astype(float)


# Rules: signed sums of pass@k


def _sums(*conditions: tuple[str, Side], greedy: bool = False, repair: bool = False) -> Rule:
    """Signed sums of pass@k values (method@k), paired by problem and seed, each of which lies on its side.

    The first sum is the claim's value. Where fewer samples were drawn than a claim's k, the largest k
    measured takes its place. Of the paper's two benchmarks of code self-repair the smaller sum stands.
    """
    asked = {formula: _terms(formula) for formula, _ in conditions}
    methods = {method for terms in asked.values() for _, method, _ in terms}

    def judge(evidence: Evidence, split: str) -> Found:
        kind = "repair" if repair else evidence.decoded if greedy else "eval"
        counts = [part for (method, _), part in evidence.counts(kind).items() if method in methods]
        samples = min((part["samples"].min() for part in counts), default=max(tables.KS))
        largest = max(k for k in tables.KS if k <= samples)
        findings, said = [], []
        for formula, side in conditions:
            used = re.sub(r"@(\d+)", lambda k: f"@{min(int(k[1]), largest)}", formula)
            said.append(f"{used} {side}")
            too_few = len({k for *_, k in asked[formula]}) > 1 and largest == 1
            # where one of the methods lacks a problem or seed, the sum is nan
            values = sum(s * evidence.passed(kind, method, split, k) for s, method, k in _terms(used))
            findings.append({} if too_few else _judged(values, evidence.groups(kind, split), side))
        found: Found = {"rule": "95 % interval of " + ", and of ".join(said)}
        splits = tables.BENCHMARKS if repair else (split,)
        first = asked[conditions[0][0]]
        paper = [sum(s * evidence.paper.get((m, name, k), math.nan) for s, m, k in first) for name in splits]
        found |= {} if math.isnan(paper[0]) else {"published": round(min(paper), 2)}
        return found | _all_of(findings)

    return judge


def _terms(formula: str) -> list[tuple[int, str, int]]:
    """Sign, method and k of each term."""
    found = re.findall(r"([-+]?) ?(\w+)@(\d+)", formula)
    return [(-1 if sign == "-" else 1, method, int(k)) for sign, method, k in found]


def _bc(evidence: Evidence, split: str) -> Found:
    """BC against SoS by greedy decoding, as in the paper; the note says in words what samples show."""
    found = _sums(("sos@1 - bc@1", ABOVE), ("bc@1", Side(-1, 40.0)), greedy=True)(evidence, split)
    counts = evidence.counts("eval")
    if "measured" not in found or not {("bc", split), ("sos", split)} <= set(counts):
        return found
    bc, sos = counts["bc", split]["tokens"].mean(), counts["sos", split]["tokens"].mean()
    ks = [
        k for k in tables.KS if k <= min(counts[method, split]["samples"].min() for method in ("bc", "sos"))
    ]
    k, fair = ks[-1], max((k for k in ks if k * bc <= sos), default=1)

    def solved(method: str, k: int) -> str:
        return f"{np.nanmean(evidence.passed('eval', method, split, k)):.1f} %"

    said = (
        f"sampled, BC solves {solved('bc', k)} at {k} samples ({k * bc:,.0f} tokens), SoS {solved('sos', k)} "
        f"({k * sos:,.0f}); for the tokens of one trace of SoS ({sos:,.0f}; {solved('sos', 1)}) BC draws "
        f"{fair} and solves {solved('bc', fair)}"
    )
    return found | {"note": said}


# Rules: tokens at equal accuracy


def _tokens(method: str, reference: str, at_least: float) -> Rule:
    """The geometric mean of the token ratios at four levels of accuracy lies above `at_least`."""
    side = Side(1, at_least)
    rule = (
        f"95 % interval of tokens({reference}) / tokens({method}), the geometric mean at 0.25, 0.5, 0.75 and "
        f"0.9 of the weaker accuracy, {side}"
    )

    def judge(evidence: Evidence, split: str) -> Found:
        table = tables.token_table(evidence.results, method, reference, kind=evidence.decoded, splits=[split])
        table = table[table["ratio"].notna()]
        found: Found = {"rule": rule}
        for row in table[table["share"].isna()].to_dict("records"):
            interval = metrics.Interval(row["ratio"], row["low"], row["high"])
            found |= _finding(interval, pd.Series(dtype=float), row["problems"], side)
            found |= {"seed_sd": row["seed_sd"], "seeds": row["seeds"]}
            each = table[table["share"].notna()]
            found["note"] = "ratios " + ", ".join(
                f"{ratio:.2f} at {share:g}" for share, ratio in zip(each["share"], each["ratio"], strict=True)
            )
        return found

    return judge


# Rules: training problems


def _training(kind: str, rule: str, judge: Callable[[pd.DataFrame], Found]) -> Rule:
    """A rule about rows of training problems."""
    return lambda evidence, split: {"rule": rule} | judge(tables.training_rows(evidence.results, kind))


def _published_hints(quantity: str, digits: int) -> Found:
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
    """Pooled nats per token of the successful traces with `column` a minus those with b; `same`: on the
    problems that have both."""
    rows = rows[rows["nll"].notna() & (rows["nll_tokens"] > 0)]
    rows = rows[rows["correct"].astype(bool)] if "correct" in rows else rows
    sums = rows.groupby([column, "seed", "index"])[["nll", "nll_tokens"]].sum()
    if not {a, b} <= set(sums.index.unique(0)):
        return {}
    pair = pd.concat([sums.loc[a], sums.loc[b]], axis=1).astype(float)
    pair = pair.dropna() if same else pair.fillna(0.0)
    if pair.empty:
        return {}
    pair.columns = ["n", "t", "m", "u"]

    def nats(totals: np.ndarray) -> metrics.Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(totals[:, 0] / totals[:, 1] - totals[:, 2] / totals[:, 3])

    drawn = metrics.resampled_means(tables.cells(pair.reset_index(), list(pair)))
    interval = metrics.interval_of(float(nats(pair.sum().to_numpy()[None])[0]), nats(drawn))
    by_seed = pd.Series(nats(pair.groupby("seed").sum().to_numpy()))
    return _finding(interval, by_seed, len(pair), ABOVE)


def _hints_surprise(rows: pd.DataFrame) -> Found:
    given = [steps for steps in (2, 1, 3) if steps in rows["steps"].unique()]
    found = _published_hints("cross_entropy", 4)
    return found | (_all_of([_surprise(rows, "steps", steps, 0) for steps in given]) if given else {})


def _guided_likelier(rows: pd.DataFrame) -> Found:
    return _surprise(rows, "kind", "hinted", "guided", same=True)


def _yield(rows: pd.DataFrame) -> Found:
    rows = rows[rows["iteration"] == 1].assign(correct=rows["round_solved"] >= 0)
    shares = tables.correct_shares(rows, "method")
    return _judged(_percent(shares, method="guided_rest") - _percent(shares, method="rest"))


def _yield_at_equal_samples(rows: pd.DataFrame) -> Found:
    last = rows["round"].max()
    within = rows.assign(correct=rows["round"].between(0, last - 1)) if len(rows) else rows.assign(correct=[])
    shares = tables.correct_shares(within, "choose")
    return _judged(_percent(shares, choose="random") - _percent(shares, choose="sample_again"))


def _choices(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Success in percent by node choice."""
    shares = tables.correct_shares(rows, "choose")
    return {choose: _percent(shares, choose=choose) for choose in sorted(rows["choose"].unique())}


def _node_choice(rows: pd.DataFrame) -> Found:
    success = _choices(rows)
    if not {"first", "last"} <= set(success):
        return {}
    found, surprise = _judged(success["first"] - success["last"]), _surprise(rows, "choose", "first", "last")
    if not found or not surprise:
        return {}
    statuses = {found["status"], surprise["status"]}
    status = UNDECIDED if UNDECIDED in statuses else REPRODUCED if len(statuses) == 1 else CONTRADICTED
    needed = max(found.get("needed", 0.0), surprise.get("needed", 0.0)) if status == UNDECIDED else math.nan
    return found | {"status": status, "needed": needed}


def _random_balances(rows: pd.DataFrame) -> Found:
    success = _choices(rows)
    if not {"first", "random", "last"} <= set(success):
        return {}
    worse = min(("first", "last"), key=lambda choose: success[choose].stack().mean())
    likelihood = tables.cross_entropy(rows[rows["correct"].astype(bool)], "choose").set_index("choose")
    nats = likelihood["cross_entropy"]
    unlikely = max(("first", "last"), key=lambda choose: nats.get(choose, -math.inf))
    return _all_of(
        [_judged(success["random"] - success[worse]), _surprise(rows, "choose", unlikely, "random")]
    )


# Marks


def _owed_to_start(a: str, b: str, start_a: str, start_b: str) -> Callable[[Evidence, str, Found], str]:
    """Is a's lead over b no more than that of the models they start from?"""

    def mark(evidence: Evidence, split: str, found: Found) -> str:
        more = _sums((f"{a}@1 - {b}@1 - {start_a}@1 + {start_b}@1", ABOVE), greedy=True)(evidence, split)
        ahead = found["measured"] > 0 and more.get("status") in (UNDECIDED, CONTRADICTED)
        return OWED_TO_START if ahead else ""

    return mark


def _same_gradient(evidence: Evidence, split: str, found: Found) -> str:
    """Do lines and tokens give one and the same gradient, as with a critic that explains nothing?"""
    cosine = evidence.results.rows("gradient")["cosine"].astype(float)
    curve = evidence.results.rows("ppo_curve").query("method == 'guided_rest_ppo'")
    explained = curve["explained"].astype(float)
    same = len(cosine) and cosine.min() > 0.99 and (explained.empty or explained.mean() < 0.1)
    return SAME_GRADIENT if same else ""


MARKS: dict[str, Callable[[Evidence, str, Found], str]] = {
    "guided_yield": lambda evidence, split, found: BY_CONSTRUCTION,
    "guided_ppo_above_ppo": _owed_to_start("guided_rest_ppo", "sos_ppo", "guided_rest", "sos"),
    "guided_ppo_above_rest_ppo": _owed_to_start("guided_rest_ppo", "rest_ppo", "guided_rest", "rest"),
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
        _guided_likelier,
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
    "guided_tokens": _tokens("guided_rest", "rest", 1.0),
    "sos_ppo_gains": _sums(("sos_ppo@1 - sos@1", ABOVE), greedy=True),
    "rest_ppo_gains": _sums(("rest_ppo@1 - rest@1", ABOVE), greedy=True),
    "guided_ppo_gains": _sums(("guided_rest_ppo@1 - guided_rest@1", ABOVE), greedy=True),
    "guided_ppo_above_ppo": _sums(("guided_rest_ppo@1 - sos_ppo@1", Side(1, 10.0)), greedy=True),
    "guided_ppo_above_rest_ppo": _sums(("guided_rest_ppo@1 - rest_ppo@1", ABOVE), greedy=True),
    "ppo_widens_gap": _sums(("guided_rest_ppo@1 - sos_ppo@1 - guided_rest@1 + sos@1", ABOVE), greedy=True),
    "guided_ppo_tokens": _tokens("guided_rest_ppo", "sos_ppo", 1.5),
    "rest_ppo_no_gain": _sums(("rest_ppo@1 - sos_ppo@1", NO_GAIN), greedy=True),
    "operation_above_token": _sums(("guided_rest_ppo@1 - guided_rest_ppo_token@1", ABOVE), greedy=True),
    "dense_no_gain": _sums(("sos_ppo_dense@1 - sos_ppo@1", NO_GAIN), greedy=True),
}
REPAIR: dict[str, Rule] = {
    "code_rest_above_base_once": _sums(("rest@1 - base@1", ABOVE), repair=True),
    "code_rest_above_base": _sums(("rest@32 - base@32", ABOVE), repair=True),
    "code_guided_above_rest": _sums(("guided_rest@32 - rest@32", ABOVE), repair=True),
}
RULES = WHOLE | BY_SPLIT | REPAIR

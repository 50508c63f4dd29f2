"""Accuracy, pass@k, token budgets and their bootstrap intervals; plain numpy, no files and no plots.

Everything here is a share in 0..1. A table of outcomes is an array of shape (problems, samples).
"""

from __future__ import annotations

import math
import operator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grlib.errors import GrlibError

Floats = NDArray[np.float64]

# Once C(n-c, k) / C(n, k) is below exp(-40) the estimator rounds to 1 in double precision.
_NEGLIGIBLE = 40
_VALUES_PER_CHUNK = 4_000_000


class Interval(NamedTuple):
    """A mean with the lower and upper end of its interval: floats, or arrays for several columns."""

    mean: Any
    low: Any
    high: Any


def _count(name: str, value: object) -> int:
    """`value` as a non-negative int; booleans, floats and text are refused."""
    if isinstance(value, (bool, np.bool_)):
        raise GrlibError(f"{name}={value!r} in pass@k: must be an integer, not a boolean; pass a count")
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise GrlibError(f"{name}={value!r} in pass@k: must be an integer; pass a count") from None
    if number < 0:
        raise GrlibError(f"{name}={number} in pass@k: must not be negative; pass a count")
    return number


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate of P(at least one of k samples is correct) from n samples of which c are correct.

    1 - C(n-c, k) / C(n, k), computed in integers and rounded once. Raises GrlibError (a ValueError) when
    an argument is not a non-negative integer, when k < 1, k > n or c > n. Table 2 of the paper.
    """
    n, c, k = _count("n", n), _count("c", c), _count("k", k)
    if k < 1:
        raise GrlibError(f"k={k} in pass@k: must be at least 1; ask for pass@1 or more")
    if k > n:
        raise GrlibError(f"k={k} in pass@k: must be at most n={n}, the samples drawn; draw more or lower k")
    if c > n:
        raise GrlibError(
            f"c={c} in pass@k: must be at most n={n}, the samples drawn; recount the correct ones"
        )
    if n - c < k:
        return 1.0
    few, many = min(c, k), max(c, k)  # C(n-c, k) / C(n, k) is symmetric in c and k
    if few * many > _NEGLIGIBLE * n:
        return 1.0
    whole = math.perm(n, few)
    return (whole - math.perm(n - many, few)) / whole


def _outcomes(correct: ArrayLike) -> NDArray[np.bool_]:
    """`correct` as a boolean array of shape (problems, samples); one row a problem."""
    table = np.asarray(correct)
    if table.dtype != np.bool_ or table.ndim not in (1, 2) or table.size == 0:
        raise GrlibError(
            f"correct of shape {table.shape} and type {table.dtype}: must be a non-empty boolean array "
            "(problems, samples); convert the grades to booleans"
        )
    return table[:, None] if table.ndim == 1 else table


def pass_at_k_scores(correct: ArrayLike, ks: ArrayLike) -> Floats:
    """pass@k of every problem, shape (problems, len(ks)), from booleans of shape (problems, samples)."""
    table = _outcomes(correct)
    n, counts = table.shape[1], table.sum(axis=1)
    by_count = [[pass_at_k(n, c, k) for k in np.atleast_1d(ks)] for c in range(n + 1)]
    return np.asarray(by_count, dtype=np.float64)[counts]


def pass_at_k_curve(correct: ArrayLike, ks: ArrayLike) -> Floats:
    """pass@k averaged over problems, shape (len(ks),), from booleans of shape (problems, samples)."""
    return pass_at_k_scores(correct, ks).mean(axis=0)


def resampled_means(values: ArrayLike, draws: int = 2000, seed: int = 0) -> Floats:
    """Means of `draws` bootstrap samples of problems (axis 0): shape (draws,) + values.shape[1:].

    The problems drawn depend on the number of problems, `draws` and `seed` only, so two calls on the
    same problems resample the same ones: their difference is paired.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim == 0 or len(table) == 0 or not np.isfinite(table).all():
        raise GrlibError(
            f"values of shape {table.shape}: must be finite, one row a problem; drop missing ones"
        )
    if isinstance(draws, bool) or draws < 1:
        raise GrlibError(f"draws={draws!r}: must be a positive integer; 2000 is the usual number")
    problems, rng = len(table), np.random.default_rng(seed)
    flat = table.reshape(problems, -1)
    chunk = max(1, _VALUES_PER_CHUNK // problems)
    parts = []
    for start in range(0, draws, chunk):
        picks = rng.integers(0, problems, size=(min(chunk, draws - start), problems))
        offsets = np.arange(len(picks))[:, None] * problems
        weights = np.bincount((picks + offsets).ravel(), minlength=picks.size).reshape(picks.shape)
        parts.append(weights @ flat / problems)
    return np.concatenate(parts).reshape((draws, *table.shape[1:]))


def interval_of(centre: float | Floats, draws: Floats, level: float = 0.95) -> Interval:
    """Percentile interval over axis 0 of bootstrap `draws` (not-a-number ones ignored) around `centre`."""
    if not 0 < level < 1:
        raise GrlibError(f"level={level!r}: must lie between 0 and 1; 0.95 is the usual level")
    if np.isnan(draws).all():
        return Interval(centre, math.nan, math.nan)
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    if np.ndim(centre) == 0:
        return Interval(float(centre), float(low), float(high))
    return Interval(centre, low, high)


def bootstrap_interval(values: ArrayLike, level: float = 0.95, draws: int = 2000, seed: int = 0) -> Interval:
    """Mean over problems with its percentile bootstrap interval; 2-d values give one interval a column."""
    table = np.asarray(values, dtype=np.float64)
    means = resampled_means(table, draws, seed)
    return interval_of(table.mean(axis=0), means, level)


def paired_difference(
    a: ArrayLike, b: ArrayLike, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """Mean of a - b with its bootstrap interval; row i of both must belong to the same problem."""
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.shape != right.shape:
        raise GrlibError(
            f"shapes {left.shape} and {right.shape} of a paired difference: must be equal, row by problem; "
            "keep the problems both methods were tested on"
        )
    return bootstrap_interval(left - right, level, draws, seed)


def bootstrap_ratio(
    above: ArrayLike, below: ArrayLike, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """sum(above) / sum(below) with its interval, for example nats / tokens = cross-entropy a token."""
    pair = np.column_stack([np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)])
    means = resampled_means(pair, draws, seed)
    if pair[:, 1].sum() <= 0:
        raise GrlibError("a ratio over 0: its denominator must sum to more than 0; check the token counts")
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.where(means[:, 1] > 0, means[:, 0] / means[:, 1], np.nan)
    return interval_of(float(pair[:, 0].sum() / pair[:, 1].sum()), ratios, level)


def budget_scores(correct: ArrayLike, tokens: ArrayLike, budgets: ArrayLike) -> Floats:
    """Share of each problem's samples that are correct within each budget, shape (problems, len(budgets)).

    A sample counts at budget b when it is correct and its whole response, end token included, has at most b
    tokens (the authors' rule).
    """
    table, lengths = _outcomes(correct), np.asarray(tokens)
    lengths = lengths[:, None] if lengths.ndim == 1 else lengths
    if lengths.shape != table.shape:
        raise GrlibError(
            f"tokens of shape {lengths.shape}: must have the shape {table.shape} of correct; one a sample"
        )
    return np.stack([(table & (lengths <= b)).mean(axis=1) for b in np.atleast_1d(budgets)], axis=1)


def budget_curve(correct: ArrayLike, tokens: ArrayLike, budgets: ArrayLike) -> Floats:
    """Accuracy at each token budget, shape (len(budgets),); see `budget_scores`."""
    return budget_scores(correct, tokens, budgets).mean(axis=0)


def tokens_at_accuracy(budgets: ArrayLike, curve: ArrayLike, level: float) -> float:
    """Smallest budget at which the curve reaches `level`, linear between points; nan when it never does."""
    x, y = np.asarray(budgets, dtype=np.float64), np.asarray(curve, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or (np.diff(x) <= 0).any():
        raise GrlibError(
            f"budgets {x.tolist()}: must rise and be as many as the accuracies ({y.size}); sort them"
        )
    reached = np.flatnonzero(y >= level)
    if reached.size == 0:
        return math.nan
    i = int(reached[0])
    if i == 0:
        return float(x[0])
    return float(x[i - 1] + (x[i] - x[i - 1]) * (level - y[i - 1]) / (y[i] - y[i - 1]))


def token_ratio(budgets: ArrayLike, curve: ArrayLike, reference: ArrayLike, level: float) -> float:
    """Tokens the reference needs for `level` over those this curve needs: 2 means half the tokens."""
    ours = tokens_at_accuracy(budgets, curve, level)
    return tokens_at_accuracy(budgets, reference, level) / ours if ours > 0 else math.nan

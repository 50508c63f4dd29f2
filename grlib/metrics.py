"""pass@k, bootstrap intervals over problems, tokens at equal accuracy; plain numpy, no files and no plots.

Everything here is a share in 0..1.
"""

from __future__ import annotations

import math
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


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate of P(at least one of k samples is correct) from n samples of which c are correct.

    1 - C(n-c, k) / C(n, k), computed in integers and rounded once. Raises GrlibError (a ValueError) when
    an argument is not an integer (a boolean is none), or not 0 <= c <= n and 1 <= k <= n. Table 2 of the
    paper.
    """
    for name, value in (("n", n), ("c", c), ("k", k)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise GrlibError(f"{name}={value!r} in pass@k: must be an integer; pass a count")
    n, c, k = int(n), int(c), int(k)
    if not 1 <= k <= n:
        raise GrlibError(f"k={k} in pass@k: must be 1 to n={n}, the samples drawn; draw more or change k")
    if not 0 <= c <= n:
        raise GrlibError(f"c={c} in pass@k: must be 0 to n={n}, the samples drawn; recount the correct ones")
    few, many = min(c, k), max(c, k)  # C(n-c, k) / C(n, k) is symmetric in c and k
    if n - c < k or few * many > _NEGLIGIBLE * n:
        return 1.0
    whole = math.perm(n, few)
    return (whole - math.perm(n - many, few)) / whole


def resampled_means(values: ArrayLike, draws: int = 2000, seed: int = 0) -> Floats:
    """Means of `draws` bootstrap samples of problems (axis 0): shape (draws,) + values.shape[1:].

    The problems drawn depend on the number of problems, `draws` and `seed` only, so two calls on the
    same problems resample the same ones: their difference is paired.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim == 0 or len(table) == 0 or not np.isfinite(table).all():
        shape = table.shape
        raise GrlibError(f"values of shape {shape}: must be finite, one row a problem; drop missing ones")
    problems, rng = len(table), np.random.default_rng(seed)
    flat, parts = table.reshape(problems, -1), []
    chunk = max(1, _VALUES_PER_CHUNK // problems)
    for start in range(0, draws, chunk):
        picks = rng.integers(0, problems, size=(min(chunk, draws - start), problems))
        offsets = np.arange(len(picks))[:, None] * problems
        times = np.bincount((picks + offsets).ravel(), minlength=picks.size).reshape(picks.shape)
        parts.append(times @ flat / problems)
    return np.concatenate(parts).reshape((draws, *table.shape[1:]))


def interval_of(centre: float | Floats, draws: Floats, level: float = 0.95) -> Interval:
    """Percentile interval over axis 0 of bootstrap `draws` (not-a-number ones ignored) around `centre`."""
    if np.isnan(draws).all():
        return Interval(centre, math.nan, math.nan)
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    if np.ndim(centre) == 0:
        return Interval(float(centre), float(low), float(high))
    return Interval(centre, low, high)


def bootstrap_interval(values: ArrayLike, level: float = 0.95, draws: int = 2000, seed: int = 0) -> Interval:
    """Mean over problems with its percentile bootstrap interval; 2-d values give one interval a column."""
    means = resampled_means(values, draws, seed)
    return interval_of(np.mean(np.asarray(values, dtype=np.float64), axis=0), means, level)


def bootstrap_ratio(
    numerator: ArrayLike, denominator: ArrayLike, draws: int = 2000, seed: int = 0
) -> Interval:
    """sum(numerator) / sum(denominator) with its interval, resampling the problems (rows)."""
    table = np.column_stack([np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)])
    top, bottom = table.sum(axis=0)
    if bottom <= 0:
        raise GrlibError(f"denominator adds up to {bottom:g}: must be positive; drop empty problems")
    means = resampled_means(table, draws, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        return interval_of(top / bottom, means[:, 0] / means[:, 1])


def within_budgets(correct: ArrayLike, tokens: ArrayLike, budgets: ArrayLike) -> NDArray[np.bool_]:
    """Which samples are correct within each budget: the shape of `correct`, and an axis of budgets.

    A sample counts when it is correct and its whole response, end token included, is at most the budget
    (the authors' rule).
    """
    right, lengths = np.asarray(correct, dtype=bool), np.asarray(tokens)
    if right.shape != lengths.shape:
        raise GrlibError(f"tokens of shape {lengths.shape}: must be one a sample, as correct {right.shape}")
    return right[..., None] & (lengths[..., None] <= np.atleast_1d(budgets))


def budget_curve(correct: ArrayLike, tokens: ArrayLike, budgets: ArrayLike) -> Floats:
    """Accuracy over all samples at each token budget, shape (budgets,); see `within_budgets`."""
    within = within_budgets(correct, tokens, budgets)
    return within.reshape(-1, within.shape[-1]).mean(axis=0)


def tokens_at_accuracy(budgets: ArrayLike, curve: ArrayLike, level: float) -> float:
    """Smallest budget at which the curve reaches `level`, linear between points; nan when it never does."""
    x, y = np.asarray(budgets, dtype=np.float64), np.asarray(curve, dtype=np.float64)
    if x.shape != y.shape or (np.diff(x) <= 0).any():
        raise GrlibError(f"budgets {x.tolist()}: must rise, one for each of {y.size} accuracies; sort them")
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

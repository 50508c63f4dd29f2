"""pass@k, bootstrap intervals over problems and seeds, tokens at equal accuracy.

Every accuracy is a share in 0..1. Only numpy is needed: no files, no plots.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grlib.errors import GrlibError

Floats = NDArray[np.float64]

# Once C(n-c, k) / C(n, k) is below exp(-40) the estimator rounds to 1 in double precision.
_NEGLIGIBLE = 40
_VALUES_PER_CHUNK = 65_536  # of a bootstrap: what a core keeps close by; larger ones take 1.4 times as long
LEVEL = 0.95  # of every interval
DECIMALS = 12  # that count where numbers are compared: later ones depend on the order of a sum


class Interval(NamedTuple):
    """A mean with the lower and upper end of its interval: floats, or arrays for several columns."""

    mean: Any
    low: Any
    high: Any


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate of P(at least one of k samples is correct) from n samples of which c are correct.

    1 - C(n-c, k) / C(n, k), computed in integers and rounded once. Raises GrlibError (a ValueError) when
    an argument is not an integer (a boolean is not one), or unless 0 <= c <= n and 1 <= k <= n. Table 2 of
    the paper.
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


def resampled_means(
    values: ArrayLike, draws: int = 2000, seed: int = 0, groups: ArrayLike | None = None
) -> Floats:
    """Means of bootstrap samples of problems *and* seeds: (problems, seeds, columns) -> (draws, columns).

    A cell is nan in all columns if a seed did not have the problem. `groups` (problems,): the group of each
    problem; then whole groups are drawn. Problems and seeds are drawn independently of each other and of the
    values, so two calls with tables of equal shape draw the same ones, and differences are paired.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 3 or not np.isfinite(table).any() or np.isinf(table).any():
        raise GrlibError(
            f"values of shape {table.shape}: must be finite, (problems, seeds, columns), nan where a seed "
            "did not have a problem; drop what was not measured"
        )
    present: NDArray[np.bool_] = np.asarray(np.isfinite(table).all(axis=-1))
    sums, counts = np.where(present[..., None], table, 0.0), present.astype(np.float64)
    if groups is not None:
        names, member = np.unique(np.asarray(groups), return_inverse=True)
        belongs = (member[None, :] == np.arange(len(names))[:, None]).astype(np.float64)
        sums, counts = np.tensordot(belongs, sums, axes=1), belongs @ counts
    units, seeds, columns = sums.shape
    drawn = _draws(seed, draws, units)
    drawn_seeds = _draws((seed, 1), draws, seeds) if seeds > 1 else np.ones((draws, 1))
    parts, step = [], max(1, _VALUES_PER_CHUNK // units)
    for chunk in (slice(start, start + step) for start in range(0, draws, step)):
        times, each = drawn[chunk].astype(np.float64), drawn_seeds[chunk]
        total = (times @ sums.reshape(units, -1)).reshape(len(times), seeds, columns)
        total, count = (total * each[..., None]).sum(axis=1), ((times @ counts) * each).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):  # no cell was drawn: nan
            parts.append(total / count[:, None])
    return np.concatenate(parts)


@lru_cache(maxsize=4)  # the claims draw many times from tables of few sizes
def _draws(seed: int | tuple[int, int], draws: int, units: int) -> NDArray[np.uint16]:
    """How often each of `units` is drawn with replacement: (draws, units)."""
    rng, drawn = np.random.default_rng(seed), np.empty((draws, units), dtype=np.uint16)
    step = max(1, _VALUES_PER_CHUNK // units)
    for chunk in (slice(start, start + step) for start in range(0, draws, step)):
        picks = rng.integers(0, units, size=drawn[chunk].shape)
        picks += np.arange(len(picks))[:, None] * units
        drawn[chunk] = np.bincount(picks.ravel(), minlength=picks.size).reshape(picks.shape)
    return drawn


def interval_of(centre: float | Floats, draws: Floats) -> Interval:
    """Percentile interval over axis 0 of bootstrap `draws`, without those that are nan, around `centre`."""
    if np.isnan(draws).all():
        return Interval(centre, math.nan, math.nan)
    ends = np.nanquantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Interval(centre, *ends.round(DECIMALS))


def bootstrap_interval(
    values: ArrayLike, draws: int = 2000, seed: int = 0, groups: ArrayLike | None = None
) -> Interval:
    """Mean with its 95 % bootstrap interval, of one value per problem (problems,) or of each column of a
    table (problems, seeds, columns). Arguments and errors as in `resampled_means`."""
    table = np.asarray(values, dtype=np.float64)
    flat = table.ndim == 1
    if flat and not np.isfinite(table).all():
        raise GrlibError(f"{np.sum(~np.isfinite(table))} of {table.size} values are not finite; drop them")
    table = table[:, None, None] if flat else table
    means = resampled_means(table, draws, seed, groups)
    centre = np.nanmean(table, axis=(0, 1))
    return interval_of(centre[0], means[:, 0]) if flat else interval_of(centre, means)


def bootstrap_ratio(sums: ArrayLike, draws: int = 2000, seed: int = 0) -> Interval:
    """Ratio of two totals with its interval; `sums` (problems, seeds, 2): numerators and denominators."""
    table = np.asarray(sums, dtype=np.float64)
    top, bottom = np.nansum(table, axis=(0, 1))
    means = resampled_means(table, draws, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        return interval_of(float(top / bottom), means[:, 0] / means[:, 1])


def tokens_at_accuracy(budgets: ArrayLike, curves: ArrayLike, level: ArrayLike) -> Floats:
    """Smallest budget at which each curve (..., budgets) reaches its level (...,), linear between points;
    infinite if it never does. The budgets rise."""
    x, y = np.asarray(budgets, dtype=np.float64), np.asarray(curves, dtype=np.float64)
    y, wanted = y.round(DECIMALS), np.asarray(level, dtype=np.float64)[..., None].round(DECIMALS)
    at = (y >= wanted).argmax(axis=-1)[..., None]
    below = np.maximum(at - 1, 0)
    low, high = (np.take_along_axis(y, place, axis=-1) for place in (below, at))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.where(at == 0, x[at], x[below] + (x[at] - x[below]) * (wanted - low) / (high - low))
    return np.asarray(np.where(high >= wanted, found, np.inf)[..., 0])


def token_ratio(budgets: ArrayLike, curves: ArrayLike, references: ArrayLike, share: float) -> Floats:
    """Tokens that a reference needs divided by those that its curve needs, both for `share` of the lower of
    the two final accuracies; 2: half the tokens. nan if one solves nothing. (..., budgets) -> (...,)"""
    level = share * np.minimum(np.asarray(curves)[..., -1], np.asarray(references)[..., -1])
    ours, theirs = (tokens_at_accuracy(budgets, each, level) for each in (curves, references))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where((level > 0) & (ours > 0), theirs / ours, np.nan))

"""pass@k against hand-worked values and brute force, intervals, tokens at equal accuracy."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grlib.errors import GrlibError
from grlib.results import metrics


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [
        (1, 0, 1, 0.0),
        (1, 1, 1, 1.0),
        (2, 1, 1, 0.5),
        (5, 2, 2, 0.7),  # 1 - C(3,2)/C(5,2) = 1 - 3/10
        (4, 1, 4, 1.0),
        (4, 0, 4, 0.0),
        (10, 3, 5, 1 - 21 / 252),
        (32, 1, 32, 1.0),
        (32, 1, 16, 0.5),
    ],
)
def test_pass_at_k_by_hand(n, c, k, expected):
    assert metrics.pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_equals_all_subsets(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        subsets = list(itertools.combinations([i < c for i in range(n)], k))
        expected = sum(map(any, subsets)) / len(subsets)
        assert metrics.pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-15)


def test_pass_at_k_is_exact_for_many_samples():
    assert metrics.pass_at_k(10**12, 1, 1) == 1e-12
    assert metrics.pass_at_k(10**9, 10**3, 10**3) == pytest.approx(-math.expm1(-1e-3), rel=1e-5)
    exact = float(1 - Fraction(math.comb(4500, 200), math.comb(5000, 200)))
    assert metrics.pass_at_k(5000, 500, 200) == exact
    assert metrics.pass_at_k(10**8, 5 * 10**7, 5 * 10**7) == 1.0  # returns at once


@pytest.mark.parametrize(
    ("n", "c", "k"),
    [(4, 2, 5), (4, 2, 0), (4, 5, 2), (-1, 0, 1), (4, -1, 2), (4, 2, -1), (0, 0, 1)]
    + [
        (4.0, 2, 1),
        (4, 2.5, 1),
        (4, 2, "1"),
        (4, True, 1),
        (True, 1, 1),
        (4, 2, np.bool_(True)),
        (4, None, 1),
    ],
)
def test_pass_at_k_refuses(n, c, k):
    with pytest.raises(GrlibError) as caught:
        metrics.pass_at_k(n, c, k)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


@given(st.integers(1, 60), st.data())
@settings(max_examples=150)
def test_pass_at_k_rises_with_k_and_c(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    value = metrics.pass_at_k(n, c, k)
    assert 0 <= value <= 1
    if k < n:
        assert metrics.pass_at_k(n, c, k + 1) >= value
    if c < n:
        assert metrics.pass_at_k(n, c + 1, k) >= value
    assert metrics.pass_at_k(n, np.int64(c), 1) == pytest.approx(c / n)


def test_bootstrap_repeats_and_brackets_the_mean():
    values = np.random.default_rng(3).random(80)
    first, again = metrics.bootstrap_interval(values), metrics.bootstrap_interval(values)
    assert first == again
    assert first.low < first.mean < first.high
    assert first.mean == pytest.approx(values.mean())
    assert metrics.bootstrap_interval([0.25]) == (0.25, 0.25, 0.25)


def test_bootstrap_of_columns_equals_bootstrap_of_each():
    table = np.random.default_rng(0).random((30, 3))
    together = metrics.bootstrap_interval(table[:, None])
    for column in range(3):
        assert np.array(together)[:, column] == pytest.approx(metrics.bootstrap_interval(table[:, column]))


def test_bootstrap_chunks_do_not_change_the_draws(monkeypatch):
    values = np.random.default_rng(1).random((50, 2, 1))
    whole = metrics.resampled_means(values, draws=300)
    monkeypatch.setattr(metrics, "_VALUES_PER_CHUNK", 1000)
    metrics._draws.cache_clear()
    assert metrics.resampled_means(values, draws=300) == pytest.approx(whole)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    for trial in range(300):
        sample = rng.random(60) < 0.3
        interval = metrics.bootstrap_interval(sample, draws=400, seed=trial)
        hits += interval.low <= 0.3 <= interval.high
    assert 0.90 <= hits / 300 <= 0.98


def test_paired_difference_is_tighter_than_its_parts():
    rng = np.random.default_rng(0)
    hard = rng.random(200)
    a, b = hard + 0.1 + rng.normal(0, 0.01, 200), hard
    difference = metrics.bootstrap_interval(a - b)
    alone = metrics.bootstrap_interval(a)
    assert difference.mean == pytest.approx((a - b).mean())
    assert difference.low > 0.09
    assert difference.high - difference.low < (alone.high - alone.low) / 5
    a, b = a[:, None, None], b[:, None, None]
    drawn = metrics.resampled_means(a) - metrics.resampled_means(b)  # the same problems in both
    assert drawn == pytest.approx(metrics.resampled_means(a - b))


def test_bootstrap_draws_problems_and_seeds():
    problems, seeds = np.arange(40.0)[:, None, None] % 2, np.array([0.0, 1.0])[None, :, None]
    apart = np.broadcast_to(seeds, (40, 2, 1))  # only seeds differ: both, one or the other is drawn
    assert set(metrics.resampled_means(apart)[:, 0]) == {0.0, 0.5, 1.0}
    alone, both = np.broadcast_to(problems, (40, 2, 1)), np.broadcast_to(problems + seeds, (40, 2, 1))
    spread = [metrics.resampled_means(values).std() ** 2 for values in (alone, apart, both)]
    assert spread[0] == pytest.approx(0.25 / 40, rel=0.1)
    assert spread[2] == pytest.approx(spread[0] + spread[1], rel=0.1)


def test_bootstrap_of_problems_that_only_one_seed_has():
    cells = np.full((4, 2, 1), np.nan)
    cells[:2, 0], cells[2:, 1] = 0.0, 1.0
    interval = metrics.bootstrap_interval(cells)
    assert interval.mean == [0.5] and (interval.low, interval.high) == ([0.0], [1.0])


def test_bootstrap_draws_what_problems_share_as_a_whole():
    values = np.repeat([0.0, 1.0, 0.0, 1.0], 25)
    members = np.repeat([0, 1, 2, 3], 25)
    alone, together = (metrics.bootstrap_interval(values, groups=groups) for groups in (None, members))
    assert alone.mean == together.mean == 0.5
    assert together.high - together.low > 3 * (alone.high - alone.low)
    apart = metrics.bootstrap_interval(values, groups=np.arange(100))
    assert apart == alone


@pytest.mark.parametrize("values", [[], [math.nan, 1.0], [math.inf]])
def test_bootstrap_refuses_nothing_and_nan(values):
    with pytest.raises(GrlibError):
        metrics.bootstrap_interval(values)


def test_ratio_weights_by_the_denominator():
    ratio = metrics.bootstrap_ratio([[[1.0, 10]], [[9.0, 30]]])
    assert ratio.mean == pytest.approx(0.25)
    assert (ratio.low, ratio.high) == (pytest.approx(0.1), pytest.approx(0.3))


def test_tokens_at_equal_accuracy_by_hand():
    budgets, slow, fast = [0, 100, 200], [0.0, 0.2, 0.6], [0.0, 0.6, 0.8]
    assert metrics.tokens_at_accuracy(budgets, slow, 0.4) == pytest.approx(150)
    assert metrics.tokens_at_accuracy(budgets, slow, 0.0) == 0
    assert math.isinf(metrics.tokens_at_accuracy(budgets, slow, 0.7))
    assert metrics.tokens_at_accuracy(budgets, [slow, fast], [0.4, 0.3]) == pytest.approx([150, 50])
    assert metrics.token_ratio(budgets, fast, slow, 1.0) == pytest.approx(2.0)  # the level is 0.6
    assert metrics.token_ratio(budgets, fast, slow, 0.5) == pytest.approx(125 / 50)
    assert metrics.token_ratio(budgets, slow, fast, 1.0) == pytest.approx(0.5)
    assert math.isnan(metrics.token_ratio(budgets, [0, 0, 0], slow, 0.5))


@pytest.mark.parametrize("error", [0, 1e-16, -1e-16, 2e-16])
def test_a_curve_that_touches_its_level_reaches_it_whatever_the_last_digits(error):
    """Other threads add up in another order; the flat part made the difference of a whole step of tokens."""
    budgets, flat = [0, 100, 200, 300], [0, 0.4 + error, 0.4, 0.8]
    assert metrics.tokens_at_accuracy(budgets, flat, 0.5 * 0.8) == pytest.approx(100)

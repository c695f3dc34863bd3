"""Tests, corrections, intervals and power, held against scipy and statsmodels."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from pinikit.study.statistics import compare, holm, seeds_needed
from pinikit.study.statistics.bootstrap import RESAMPLES, bca_interval
from pinikit.study.statistics.power import POWER, smallest_shown
from pinikit.study.statistics.ranks import _range_quantile, critical_difference, friedman_p
from pinikit.study.statistics.signed_rank import EXACT, mean_ranks, signed_rank_p

DIFFERENCES = st.lists(st.integers(-40, 40).map(lambda value: value / 4), min_size=1, max_size=9)


@settings(deadline=None)
@given(DIFFERENCES)
def test_signed_rank_test_is_the_exact_one_with_ties(differences: list[float]) -> None:
    """Against all sign patterns of scipy's statistic, which needs no formula for ties."""
    kept = np.array([value for value in differences if value != 0])
    if not len(kept):
        assert signed_rank_p(differences) == 1.0
        return
    ranks = stats.rankdata(np.abs(kept))
    signs = (np.arange(2 ** len(kept))[:, None] >> np.arange(len(kept))) & 1
    sums = signs @ ranks
    found = ranks[kept > 0].sum()
    tail = min((sums <= found + 1e-9).mean(), (sums >= found - 1e-9).mean())
    assert signed_rank_p(differences) == pytest.approx(min(1.0, 2 * tail), abs=1e-12)


@pytest.mark.parametrize("pairs", [6, 13, 50, EXACT, EXACT + 20])
def test_signed_rank_test_equals_scipy_without_ties(pairs: int) -> None:
    data = np.random.default_rng(pairs).normal(0.2, 1.0, pairs)
    method = "exact" if pairs <= EXACT else "approx"
    assert signed_rank_p(data.tolist()) == pytest.approx(stats.wilcoxon(data, method=method).pvalue, rel=1e-9)


def test_five_pairs_cannot_reach_five_percent_and_six_can() -> None:
    assert signed_rank_p([1.0, 2.0, 3.0, 4.0, 5.0]) == 0.0625
    assert signed_rank_p([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == 0.03125


@pytest.mark.parametrize("count", [1, 2, 5, 11])
def test_holm_equals_statsmodels(count: int) -> None:
    p_values = np.random.default_rng(count).uniform(0, 0.2, count).round(2).tolist()
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist(), abs=1e-12)


def test_untested_values_do_not_count_for_holm() -> None:
    found = holm([0.01, math.nan, 0.04])
    assert found[::2] == [0.02, 0.04]
    assert math.isnan(found[1])


@pytest.mark.parametrize("tests", [1, 2, 3, 4, 11, 12, 13, 55])
def test_seeds_needed_are_those_with_which_holm_can_reach_the_level(tests: int) -> None:
    def least(pairs: int) -> float:
        return holm([signed_rank_p([float(i + 1) for i in range(pairs)])] * tests)[0]

    needed = seeds_needed(tests, 0.05)
    assert least(needed) < 0.05 <= least(needed - 1)


@pytest.mark.parametrize("count", [20, 37])
def test_bootstrap_equals_scipy_with_the_same_resamples(count: int) -> None:
    data = np.random.default_rng(count).exponential(2.0, count)
    found = stats.bootstrap(
        (data,), np.mean, n_resamples=RESAMPLES, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    assert bca_interval(data.tolist()) == pytest.approx((found.low, found.high), rel=1e-9)
    assert bca_interval(data.tolist()) == bca_interval(data.tolist())


def test_bootstrap_needs_twenty_values() -> None:
    assert all(map(math.isnan, bca_interval([float(i) for i in range(19)])))
    assert bca_interval([3.0] * 20) == (3.0, 3.0)


@pytest.mark.parametrize("pairs", [2, 3, 5, 10, 30, 200])
def test_what_could_be_shown_equals_statsmodels(pairs: int) -> None:
    found = smallest_shown(pairs, 2.5)
    power = TTestPower().power(found / 2.5, pairs, 0.025, alternative="larger")  # without the far tail
    assert power == pytest.approx(POWER, abs=1e-4)
    assert math.isnan(smallest_shown(1, 2.5))


def test_effect_size_is_unbiased() -> None:
    """The mean of g over many samples is the true effect; Cohen's d exceeds it by a third with five pairs."""
    data = np.random.default_rng(0).normal(0.8, 1.0, (20_000, 5))
    effects = [compare(row).effect for row in data[:4000].tolist()]
    plain = data.mean(axis=1) / data.std(axis=1, ddof=1)
    assert np.mean(plain) > 0.95
    assert np.mean(effects) == pytest.approx(0.8, abs=0.04)


def test_comparison_of_rounded_accuracies() -> None:
    """70.1 - 69.9 and 60.3 - 60.1 differ in their last bits, which must not break the tie."""
    found = compare([70.1 - 69.9, 60.3 - 60.1, 50.2 - 50.0])
    assert (found.low, found.high, found.wins) == (0.2, 0.2, 3)
    assert found.untested == "the same difference every time"
    assert math.isnan(found.effect)


def test_comparison_says_why_it_is_not_tested() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compare([]).untested == "no pair"
        assert compare([1.0, 2.0, 3.0, 4.0, 5.0]).untested == "fewer than 6 differences"
        assert compare([1.0, 2.0, 3.0, 4.0, 5.0, 0.0]).untested == "fewer than 6 differences"
        tested = compare([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert (tested.untested, tested.p) == ("", 0.03125)


@pytest.mark.parametrize("count", [2, 3, 6, 12, 40])
def test_range_quantile_equals_scipy(count: int) -> None:
    assert _range_quantile(count) == pytest.approx(stats.studentized_range.ppf(0.95, count, np.inf), abs=1e-5)


def test_critical_difference_of_demsar() -> None:
    """Section 3.2.2, table 5: four classifiers on fourteen data sets, q = 2.569."""
    assert critical_difference(4, 14) == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 14)), abs=1e-3)


def test_friedman_test_equals_scipy() -> None:
    accuracies = np.random.default_rng(2).normal([0, 0.5, 0.6, 1.0], 1.0, (11, 4)).round(1)
    ranks = np.stack([mean_ranks(-row) for row in accuracies])
    chi_square = stats.friedmanchisquare(*accuracies.T).statistic
    f = 10 * chi_square / (11 * 3 - chi_square)
    assert friedman_p(ranks) == pytest.approx(stats.f.sf(f, 3, 30), rel=1e-9)
    assert friedman_p(np.full((5, 3), 2.0)) == 1.0
    assert friedman_p(np.array([[1.0, 2.0, 3.0]] * 5)) == 0.0

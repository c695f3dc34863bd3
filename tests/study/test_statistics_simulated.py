"""Coverage of the intervals and false alarms of the tests, by simulation with seeded normal numbers."""

from __future__ import annotations

import numpy as np
import pytest

from pinikit.study.statistics import compare, estimate, holm
from pinikit.study.statistics.power import smallest_shown
from pinikit.study.statistics.signed_rank import signed_rank_p

STUDIES = 4000


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_cover_what_they_say(seeds: int) -> None:
    """95 % of the intervals hold the true mean; 4,000 studies tell 95 from 94 or 96 %."""
    data = np.random.default_rng(seeds).normal(1.5, 2.0, (STUDIES, seeds))
    found = [estimate(row) for row in data.tolist()]
    covered = np.mean([one.low <= 1.5 <= one.high for one in found])
    assert 0.93 <= covered <= 0.97


def test_bootstrap_covers_from_its_smallest_number_of_pairs_on() -> None:
    data = np.random.default_rng(1).normal(0.0, 1.0, (400, 20))
    found = [compare(row) for row in data.tolist()]
    covered = np.mean([one.bootstrap_low <= 0 <= one.bootstrap_high for one in found])
    assert 0.90 <= covered <= 0.97


@pytest.mark.parametrize("pairs", [6, 7, 10, 20])
def test_p_values_are_super_uniform_under_the_null(pairs: int) -> None:
    """P(p ≤ a) ≤ a for every level, up to three standard errors; and the test is not idle."""
    data = np.random.default_rng(pairs).normal(0.0, 1.0, (STUDIES, pairs))
    p_values = np.array([signed_rank_p(row) for row in data.tolist()])
    for level in (0.01, 0.05, 0.1, 0.25, 0.5, 0.9):
        assert np.mean(p_values <= level) <= level + 3 * np.sqrt(level * (1 - level) / STUDIES)
    assert np.mean(p_values <= 0.1) > 0.03


def test_rounded_differences_keep_the_test_honest() -> None:
    """Accuracies are multiples of 1 / pictures, so differences tie and vanish."""
    data = np.random.default_rng(3).normal(0.0, 1.0, (STUDIES, 9)).round(0)
    p_values = np.array([signed_rank_p(row) for row in data.tolist()])
    for level in (0.05, 0.1, 0.5):
        assert np.mean(p_values <= level) <= level + 3 * np.sqrt(level * (1 - level) / STUDIES)


def test_correction_bounds_the_chance_of_any_false_alarm() -> None:
    """Twelve arms against one baseline, whose noise all differences share."""
    generator = np.random.default_rng(5)
    alarms = 0
    for _ in range(400):
        base = generator.normal(size=10)
        p_values = [signed_rank_p((generator.normal(size=10) - base).tolist()) for _ in range(12)]
        alarms += min(holm(p_values)) < 0.05
    assert alarms / 400 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_power_is_what_the_note_says() -> None:
    """Differences of the size that could be shown are found four times in five."""
    for pairs in (3, 5, 10):
        data = np.random.default_rng(pairs).normal(0.0, 1.0, (STUDIES, pairs))
        size = smallest_shown(pairs, 1.0)
        found = [estimate(row) for row in (data + size).tolist()]
        assert np.mean([not one.low <= 0 <= one.high for one in found]) == pytest.approx(0.8, abs=0.02)

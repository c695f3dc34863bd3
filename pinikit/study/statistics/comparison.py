"""Paired differences and what they tell."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pinikit.study.statistics.bootstrap import bca_interval
from pinikit.study.statistics.estimates import NAN, deviation, estimate
from pinikit.study.statistics.power import smallest_shown
from pinikit.study.statistics.signed_rank import FEWEST, signed_rank_p

LEVEL = 0.05
"""Of all tests."""

DIGITS = 9
"""Decimals of a difference: what lies beyond is rounding of the subtraction, and would break ties."""


@dataclass(frozen=True)
class Comparison:
    """Paired differences of an arm to its baseline, in the unit of the metric; what is unknown is NaN."""

    pairs: int
    mean: float
    low: float
    """Of the 95 % t-interval of the mean, with ``high``."""
    high: float
    bootstrap_low: float
    """Of the 95 % BCa bootstrap interval; from 20 pairs on."""
    bootstrap_high: float
    spread: float
    """Standard deviation of the differences."""
    effect: float
    """Hedges' g of paired differences: mean / spread, corrected for few pairs; from 3 pairs on."""
    p: float
    """Of Wilcoxon's signed-rank test, two-sided, exact, for this comparison alone."""
    untested: str
    """Why there is no p-value; empty if there is one."""
    smallest_shown: float
    """The difference that a paired t-test would have found four times in five."""
    wins: int
    ties: int
    losses: int


def compare(differences: Iterable[float]) -> Comparison:
    """Mean, interval, test and effect of paired differences.

    Wilcoxon's test needs six differences other than 0 to reach 5 % at all, and differences that are not all
    equal: where neither arm depends on the seed, there is nothing to be tested.
    """
    data = [round(value, DIGITS) for value in differences]
    change, spread = estimate(data), deviation(data)
    untested = _why_untested(data)
    low, high = bca_interval(data)
    return Comparison(
        pairs=len(data),
        mean=change.mean,
        low=change.low,
        high=change.high,
        bootstrap_low=low,
        bootstrap_high=high,
        spread=spread,
        effect=_effect(len(data), change.mean, spread),
        p=NAN if untested else signed_rank_p(data),
        untested=untested,
        smallest_shown=smallest_shown(len(data), spread),
        wins=sum(value > 0 for value in data),
        ties=sum(value == 0 for value in data),
        losses=sum(value < 0 for value in data),
    )


def _why_untested(data: list[float]) -> str:
    if not data:
        return "no pair"
    if len(data) > 1 and min(data) == max(data):
        return "the same difference every time"
    if sum(value != 0 for value in data) < FEWEST:
        return f"fewer than {FEWEST} differences"
    return ""


def _effect(pairs: int, mean: float, spread: float) -> float:
    """Cohen's d_z times the exact factor that makes it unbiased for normal differences.

    Sources: J. Cohen, "Statistical power analysis" (1988), d_z; L. V. Hedges, "Distribution theory for
    Glass's estimator of effect size", Journal of Educational Statistics 6 (1981), eq. 6e.
    """
    if pairs < 3 or not spread > 0:
        return NAN
    half = (pairs - 1) / 2
    log_factor = math.lgamma(half) - math.lgamma(half - 0.5) - math.log(half) / 2
    return math.exp(log_factor) * mean / spread

"""What a study could have shown."""

from __future__ import annotations

import math
from functools import lru_cache

from pinikit.study.statistics.estimates import NAN, t_quantile

POWER = 0.8
"""How often a test is to find the difference that is said to be shown."""


def smallest_shown(pairs: int, spread: float) -> float:
    """The smallest mean difference that a two-sided paired t-test at 5 % finds four times in five.

    NaN for fewer than two pairs. The spread is itself estimated, from few seeds roughly.

    Args:
        pairs: how many differences.
        spread: their standard deviation, in the unit of the result.

    Source: J. Cohen, "Statistical power analysis for the behavioral sciences", 2nd ed. (1988), chapter 2, by
    the noncentral t distribution.
    """
    if pairs < 2:
        return NAN
    return _noncentrality(pairs - 1) * spread / math.sqrt(pairs)


@lru_cache
def _noncentrality(degrees: int) -> float:
    """At which t exceeds its critical value with chance ``POWER``; the far tail, below 1e-6, is left out."""
    from scipy.special import nctdtrinc

    return float(nctdtrinc(degrees, 1 - POWER, t_quantile(degrees)))

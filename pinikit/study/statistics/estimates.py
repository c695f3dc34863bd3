"""Means with t-intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

CONFIDENCE = 0.95
"""Of all intervals."""

NAN = math.nan


@dataclass(frozen=True)
class Estimate:
    """A mean and the half-width of its interval, NaN where one value leaves it unknown."""

    mean: float
    interval: float

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self.interval

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + self.interval


def estimate(values: Iterable[float]) -> Estimate:
    """Mean and half-width of the two-sided 95 % t-interval, t(n - 1) · s / √n.

    Equal values give a width of exactly 0, one value an unknown one (NaN), none an unknown mean too.
    """
    data = list(values)
    if not data:
        return Estimate(NAN, NAN)
    if min(data) == max(data):
        return Estimate(data[0], 0.0 if len(data) > 1 else NAN)
    error = deviation(data) / math.sqrt(len(data))
    return Estimate(math.fsum(data) / len(data), t_quantile(len(data) - 1) * error)


def deviation(values: Sequence[float]) -> float:
    """Sample standard deviation, with n - 1; exactly 0 for equal values, NaN for fewer than two."""
    if len(values) < 2:
        return NAN
    if min(values) == max(values):
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


@lru_cache
def t_quantile(degrees: int) -> float:
    """Of Student's t, for a two-sided 95 % interval or a two-sided test at 5 %."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2))

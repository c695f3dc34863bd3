"""Correction for the number of tests."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pinikit.study.statistics.estimates import NAN


def holm(p_values: Sequence[float]) -> list[float]:
    """Step-down corrected p-values: the chance of one false finding among all of them stays below the level.

    What was not tested (NaN) stays so and does not count. Source: S. Holm, "A simple sequentially rejective
    multiple test procedure", Scandinavian Journal of Statistics 6 (1979).
    """
    tested = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    corrected = [NAN] * len(p_values)
    highest = 0.0
    for place, (p, index) in enumerate(tested):
        highest = max(highest, min(1.0, p * (len(tested) - place)))
        corrected[index] = highest
    return corrected


def seeds_needed(tests: int, level: float) -> int:
    """Pairs from which on a signed-rank test among ``tests`` can be significant after Holm's correction.

    With n pairs of one sign its p-value is 2 / 2ⁿ, the smallest that it can give, and the first step of the
    correction multiplies that by the number of tests.
    """
    return math.ceil(math.log2(2 * max(tests, 1) / level))

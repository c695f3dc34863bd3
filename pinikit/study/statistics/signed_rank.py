"""Wilcoxon's signed-rank test, exact."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FEWEST = 6
"""Differences below which the test cannot reach 5 %: five of one sign have p = 2 / 2⁵ = 0.0625."""

EXACT = 100
"""Up to so many differences the distribution is computed; beyond, scipy's normal approximation is as good."""


def signed_rank_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of the hypothesis that differences are symmetric about 0.

    Differences of 0 are left out, as Wilcoxon does; equal sizes share their mean rank, and the distribution
    over all signs is exact for these ranks. Without any difference the p-value is 1.

    Source: F. Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin 1 (1945).
    """
    import numpy as np

    data = np.asarray([value for value in differences if value != 0])
    if not len(data):
        return 1.0
    if len(data) > EXACT:
        from scipy.stats import wilcoxon

        return float(wilcoxon(data, method="approx").pvalue)
    ranks = (2 * mean_ranks(np.abs(data))).astype(int)  # twice, so that they are whole numbers
    chances = _null(tuple(sorted(ranks.tolist())))
    positive = int(ranks[data > 0].sum())
    tail = min(chances[: positive + 1].sum(), chances[positive:].sum())
    return float(min(1.0, 2 * tail))


def mean_ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Ranks from 1 for the smallest; equal values share their mean rank."""
    import numpy as np

    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


@lru_cache(maxsize=256)
def _null(ranks: tuple[int, ...]) -> NDArray[np.float64]:
    """Probability of each sum of the positive ranks where every sign is as likely as the other."""
    import numpy as np

    chances = np.zeros(sum(ranks) + 1)
    chances[0] = 1.0
    for rank in ranks:
        shifted = np.zeros_like(chances)
        shifted[rank:] = chances[: len(chances) - rank]
        chances = (chances + shifted) / 2
    return chances

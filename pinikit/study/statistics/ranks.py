"""Average ranks of series over data sets, with Friedman's test and Nemenyi's critical difference.

Source: J. Demšar, "Statistical comparisons of classifiers over multiple data sets", JMLR 7 (2006).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pinikit.study.statistics.comparison import DIGITS, LEVEL
from pinikit.study.statistics.estimates import NAN
from pinikit.study.statistics.results import Results, finished_by_arm
from pinikit.study.statistics.series import (
    are_all_settings,
    dataset_key,
    dataset_means,
    mean_accuracies,
    settings_of,
)
from pinikit.study.statistics.signed_rank import mean_ranks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pinikit.study.study import Study

FEWEST = 5
"""Data sets from which on ranks are tested; the distributions are approximations for many."""


@dataclass(frozen=True)
class Ranking:
    """Series by their average rank, the best first."""

    series: tuple[str, ...]
    ranks: tuple[float, ...]
    """Average over data sets; 1 is the most accurate, equal accuracies share their mean rank."""
    datasets: int
    incomplete: tuple[str, ...]
    """Series that are left out as they lack a setting."""
    same_seeds: bool
    """Whether the ranked series finished the same seeds at each setting; else each counts with its own."""
    p: float
    """Of Friedman's test that all series are alike, in Iman and Davenport's form; NaN if untested."""
    critical_difference: float
    """Ranks that differ by less are not told apart at 5 % (Nemenyi); NaN if untested."""

    @property
    def tested(self) -> bool:
        """Whether there are enough data sets for tests."""
        return not math.isnan(self.p)

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Series next to each other that are not told apart, two or more; no group lies inside another."""
        found: list[range] = []
        for first in range(len(self.ranks)):
            reach = [
                index
                for index in range(first, len(self.ranks))
                if self.ranks[index] - self.ranks[first] < self.critical_difference
            ]
            if len(reach) > 1 and not (found and reach[-1] <= found[-1][-1]):
                found.append(range(first, reach[-1] + 1))
        return tuple(tuple(self.series[index] for index in group) for group in found)


def ranking(study: Study, results: Results) -> Ranking | None:
    """Average ranks over data sets; None for fewer than three complete series or two data sets."""
    if not settings_of(study):
        return None
    table, incomplete = _accuracies(study, results)
    if len(table) < 3 or len(next(iter(table.values()))) < 2:
        return None
    names = list(table)
    ranks = _ranks(list(table.values()))  # [N, K]
    average = ranks.mean(axis=0)
    order = sorted(range(len(names)), key=lambda index: average[index])
    tested = len(ranks) >= FEWEST
    return Ranking(
        series=tuple(names[index] for index in order),
        ranks=tuple(float(average[index]) for index in order),
        datasets=len(ranks),
        incomplete=tuple(incomplete),
        same_seeds=_same_seeds(study, results, names),
        p=friedman_p(ranks) if tested else NAN,
        critical_difference=critical_difference(len(names), len(ranks)) if tested else NAN,
    )


def friedman_p(ranks: NDArray[Any]) -> float:
    """Friedman's test in the form of Iman and Davenport (1980), which is less timid.

    Args:
        ranks: [N, K] of K series on N data sets, 1 to K in each row.
    """
    import numpy as np
    from scipy.special import fdtrc

    n, k = ranks.shape
    between = n * ((ranks.mean(axis=0) - (k + 1) / 2) ** 2).sum()
    within = ((ranks - (k + 1) / 2) ** 2).sum()
    if within == 0:
        return 1.0  # all series are equal on every data set
    chi_square = n * (k - 1) * between / within  # with ties, as in scipy.stats.friedmanchisquare
    rest = n * (k - 1) - chi_square
    if np.isclose(rest, 0):
        return 0.0  # the same order on every data set
    return float(fdtrc(k - 1, (k - 1) * (n - 1), (n - 1) * chi_square / rest))


def critical_difference(series: int, datasets: int) -> float:
    """Nemenyi's: average ranks that differ by as much are told apart at 5 % (Demšar 2006, section 3.2.2)."""
    return _range_quantile(series) / math.sqrt(2) * math.sqrt(series * (series + 1) / (6 * datasets))


def _accuracies(study: Study, results: Results) -> tuple[dict[str, list[float]], list[str]]:
    """Accuracy by series, in one order of data sets, and the series that lack an arm or its results."""
    finished = finished_by_arm(results)
    series: dict[str, list[Any]] = {}
    for arm in study.arms.values():
        series.setdefault(arm.series, []).append(arm)
    settings = settings_of(study)
    datasets = sorted({dataset_key(arm) for arm in study.arms.values()})
    table, incomplete = {}, []
    for name, arms in series.items():
        present = [arm for arm in arms if arm.name in finished]
        if not are_all_settings(present, settings):
            incomplete.append(name)
            continue
        means = dataset_means(present, mean_accuracies(present, finished))
        table[name] = [means[key] for key in datasets]
    return table, incomplete


def _same_seeds(study: Study, results: Results, series: Sequence[str]) -> bool:
    """Whether arms at the same setting finished the same seeds, among those of complete series."""
    finished = finished_by_arm(results)
    found: dict[tuple[tuple[str, str], ...], set[frozenset[int]]] = {}
    for arm in study.arms.values():
        if arm.series in series:
            found.setdefault(tuple(arm.setting.items()), set()).add(frozenset(finished[arm.name]))
    return all(len(seeds) == 1 for seeds in found.values())


def _ranks(accuracies: Sequence[Sequence[float]]) -> NDArray[Any]:
    """Ranks [N, K] from accuracies [K, N]; the highest accuracy has rank 1, equal ones their mean rank."""
    import numpy as np

    data = np.round(np.asarray(accuracies).T, DIGITS)
    return np.stack([mean_ranks(-row) for row in data])


@lru_cache
def _range_quantile(count: int) -> float:
    """95 % quantile of the range of ``count`` standard normal numbers, by bisection to 1e-10.

    Its distribution function is count · ∫ φ(x) [Φ(x) − Φ(x − q)]^(count − 1) dx; this is the studentised
    range with infinite degrees of freedom.
    """
    import numpy as np
    from scipy.special import ndtr

    x = np.linspace(-9, 9, 2001)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    low, high = 0.0, 20.0
    while high - low > 1e-10:
        middle = (low + high) / 2
        below = count * np.trapezoid(density * (ndtr(x) - ndtr(x - middle)) ** (count - 1), x)
        low, high = (middle, high) if below < 1 - LEVEL else (low, middle)
    return (low + high) / 2

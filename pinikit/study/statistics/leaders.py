"""The best arm and those that seeds do not tell from it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pinikit.study.statistics.comparison import DIGITS
from pinikit.study.statistics.estimates import estimate
from pinikit.study.statistics.results import headline, paired_differences

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pinikit.study.statistics.results import Seeds


def leaders(finished: Mapping[str, Seeds], arms: Iterable[str]) -> frozenset[str]:
    """The most accurate of ``arms``, and all whose paired difference to it has 0 in its 95 % t-interval.

    None where the best has one seed only, which tells nothing apart. The intervals are not corrected for
    the number of arms.
    """
    means = {
        arm: estimate(headline(result) for result in finished[arm].values()).mean
        for arm in arms
        if arm in finished
    }
    best = max(means, key=lambda arm: means[arm], default="")
    if not best or len(finished[best]) < 2:
        return frozenset()
    return frozenset({best, *(arm for arm in means if _is_level(finished[arm], finished[best]))})


def _is_level(own: Seeds, best: Seeds) -> bool:
    change = estimate(round(value, DIGITS) for value in paired_differences(own, best).values())
    return change.low <= 0 <= change.high

"""Published numbers held against a study's results. Imports no torch.

An expectation is met where the mean over seeds lies within the tolerance of the published value. The 95 %
t-interval over seeds does not decide, since it is wide where there are few seeds, but it is said whether it
reaches across the border: then more seeds may turn the verdict.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pinikit.study.statistics import Estimate, Results, estimate, finished_by_arm, headline_mode

if TYPE_CHECKING:
    from pinikit.config.schema import ExpectConfig
    from pinikit.study.store import StoredResult
    from pinikit.study.study import Study

ROUNDING = 1e-9
"""A difference that exceeds the tolerance by no more is within it: 77.3 - 77.0 is a little above 0.3."""


@dataclass(frozen=True)
class Verdict:
    """One arm's result beside what was published."""

    arm: str
    expected: ExpectConfig
    seeds: int
    ours: Estimate
    """Mean over seeds with its 95 % t-interval, in the unit of the metric."""

    @property
    def metric(self) -> str:
        """What was measured: ``accuracy``, or ``accuracy on sketch`` for other data."""
        label, metric = self.expected.other_data, self.expected.metric
        return metric if label is None else f"{metric} on {label}"

    @property
    def difference(self) -> float:
        """Ours minus published."""
        return self.ours.mean - self.expected.value

    @property
    def met(self) -> bool:
        """Whether our mean is within the tolerance; never without a finished seed."""
        return abs(self.difference) <= self.expected.tolerance + ROUNDING

    @property
    def sure(self) -> bool:
        """Whether the whole interval says the same as the mean; one seed is never sure."""
        low, high = self.ours.low - self.expected.value, self.ours.high - self.expected.value
        tolerance = self.expected.tolerance + ROUNDING
        if self.met:
            return max(abs(low), abs(high)) <= tolerance  # False for NaN
        return low > tolerance or high < -tolerance

    @property
    def text(self) -> str:
        """The verdict in words."""
        if not self.seeds:
            return "no finished run"
        if self.sure:
            return "yes" if self.met else "no"
        if math.isnan(self.ours.interval):
            return f"{'yes' if self.met else 'no'}, by one seed"
        return "yes, but the interval leaves it" if self.met else "no, but the interval reaches it"


def verdicts(study: Study, results: Results) -> list[Verdict]:
    """All expectations of the study's arms, in the study's order."""
    finished = finished_by_arm(results)
    found = []
    for arm in study.arms:
        for expected in study.expect.get(arm, ()):
            measured = [_metric(result, expected) for result in finished.get(arm, {}).values()]
            values = [value for value in measured if value is not None]
            found.append(Verdict(arm, expected, len(values), estimate(values)))
    return found


def _metric(result: StoredResult, expected: ExpectConfig) -> float | None:
    """With noise as the headline treats it; None where the run was not tested on the data."""
    mode, label = headline_mode(result), expected.other_data
    if label is None:
        return float(result.metrics("test", mode)[expected.metric])
    tested = result.other_data.get(label)
    return None if tested is None else float(tested["test"][mode][expected.metric])

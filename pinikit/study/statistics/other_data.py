"""Arms on data that they were not trained on (``evaluate.other_data``), over seeds and against baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pinikit.study.statistics.comparison import Comparison, compare
from pinikit.study.statistics.estimates import Estimate, estimate
from pinikit.study.statistics.results import Results, finished_by_arm, headline_mode

if TYPE_CHECKING:
    from pinikit.study.statistics.results import Seeds
    from pinikit.study.store import StoredResult
    from pinikit.study.study import Study


@dataclass(frozen=True)
class OtherSummary:
    """An arm on one other data set, or on all of them, over its finished seeds."""

    arm: str
    label: str | None
    """Of the data; None for the mean over all of the study, each data set alike."""
    accuracy: Estimate
    """In percent, noise as in the headline; NaN where the arm was not tested on it."""
    comparison: Comparison
    """Paired differences to the baseline on the same data, in points; without pairs for the baseline."""


def other_labels(results: Results) -> list[str]:
    """The other data that finished runs were to be tested on, in the order in which it is met."""
    finished = (result for result in results.values() if result.finished)
    return list(dict.fromkeys(label for item in finished for label in (*item.other_data, *item.untested)))


def other_summaries(study: Study, results: Results) -> list[OtherSummary]:
    """By arm, in the study's order, and for each its data; from two labels on, the mean over them is last.

    Empty where no run was to be tested on other data.
    """
    labels, finished = other_labels(results), finished_by_arm(results)
    groups: list[str | None] = [*labels, *([None] if len(labels) > 1 else [])]
    return [
        _summary(arm, label, labels if label is None else [label], study, finished)
        for arm in study.arms
        for label in groups
    ]


def _summary(
    arm: str, label: str | None, labels: Sequence[str], study: Study, finished: Mapping[str, Seeds]
) -> OtherSummary:
    own, baseline = _accuracies(finished.get(arm, {}), labels), study.arms[arm].baseline
    compared = baseline is not None and baseline != arm
    base = _accuracies(finished.get(str(baseline), {}), labels) if compared else {}
    differences = [own[seed] - base[seed] for seed in own if seed in base]
    return OtherSummary(arm, label, estimate(own.values()), compare(differences))


def _accuracies(seeds: Seeds, labels: Sequence[str]) -> dict[int, float]:
    """By seed, of runs that were tested on all of ``labels``: the mean over them."""
    return {
        seed: math.fsum(other_accuracy(result, label) for label in labels) / len(labels)
        for seed, result in seeds.items()
        if all(label in result.other_data for label in labels)
    }


def other_accuracy(result: StoredResult, label: str) -> float:
    """Accuracy on other data in percent, with noise as the headline treats it."""
    return float(result.other_data[label]["test"][headline_mode(result)]["accuracy"])

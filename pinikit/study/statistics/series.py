"""Series of arms over the settings of a study with axes, and over its data sets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pinikit.config.schema import DataExtras
from pinikit.data.files import canonical_json
from pinikit.study.statistics.comparison import Comparison, compare
from pinikit.study.statistics.estimates import NAN
from pinikit.study.statistics.holm import holm
from pinikit.study.statistics.results import Results, finished_by_arm, headline, paired_differences

if TYPE_CHECKING:
    from pinikit.study.statistics.results import Seeds
    from pinikit.study.study import Arm, Study


@dataclass(frozen=True)
class SeriesSummary:
    """A series over all settings at which it and its baseline have finished seeds.

    Every data set counts alike: settings of one data set are averaged first, then the data sets.
    """

    series: str
    settings: int
    """At which it finished a seed."""
    complete: bool
    """Whether these are all settings of the study, so that its mean is comparable with others'."""
    datasets: int
    """Of these settings."""
    accuracy: float
    """In percent; the mean over data sets."""
    over_seeds: Comparison
    """Differences averaged over all settings, one for each seed that all of them finished. These describe
    other few-shot splits and trainings on the same data sets."""
    over_datasets: Comparison
    """Differences averaged over seeds and settings, one for each data set: what other data sets would give,
    as far as these are a sample of them. Without pairs where there is one data set."""
    p_holm: float
    """Of the test over data sets, corrected for all series."""

    @property
    def gain(self) -> float:
        """Mean paired difference to the baseline, each data set alike; NaN without pairs.

        Over one data set it has the seeds that every setting has.
        """
        return self.over_datasets.mean if self.over_datasets.pairs else self.over_seeds.mean


def dataset_key(arm: Arm) -> str:
    """Equal for arms on the same data set, whatever their shots and splits."""
    extras = DataExtras.__dataclass_fields__
    return canonical_json({key: value for key, value in arm.config["data"].items() if key not in extras})


def settings_of(study: Study) -> list[Mapping[str, str]]:
    """The settings of a study with axes, in the study's order; none in one without."""
    found = {tuple(arm.setting.items()): arm.setting for arm in study.arms.values() if arm.setting}
    return list(found.values())


def are_all_settings(arms: Iterable[Arm], settings: Sequence[Mapping[str, str]]) -> bool:
    """Whether the arms of a series stand at each of a study's settings."""
    found = {tuple(arm.setting.items()) for arm in arms}
    return all(tuple(setting.items()) in found for setting in settings)


def series_summaries(study: Study, results: Results) -> list[SeriesSummary]:
    """One summary per series, in the study's order; none in a study without axes."""
    settings = settings_of(study)
    if not settings:
        return []
    finished = finished_by_arm(results)
    series: dict[str, list[Arm]] = {}
    for arm in study.arms.values():
        series.setdefault(arm.series, []).append(arm)
    rows = [_summary(name, arms, finished, settings) for name, arms in series.items()]
    corrected = holm([row.over_datasets.p for row in rows])
    return [replace(row, p_holm=p) for row, p in zip(rows, corrected, strict=True)]


def dataset_means(arms: Sequence[Arm], values: Mapping[str, float]) -> dict[str, float]:
    """One value per data set: the mean of its arms' ``values``."""
    groups: dict[str, list[float]] = {}
    for arm in arms:
        groups.setdefault(dataset_key(arm), []).append(values[arm.name])
    return {key: _mean(found) for key, found in groups.items()}


def mean_accuracies(arms: Sequence[Arm], finished: Mapping[str, Seeds]) -> dict[str, float]:
    """Of the arms that finished a seed, by name."""
    return {
        arm.name: _mean([headline(result) for result in finished[arm.name].values()])
        for arm in arms
        if arm.name in finished
    }


def _summary(
    series: str, arms: Sequence[Arm], finished: Mapping[str, Seeds], settings: Sequence[Mapping[str, str]]
) -> SeriesSummary:
    accuracies = mean_accuracies(arms, finished)
    present = [arm for arm in arms if arm.name in accuracies]
    by_dataset = dataset_means(present, accuracies)
    pairs = {arm.name: _pairs(arm, finished) for arm in present}
    compared = [arm for arm in present if pairs[arm.name]]
    over = dataset_means(compared, {arm.name: _mean(list(pairs[arm.name].values())) for arm in compared})
    return SeriesSummary(
        series=series,
        settings=len(present),
        complete=are_all_settings(present, settings),
        datasets=len(by_dataset),
        accuracy=_mean(list(by_dataset.values())),
        over_seeds=compare(_by_seed(compared, pairs)),
        over_datasets=compare(over.values() if len(over) > 1 else ()),
        p_holm=NAN,
    )


def _pairs(arm: Arm, finished: Mapping[str, Seeds]) -> dict[int, float]:
    if arm.baseline is None or arm.baseline == arm.name:
        return {}
    return paired_differences(finished[arm.name], finished.get(arm.baseline, {}))


def _by_seed(arms: Sequence[Arm], pairs: Mapping[str, Mapping[int, float]]) -> list[float]:
    """Differences averaged over data sets, for the seeds that every setting has."""
    if not arms:
        return []
    common = set.intersection(*(set(pairs[arm.name]) for arm in arms))
    return [
        _mean(list(dataset_means(arms, {arm.name: pairs[arm.name][seed] for arm in arms}).values()))
        for seed in sorted(common)
    ]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else NAN

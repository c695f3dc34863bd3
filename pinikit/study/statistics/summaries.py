"""One row for each arm: accuracy, difference to its baseline, noise at test time, costs."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pinikit.study.statistics.comparison import Comparison, compare
from pinikit.study.statistics.estimates import NAN, deviation, estimate
from pinikit.study.statistics.holm import holm
from pinikit.study.statistics.results import (
    Results,
    draws_in,
    finished_by_arm,
    headline,
    headline_mode,
    paired_differences,
)

if TYPE_CHECKING:
    import pandas as pd

    from pinikit.study.statistics.results import Seeds
    from pinikit.study.store import StoredResult
    from pinikit.study.study import Study


@dataclass(frozen=True)
class ArmSummary:
    """One arm over its finished seeds. Accuracies, flip rate and ECE in percent, differences in points."""

    arm: str
    series: str
    setting: str
    """The axes' values, ``dtd, data.shots=4``; empty in a study without axes."""
    baseline: str
    """The arm that it is compared with, which may be itself; empty if there is none."""
    seeds: int
    """How many finished."""
    failed: int
    noise: str
    """How the headline treats noise: ``mean``, or the first mode of a run that leaves it out."""
    accuracy: float
    accuracy_interval: float
    """Half-width of the 95 % t-interval over seeds; NaN with one seed."""
    seed_std: float
    """Standard deviation of accuracy between seeds."""
    difference: float
    """Mean paired difference to the baseline; NaN for the baseline itself."""
    difference_low: float
    """Of its 95 % t-interval over seeds."""
    difference_high: float
    bootstrap_low: float
    """Of its 95 % BCa bootstrap interval; NaN below 20 pairs."""
    bootstrap_high: float
    pairs: int
    """Seeds that the arm and the baseline both finished."""
    wins: int
    ties: int
    losses: int
    effect: float
    """Mean difference in units of the differences' spread (Hedges' g of paired differences)."""
    p: float
    """Of Wilcoxon's signed-rank test; NaN where ``untested`` says why."""
    p_holm: float
    """The same, corrected for all arms of the study that were tested."""
    untested: str
    smallest_shown: float
    """The difference that these seeds, with this spread, would have shown four times in five."""
    sample_accuracy: float
    """With one draw of the noise."""
    mc_noise: str
    mc_accuracy: float
    """With probabilities averaged over the most draws that were asked for."""
    draw_std: float
    """Standard deviation of accuracy between single draws of test-time noise, mean over seeds."""
    flip_rate: float
    """How often two draws disagree on a picture."""
    macro_accuracy: float
    nll: float
    ece: float
    noise_ratio: str
    """Size of the drawn noise relative to the feature that it is added to, by injection."""
    seconds_total: float
    """Of training and evaluation, as the following a mean over seeds."""
    seconds_train: float
    seconds_evaluate: float
    peak_memory_mb: float
    """Of the largest run."""
    trainable_parameters: float
    images_per_second: float
    """In training."""
    tokens_train: float
    """Text tokens that crossed the text tower in training."""
    text_flops_per_second: float
    """Of the text path in a training step; NaN where no step crosses the text tower."""
    matmul_share: float
    """The same as a share of a plain matrix product's rate on the same machine, in percent."""
    cost_class: str

    @property
    def is_baseline(self) -> bool:
        """Whether others are compared with it."""
        return self.arm == self.baseline


@dataclass(frozen=True)
class SharedCosts:
    """What serves several runs, and so fell on whichever came first; sums over finished runs."""

    seconds_load: float
    seconds_bank: float
    images_encoded: float
    rows_cached: float


def arm_summaries(study: Study, results: Results) -> list[ArmSummary]:
    """One summary per arm, in the study's order; needs neither pandas nor torch."""
    finished = finished_by_arm(results)
    failed = Counter(arm for (arm, _), result in results.items() if not result.finished)
    comparisons = {name: _comparison(study, name, finished) for name in study.arms}
    corrected = holm([comparison.p for comparison in comparisons.values()])
    return [
        _summary(study, name, finished.get(name, {}), failed[name], comparison, p)
        for (name, comparison), p in zip(comparisons.items(), corrected, strict=True)
    ]


def shared_costs(results: Results) -> SharedCosts:
    """Loading and encoding, of all finished runs together; what old results do not tell counts as nothing."""
    finished = {result.run_id: result for result in results.values() if result.finished}.values()
    names = [item.name for item in dataclasses.fields(SharedCosts)]
    return SharedCosts(
        **{name: math.fsum(float(result.costs.get(name, 0)) for result in finished) for name in names}
    )


def as_table(summaries: Sequence[ArmSummary]) -> pd.DataFrame:
    """One row per arm; the columns are the fields of :class:`ArmSummary`, what is unknown is NaN."""
    import pandas as pd

    columns = [item.name for item in dataclasses.fields(ArmSummary)]
    return pd.DataFrame([vars(row) for row in summaries], columns=columns)


def setting_text(setting: Mapping[str, str]) -> str:
    """``data=dtd, data.shots=4``."""
    return ", ".join(f"{axis}={value}" for axis, value in setting.items())


def _comparison(study: Study, name: str, finished: Mapping[str, Seeds]) -> Comparison:
    baseline = study.arms[name].baseline
    if baseline is None or baseline == name:
        return compare(())
    return compare(paired_differences(finished.get(name, {}), finished.get(baseline, {})).values())


def _summary(
    study: Study, name: str, seeds: Seeds, failed: int, comparison: Comparison, p_holm: float
) -> ArmSummary:
    arm, finished = study.arms[name], list(seeds.values())
    accuracies = [headline(result) for result in finished]
    accuracy = estimate(accuracies)
    drawn = _most_drawn(finished)
    averaged = drawn if draws_in(drawn) > 1 else ""
    return ArmSummary(
        arm=name,
        series=arm.series,
        setting=setting_text(arm.setting),
        baseline=arm.baseline or "",
        seeds=len(finished),
        failed=failed,
        noise=headline_mode(finished[0]) if finished else "",
        accuracy=accuracy.mean,
        accuracy_interval=accuracy.interval,
        seed_std=deviation(accuracies),
        **_difference(comparison),
        p_holm=p_holm,
        sample_accuracy=_mean(finished, "sample", "accuracy"),
        mc_noise=averaged,
        mc_accuracy=_mean(finished, averaged, "accuracy"),
        draw_std=_mean(finished, averaged, "draw_accuracy_std"),
        flip_rate=_mean(finished, averaged, "flip_rate"),
        macro_accuracy=_headline_mean(finished, "macro_accuracy"),
        nll=_headline_mean(finished, "nll"),
        ece=_headline_mean(finished, "ece"),
        noise_ratio=_ratios(finished, drawn),
        **_costs(finished),
    )


def _difference(found: Comparison) -> dict[str, Any]:
    same = ("bootstrap_low", "bootstrap_high", "pairs", "wins", "ties", "losses", "effect", "p", "untested")
    return {
        "difference": found.mean,
        "difference_low": found.low,
        "difference_high": found.high,
        "smallest_shown": found.smallest_shown,
        **{name: getattr(found, name) for name in same},
    }


def _most_drawn(finished: Sequence[StoredResult]) -> str:
    """The mode with the most draws that every finished run has; empty if there is none."""
    if not finished:
        return ""
    modes = [mode for mode in finished[0].content["metrics"]["test"] if _everywhere(finished, mode)]
    return max(modes, key=draws_in, default="")


def _everywhere(finished: Sequence[StoredResult], mode: str) -> bool:
    return bool(finished) and all(mode in result.content["metrics"]["test"] for result in finished)


def _mean(finished: Sequence[StoredResult], mode: str, key: str) -> float:
    if not _everywhere(finished, mode):
        return NAN
    return estimate(float(result.metrics("test", mode)[key]) for result in finished).mean


def _headline_mean(finished: Sequence[StoredResult], key: str) -> float:
    return estimate(float(result.metrics("test", headline_mode(result))[key]) for result in finished).mean


def _ratios(finished: Sequence[StoredResult], mode: str) -> str:
    if not _everywhere(finished, mode):
        return ""
    rows = [result.metrics("test", mode)["noise_ratio"] for result in finished]
    means = {label: estimate(float(row[label]) for row in rows if label in row).mean for label in rows[0]}
    return ", ".join(f"{label} {ratio:.3g}" for label, ratio in means.items())


def _costs(finished: Sequence[StoredResult]) -> dict[str, Any]:
    def values(key: str) -> list[float]:
        found = [result.costs.get(key) for result in finished]  # None: not known, or without meaning
        return [float(value) for value in found if value is not None]

    means = (
        "seconds_total",
        "seconds_train",
        "seconds_evaluate",
        "images_per_second",
        "tokens_train",
        "text_flops_per_second",
    )
    return {
        **{name: estimate(values(name)).mean for name in means},
        "matmul_share": 100 * estimate(values("matmul_share")).mean,
        "peak_memory_mb": max(values("peak_memory_mb"), default=NAN),
        "trainable_parameters": max(values("trainable_parameters"), default=NAN),
        "cost_class": str(finished[0].costs["cost_class"]) if finished else "",
    }

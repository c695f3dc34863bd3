"""Arms compared over their seeds: means, t-intervals, paired differences. Imports no torch.

The headline metric is test accuracy at the last epoch with noise at its mean. Arms are compared with
the baseline on the seeds that both have, as paired differences, so what a seed's split has in common
for both cancels. Spread between the draws of the test-time noise stands apart from spread between seeds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from pinikit.study.store import StoredResult
    from pinikit.study.study import Study

CONFIDENCE = 0.95
"""Of all intervals."""

NAN = math.nan

Results = Mapping[tuple[str, int], "StoredResult"]
"""Results by arm and seed, failed ones included."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and the half-width of its interval, NaN where one seed leaves it unknown."""

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


@dataclass(frozen=True)
class ArmSummary:
    """One arm over its finished seeds. Accuracies, flip rate and ECE in percent, differences in points."""

    arm: str
    seeds: int
    """How many finished."""
    failed: int
    noise: str
    """How the headline treats noise: ``mean``, or the first mode of a run that leaves it out."""
    accuracy: float
    accuracy_interval: float
    """Half-width of the 95 % t-interval over seeds; NaN with one seed."""
    difference: float
    """Mean paired difference to the baseline; NaN for the baseline itself."""
    difference_low: float
    difference_high: float
    pairs: int
    """Seeds that the arm and the baseline both finished."""
    wins: int
    ties: int
    losses: int
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


@dataclass(frozen=True)
class SharedCosts:
    """What serves several runs, and so fell on whichever came first; sums over finished runs."""

    seconds_load: float
    seconds_bank: float
    images_encoded: float
    rows_cached: float


def estimate(values: Iterable[float]) -> Estimate:
    """Mean and half-width of the two-sided 95 % t-interval, t(n - 1) · s / √n.

    Equal values give a width of exactly 0, one value an unknown one (NaN), none an unknown mean too.
    """
    data = list(values)
    if not data:
        return Estimate(NAN, NAN)
    if min(data) == max(data):
        return Estimate(data[0], 0.0 if len(data) > 1 else NAN)
    mean = math.fsum(data) / len(data)
    variance = math.fsum((value - mean) ** 2 for value in data) / (len(data) - 1)
    return Estimate(mean, _t_quantile(len(data) - 1) * math.sqrt(variance / len(data)))


def headline_mode(result: StoredResult) -> str:
    """``mean`` if the run evaluated it, else the first mode that it did."""
    modes = list(result.content["metrics"]["test"])
    return "mean" if "mean" in modes else str(modes[0])


def headline(result: StoredResult) -> float:
    """Test accuracy at the last epoch with noise at its mean, in percent."""
    return float(result.metrics("test", headline_mode(result))["accuracy"])


def finished_seeds(results: Results, arm: str) -> dict[int, StoredResult]:
    """An arm's finished results by seed, in the order of the seeds."""
    return {seed: result for (name, seed), result in sorted(_of(results, arm)) if result.finished}


def paired_differences(results: Results, arm: str, baseline: str) -> dict[int, float]:
    """Headline of the arm minus that of the baseline, for each seed that both finished."""
    own, base = finished_seeds(results, arm), finished_seeds(results, baseline)
    return {seed: headline(own[seed]) - headline(base[seed]) for seed in own if seed in base}


def arm_summaries(study: Study, results: Results) -> list[ArmSummary]:
    """One summary per arm, in the study's order; needs neither pandas nor torch."""
    return [_summary(study, results, arm) for arm in study.arms]


def shared_costs(results: Results) -> SharedCosts:
    """Loading and encoding, of all finished runs together; what old results do not tell counts as nothing."""
    finished = {result.run_id: result for result in results.values() if result.finished}.values()
    names = [item.name for item in dataclasses.fields(SharedCosts)]
    return SharedCosts(
        **{name: math.fsum(float(result.costs.get(name, 0)) for result in finished) for name in names}
    )


def summarise(study: Study, results: Results) -> pd.DataFrame:
    """One row per arm; the columns are the fields of :class:`ArmSummary`, what is unknown is NaN."""
    import pandas as pd

    columns = [item.name for item in dataclasses.fields(ArmSummary)]
    return pd.DataFrame([dataclasses.asdict(row) for row in arm_summaries(study, results)], columns=columns)


def long_rows(study: Study, results: Results) -> list[dict[str, Any]]:
    """One row per run and noise mode, in the study's order; a failed run has one row with its error."""
    rows = []
    for run in study.runs:
        result = results.get((run.arm, run.seed))
        if result is not None:
            head = {"study": study.name, "arm": run.arm, "seed": run.seed, "run": run.id}
            rows += [{**head, **row} for row in _modes(result)]
    return rows


def long_table(study: Study, results: Results) -> pd.DataFrame:
    """:func:`long_rows` as a table."""
    import pandas as pd

    return pd.DataFrame(long_rows(study, results))


def _of(results: Results, arm: str) -> list[tuple[tuple[str, int], StoredResult]]:
    return [(key, result) for key, result in results.items() if key[0] == arm]


def _t_quantile(degrees: int) -> float:
    from scipy.special import stdtrit  # scipy.stats takes seconds to import

    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2))


def _summary(study: Study, results: Results, arm: str) -> ArmSummary:
    finished = list(finished_seeds(results, arm).values())
    accuracy = estimate(map(headline, finished))
    drawn = _most_drawn(finished)
    return ArmSummary(
        arm=arm,
        seeds=len(finished),
        failed=len(_of(results, arm)) - len(finished),
        noise=headline_mode(finished[0]) if finished else "",
        accuracy=accuracy.mean,
        accuracy_interval=accuracy.interval,
        **_difference(study, results, arm),
        sample_accuracy=_mean(finished, "sample", "accuracy"),
        mc_noise=drawn if draws_in(drawn) > 1 else "",
        mc_accuracy=_mean(finished, drawn, "accuracy") if draws_in(drawn) > 1 else NAN,
        draw_std=_mean(finished, drawn, "draw_accuracy_std") if draws_in(drawn) > 1 else NAN,
        flip_rate=_mean(finished, drawn, "flip_rate") if draws_in(drawn) > 1 else NAN,
        macro_accuracy=_headline_mean(finished, "macro_accuracy"),
        nll=_headline_mean(finished, "nll"),
        ece=_headline_mean(finished, "ece"),
        noise_ratio=_ratios(finished, drawn),
        **_costs(finished),
    )


def _difference(study: Study, results: Results, arm: str) -> dict[str, Any]:
    pairs, baseline = {}, study.arms[arm].baseline
    if baseline is not None and arm != baseline:
        pairs = paired_differences(results, arm, baseline)
    change = estimate(pairs.values())
    return {
        "difference": change.mean,
        "difference_low": change.low,
        "difference_high": change.high,
        "pairs": len(pairs),
        "wins": sum(value > 0 for value in pairs.values()),
        "ties": sum(value == 0 for value in pairs.values()),
        "losses": sum(value < 0 for value in pairs.values()),
    }


def draws_in(mode: str) -> int:
    """How many draws a mode of an evaluation takes: ``mean`` 0, ``sample`` 1, ``mc-K`` K."""
    head, _, count = mode.partition("-")
    return int(count) if head == "mc" and count.isdigit() else int(mode == "sample")


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


def _modes(result: StoredResult) -> list[dict[str, Any]]:
    if not result.finished:
        return [{"status": "failed", "error": result.error}]
    metrics, costs = result.content["metrics"], dict(result.costs)
    validation = metrics.get("val") or {}
    rows = []
    for mode, row in metrics["test"].items():
        ratios = {f"noise_ratio.{label}": ratio for label, ratio in row["noise_ratio"].items()}
        plain = {key: value for key, value in row.items() if key != "noise_ratio"}
        val = {"val_accuracy": validation.get(mode, {}).get("accuracy", NAN)}
        rows.append({"status": "finished", "noise": mode, **plain, **val, **ratios, **costs})
    return rows

"""Results by arm and seed, and what is taken from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pinikit.study.statistics.estimates import NAN

if TYPE_CHECKING:
    import pandas as pd

    from pinikit.study.store import StoredResult
    from pinikit.study.study import Study

METRICS = ("accuracy", "macro_accuracy", "nll", "ece")
"""Of an evaluation, apart from what it tells of the noise."""

Results = Mapping[tuple[str, int], "StoredResult"]
"""Results by arm and seed, failed ones included."""

Seeds = Mapping[int, "StoredResult"]
"""An arm's finished results by seed."""


def headline_mode(result: StoredResult) -> str:
    """``mean`` if the run evaluated it, else the first mode that it did."""
    modes = list(result.content["metrics"]["test"])
    return "mean" if "mean" in modes else str(modes[0])


def headline(result: StoredResult) -> float:
    """Test accuracy at the last epoch with noise at its mean, in percent."""
    return float(result.metrics("test", headline_mode(result))["accuracy"])


def draws_in(mode: str) -> int:
    """How many draws a mode of an evaluation takes: ``mean`` 0, ``sample`` 1, ``mc-K`` K."""
    head, _, count = mode.partition("-")
    return int(count) if head == "mc" and count.isdigit() else int(mode == "sample")


def finished_by_arm(results: Results) -> dict[str, dict[int, StoredResult]]:
    """Finished results by arm, then by seed in ascending order; arms without any are left out."""
    found: dict[str, dict[int, StoredResult]] = {}
    for arm, seed in sorted(key for key, result in results.items() if result.finished):
        found.setdefault(arm, {})[seed] = results[arm, seed]
    return found


def paired_differences(own: Seeds, base: Seeds) -> dict[int, float]:
    """Headline of the arm minus that of the baseline, for each seed that both finished."""
    return {seed: headline(own[seed]) - headline(base[seed]) for seed in own if seed in base}


def long_rows(study: Study, results: Results) -> list[dict[str, Any]]:
    """One row per run and noise mode, in the study's order; a failed run has one row with its error."""
    rows = []
    for run in study.runs:
        result = results.get((run.arm, run.seed))
        if result is not None:
            head: dict[str, Any] = {"study": study.name, "arm": run.arm, **_place(study, run.arm)}
            head |= {"seed": run.seed, "run": run.id}
            rows += [{**head, **row} for row in _modes(result)]
    return rows


def long_table(study: Study, results: Results) -> pd.DataFrame:
    """:func:`long_rows` as a table."""
    import pandas as pd

    return pd.DataFrame(long_rows(study, results))


def _place(study: Study, name: str) -> dict[str, str]:
    """Series and axes of an arm, in studies that have axes."""
    arm = study.arms[name]
    if not arm.setting:
        return {}
    return {"series": arm.series, **{f"at.{axis}": value for axis, value in arm.setting.items()}}


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
        other = _elsewhere(result, mode)
        rows.append({"status": "finished", "noise": mode, **plain, **val, **other, **ratios, **costs})
    return rows


def _elsewhere(result: StoredResult, mode: str) -> dict[str, Any]:
    """Metrics on other data than was trained on, by ``on.<label>.<metric>``, or why there are none."""
    found: dict[str, Any] = {
        f"on.{label}.{metric}": tested["test"][mode][metric]
        for label, tested in result.other_data.items()
        for metric in METRICS
    }
    return found | {f"on.{label}.error": reason for label, reason in result.untested.items()}

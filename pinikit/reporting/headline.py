"""The study's result in one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pinikit.reporting.text import interval, number, plural, plus_minus, signed, signed_interval
from pinikit.study.statistics import ArmSummary, SeriesSummary

if TYPE_CHECKING:
    from pinikit.study.study import Run, Study

LISTED = 6
"""Values of an axis that are named; of more only the number is said."""


def headline_sentence(
    study: Study, summaries: Sequence[ArmSummary], series: Sequence[SeriesSummary] = ()
) -> str:
    """The best arm, or the best series over all settings, and whether seeds tell it from the baseline."""
    if not any(row.seeds for row in summaries):
        return "No run finished, so there is nothing to compare."
    if series:
        return _best_series(study, series)
    return _best_arm(summaries, study.baseline, task_text(study.runs))


def task_text(runs: Iterable[Run]) -> str:
    """Data set and shots in words."""
    tasks = dict.fromkeys((run.manifest.dataset, run.manifest.shots) for run in runs)
    return " and ".join(f"{dataset} with {plural(shots, 'shot')}" for dataset, shots in tasks)


def axes_text(study: Study) -> str:
    """``data: caltech101, dtd; data.shots: 1, 4, 16``."""
    values: dict[str, dict[str, None]] = {}
    for arm in study.arms.values():
        for axis, value in arm.setting.items():
            values.setdefault(axis, {})[value] = None
    return "; ".join(
        f"{axis}: {', '.join(found) if len(found) <= LISTED else plural(len(found), 'value')}"
        for axis, found in values.items()
    )


def _best_arm(summaries: Sequence[ArmSummary], baseline: str | None, task: str) -> str:
    finished = [row for row in summaries if row.seeds]
    best = max(finished, key=lambda row: row.accuracy)
    what = f"{plus_minus(best.accuracy, best.accuracy_interval)} % test accuracy on {task}"
    over = f"mean over {plural(best.seeds, 'seed')}"
    over += ", 95 % interval" if best.seeds > 1 else ", which gives no interval"
    reference = next((row for row in finished if row.arm == baseline), None)
    if len(finished) == 1:
        return f"`{best.arm}` reaches {what} ({over})."
    sentence = f"Of {plural(len(finished), 'arm')}, `{best.arm}` is the most accurate: {what} ({over})"
    if reference is None or best is reference:
        return f"{sentence}{'; no arm beats the baseline' if best is reference else ''}."
    gain = signed_interval(best.difference, best.difference_low, best.difference_high)
    verdict = _verdict(best)
    return f"{sentence}, {gain} points against `{baseline}` ({number(reference.accuracy)} %){verdict}."


def _verdict(row: ArmSummary) -> str:
    if row.pairs == 0:
        return "; they share no seed"
    if math.isnan(row.difference_low):
        return "; one shared seed says nothing about the spread"
    if row.difference_low <= 0 <= row.difference_high:
        return "; that interval contains 0, so these seeds do not tell the two apart"
    return f", ahead on {row.wins} of {plural(row.pairs, 'seed')}"


def _best_series(study: Study, series: Sequence[SeriesSummary]) -> str:
    whole = [row for row in series if row.complete]
    if not whole:
        return f"No series has results at every setting ({axes_text(study)}), so none is called the best."
    best = max(whole, key=lambda row: row.accuracy)
    where = f"Over {plural(best.settings, 'setting')} ({axes_text(study)})"
    if len(whole) == 1:
        return f"{where}, `{best.series}` reaches {number(best.accuracy)} % test accuracy on average."
    sentence = f"{where}, `{best.series}` is the most accurate of {len(whole)} series"
    sentence += f": {number(best.accuracy)} % test accuracy on average"
    reference = next((row for row in whole if row.series == study.baseline), None)
    if reference is None or best is reference:
        return f"{sentence}{'; none beats the baseline' if best is reference else ''}."
    over = f"`{study.baseline}` ({number(reference.accuracy)} %)"
    if math.isnan(best.gain):
        return f"{sentence}, beside {over}; they share no seed that finished at every setting."
    return f"{sentence}, {signed(best.gain)} points against {over}{_intervals(best)}."


def over_seeds_text(row: SeriesSummary) -> str:
    """The interval over seeds, with its mean where that is not the series' gain."""
    seeds = row.over_seeds
    if seeds.pairs and signed(seeds.mean) != signed(row.gain):
        return signed_interval(seeds.mean, seeds.low, seeds.high)
    return interval(seeds.low, seeds.high)


def _intervals(row: SeriesSummary) -> str:
    """Of the difference, over seeds and over data sets, as far as they are known."""
    known = [
        f"over {plural(found.pairs, noun)} {text}"
        + (", which contains 0" if found.low <= 0 <= found.high else "")
        for found, noun, text in (
            (row.over_seeds, "seed", over_seeds_text(row)),
            (row.over_datasets, "data set", interval(row.over_datasets.low, row.over_datasets.high)),
        )
        if not math.isnan(found.low)
    ]
    return f"; 95 % interval {'; '.join(known)}" if known else ""

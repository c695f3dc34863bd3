"""The report's section on other data than was trained on: arms × data sets, and what they differ by."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import TYPE_CHECKING

from pinikit.reporting.text import markdown_table, plus_minus, signed_interval
from pinikit.study.patterns import few
from pinikit.study.statistics import OtherSummary, Results, other_labels, other_summaries

if TYPE_CHECKING:
    from pinikit.api import StudyResult

_ABOUT = (
    "Test accuracy in percent on data that was not trained on, with its own class names and prompts, "
    "noise as in the headline; nothing was trained or chosen there. ± and brackets are 95 % t-intervals over "
    "seeds; *own* is the data that each arm was trained on."
)
_PAIRS = "Δ to `{baseline}` on the same data, in points: means of differences paired by seed, not corrected."
_MEAN = "*mean* counts each of the other data sets alike."
_MISSING = (
    "**Missing:** what was trained could not be tested there, so means are over the other seeds. The next "
    "`pinikit run` of the study tries it again, without training."
)

Grid = Mapping[tuple[str, str | None], OtherSummary]
"""Summaries by arm and label."""


def other_data_section(result: StudyResult, shown: Container[str] | None = None) -> str:
    """Tables of accuracies and of differences, and what is missing; empty where there is no other data.

    Args:
        result: the study.
        shown: the arms that have a row; all unless given.
    """
    study, labels = result.study, other_labels(result.results)
    if not labels:
        return ""
    grid = {(row.arm, row.label): row for row in other_summaries(study, result.results)}
    arms = [arm for arm in study.arms if shown is None or arm in shown]
    columns = list(dict.fromkeys(label for _, label in grid))
    titles = ["mean" if label is None else f"`{label}`" for label in columns]
    own = {row.arm: plus_minus(row.accuracy, row.accuracy_interval) for row in result.summaries}
    parts = [_ABOUT + (f" {_MEAN}" if len(labels) > 1 else "")]
    rows = [[f"`{arm}`", own[arm], *_cells(grid, arm, columns, _accuracy)] for arm in arms]
    parts.append(markdown_table(["arm", "own", *titles], rows))
    compared = [arm for arm in arms if any(grid[arm, label].comparison.pairs for label in columns)]
    if compared:
        parts.append(_PAIRS.format(baseline=study.baseline))
        differences = [[f"`{arm}`", *_cells(grid, arm, columns, _difference)] for arm in compared]
        parts.append(markdown_table(["arm", *(f"Δ {title}" for title in titles)], differences))
    if facts := _facts(result.results):
        parts.append("\n".join(f"- {line}" for line in facts))
    if missing := _missing(result.results):
        parts += [_MISSING, "\n".join(f"- {line}" for line in missing)]
    return "\n\n".join(parts)


def _cells(
    grid: Grid, arm: str, columns: Sequence[str | None], say: Callable[[OtherSummary], str]
) -> list[str]:
    return [say(grid[arm, label]) for label in columns]


def _accuracy(row: OtherSummary) -> str:
    return plus_minus(row.accuracy.mean, row.accuracy.interval)


def _difference(row: OtherSummary) -> str:
    found = row.comparison
    return signed_interval(found.mean, found.low, found.high)


def _facts(results: Results) -> list[str]:
    """What each label means, with each of the prompts that arms have there."""
    told: dict[str, dict[str, None]] = {}
    prompts: dict[str, dict[str, None]] = {}
    for result in results.values():
        for label, found in result.other_data.items() if result.finished else ():
            size = f"`{found['data']}`, {found['classes']:,} classes, {found['pictures']:,} pictures"
            told.setdefault(label, {})[size] = None
            prompts.setdefault(label, {})[f"`{found['template']}`"] = None
    return [f"`{label}`: {'; or '.join(told[label])}; prompts {', '.join(prompts[label])}" for label in told]


def _missing(results: Results) -> list[str]:
    """Runs that could not be tested on other data, by label and reason."""
    runs: dict[tuple[str, str], list[str]] = {}
    for (arm, seed), result in results.items():
        for label, reason in result.untested.items() if result.finished else ():
            runs.setdefault((label, " ".join(reason.split())), []).append(f"`{arm}` seed {seed}")
    return [f"`{label}`: {few(found)}: {reason}" for (label, reason), found in runs.items()]

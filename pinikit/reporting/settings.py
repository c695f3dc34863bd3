"""Studies with axes: series × settings, series over all settings, and their ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pinikit.reporting.headline import over_seeds_text
from pinikit.reporting.marks import marked
from pinikit.reporting.text import (
    interval,
    markdown_table,
    number,
    p_value,
    plural,
    plus_minus,
    signed,
    signed_interval,
)
from pinikit.study.statistics import (
    ArmSummary,
    Comparison,
    Ranking,
    SeriesSummary,
    finished_by_arm,
    leaders,
)
from pinikit.study.statistics.signed_rank import FEWEST

if TYPE_CHECKING:
    from pinikit.study.statistics import Results
    from pinikit.study.study import Study

BROAD = 6
"""Settings up to which each is a column; with more, each is a row."""


@dataclass(frozen=True)
class Grid:
    """The arms of a study with axes by series and setting."""

    axes: str
    """Their names, ``data, data.shots``."""
    series: tuple[str, ...]
    settings: tuple[str, ...]
    """Their values, ``dtd, 4``."""
    rows: Mapping[tuple[str, str], ArmSummary]
    """By series and setting; arms that were dropped are absent."""
    leaders: frozenset[str]
    """Arms that are the best of their setting, or that seeds do not tell from it."""


def grid_of(study: Study, results: Results, summaries: Sequence[ArmSummary]) -> Grid | None:
    """The study's grid; None if it has no axes."""
    arms = [arm for arm in study.arms.values() if arm.setting]
    if not arms:
        return None
    by_name = {row.arm: row for row in summaries}
    rows, groups = {}, dict[str, list[str]]()
    for arm in arms:
        setting = ", ".join(arm.setting.values())
        rows[arm.series, setting] = by_name[arm.name]
        groups.setdefault(setting, []).append(arm.name)
    finished = finished_by_arm(results)
    best = frozenset().union(*(leaders(finished, names) for names in groups.values()))
    series = tuple(dict.fromkeys(arm.series for arm in arms))
    return Grid(", ".join(arms[0].setting), series, tuple(groups), rows, best)


def grid_section(grid: Grid, baseline: str | None) -> str:
    """Accuracies at each setting, and the differences to the baseline there."""
    several = any(row.seeds > 1 for row in grid.rows.values())
    said = "Test accuracy in percent" + (" with its 95 % interval over seeds" if several else "")
    if grid.leaders:
        said += "; bold: the best of the setting, and what seeds do not tell from it (interval of the "
        said += "paired difference with 0 in it)"
    parts = [f"{said}:", _grid_table(grid, grid.series, lambda row: _accuracy(row, grid))]
    others = tuple(series for series in grid.series if series != baseline)
    if baseline is not None and others:
        text = f"Paired difference to `{baseline}` at the same setting, in points"
        parts += [f"{text}:", _grid_table(grid, others, _difference)]
    return "\n\n".join(parts)


def series_section(series: Sequence[SeriesSummary], ranking: Ranking | None, figure: str) -> str:
    """Series over all settings; ``figure`` is the file of the critical-difference diagram."""
    parts = [_series_table(series, ranking), "\n".join(f"- {line}" for line in _series_notes(series))]
    if ranking is not None:
        parts.append(_rank_text(ranking))
        if ranking.tested:
            parts.append(f"![Average ranks with critical difference]({figure})")
    return "\n\n".join(part for part in parts if part)


def _grid_table(grid: Grid, series: Sequence[str], cell: Callable[[ArmSummary | None], str]) -> str:
    if len(grid.settings) <= BROAD:
        head = [f"series at {grid.axes}", *grid.settings]
        rows = [
            [f"`{name}`", *(cell(grid.rows.get((name, setting))) for setting in grid.settings)]
            for name in series
        ]
    else:
        head = [grid.axes, *(f"`{name}`" for name in series)]
        rows = [
            [setting, *(cell(grid.rows.get((name, setting))) for name in series)] for setting in grid.settings
        ]
    return markdown_table(head, rows)


def _accuracy(row: ArmSummary | None, grid: Grid) -> str:
    if row is None:
        return ""
    text = plus_minus(row.accuracy, row.accuracy_interval)
    return f"**{text}**" if row.arm in grid.leaders else text


def _difference(row: ArmSummary | None) -> str:
    if row is None:
        return ""
    return marked(signed_interval(row.difference, row.difference_low, row.difference_high), row)


def _series_table(series: Sequence[SeriesSummary], ranking: Ranking | None) -> str:
    several = any(row.over_datasets.pairs for row in series)
    compared = any(row.over_seeds.pairs or row.over_datasets.pairs for row in series)
    ranks = dict(zip(ranking.series, ranking.ranks, strict=True)) if ranking else {}
    head = ["series", "settings", "mean accuracy"]
    if compared:
        head += ["Δ", "over seeds", *(["over data sets", "data sets won/tied/lost"] if several else [])]
    tested = any(not math.isnan(row.over_datasets.p) for row in series)
    head += [*(["p (Holm)"] if tested else []), *(["average rank"] if ranks else [])]
    rows = []
    for row in series:
        cells = [f"`{row.series}`", str(row.settings), number(row.accuracy)]
        if compared:
            cells += _compared(row, several)
        cells += [p_value(row.p_holm)] if tested else []
        cells += [number(ranks.get(row.series, math.nan))] if ranks else []
        rows.append(cells)
    return markdown_table(head, rows)


def _compared(row: SeriesSummary, several: bool) -> list[str]:
    seeds, datasets = row.over_seeds, row.over_datasets
    if not seeds.pairs and not datasets.pairs:
        return [""] * (4 if several else 2)
    cells = [signed(row.gain), over_seeds_text(row)]
    return [*cells, interval(datasets.low, datasets.high), _counts(datasets)] if several else cells


def _counts(found: Comparison) -> str:
    return f"{found.wins}/{found.ties}/{found.losses}" if found.pairs else ""


def _series_notes(series: Sequence[SeriesSummary]) -> list[str]:
    datasets = max(row.datasets for row in series)
    notes = []
    if datasets > 1:
        notes.append(f"Settings of one data set are averaged first, then the {datasets} data sets.")
    notes += [*_interval_notes(series), *_untested_note(series)]
    if partial := [row.series for row in series if not row.complete]:
        names = ", ".join(f"`{name}`" for name in partial)
        notes.append(f"Not at every setting, so their means are not comparable with others': {names}.")
    return notes


def _interval_notes(series: Sequence[SeriesSummary]) -> Iterator[str]:
    """What the intervals of differences say; nothing where nothing is compared."""
    if any(row.over_datasets.pairs for row in series):
        yield (
            "*over seeds*: 95 % interval for other few-shot splits and trainings on these data sets. *over "
            "data sets*: 95 % interval for other data sets, as far as these are a sample of them."
        )
    elif any(row.over_seeds.pairs for row in series):
        yield "*over seeds*: 95 % interval of the difference averaged over the settings of each seed."
    if any(row.over_seeds.pairs and signed(row.over_seeds.mean) != signed(row.gain) for row in series):
        yield (
            "Where *over seeds* has a mean of its own, it is over the seeds that finished at every setting, "
            "while Δ has all pairs."
        )


def _untested_note(series: Sequence[SeriesSummary]) -> Iterator[str]:
    """Why there is no test over data sets, where there is none of any comparison."""
    found = [row.over_datasets for row in series if row.over_datasets.pairs]
    if not found or any(not math.isnan(comparison.p) for comparison in found):
        return
    most = max(comparison.pairs for comparison in found)
    if most < FEWEST:
        yield f"Too few data sets for a test: Wilcoxon's signed-rank test needs {FEWEST}, there are {most}."
    else:
        reasons = sorted({comparison.untested for comparison in found})
        yield f"Nothing was tested over the data sets: {'; '.join(reasons)}."


def _rank_text(ranking: Ranking) -> str:
    text = f"Ranks by accuracy on each of {ranking.datasets} data sets, 1 the best, averaged."
    if ranking.incomplete:
        names = ", ".join(f"`{name}`" for name in ranking.incomplete)
        text += f" Left out, as they lack results: {names}."
    if not ranking.same_seeds:
        text += " Not all finished the same seeds; each counts with its own."
    if not ranking.tested:
        return (
            f"{text} {plural(ranking.datasets, 'data set')} are too few for Friedman's test and a critical "
            "difference, which need 5."
        )
    text += (
        f" Friedman's test that all are alike: p {_equals(ranking.p)}. Ranks that differ by less than "
        f"{number(ranking.critical_difference)} are not told apart at 5 % (Nemenyi; Demšar 2006)"
    )
    groups = [" and ".join(f"`{name}`" for name in group) for group in ranking.groups]
    return f"{text}: {'; '.join(groups)}." if groups else f"{text}; here all differ by more."


def _equals(p: float) -> str:
    text = p_value(p)
    return text if text.startswith("<") else f"= {text}"

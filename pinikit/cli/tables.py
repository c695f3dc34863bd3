"""Rich tables of results and plans that fit the terminal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from pinikit.data.view_bank import size_text
from pinikit.reporting.changes import ArmSettings, change_text
from pinikit.reporting.marks import marked, marks_in
from pinikit.reporting.settings import Grid, grid_of
from pinikit.reporting.text import count, duration, number, plural, plus_minus, signed_interval
from pinikit.study.checks import reasons
from pinikit.study.expectations import Verdict
from pinikit.study.statistics import (
    ArmSummary,
    SeriesSummary,
    other_labels,
    other_summaries,
    series_summaries,
)

if TYPE_CHECKING:
    from pinikit.api import Plan, StudyResult
    from pinikit.study.bank_plan import BankPlan

SHORT_ID = 8
"""Digits of a run's identity that tables show; commands accept them in its place."""

NARROW = 110
"""Columns below which a plan's changes have no room in its table."""

TO_TEST, LEFT_OUT = "to test on other data", "left out"
"""What becomes of some runs."""

MOST_ROWS = 200
"""Arms that a plan lists."""

Justify = Literal["left", "right"]


@dataclass(frozen=True)
class Column:
    """A column with its cells; the one of the highest ``rank`` is the first to go when space is short."""

    title: str
    cells: Sequence[str]
    rank: int = 0
    justify: Justify = "right"


def print_result(console: Console, result: StudyResult) -> None:
    """The comparison with a caption that explains it, published numbers, and where the report lies.

    Studies with axes are shown as series × settings where the terminal has room for that.
    """
    summaries = result.summaries
    every = [*result_columns(summaries, result.study.baseline), *other_columns(result)]
    columns, dropped = fit(console, every)
    bold = best_row(summaries)
    grid = grid_of(result.study, result.results, summaries)
    if grid is not None:
        series = series_summaries(result.study, result.results)
        crossed = grid_columns(grid, series, result.study.baseline)
        if _width(console, table_of(crossed)) <= console.width:
            columns, dropped, bold = crossed, [], best_series(series)
    console.print(table_of(columns, bold))
    for line in _caption(result, summaries, columns, dropped):
        console.print(Text(line, style="dim"))
    print_verdicts(console, result.verdicts)
    console.print(f"report: {result.folder / 'report.md'}", soft_wrap=True)
    console.print(f"page: {result.folder / 'report.html'}", soft_wrap=True)
    console.print(f"figure: {result.folder / 'accuracy.png'}", soft_wrap=True)


def print_verdicts(console: Console, found: Sequence[Verdict]) -> None:
    """Published numbers beside ours, one a line."""
    for item in found:
        ours = plus_minus(item.ours.mean, item.ours.interval)
        paper = f"{number(item.expected.value)} (tolerance {number(item.expected.tolerance)})"
        text = Text.assemble(
            f"{item.arm}: {item.metric} {ours}, published {paper}: within? ",
            (item.text, "green" if item.met else "red"),
            f" [{item.expected.source}]",
        )
        console.print(text, soft_wrap=True)


def grid_columns(grid: Grid, series: Sequence[SeriesSummary], baseline: str | None) -> list[Column]:
    """Accuracy by series and setting, the mean over settings, and its difference to the baseline."""

    def cell(name: str, setting: str) -> str:
        row = grid.rows.get((name, setting))
        return "" if row is None else marked(plus_minus(row.accuracy, row.accuracy_interval), row)

    columns = [Column(f"at {grid.axes}", grid.series, justify="left")]
    columns += [Column(setting, [cell(name, setting) for name in grid.series]) for setting in grid.settings]
    columns.append(Column("mean", [number(row.accuracy) for row in series]))
    if baseline is not None:
        gains = ["baseline" if row.series == baseline else _mean_gain(row) for row in series]
        columns.append(Column(f"Δ to {baseline}" if len(baseline) <= 16 else "Δ to baseline", gains))
    return columns


def best_series(series: Sequence[SeriesSummary]) -> int | None:
    """Index of the most accurate one of the series that have all settings."""
    whole = [index for index, row in enumerate(series) if row.complete]
    return max(whole, key=lambda index: series[index].accuracy, default=None)


def _mean_gain(row: SeriesSummary) -> str:
    return signed_interval(row.over_seeds.mean, row.over_seeds.low, row.over_seeds.high)


def result_columns(summaries: Sequence[ArmSummary], baseline: str | None) -> list[Column]:
    """All columns of the comparison."""
    drawn = next((row.mc_noise for row in summaries if row.mc_noise), "")
    columns = [
        Column("arm", [row.arm for row in summaries], justify="left"),
        Column("test accuracy %", [plus_minus(row.accuracy, row.accuracy_interval) for row in summaries]),
    ]
    if baseline is not None:
        gains = [_gain(row) for row in summaries]
        columns.append(Column(f"Δ to {baseline}" if len(baseline) <= 16 else "Δ to baseline", gains, 1))
    if any(not math.isnan(row.sample_accuracy) for row in summaries):
        columns.append(Column("sample", [number(row.sample_accuracy) for row in summaries], 4))
    if drawn:
        columns.append(Column(drawn, [number(row.mc_accuracy) for row in summaries], 3))
    return [
        *columns,
        Column("params", [count(row.trainable_parameters) for row in summaries], 5),
        Column("time", [duration(row.seconds_total) for row in summaries], 2),
        Column("cost class", [row.cost_class for row in summaries], 6, "left"),
    ]


def other_columns(result: StudyResult) -> list[Column]:
    """Accuracy on other data than was trained on, a column for each label; none where there is none."""
    cells: dict[str | None, list[str]] = {}
    for row in other_summaries(result.study, result.results):
        cells.setdefault(row.label, []).append(plus_minus(row.accuracy.mean, row.accuracy.interval))
    return [Column(f"on {label}", cells[label], 2) for label in other_labels(result.results)]


def fit(console: Console, columns: Sequence[Column]) -> tuple[list[Column], list[Column]]:
    """The columns that the console has room for, and those that had to go, least important first."""
    kept, dropped = list(columns), []
    while _width(console, table_of(kept)) > console.width and any(column.rank for column in kept):
        least = max(kept, key=lambda column: column.rank)
        kept.remove(least)
        dropped.append(least)
    return kept, dropped


def best_row(summaries: Sequence[ArmSummary]) -> int | None:
    """Index of the most accurate arm."""
    finished = [index for index, row in enumerate(summaries) if row.seeds]
    return max(finished, key=lambda index: summaries[index].accuracy, default=None)


def print_plan(console: Console, plan: Plan) -> None:
    """Arms with their changes, cost class and runs; in a narrow terminal the changes stand by themselves."""
    study = plan.study
    settings = ArmSettings(study)
    listed = list(study.arms)[:MOST_ROWS]
    changes = {arm: change_text(settings.changes(arm)) or "nothing" for arm in listed}
    for arm in listed:
        if arm == study.arms[arm].baseline:
            changes[arm] = f"baseline; {changes[arm]}"
    if console.width < NARROW:
        for arm, text in changes.items():
            console.print(Text.assemble((arm, "bold"), f": {text}"))
        console.print(_plan_table(plan, dict.fromkeys(listed, ""), console.width))
    else:
        console.print(_plan_table(plan, changes, console.width))
    if len(study.arms) > len(listed):
        console.print(f"… and {len(study.arms) - len(listed)} more arms; --arms PATTERN shows others.")
    for line in reasons(study.dropped):
        console.print(Text(line, style="yellow"))
    fates = Counter(_fate(plan, run.id) for run in study.runs)
    words = ["done", "to do", *(word for word in (TO_TEST, LEFT_OUT) if fates[word])]
    total = f"{plural(len(study.arms), 'arm')} × {plural(len(study.seeds), 'seed')}"
    parts = ", ".join(f"{fates[word]} {word}" for word in words)
    console.print(f"{total} = {plural(len(study.runs), 'run')}: {parts}.")
    fused = [group for group in plan.groups if len(group) > 1]
    if fused:
        console.print(
            f"{sum(map(len, fused))} runs are trained together in {plural(len(fused), 'group')} "
            f"of up to {max(map(len, fused))}."
        )
    console.print(_bank_text(plan.bank))


def _bank_text(bank: BankPlan) -> str:
    """What the runs need of the view bank, what is there, and whether the rest has room."""
    text = (
        f"view bank: {size_text(bank.needed)} of activations, {size_text(bank.present)} of them there; "
        f"{plural(bank.missing_views, 'picture')} to encode"
    )
    lacking = bank.needed - bank.present
    if bank.limit == 0:
        return f"{text}; nothing is kept on disk (PINIKIT_CACHE_SIZE is 0)."
    if lacking > bank.room:
        text += (
            f"; {size_text(bank.room)} are free in {bank.folder}: older rows are removed for the others, "
            "and what finds no room stays in memory"
        )
    return f"{text}."


def _plan_table(plan: Plan, changes: Mapping[str, str], width: int) -> Table:
    """The plan of the arms in ``changes``, which are a column unless they are empty."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("arm", no_wrap=True, overflow="ellipsis", max_width=max(width // 4, 8))
    wide = any(changes.values())
    if wide:
        table.add_column("what it changes", overflow="fold", ratio=1)
    table.add_column("cost class", overflow="fold", max_width=max(width // 4, 10))
    table.add_column("params", justify="right", no_wrap=True)
    table.add_column("runs (seed: identity)", no_wrap=True)
    for arm, text in changes.items():
        footprint = plan.footprints[arm]
        cells = [arm, *([text] if wide else []), footprint.cost_class]
        cells += [count(footprint.trainable_parameters), "\n".join(_run_lines(plan, arm))]
        table.add_row(*map(Text, cells))
    return table


def _run_lines(plan: Plan, arm: str) -> list[str]:
    rows = plan.study.runs_by_arm[arm].items()
    return [f"{seed}: {run.id[:SHORT_ID]} {_fate(plan, run.id)}" for seed, run in rows]


def _fate(plan: Plan, run_id: str) -> str:
    """What would become of a run."""
    if run_id in plan.finished:
        return "done"
    if run_id in plan.left_out:
        return LEFT_OUT
    return TO_TEST if run_id in plan.retest else "to do"


def _gain(row: ArmSummary) -> str:
    if row.is_baseline:
        return "baseline"
    return marked(signed_interval(row.difference, row.difference_low, row.difference_high), row)


def table_of(columns: Sequence[Column], bold: int | None = None) -> Table:
    """The columns as a table; the row of index ``bold`` stands out."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column.title, justify=column.justify, no_wrap=True, overflow="ellipsis")
    for index in range(len(columns[0].cells)):
        cells = [Text(column.cells[index]) for column in columns]
        table.add_row(*cells, style="bold" if index == bold else "")
    return table


def _width(console: Console, table: Table) -> int:
    """What the table would like to have."""
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum


def _caption(
    result: StudyResult, summaries: Sequence[ArmSummary], columns: Sequence[Column], dropped: Sequence[Column]
) -> list[str]:
    """What the columns mean, and which ones had no room."""
    several = any(row.seeds > 1 for row in summaries)
    usual = all(row.noise in ("mean", "") for row in summaries)
    parts = [
        f"test accuracy: last epoch, noise {'at its mean' if usual else 'as the report says'}",
        "± 95 % interval over seeds" if several else "one seed, so no interval",
    ]
    if result.study.baseline is not None:
        parts.append("Δ: paired difference in points" + (" [95 % interval]" if several else ""))
    titles = {column.title for column in columns}
    if drawn := sorted(
        (title for title in titles if title == "sample" or title.startswith("mc-")), reverse=True
    ):
        parts.append(f"{', '.join(drawn)}: with noise drawn")
    if any(title.startswith("on ") for title in titles):
        parts.append("on: test pictures of other data than was trained on")
    if "time" in titles:
        parts.append("time: of one run, after encoding")
    parts += [f"{sign}: {meaning}" for sign, meaning in marks_in(summaries).items()]
    lines = ["; ".join(parts) + "."]
    if dropped:
        lines.append(f"Too narrow for {', '.join(column.title for column in dropped)}: see the report.")
    return lines

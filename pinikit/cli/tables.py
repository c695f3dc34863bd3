"""Rich tables of results and plans that fit the terminal."""

from __future__ import annotations

import math
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
from pinikit.reporting.text import count, duration, number, plural, plus_minus, signed_interval
from pinikit.study.statistics import ArmSummary, arm_summaries

if TYPE_CHECKING:
    from pinikit.api import Plan, StudyResult
    from pinikit.study.bank_plan import BankPlan

SHORT_ID = 8
"""Digits of a run's identity that tables show; commands accept them in its place."""

NARROW = 110
"""Columns below which a plan's changes have no room in its table."""

Justify = Literal["left", "right"]


@dataclass(frozen=True)
class Column:
    """A column with its cells; the one of the highest ``rank`` is the first to go when space is short."""

    title: str
    cells: Sequence[str]
    rank: int = 0
    justify: Justify = "right"


def print_result(console: Console, result: StudyResult) -> None:
    """The arms' comparison with a caption that explains the columns and says where the report lies."""
    summaries = arm_summaries(result.study, result.results)
    columns, dropped = fit(console, result_columns(summaries, result.study.baseline))
    console.print(_table(columns, best_row(summaries)))
    for line in _caption(result, summaries, dropped):
        console.print(Text(line, style="dim"))
    console.print(f"report: {result.folder / 'report.md'}", soft_wrap=True)
    console.print(f"figure: {result.folder / 'accuracy.png'}", soft_wrap=True)


def result_columns(summaries: Sequence[ArmSummary], baseline: str | None) -> list[Column]:
    """All columns of the comparison."""
    drawn = next((row.mc_noise for row in summaries if row.mc_noise), "")
    columns = [
        Column("arm", [row.arm for row in summaries], justify="left"),
        Column("test accuracy %", [plus_minus(row.accuracy, row.accuracy_interval) for row in summaries]),
    ]
    if baseline is not None:
        gains = [_gain(row, baseline) for row in summaries]
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


def fit(console: Console, columns: Sequence[Column]) -> tuple[list[Column], list[Column]]:
    """The columns that the console has room for, and those that had to go, least important first."""
    kept, dropped = list(columns), []
    while _width(console, _table(kept)) > console.width and any(column.rank for column in kept):
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
    changes = {arm: change_text(settings.changes(arm)) or "nothing" for arm in study.arms}
    for arm in study.arms.values():
        if arm.name == arm.baseline:
            changes[arm.name] = f"baseline; {changes[arm.name]}"
    if console.width < NARROW:
        for arm, text in changes.items():
            console.print(Text.assemble((arm, "bold"), f": {text}"))
        console.print(_plan_table(plan, {}, console.width))
    else:
        console.print(_plan_table(plan, changes, console.width))
    done = sum(run.id in plan.finished for run in study.runs)
    total = f"{plural(len(study.arms), 'arm')} × {plural(len(study.seeds), 'seed')}"
    console.print(f"{total} = {plural(len(study.runs), 'run')}: {done} done, {len(study.runs) - done} to do.")
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
    """The plan, with a column of changes unless they are empty."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("arm", no_wrap=True, overflow="ellipsis", max_width=max(width // 4, 8))
    if changes:
        table.add_column("what it changes", overflow="fold", ratio=1)
    table.add_column("cost class", overflow="fold", max_width=max(width // 4, 10))
    table.add_column("params", justify="right", no_wrap=True)
    table.add_column("runs (seed: identity)", no_wrap=True)
    for arm in plan.study.arms:
        footprint = plan.footprints[arm]
        cells = [arm, *([changes[arm]] if changes else []), footprint.cost_class]
        cells += [count(footprint.trainable_parameters), "\n".join(_run_lines(plan, arm))]
        table.add_row(*map(Text, cells))
    return table


def _run_lines(plan: Plan, arm: str) -> list[str]:
    return [
        f"{run.seed}: {run.id[:SHORT_ID]} {'done' if run.id in plan.finished else 'to do'}"
        for run in plan.study.runs
        if run.arm == arm
    ]


def _gain(row: ArmSummary, baseline: str) -> str:
    if row.arm == baseline:
        return "baseline"
    return signed_interval(row.difference, row.difference_low, row.difference_high)


def _table(columns: Sequence[Column], bold: int | None = None) -> Table:
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


def _caption(result: StudyResult, summaries: Sequence[ArmSummary], dropped: Sequence[Column]) -> list[str]:
    """What the columns mean, and which ones had no room."""
    several = any(row.seeds > 1 for row in summaries)
    usual = all(row.noise in ("mean", "") for row in summaries)
    parts = [
        f"test accuracy: last epoch, noise {'at its mean' if usual else 'as the report says'}",
        "± 95 % interval over seeds" if several else "one seed, so no interval",
    ]
    if result.study.baseline is not None:
        parts.append("Δ: paired difference in points" + (" [95 % interval]" if several else ""))
    parts += ["sample, mc-K: with noise drawn", "time: of one run, after encoding"]
    lines = ["; ".join(parts) + "."]
    if dropped:
        lines.append(f"Too narrow for {', '.join(column.title for column in dropped)}: see the report.")
    return lines

"""The study's one figure: test accuracy by arm, with intervals, seeds and differences to the baseline."""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pinikit.reporting.text import plural, plus_minus, signed_interval
from pinikit.study.statistics import ArmSummary, finished_by_arm, headline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pinikit.api import StudyResult

INK, FAINT, GRID, BAND = "#1b1b1b", "#5c5c5c", "#d9d9d9", "#f5f5f3"
UNTRAINED = ("#6b6b6b", "o")
"""Colour and marker of arms that train nothing."""

STYLES = (
    ("#0072b2", "s"),
    ("#d55e00", "D"),
    ("#009e73", "^"),
    ("#cc79a7", "v"),
    ("#e69f00", "P"),
    ("#56b4e9", "X"),
    ("#000000", "h"),
)
"""Colours of Okabe and Ito (2008), which all kinds of colour vision tell apart, each with its marker."""

WIDTH, HEIGHT = 12.8, 7.2
"""Inches: a slide of 1280 × 720 at 100 dots an inch. More than ``ROWS`` arms make it higher."""
ROWS, ROW_HEIGHT = 14, 0.38
MOST_ROWS = 40
"""Arms that are drawn: of more, the most accurate ones and the baseline."""
TOP, BOTTOM, EDGE = 1.52, 1.32, 0.35
"""Inches above, below and beside the plot."""
DPI = 150
SEED_OFFSET = 0.14
"""Seeds lie this far below their mean, in inches."""
GAP = 0.42
"""Between the plot and the columns of numbers, and between these, in inches."""
LONGEST_NAME = 26

SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "svg.hashsalt": "pinikit",
    "text.color": INK,
    "axes.edgecolor": GRID,
    "xtick.color": FAINT,
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Row:
    """An arm's numbers and its looks."""

    summary: ArmSummary
    seeds: tuple[float, ...]
    """Accuracy of each finished seed."""
    cost: str
    colour: str
    marker: str
    best: bool


def accuracy_figure(result: StudyResult) -> tuple[bytes, bytes]:
    """The figure as PNG and SVG; equal results give equal bytes."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)
        rows = _chosen(make_rows(result))
        figure = Figure(figsize=(WIDTH, _height(len(rows))), facecolor="white")
        FigureCanvasAgg(figure)
        _draw(figure, result, rows)
        return _render(figure, "png", {"Software": None}), _render(figure, "svg", {"Date": None})


def make_rows(result: StudyResult, summaries: Sequence[ArmSummary] | None = None) -> list[Row]:
    """The study's arms in their order, each cost class with a colour and a marker.

    ``summaries`` are the study's own, where they are known already.
    """
    summaries = summaries or result.summaries
    looks, finished = _styles(summaries), finished_by_arm(result.results)
    highest = max((row.accuracy for row in summaries if row.seeds), default=math.nan)
    rows = []
    for summary in summaries:
        cost = cost_group(summary.cost_class)
        seeds = tuple(headline(item) for item in finished.get(summary.arm, {}).values())
        rows.append(Row(summary, seeds, cost, *looks[cost], summary.accuracy == highest))
    return rows


def _chosen(rows: Sequence[Row]) -> list[Row]:
    """The most accurate arms, in the study's order, with the baseline of the best of them."""
    ranked = sorted((row for row in rows if row.seeds), key=lambda row: -row.summary.accuracy)
    if len(rows) <= MOST_ROWS or not ranked:
        return list(rows[:MOST_ROWS])
    arms = dict.fromkeys([ranked[0].summary.baseline, *(row.summary.arm for row in ranked)])
    chosen = list(arms)[: MOST_ROWS + (not ranked[0].summary.baseline)]
    return [row for row in rows if row.summary.arm in chosen]


def cost_group(cost_class: str) -> str:
    """The cost class without the stage at which it begins: ``image tower from pixels`` is ``image tower``."""
    return re.sub(r" from \S+", "", cost_class)


def _styles(summaries: Sequence[ArmSummary]) -> dict[str, tuple[str, str]]:
    styles = {}
    free = 0
    for row in summaries:
        group = cost_group(row.cost_class)
        if group in styles:
            continue
        if row.trainable_parameters == 0 or not row.seeds:
            styles[group] = UNTRAINED
        else:
            styles[group] = STYLES[free % len(STYLES)]
            free += 1
    return styles


def _height(rows: int) -> float:
    return HEIGHT + max(rows - ROWS, 0) * ROW_HEIGHT


def _render(figure: Figure, kind: str, metadata: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, dpi=DPI, metadata=metadata)
    return stream.getvalue()


def _draw(figure: Figure, result: StudyResult, rows: Sequence[Row]) -> None:
    baseline = result.study.baseline
    size = 14.5 if len(rows) <= 12 else 13.0
    height = figure.get_figheight()
    columns = _columns(rows, baseline)
    names = [_shortened(row.summary.arm) for row in rows]
    left = EDGE + _widest(names, size) + 0.2
    widths = [_widest([title, *texts], size - 1.5) + GAP for title, texts in columns]
    right = WIDTH - EDGE - sum(widths)
    axes = figure.add_axes(
        (left / WIDTH, BOTTOM / height, (right - left) / WIDTH, (height - TOP - BOTTOM) / height)
    )
    offset = SEED_OFFSET / (height - TOP - BOTTOM) * len(rows)
    _frame(axes, rows)
    _baseline_line(axes, rows, baseline, size - 2)
    for index, row in enumerate(rows):
        _draw_row(axes, index, row, offset)
        axes.annotate(
            names[index],
            (0, index),
            (-10, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=size,
            fontweight="bold" if row.best else "normal",
        )
    _draw_columns(axes, columns, widths, (right - left), rows, size - 1.5)
    _titles(figure, result, len(rows), height)
    _legend(figure, rows, height)


def _columns(rows: Sequence[Row], baseline: str | None) -> list[tuple[str, list[str]]]:
    """Titles and texts at the right of the plot."""
    accuracies = [plus_minus(row.summary.accuracy, row.summary.accuracy_interval, 1) for row in rows]
    columns = [("accuracy %", accuracies)]
    if baseline is not None:
        columns.append((f"Δ to {_shortened(baseline)}", [_gain(row.summary, baseline) for row in rows]))
    return columns


def _gain(row: ArmSummary, baseline: str) -> str:
    if row.arm == baseline:
        return "baseline"
    return signed_interval(row.difference, row.difference_low, row.difference_high, 1)


def _frame(axes: Axes, rows: Sequence[Row]) -> None:
    """Bands behind every second row across the whole figure, grid, limits."""
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(*limits(rows))
    axes.set_yticks([])
    axes.tick_params(axis="x", labelsize=13, length=0, pad=6)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    box = axes.get_position()
    edge = EDGE * 0.6 / WIDTH
    low, high = (edge - box.x0) / box.width, (1 - edge - box.x0) / box.width
    for index in range(0, len(rows), 2):
        axes.axhspan(index - 0.5, index + 0.5, low, high, color=BAND, zorder=-2, clip_on=False, linewidth=0)
    axes.set_xlabel("test accuracy (%), last epoch", fontsize=13, color=FAINT, labelpad=7)


def limits(rows: Sequence[Row]) -> tuple[float, float]:
    """Of the accuracy axis: all seeds, and intervals as far as they do not dwarf them."""
    seeds = [value for row in rows for value in row.seeds]
    if not seeds:
        return 0.0, 100.0
    low, high = min(seeds), max(seeds)
    room = max(high - low, 8.0)
    ends = [
        end
        for row in rows
        if not math.isnan(row.summary.accuracy_interval)
        for end in (
            row.summary.accuracy - row.summary.accuracy_interval,
            row.summary.accuracy + row.summary.accuracy_interval,
        )
    ]
    first = max(min([low, *ends]), low - room, 0.0)
    last = min(max([high, *ends]), high + room, 100.0)
    margin = max(0.04 * (last - first), 0.5)
    return first - margin, last + margin


def _baseline_line(axes: Axes, rows: Sequence[Row], baseline: str | None, size: float) -> None:
    row = next((row for row in rows if row.summary.arm == baseline and row.seeds), None)
    if row is None:
        return
    at = row.summary.accuracy
    axes.axvline(at, color=INK, linewidth=1.3, linestyle=(0, (4, 3)), zorder=1)
    low, high = axes.get_xlim()
    place = (at - low) / (high - low)
    side = "left" if place < 0.2 else "right" if place > 0.8 else "center"
    axes.annotate(
        f"{_shortened(row.summary.arm)} {at:.1f}",
        (at, -0.5),
        (0, 9),
        textcoords="offset points",
        ha=side,
        va="center",
        fontsize=size,
        color=FAINT,
        annotation_clip=False,
    )


def _draw_row(axes: Axes, index: int, row: Row, offset: float) -> None:
    """Interval and mean a little above the row's middle, the seeds below."""
    if not row.seeds:
        centre = sum(axes.get_xlim()) / 2
        text = "every run failed" if row.summary.failed else "no run"
        axes.text(centre, index, text, ha="center", va="center", fontsize=12, color=FAINT, style="italic")
        return
    mean, interval = row.summary.accuracy, row.summary.accuracy_interval
    several = len(row.seeds) > 1
    middle = index - several * offset / 3
    if interval > 0:
        _draw_interval(axes, mean - interval, mean + interval, middle, row.colour)
    axes.plot(
        [mean],
        [middle],
        marker=row.marker,
        markersize=11,
        color=row.colour,
        markeredgecolor="white",
        markeredgewidth=1.2,
        zorder=5,
    )
    axes.plot(
        row.seeds if several else [],
        [middle + offset] * (len(row.seeds) if several else 0),
        linestyle="none",
        marker="o",
        markersize=4.8,
        color=row.colour,
        markeredgewidth=0,
        alpha=0.7,
        zorder=4,
    )


def _draw_interval(axes: Axes, low: float, high: float, y: float, colour: str) -> None:
    """A line, with an arrowhead where it goes on beyond the plot."""
    first, last = axes.get_xlim()
    shown = [max(low, first), min(high, last)]
    axes.plot(shown, [y, y], color=colour, linewidth=3.2, alpha=0.75, solid_capstyle="round", zorder=3)
    for beyond, at, marker in ((low < first, first, "<"), (high > last, last, ">")):
        if beyond:
            axes.plot([at], [y], marker=marker, markersize=8, color=colour, clip_on=False, zorder=3)


def _draw_columns(
    axes: Axes,
    columns: Sequence[tuple[str, list[str]]],
    widths: Sequence[float],
    plot_width: float,
    rows: Sequence[Row],
    size: float,
) -> None:
    edge = plot_width
    for (title, texts), width in zip(columns, widths, strict=True):
        edge += width
        place = edge / plot_width
        _right_text(axes, place, -0.5, title, size=size - 0.5, colour=FAINT, lift=9)
        for index, text in enumerate(texts):
            weight = "bold" if rows[index].best else "normal"
            quiet = FAINT if text == "baseline" else INK
            _right_text(axes, place, index, text, size=size, colour=quiet, weight=weight)


def _right_text(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    *,
    size: float,
    colour: str,
    weight: str = "normal",
    lift: float = 0,
) -> None:
    axes.annotate(
        text,
        (x, y),
        (0, lift),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=size,
        fontweight=weight,
        color=colour,
        annotation_clip=False,
    )


def _titles(figure: Figure, result: StudyResult, rows: int, height: float) -> None:
    title = textwrap.shorten(result.study.question or result.study.name, 78, placeholder=" …")
    size = 22 if len(title) <= 60 else 18
    left = EDGE / WIDTH
    figure.text(left, 1 - 0.38 / height, title, fontsize=size, fontweight="bold", ha="left", va="top")
    figure.text(
        left, 1 - 0.86 / height, _subtitle(result, rows), fontsize=13, color=FAINT, ha="left", va="top"
    )


def _subtitle(result: StudyResult, rows: int) -> str:
    """Task, backbone, seeds, and what is not drawn; long lists are cut."""
    runs = result.study.runs
    tasks = dict.fromkeys(f"{run.manifest.dataset}, {plural(run.manifest.shots, 'shot')}" for run in runs)
    models = dict.fromkeys(str(run.config["backbone"]["name"]).rpartition("/")[2] for run in runs)
    parts = [", ".join(tasks), ", ".join(models), plural(len(result.study.seeds), "seed")]
    arms = len(result.study.arms)
    parts += [f"the best {rows} of {arms:,} arms"] if rows < arms else []
    return textwrap.shorten("   ·   ".join(parts), 110, placeholder=" …")


def _legend(figure: Figure, rows: Sequence[Row], height: float) -> None:
    """What the marks mean, then what each colour stands for."""
    from matplotlib.lines import Line2D

    costs = {row.cost: (row.colour, row.marker) for row in rows if row.seeds}
    marks = [
        Line2D([], [], color=colour, marker=marker, linestyle="none", markersize=9.5, label=cost)
        for cost, (colour, marker) in costs.items()
    ]
    reading = [
        Line2D([], [], marker="o", linewidth=3, markersize=9, label="mean, 95 % interval"),
        Line2D([], [], marker="o", linestyle="none", markersize=4.5, label="single seeds"),
    ]
    for line in reading:
        line.set_color(FAINT)
        line.set_markeredgecolor("white" if line.get_linewidth() == 3 else FAINT)
    box: dict[str, Any] = {"frameon": False, "fontsize": 12.5, "handletextpad": 0.5, "columnspacing": 1.5}
    box["borderaxespad"] = 0.0
    left = (EDGE - 0.06) / WIDTH
    if marks:
        title = "Cost class: what each training step crosses"
        figure.text(EDGE / WIDTH, 0.52 / height, title, fontsize=12.5, color=FAINT, ha="left", va="center")
        place = (left, 0.24 / height)
        figure.legend(handles=marks, loc="center left", bbox_to_anchor=place, ncols=len(marks), **box)
    anchor = (1 - EDGE / WIDTH, 0.52 / height)
    figure.legend(handles=reading, loc="center right", bbox_to_anchor=anchor, ncols=2, **box)


def _shortened(name: str) -> str:
    """A long name without its middle."""
    if len(name) <= LONGEST_NAME:
        return name
    keep = LONGEST_NAME // 2
    return f"{name[: keep - 1]}…{name[-keep:]}"


def _widest(texts: Sequence[str], size: float) -> float:
    """Width of the widest text in bold, in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans", size=size, weight="bold")
    widths = [float(TextPath((0, 0), text, prop=font).get_extents().width) for text in texts if text.strip()]
    return max(widths, default=0.0) / 72

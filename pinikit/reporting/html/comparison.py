"""The comparison of a study's arms: headline, sortable table, accuracies and costs as figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from markupsafe import Markup

from pinikit.reporting.changes import change_text
from pinikit.reporting.figure import Row, limits, make_rows
from pinikit.reporting.html.material import Material
from pinikit.reporting.html.section import Cell, Heading, Section, capped, figure, join, table
from pinikit.reporting.html.svg import DASHES, FAINT, INK, LOOKS, PAPER, inline_svg, plain_numbers, quiet_axis
from pinikit.reporting.marks import marked, marks_in
from pinikit.reporting.text import count, duration, number, plus_minus, signed_interval
from pinikit.study.statistics import ArmSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TABLE_ROWS = 400
FIGURE_ROWS = 30
POINTS_WITH_NAMES = 14
PANELS = 6
LONGEST_NAME = 34


def comparison(material: Material) -> Section:
    """The table of all arms, or of the most accurate ones."""
    shown = material.leading(TABLE_ROWS)
    unfinished = [row for row in material.summaries if not row.seeds][: TABLE_ROWS - len(shown)]
    order = {row.arm: index for index, row in enumerate(material.summaries)}
    rows = sorted([*shown, *unfinished], key=lambda row: order[row.arm])
    caption = f"Test accuracy (%) at the last epoch, {_noise(rows)}; ± and brackets are 95 % intervals. "
    caption += "; ".join(f"{sign}: {meaning}" for sign, meaning in marks_in(rows).items())
    note = capped(len(rows), len(material.summaries), "arms", "; `summary.csv` has all of them")
    columns = _columns(material, rows)
    cells = [[cells[index] for _, cells in columns] for index in range(len(rows))]
    body = table(caption, [heading for heading, _ in columns], cells)
    return Section("results", "Results", join([body, _note(note)]))


def _noise(rows: Sequence[ArmSummary]) -> str:
    """How the accuracies of the table treat noise."""
    usual = all(row.noise in ("mean", "") for row in rows)
    return "noise at its mean" if usual else "noise as each run evaluated it"


def _note(text: str) -> Markup:
    return Markup('<p class="note">{}</p>').format(text) if text else Markup("")


def _columns(material: Material, rows: Sequence[ArmSummary]) -> list[tuple[Heading, list[Cell]]]:
    """Headings with their cells; columns in which nothing is known are left out."""
    best = material.ranked[0].arm if material.ranked else None
    columns = [
        (Heading("arm"), [_name(material, row) for row in rows]),
        (
            Heading("accuracy", True, f"Test accuracy: last epoch, {_noise(rows)}, ± 95 % over seeds"),
            [
                Cell(plus_minus(row.accuracy, row.accuracy_interval), row.accuracy, strong=row.arm == best)
                for row in rows
            ],
        ),
    ]
    if material.study.baseline is not None:
        columns += _against_baseline(rows)
    drawn = next((row.mc_noise for row in rows if row.mc_noise), "mc")
    plain: list[tuple[str, str, list[float], Callable[[float], str]]] = [
        ("one draw", "Accuracy with one draw of the noise", [row.sample_accuracy for row in rows], number),
        (drawn, "Accuracy with probabilities averaged over draws", [row.mc_accuracy for row in rows], number),
        ("time", "Training and evaluation of one run", [row.seconds_total for row in rows], duration),
        ("parameters", "Numbers that are trained", [row.trainable_parameters for row in rows], count),
        ("peak MB", "Memory of the largest run", [row.peak_memory_mb for row in rows], count),
        ("images/s", "In training", [row.images_per_second for row in rows], count),
        ("ECE", "Expected calibration error, percent", [row.ece for row in rows], number),
        ("macro", "Mean accuracy of the classes", [row.macro_accuracy for row in rows], number),
        ("draw std", "Spread of accuracy between draws", [row.draw_std for row in rows], number),
    ]
    for title, hint, values, say in plain:
        if not all(math.isnan(value) for value in values):
            cells = [Cell(say(value), value) for value in values]
            columns.append((Heading(title, True, hint), cells))
    costs = [Cell(row.cost_class) for row in rows]
    columns.append((Heading("cost class", hint="What each training step crosses"), costs))
    seeds = [
        Cell(str(row.seeds) + (f" ({row.failed} failed)" if row.failed else ""), row.seeds) for row in rows
    ]
    return [*columns, (Heading("seeds", True, "Runs that finished"), seeds)]


def _name(material: Material, row: ArmSummary) -> Cell:
    arm = material.study.arms[row.arm]
    changes = change_text(material.settings.changes(row.arm)) or "changes nothing"
    return Cell(row.arm, note=f"baseline; {changes}" if arm.baseline == row.arm else changes)


def _against_baseline(rows: Sequence[ArmSummary]) -> list[tuple[Heading, list[Cell]]]:
    gains = [
        Cell(
            marked(signed_interval(row.difference, row.difference_low, row.difference_high), row),
            row.difference,
        )
        for row in rows
    ]
    counted = [
        Cell(f"{row.wins}/{row.ties}/{row.losses}" if row.pairs else "", float(row.wins - row.losses))
        for row in rows
    ]
    return [
        (Heading("Δ to baseline", True, "Mean paired difference in points, 95 % interval"), gains),
        (Heading("won/tied/lost", True, "Seeds on which the arm beats the baseline"), counted),
    ]


# --- accuracy ---------------------------------------------------------------------------------------------


def accuracy(material: Material) -> Section | None:
    """Accuracies with intervals, and the paired differences beside them."""
    if not material.ranked:
        return None
    chosen = {row.arm for row in material.leading(FIGURE_ROWS)}
    rows = [row for row in make_rows(material.result, material.summaries) if row.summary.arm in chosen]
    paired = any(row.summary.pairs for row in rows)
    size = (9.6 if paired else 7.4, 0.9 + 0.36 * len(rows))
    said = "; ".join(f"{row.summary.arm} {number(row.summary.accuracy)}" for row in rows[:12])
    picture = inline_svg(
        f"{material.key}-accuracy",
        f"Test accuracy by arm: {said}.",
        size,
        partial(_draw_accuracy, rows, paired),
    )
    caption = "Means with 95 % t-intervals over seeds; small dots are single seeds, colours are cost classes."
    if paired:
        caption += " Right: paired differences to the baseline, which is what arms should be compared by."
    caption += " " + capped(len(rows), len(material.summaries), "arms")
    body = [figure(picture, caption)]
    if len(material.study.axes) and len(material.study.arms) > len(_series(material)):
        body.append(_by_setting(material))
    return Section("accuracy", "Accuracy", join(body))


def _draw_accuracy(rows: Sequence[Row], paired: bool, whole: Figure) -> None:
    axes = whole.subplots(1, 1 + paired, sharey=True, squeeze=False, width_ratios=[3, 2][: 1 + paired])[0]
    left = axes[0]
    for index, row in enumerate(rows):
        _draw_mean(left, index, row)
    left.set_xlim(*limits(rows))
    left.set_ylim(len(rows) - 0.4, -0.6)
    left.set_yticks(range(len(rows)), [shortened(row.summary.arm) for row in rows])
    left.tick_params(axis="y", labelcolor=INK)
    left.set_xlabel("test accuracy (%)")
    for part in axes:
        quiet_axis(part, "y")
        part.spines["left"].set_visible(False)
    if paired:
        _draw_differences(axes[1], rows)


def _draw_mean(axes: Axes, index: int, row: Row) -> None:
    mean, interval = row.summary.accuracy, row.summary.accuracy_interval
    if interval > 0:
        axes.plot(
            [mean - interval, mean + interval], [index] * 2, color=row.colour, linewidth=2.6, alpha=0.75
        )
    axes.plot(
        [mean], [index], marker=row.marker, markersize=8, color=row.colour, markeredgecolor=PAPER, zorder=4
    )
    if len(row.seeds) > 1:
        axes.plot(row.seeds, [index + 0.26] * len(row.seeds), ".", markersize=5, color=row.colour, alpha=0.8)


def _draw_differences(axes: Axes, rows: Sequence[Row]) -> None:
    axes.axvline(0, color=INK, linewidth=1.1, linestyle=(0, (4, 3)))
    for index, row in enumerate(rows):
        item = row.summary
        if not item.pairs:
            continue
        if not math.isnan(item.difference_low):
            axes.plot(
                [item.difference_low, item.difference_high], [index] * 2, color=row.colour, linewidth=2.6
            )
        axes.plot(
            [item.difference],
            [index],
            marker=row.marker,
            markersize=8,
            color=row.colour,
            markeredgecolor=PAPER,
        )
    axes.set_xlabel("difference to the baseline (points)")


# --- accuracy by setting ------------------------------------------------------------------------------------


def _series(material: Material) -> list[str]:
    return list(dict.fromkeys(arm.series for arm in material.study.arms.values()))


def _by_setting(material: Material) -> Markup:
    """Lines over the values of the study's last axis, a panel for each setting of the others."""
    *others, axis = material.study.axes
    panels: dict[str, dict[str, dict[str, ArmSummary]]] = {}
    for row in material.ranked:
        arm = material.study.arms[row.arm]
        panel = ", ".join(f"{name}={arm.setting[name]}" for name in others)
        panels.setdefault(panel, {}).setdefault(arm.series, {})[arm.setting[axis]] = row
    values = material.study.axes[axis]
    best = list(dict.fromkeys(material.study.arms[row.arm].series for row in material.ranked))
    reference = [material.study.baseline] if material.study.baseline in best else []
    shown = list(dict.fromkeys([*reference, *best]))[: len(LOOKS)]
    order = [panel for panel in dict.fromkeys(_panel_of(material, others)) if panel in panels][:PANELS]
    size = (3.4 * max(min(len(order), 3), 1.6), 3.2 * math.ceil(len(order) / 3))
    draw = partial(_draw_settings, [(panel, panels[panel]) for panel in order], shown, axis, values)
    picture = inline_svg(f"{material.key}-settings", f"Test accuracy by {axis}.", size, draw)
    left_out = [capped(len(shown), len(best), "series"), capped(len(order), len(panels), "settings")]
    return figure(picture, " ".join([f"Accuracy by `{axis}`, with 95 % intervals.", *left_out]))


def _panel_of(material: Material, axes: Sequence[str]) -> list[str]:
    return [", ".join(f"{name}={arm.setting[name]}" for name in axes) for arm in material.study.arms.values()]


def _draw_settings(
    panels: Sequence[tuple[str, dict[str, dict[str, ArmSummary]]]],
    shown: Sequence[str],
    axis: str,
    values: Sequence[str],
    whole: Figure,
) -> None:
    columns = min(len(panels), 3)
    grid = whole.subplots(math.ceil(len(panels) / columns), columns, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(panels):
            axes.set_visible(False)
            continue
        title, series = panels[place]
        for number_, name in enumerate(shown):
            points = [(x, series[name][v]) for x, v in enumerate(values) if v in series.get(name, {})]
            colour, marker = LOOKS[number_]
            intervals = [
                0 if math.isnan(row.accuracy_interval) else row.accuracy_interval for _, row in points
            ]
            axes.errorbar(
                [x + 0.04 * (number_ - len(shown) / 2) for x, _ in points],
                [row.accuracy for _, row in points],
                intervals,
                color=colour,
                marker=marker,
                linestyle=DASHES[number_],
                markeredgecolor=PAPER,
                label=shortened(name),
            )
        axes.set_title(title)
        axes.set_xticks(range(len(values)), [shortened(value, 12) for value in values])
        axes.set_xlabel(axis)
        quiet_axis(axes, "x")
    grid[0][0].set_ylabel("test accuracy (%)")
    handles, labels = grid[0][0].get_legend_handles_labels()
    whole.legend(handles, labels, loc="outside lower center", ncols=3)


# --- cost -------------------------------------------------------------------------------------------------


def costs(material: Material) -> Section | None:
    """Accuracy against time and against parameters, with the arms that none other beats on both."""
    rows = [row for row in material.ranked if not math.isnan(row.seconds_total)]
    if len(rows) < 2:
        return None
    front = pareto([(row.seconds_total, row.accuracy) for row in rows])
    names = [rows[index].arm for index in front]
    picture = inline_svg(
        f"{material.key}-costs",
        f"Accuracy against time of a run. None beats these on both: {', '.join(names[:12])}.",
        (9.6, 3.9),
        partial(_draw_costs, rows),
    )
    said = ", ".join(f"`{name}`" for name in names[:12]) + (" and others" if len(names) > 12 else "")
    caption = (
        f"The line joins the arms that no other arm beats on both axes; against time these are {said}. "
        "Time is of training and evaluation of one run, after encoding."
    )
    return Section("costs", "Accuracy against cost", figure(picture, caption))


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, value) that no other beats on both, by rising cost."""
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def _draw_costs(rows: Sequence[ArmSummary], whole: Figure) -> None:
    left, right = whole.subplots(1, 2, sharey=True)
    left.set_xlabel("time of a run (s)")
    left.set_ylabel("test accuracy (%)")
    right.set_xlabel("trained parameters")
    named = [
        _draw_scatter(left, rows, [row.seconds_total for row in rows]),
        _draw_scatter(right, rows, [row.trainable_parameters for row in rows]),
    ]
    whole.draw_without_rendering()  # where points lie is known after the layout
    for axes, points in zip((left, right), named, strict=True):
        _name_points(axes, points)


def _draw_scatter(
    axes: Axes, rows: Sequence[ArmSummary], values: Sequence[float]
) -> list[tuple[float, float, str]]:
    """Points and their front; yields those that are to be named."""
    colour, _ = LOOKS[0]
    heights = [row.accuracy for row in rows]
    front = pareto(list(zip(values, heights, strict=True)))
    axes.plot(
        [values[i] for i in front],
        [heights[i] for i in front],
        drawstyle="steps-post",
        color=LOOKS[1][0],
        linewidth=1.6,
    )
    axes.plot(values, heights, "o", color=colour, markersize=6, markeredgecolor=PAPER, alpha=0.9)
    if min(values) <= 0:
        axes.set_xscale("symlog", linthresh=max(min((v for v in values if v > 0), default=1.0), 1e-3))
    elif max(values) > 5 * min(values):
        axes.set_xscale("log")
    if axes.get_xscale() != "linear":
        plain_numbers(axes, "x")
    axes.minorticks_off()
    axes.margins(x=0.12, y=0.1)
    named = range(len(rows)) if len(rows) <= POINTS_WITH_NAMES else front[-POINTS_WITH_NAMES:]
    return [(values[i], heights[i], rows[i].arm) for i in named]


def _name_points(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Names beside points, on the side that has more room, and none upon another."""
    middle = axes.transAxes.transform((0.55, 0))[0]
    taken: list[tuple[float, float, bool]] = []
    for x, y, name in sorted(points, key=lambda point: -point[1]):
        at, height = axes.transData.transform((x, y))
        leftward = bool(at > middle)
        while any(
            side == leftward and abs(height - other) < 11 and abs(at - place) < 130
            for place, other, side in taken
        ):
            height -= 2.5
        taken.append((at, height, leftward))
        axes.annotate(
            shortened(name, 22),
            tuple(axes.transData.inverted().transform((at, height))),
            (-6 if leftward else 6, 5),
            textcoords="offset points",
            ha="right" if leftward else "left",
            va="center",
            fontsize=8.5,
            color=FAINT,
        )


def shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """A long name without its middle."""
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"

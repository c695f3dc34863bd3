"""Which classes gain and lose, what is taken for what, and whether confidence can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from pinikit.reporting.html.comparison import shortened
from pinikit.reporting.html.material import Material
from pinikit.reporting.html.predictions import Bin, class_accuracies, confusion, pairs, reliability
from pinikit.reporting.html.section import Cell, Heading, Section, capped, details, figure, join, table
from pinikit.reporting.html.svg import DASHES, FAINT, INK, LOOKS, PAPER, inline_svg, quiet_axis
from pinikit.reporting.text import number, plural, signed, signed_interval
from pinikit.study.record import Array
from pinikit.study.statistics import estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENDS = 12
"""Of the classes' differences, that many of each end are drawn where there are more classes."""
MATRIX = 16
"""Up to so many classes a confusion matrix is readable; beyond, the commonest confusions are listed."""
CONFUSIONS = 15
TABLE_CLASSES = 200


def classes(material: Material) -> Section | None:
    """Accuracy by class against the baseline, and confusions."""
    pair = material.pair
    arm = pair[0] if pair else next((a for a in material.detailed[::-1] if material.records(a)), None)
    if arm is None:
        return None
    names = _class_names(material, arm)
    body = [_differences(material, *pair, names)] if pair else []
    body.append(_confusions(material, (pair[1], pair[0]) if pair else (arm,), names))
    return Section("classes", "Classes", join(body))


def _class_names(material: Material, arm: str) -> tuple[str, ...]:
    return next(run for run in material.study.runs if run.arm == arm).manifest.class_names


def _differences(material: Material, arm: str, baseline: str, names: Sequence[str]) -> Markup:
    """Differences of class accuracies, as a figure and as a table of all classes."""
    seen = list(pairs(material.records(arm), material.records(baseline)).values())
    if not seen:
        return Markup("")
    own, base = (class_accuracies([pair[side] for pair in seen], len(names)) for side in (0, 1))
    estimates = [estimate(column) for column in (own - base).T]
    known = [index for index, item in enumerate(estimates) if not np.isnan(item.mean)]
    order = sorted(known, key=lambda index: -estimates[index].mean)
    shown = order if len(order) <= 2 * ENDS else [*order[:ENDS], *order[-ENDS:]]
    rows = [(names[i], estimates[i].mean, estimates[i].interval) for i in shown]
    best = f"most gained: {rows[0][0]} {signed(rows[0][1])}; most lost: {rows[-1][0]} {signed(rows[-1][1])}"
    picture = inline_svg(
        f"{material.key}-classes",
        f"Differences of class accuracies between {arm} and {baseline}; {best}.",
        (7.4, 0.8 + 0.24 * len(rows)),
        partial(_draw_differences, rows),
    )
    caption = (
        f"Accuracy of each class, `{arm}` minus `{baseline}`: paired mean over {plural(len(seen), 'seed')} "
        "with its 95 % interval. Intervals are not corrected for the number of classes. "
        + capped(len(shown), len(order), "classes", ", the most gained and the most lost")
    )
    heads = [
        Heading("class"),
        Heading("test pictures", True),
        Heading(shortened(baseline, 24), True),
        Heading(shortened(arm, 24), True),
        Heading("difference", True),
    ]
    counts = np.bincount(seen[0][0].labels, minlength=len(names))
    cells = [
        [
            Cell(names[i]),
            Cell(str(counts[i])),
            Cell(number(float(base[:, i].mean()), 1)),
            Cell(number(float(own[:, i].mean()), 1)),
            Cell(
                signed_interval(estimates[i].mean, estimates[i].low, estimates[i].high, 1), estimates[i].mean
            ),
        ]
        for i in known[:TABLE_CLASSES]
    ]
    listed = table("Accuracy (%) by class. " + capped(len(cells), len(known), "classes"), heads, cells)
    return join([figure(picture, caption), details("All classes as a table", listed)])


def _draw_differences(rows: Sequence[tuple[str, float, float]], whole: Figure) -> None:
    axes = whole.subplots()
    axes.axvline(0, color=INK, linewidth=1.1)
    for index, (_, mean, interval) in enumerate(rows):
        colour, marker = LOOKS[0] if mean >= 0 else LOOKS[1]
        if interval > 0:
            axes.plot([mean - interval, mean + interval], [index] * 2, color=colour, linewidth=1.6, alpha=0.6)
        axes.plot([mean], [index], marker=marker, color=colour, markersize=6, markeredgecolor=PAPER)
    means = [mean for _, mean, _ in rows]
    room = max(max(means) - min(means), 25.0)
    axes.set_xlim(max(axes.get_xlim()[0], min(means) - room), min(axes.get_xlim()[1], max(means) + room))
    axes.set_yticks(range(len(rows)), [shortened(name, 28) for name, _, _ in rows])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("difference of class accuracies (points)")
    quiet_axis(axes, "y")


# --- confusions -------------------------------------------------------------------------------------------


def _confusions(material: Material, arms: Sequence[str], names: Sequence[str]) -> Markup:
    matrices = {
        arm: confusion([item.predictions for item in material.records(arm).values()], len(names))
        for arm in arms
    }
    if len(names) > MATRIX:
        return _commonest(matrices, names)
    tables = [_matrix(arm, matrix, names) for arm, matrix in matrices.items()]
    return Markup('<div class="pair">{}</div>').format(join(tables))


def _matrix(arm: str, matrix: Array, names: Sequence[str]) -> Markup:
    heads = [Heading("true class"), *(Heading(shortened(name, 12), True, name) for name in names)]
    rows = []
    for label, row in enumerate(matrix):
        values = [
            Cell("" if np.isnan(value) else f"{value:.0f}", shade=0.0 if np.isnan(value) else value / 125)
            for value in row
        ]
        rows.append([Cell(shortened(names[label], 20)), *values])
    caption = f"`{arm}`: what pictures of a class (rows) are taken for (columns), in percent."
    return Markup('<div class="matrix">{}</div>').format(table(caption, heads, rows, sortable=False))


def _commonest(matrices: dict[str, Array], names: Sequence[str]) -> Markup:
    """The commonest confusions of the last arm, with how common they are in the first."""
    (first, base), (arm, own) = next(iter(matrices.items())), list(matrices.items())[-1]
    wrong = np.nan_to_num(own, nan=0.0) * (1 - np.eye(len(names)))
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    places = [divmod(int(place), len(names)) for place in order if wrong.flat[place] > 0]
    heads = [Heading("true class"), Heading("taken for"), Heading(shortened(arm, 24), True)]
    heads += [Heading(shortened(first, 24), True)] if first != arm else []
    rows = []
    for true, taken in places:
        numbers = [own[true, taken], *([base[true, taken]] if first != arm else [])]
        cells = [Cell(number(float(value), 1), float(value)) for value in numbers]
        rows.append([Cell(names[true]), Cell(names[taken]), *cells])
    caption = f"The commonest confusions of `{arm}`, in percent of the true class's test pictures."
    return table(caption, heads, rows)


# --- calibration ------------------------------------------------------------------------------------------


def calibration(material: Material) -> Section | None:
    """Accuracy by confidence."""
    known = {arm: list(material.records(arm).values()) for arm in material.detailed}
    curves = {
        arm: reliability([item.predictions for item in records]) for arm, records in known.items() if records
    }
    if not curves:
        return None
    shown = dict(list(curves.items())[: len(LOOKS)])
    errors = {arm: material.by_arm[arm].ece for arm in shown}
    said = "; ".join(f"{arm} {number(error)} %" for arm, error in errors.items())
    picture = inline_svg(
        f"{material.key}-calibration",
        f"Reliability diagram. Expected calibration error: {said}.",
        (7.4, 4.2),
        partial(_draw_reliability, shown, errors),
    )
    caption = (
        "Below the diagonal an arm is more confident than it is accurate. Bins with fewer than 1 % of the "
        "predictions are not drawn; all seeds together. The legend has the expected calibration error in "
        "percent. " + capped(len(shown), len(material.ranked), "arms")
    )
    return Section("calibration", "Calibration", figure(picture, caption))


def _draw_reliability(curves: dict[str, list[Bin]], errors: dict[str, float], whole: Figure) -> None:
    left, right = whole.subplots(1, 2, width_ratios=[3, 2])
    left.plot([0, 100], [0, 100], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    for index, (arm, bins) in enumerate(curves.items()):
        colour, marker = LOOKS[index]
        seen = [item for item in bins if item.share >= 0.01]
        left.plot(
            [100 * item.confidence for item in seen],
            [100 * item.accuracy for item in seen],
            color=colour,
            marker=marker,
            markersize=5,
            linestyle=DASHES[index],
            markeredgecolor=PAPER,
            label=f"{shortened(arm, 28)} ({number(errors[arm], 1)})",
        )
        _draw_shares(right, bins, index)
    left.set_xlabel("confidence (%)")
    left.set_ylabel("accuracy (%)")
    right.set_xlabel("confidence (%)")
    right.set_ylabel("share of predictions (%)")
    for axes in (left, right):
        axes.set_xlim(0, 101)
    whole.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)


def _draw_shares(axes: Axes, bins: Sequence[Bin], index: int) -> None:
    axes.plot(
        [100 * item.confidence for item in bins],
        [100 * item.share for item in bins],
        color=LOOKS[index][0],
        linestyle=DASHES[index],
    )

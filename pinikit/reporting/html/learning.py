"""How training went: loss and accuracy on the training pictures by epoch, and how large the noise grew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pinikit.reporting.html.comparison import shortened
from pinikit.reporting.html.material import History, Material
from pinikit.reporting.html.section import Section, capped, figure
from pinikit.reporting.html.svg import DASHES, LOOKS, inline_svg, plain_numbers, whole_epochs
from pinikit.reporting.text import number
from pinikit.study.record import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RATIO = "noise_ratio."
BANDS = 3
"""Curves up to which each has the range of its seeds behind it."""

_BANDS = "Bands reach from the lowest to the highest seed. "

POINTS = 200
"""Of a curve; longer ones are thinned."""


def learning_curves(material: Material) -> Section | None:
    """Training loss and training accuracy by epoch."""
    found = {arm: material.histories(arm) for arm in material.detailed}
    trained = {arm: rows for arm, rows in found.items() if rows}
    if not trained:
        return None
    shown = dict(list(trained.items())[: len(LOOKS)])
    panels = [("loss", "training loss"), ("train_accuracy", "training accuracy (%)")]
    last = "; ".join(f"{arm} {number(_last(rows, 'loss'), 3)}" for arm, rows in shown.items())
    picture = inline_svg(
        f"{material.key}-learning",
        f"Training loss after the last epoch: {last}.",
        (9.6, 3.5),
        partial(_draw, panels, shown),
    )
    total = sum(material.by_arm[row.arm].trainable_parameters > 0 for row in material.ranked)
    caption = "Means over seeds, on the augmented training pictures with noise drawn. "
    caption += _BANDS * (len(shown) <= BANDS) + capped(len(shown), total, "arms that train")
    return Section("learning", "Learning curves", figure(picture, caption))


def noise_over_training(material: Material) -> tuple[str, dict[str, list[History]]] | None:
    """Curves of the noise-to-feature ratio by arm and injection, at most as many as stay readable."""
    curves: dict[str, list[History]] = {}
    for arm in material.detailed:
        rows = material.histories(arm)
        labels = [name for name in rows[0] if name.startswith(RATIO)] if rows else []
        for name in labels:
            key = f"{arm} · {name.removeprefix(RATIO)}"
            curves[key] = [{"epoch": row["epoch"], "ratio": row[name]} for row in rows if name in row]
    if not curves:
        return None
    shown = dict(list(curves.items())[: len(LOOKS)])
    return capped(len(shown), len(curves), "curves"), shown


def draw_ratio(shown: Mapping[str, Sequence[History]], whole: Figure) -> None:
    """The curves of :func:`noise_over_training`."""
    _draw([("ratio", "noise / feature")], shown, whole)


def _draw(panels: Sequence[tuple[str, str]], shown: Mapping[str, Sequence[History]], whole: Figure) -> None:
    parts = whole.subplots(1, len(panels), squeeze=False)[0]
    for axes, (column, title) in zip(parts, panels, strict=True):
        for index, (name, rows) in enumerate(shown.items()):
            _draw_curve(axes, index, name, rows, column, len(shown) <= BANDS)
        whole_epochs(axes)
        axes.set_title(title)
        if column == "loss" and axes.get_ylim()[0] > 0 and axes.get_ylim()[1] > 20 * axes.get_ylim()[0]:
            axes.set_yscale("log")
            plain_numbers(axes, "y")
    handles, labels = parts[0].get_legend_handles_labels()
    whole.legend(handles, labels, loc="outside lower center", ncols=3)


def _draw_curve(axes: Axes, index: int, name: str, rows: Sequence[History], column: str, bands: bool) -> None:
    values = stacked(rows, column)
    if not values.size:
        return
    step = max(math.ceil(values.shape[1] / POINTS), 1)
    values = values[:, ::step]
    epochs = 1 + step * np.arange(values.shape[1])
    colour, _ = LOOKS[index]
    marker = "o" if len(epochs) == 1 else ""
    axes.plot(
        epochs, values.mean(0), color=colour, linestyle=DASHES[index], label=shortened(name), marker=marker
    )
    if bands and len(values) > 1:
        axes.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.13, linewidth=0)


def stacked(rows: Sequence[History], column: str) -> Array:
    """[runs, epochs] of a column, as far as all runs have it."""
    known = [row[column] for row in rows if column in row]
    length = min((len(values) for values in known), default=0)
    return np.array([values[:length] for values in known], dtype=float).reshape(len(known), length)


def _last(rows: Sequence[History], column: str) -> float:
    values = stacked(rows, column)
    return float(values[:, -1].mean()) if values.size else math.nan

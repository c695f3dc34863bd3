"""The figures of a search's page: each yields a picture and its caption."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from pinikit.config.text import value_text
from pinikit.reporting.html.comparison import shortened
from pinikit.reporting.html.section import capped
from pinikit.reporting.html.svg import (
    DASHES,
    FAINT,
    INK,
    LOOKS,
    PAPER,
    inline_svg,
    plain_number,
    plain_numbers,
    quiet_axis,
    whole_epochs,
)
from pinikit.reporting.text import number, plural
from pinikit.tuning.results import METRICS, PRUNED, Metric, TrialRow, TuneResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Picture = tuple[Markup, str]

BARS = 20
PANELS = 9
AXES = 7
CURVES = 200
TOP = 5
"""Curves by epoch that are told apart."""

BEST = 0.1
"""Share of the complete trials that figures set off as the best."""

POINTS = 3000

LACKED = -0.12
"""Where parallel coordinates place a trial that lacks a parameter, below its lowest value."""


def history(result: TuneResult) -> Picture:
    """The first metric by trial, the best value so far, and the anchors."""
    metric = result.metric
    top = result.ranked[0]
    picture = inline_svg(
        "history",
        f"The {metric.measured} by trial; the best value is {number(top.values[0], metric.digits)} "
        f"{metric.unit} in trial {top.number}.",
        (9.6, 4.0),
        partial(_draw_history, result),
    )
    caption = "Each dot is a trial, the line the best value so far"
    if any(row.state == PRUNED and row.steps for row in result.trials):
        place = "the mean of the seeds that they had" if result.step == "seed" else "their last epoch"
        caption += f"; crosses are pruned trials at {place}"
    outside = _outside([row.values[0] for row in result.complete], _limits(result))
    return picture, f"{caption}. " + (f"{plural(outside, 'trial')} outside the axis." if outside else "")


def _draw_history(result: TuneResult, whole: Figure) -> None:
    axes, metric = whole.subplots(), result.metric
    rows = [row for row in result.trials if row.values][:POINTS]
    plain = [row for row in rows if not row.label]
    named = [row for row in rows if row.label]
    pruned = [row for row in result.trials if row.state == PRUNED and row.steps][:POINTS]
    last = [_last_known(result, row) for row in pruned]
    look: dict[str, Any] = {"color": FAINT, "markersize": 5, "alpha": 0.6}
    axes.plot([row.number for row in pruned], last, "x", label="pruned" if pruned else None, **look)
    _dots(axes, plain, 0, "complete")
    _dots(axes, named, 2, "base, zero-shot, defaults")
    axes.plot(*_best_so_far(rows, metric), drawstyle="steps-post", color=LOOKS[1][0], label="best so far")
    for index, anchor in enumerate(result.anchors, 1):
        axes.axhline(anchor.values[0], color=INK, linewidth=1, linestyle=DASHES[index], label=anchor.label)
    low, high = _limits(result)
    axes.set_ylim(low, high)
    axes.set_xlabel("trial")
    axes.set_ylabel(_axis(metric))
    whole.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=6)


def _last_known(result: TuneResult, row: TrialRow) -> float:
    """What is known of a pruned trial: its last epoch's value, or the mean of its seeds."""
    values = list(row.steps.values())
    return math.fsum(values) / len(values) if result.step == "seed" else values[-1]


def _dots(axes: Axes, rows: Sequence[TrialRow], look: int, label: str) -> None:
    colour, marker = LOOKS[look]
    axes.plot(
        [row.number for row in rows],
        [row.values[0] for row in rows],
        "o" if look == 0 else marker,
        color=colour,
        markersize=5 if look == 0 else 8,
        markeredgecolor=PAPER,
        label=label,
    )


def _best_so_far(rows: Sequence[TrialRow], metric: Metric) -> tuple[list[int], list[float]]:
    numbers: list[int] = []
    values: list[float] = []
    for row in rows:
        value = row.values[0]
        better = not values or metric.sign * value > metric.sign * values[-1]
        numbers.append(row.number)
        values.append(value if better else values[-1])
    return numbers, values


def _limits(result: TuneResult) -> tuple[float, float]:
    """Ends of the values' axis: failed attempts far below the others must not squeeze these."""
    values = sorted(row.values[0] for row in result.complete)
    quarter, three = values[len(values) // 4], values[(3 * len(values)) // 4]
    reach = 3 * (three - quarter) or abs(three) * 0.05 or 1.0
    kept = [value for value in values if quarter - reach <= value <= three + reach]
    kept += [row.values[0] for row in (*result.anchors, *result.ranked[:1])]
    margin = 0.06 * (max(kept) - min(kept)) or 0.5
    return min(kept) - margin, max(kept) + margin


def _outside(values: Sequence[float], limits: tuple[float, float]) -> int:
    return sum(not limits[0] <= value <= limits[1] for value in values)


def _axis(metric: Metric) -> str:
    return f"{metric.measured} ({metric.unit})"


# --- importances ------------------------------------------------------------------------------------------


def has_importances(result: TuneResult, key: str) -> bool:
    """Whether anything can be said of a metric."""
    return any(item.metric == key for item in result.importances)


def importances(result: TuneResult, key: str) -> Picture:
    """Bars by parameter, for one metric."""
    found = [item for item in result.importances if item.metric == key]
    shown = found[:BARS]
    first = ", ".join(f"{item.parameter} {100 * item.ped_anova:.0f} %" for item in shown[:3])
    most = max(item.trials for item in found)
    names = [item.parameter + (f" ({item.trials})" if item.trials < most else "") for item in shown]
    picture = inline_svg(
        f"importance-{key}",
        f"Importance to {METRICS[key].measured}; the most important: {first}.",
        (9.6, 1.1 + 0.34 * len(shown)),
        partial(
            _draw_importances,
            [shortened(name, 52) for name in names],
            [100 * item.ped_anova for item in shown],
            [None if item.fanova is None else 100 * item.fanova for item in shown],
        ),
    )
    caption = f"What matters to {METRICS[key].measured}. "
    return picture, caption + capped(len(shown), len(found), "parameters")


def _draw_importances(
    names: Sequence[str], ped: Sequence[float], forest: Sequence[float | None], whole: Figure
) -> None:
    axes = whole.subplots()
    places = range(len(names))
    axes.barh([p - 0.18 for p in places], ped, height=0.34, color=LOOKS[0][0], label="PED-ANOVA")
    if any(value is not None for value in forest):
        axes.barh(
            [p + 0.18 for p in places],
            [value or 0.0 for value in forest],
            height=0.34,
            color=LOOKS[1][0],
            label="fANOVA",
        )
    axes.set_yticks(list(places), list(names))
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("importance (%)")
    quiet_axis(axes, "y")
    whole.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)


# --- slices -----------------------------------------------------------------------------------------------


def _leading(result: TuneResult, count: int) -> tuple[list[str], int]:
    """The parameters that matter most to the first metric, then the others; and how many there are."""
    ranked = [item.parameter for item in result.importances if item.metric == result.metrics[0]]
    users: dict[str, list[Any]] = {name: [] for name in result.distributions}
    for row in result.complete:
        for name, value in row.params.items():
            users[name].append(value)
    varied = [name for name, values in users.items() if len(set(map(str, values))) > 1]
    rest = sorted((name for name in varied if name not in ranked), key=lambda name: -len(users[name]))
    names = [name for name in ranked if name in varied] + rest
    return names[:count], len(names)


def slices(result: TuneResult) -> Picture | None:
    """The first metric by each of the leading parameters."""
    names, total = _leading(result, PANELS)
    if not names:
        return None
    columns = min(len(names), 3)
    picture = inline_svg(
        "slices",
        f"The {result.metric.measured} by {', '.join(names)}.",
        (9.6, 2.75 * math.ceil(len(names) / columns)),
        partial(_draw_slices, result, names, columns),
    )
    caption = "Complete trials by one parameter at a time; the best tenth is orange. "
    return picture, caption + capped(len(names), total, "parameters", ", the most important ones")


def _draw_slices(result: TuneResult, names: Sequence[str], columns: int, whole: Figure) -> None:
    grid = whole.subplots(math.ceil(len(names) / columns), columns, squeeze=False, sharey=True)
    best = _best(result)
    for place, axes in enumerate(grid.flat):
        if place >= len(names):
            axes.set_visible(False)
            continue
        scale = Scale(result, names[place])
        rows = [row for row in result.complete if names[place] in row.params]
        for chosen, look in ((False, 0), (True, 1)):
            points = [row for row in rows if (row.number in best) == chosen][:POINTS]
            colour, marker = LOOKS[look]
            axes.plot(
                [scale.place(row, spread=0.28) for row in points],
                [row.values[0] for row in points],
                "o" if look == 0 else marker,
                color=colour,
                markersize=4.5,
                markeredgecolor=PAPER,
                markeredgewidth=0.6,
            )
        scale.label(axes)
        axes.set_title(shortened(names[place], 36))
    grid[0][0].set_ylim(*_limits(result))
    for row in grid:
        row[0].set_ylabel(_axis(result.metric) if len(grid) < 3 else result.metric.text)


class Scale:
    """Where a parameter's values lie on an axis."""

    def __init__(self, result: TuneResult, name: str) -> None:
        self.name = name
        found = result.distributions[name]
        self.attributes: Mapping[str, Any] = found["attributes"]
        self.choices: Sequence[Any] | None = self.attributes.get("choices")
        self.log = bool(self.attributes.get("log", False))

    def place(self, row: TrialRow, *, spread: float = 0.0) -> float:
        """Of a trial's value; choices are numbered from 0, and spread so that dots can be told apart."""
        value = row.params[self.name]
        if self.choices is None:
            return float(value)
        return list(self.choices).index(value) + spread * ((row.number * 7) % 13 / 6 - 1)

    def share(self, row: TrialRow) -> float:
        """Of the way from the lowest to the highest value, from 0 to 1; NaN where the trial lacks it."""
        if self.name not in row.params:
            return math.nan
        low, high, value = *self.ends(), self.place(row)
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low) if high > low else 0.5

    def ends(self) -> tuple[float, float]:
        """The lowest and the highest place."""
        if self.choices is not None:
            return 0.0, float(len(self.choices) - 1)
        return float(self.attributes["low"]), float(self.attributes["high"])

    def marks(self) -> Iterator[tuple[float, str]]:
        """Shares with what stands there."""
        if self.choices is not None:
            last = max(len(self.choices) - 1, 1)
            for place, choice in enumerate(self.choices):
                yield (place / last if len(self.choices) > 1 else 0.5), shortened(value_text(choice), 16)
            return
        for share, value in zip((0.0, 1.0), self.ends(), strict=True):
            yield share, plain_number(float(f"{value:.3g}"))

    def label(self, axes: Axes) -> None:
        """Ticks of an axis along which the values lie."""
        if self.choices is not None:
            texts = [shortened(value_text(choice), 14) for choice in self.choices]
            turned: dict[str, Any] = {"rotation": 35, "ha": "right"} if sum(map(len, texts)) > 24 else {}
            axes.set_xticks(range(len(texts)), texts, fontsize=8.5, **turned)
            axes.set_xlim(-0.6, len(texts) - 0.4)
            quiet_axis(axes, "x")
        elif self.log:
            low, high = self.ends()
            axes.set_xscale("log")
            plain_numbers(axes, "x")
            axes.minorticks_off()
            if high < 100 * low:  # else there are powers of ten enough
                axes.set_xticks([float(f"{value:.2g}") for value in (low, math.sqrt(low * high), high)])


def _best(result: TuneResult) -> set[int]:
    """Numbers of the best trials."""
    return {row.number for row in result.ranked[: math.ceil(BEST * len(result.ranked))]}


# --- parallel coordinates ---------------------------------------------------------------------------------


def parallel(result: TuneResult) -> Picture | None:
    """Each complete trial that has parameters as a line through them to its value."""
    names, total = _leading(result, AXES)
    if len(names) < 2:
        return None
    rows = [row for row in result.complete if row.params]
    lacked = frozenset(name for name in names if any(name not in row.params for row in rows))
    picture = inline_svg(
        "parallel",
        f"Parallel coordinates: {', '.join(names)}, and {result.metric.measured}.",
        (9.6, 4.6),
        partial(_draw_parallel, result, rows, names, lacked),
    )
    caption = "The best tenth of the trials is orange. "
    if lacked:
        caption += "A line goes through – where the trial has no such parameter. "
    return picture, caption + capped(len(names), total, "parameters", ", the most important ones")


def _draw_parallel(
    result: TuneResult,
    rows: Sequence[TrialRow],
    names: Sequence[str],
    lacked: frozenset[str],
    whole: Figure,
) -> None:
    axes, best = whole.subplots(), _best(result)
    scales = [Scale(result, name) for name in names]
    low, high = _limits(result)
    for row in sorted(rows, key=lambda row: row.number in best)[-POINTS:]:
        heights = [LACKED if math.isnan(share := scale.share(row)) else share for scale in scales]
        heights.append(min(max((row.values[0] - low) / (high - low), 0.0), 1.0))
        look: dict[str, Any] = {"color": FAINT, "linewidth": 0.7, "alpha": 0.35}
        if row.number in best:
            look = {"color": LOOKS[1][0], "linewidth": 1.5, "alpha": 0.9, "marker": "."}
        axes.plot(range(len(heights)), heights, **look)
    marks = [[*scale.marks(), *([(LACKED, "–")] if scale.name in lacked else [])] for scale in scales]
    marks.append([(0.0, plain_number(float(f"{low:.3g}"))), (1.0, plain_number(float(f"{high:.3g}")))])
    for place, own in enumerate(marks):
        _mark_axis(axes, place, own)
    titles = [*(shortened(name.removeprefix("injections."), 22) for name in names), result.metric.text]
    axes.set_xticks(range(len(titles)), titles, rotation=20, ha="right")
    axes.set_xlim(-0.1, len(titles) - 0.55)
    axes.set_ylim((LACKED if lacked else 0.0) - 0.05, 1.05)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _mark_axis(axes: Axes, place: int, marks: Sequence[tuple[float, str]]) -> None:
    """One of the parallel axes, with what stands at some of its heights."""
    axes.axvline(place, color=FAINT, linewidth=0.8)
    for height, text in marks:
        axes.annotate(
            text,
            (place, height),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )


# --- what the pruner was told -----------------------------------------------------------------------------


def steps(result: TuneResult) -> Picture | None:
    """What was reported by epoch, or by seed, of the best trials, of base, and of the others."""
    curves = [row for row in result.trials if len(row.steps) > 1]
    if not curves:
        return None
    top = [row for row in result.ranked if len(row.steps) > 1][:TOP]
    base = result.base
    if base is not None and base not in top and len(base.steps) > 1:
        top.append(base)
    others = [row for row in curves if row not in top][:CURVES]
    picture = inline_svg(
        "steps", _steps_text(result, top), (9.6, 4.2), partial(_draw_steps, top, others, result)
    )
    pruned = sum(row.state == PRUNED for row in curves)
    told = "Each seed's value" if result.step == "seed" else "Mean over seeds"
    ended = f"{plural(pruned, 'trial')} (broken lines)" if pruned else "no trial"
    caption = f"{told}, as the pruner saw it; it stopped {ended}. "
    return picture, caption + capped(len(top) + len(others), len(curves), "trials")


def _steps_text(result: TuneResult, top: Sequence[TrialRow]) -> str:
    """The figure in words."""
    metric = result.metric
    said = "; ".join(f"{row.name} {number(list(row.steps.values())[-1], metric.digits)}" for row in top)
    return f"The {metric.measured} by {result.step}; at the last one: {said}."


def _draw_steps(
    top: Sequence[TrialRow], others: Sequence[TrialRow], result: TuneResult, whole: Figure
) -> None:
    axes, by_seed = whole.subplots(), result.step == "seed"
    marker = "." if by_seed else ""
    for row in others:
        style = DASHES[1] if row.state == PRUNED else "-"
        look: dict[str, Any] = {"color": FAINT, "linewidth": 0.7, "alpha": 0.45, "linestyle": style}
        axes.plot(list(row.steps), list(row.steps.values()), marker=marker, **look)
    for index, row in enumerate(top):
        axes.plot(
            list(row.steps),
            list(row.steps.values()),
            color=LOOKS[index % len(LOOKS)][0],
            linestyle=DASHES[index % len(DASHES)],
            linewidth=1.8,
            marker=marker,
            label=row.name,
        )
    if by_seed:
        axes.set_xticks(range(len(result.seeds)), list(map(str, result.seeds)))
        axes.set_xlabel("seed")
    else:
        whole_epochs(axes)
    axes.set_ylabel(_axis(result.metric))
    whole.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=TOP + 1)


# --- several metrics --------------------------------------------------------------------------------------


def pareto(result: TuneResult) -> Picture:
    """Each pair of metrics, with the trials that none beats in all of them."""
    pairs = list(combinations(range(len(result.metrics)), 2))[:3]
    names = [row.name for row in result.ranked if row.number in result.front]
    picture = inline_svg(
        "pareto",
        f"No other trial beats these in every metric: {', '.join(names[:12])}.",
        (3.2 * max(len(pairs), 2), 3.6),
        partial(_draw_pareto, result, pairs),
    )
    listed = ", ".join(f"`{name}`" for name in names[:12]) + (" and others" if len(names) > 12 else "")
    caption = f"Orange: trials that no other beats in every metric ({listed})."
    return picture, caption


def _draw_pareto(result: TuneResult, pairs: Sequence[tuple[int, int]], whole: Figure) -> None:
    front = set(result.front)
    for axes, (one, other) in zip(whole.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
        for chosen, look in ((False, 0), (True, 1)):
            rows = [row for row in result.complete if (row.number in front) == chosen][:POINTS]
            colour, marker = LOOKS[look]
            axes.plot(
                [row.values[one] for row in rows],
                [row.values[other] for row in rows],
                "o" if look == 0 else marker,
                color=colour,
                markersize=5.5,
                markeredgecolor=PAPER,
            )
        for anchor in result.anchors:
            axes.annotate(
                anchor.label,
                (anchor.values[one], anchor.values[other]),
                (5, 5),
                textcoords="offset points",
                fontsize=8.5,
            )
        axes.set_xlabel(_axis(METRICS[result.metrics[one]]))
        axes.set_ylabel(_axis(METRICS[result.metrics[other]]))

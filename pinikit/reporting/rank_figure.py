"""Critical-difference diagram: series on an axis of average ranks, bars over those not told apart.

Source: J. Demšar, "Statistical comparisons of classifiers over multiple data sets", JMLR 7 (2006), figure 1.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pinikit.study.statistics import Ranking

INK, FAINT = "#1b1b1b", "#5c5c5c"
WIDTH, ROW, HEAD = 9.0, 0.3, 1.3
"""Inches: of the figure, of a name below the axis, and of what lies above the names."""
DPI = 150
SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "svg.hashsalt": "pinikit",
    "text.color": INK,
    "text.parse_math": False,
}


def rank_figure(ranking: Ranking) -> tuple[bytes, bytes]:
    """The diagram as PNG and SVG; equal ranks give equal bytes."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)
        half = (len(ranking.series) + 1) // 2
        bars = 0.12 * len(ranking.groups)
        figure = Figure(figsize=(WIDTH, HEAD + bars + ROW * half), facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        _draw(axes, ranking, half, bars, HEAD + bars + ROW * half)
        files = []
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            stream = io.BytesIO()
            figure.savefig(stream, format=kind, dpi=DPI, metadata=metadata)
            files.append(stream.getvalue())
        return files[0], files[1]


def _draw(axes: Axes, ranking: Ranking, half: int, bars: float, height: float) -> None:
    """In inches, with the axis of ranks at height 0; the better half of the names stands at the left."""
    count = len(ranking.series)
    left, right = 2.6, WIDTH - 2.6

    def place(rank: float) -> float:
        return left + (rank - 1) / (count - 1) * (right - left)

    axes.set_axis_off()
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(0.95 - height, 0.95)
    axes.plot([left, right], [0, 0], color=INK, linewidth=1.2)
    for tick in range(1, count + 1):
        axes.plot([place(tick)] * 2, [0, 0.08], color=INK, linewidth=1.2)
        axes.text(place(tick), 0.13, str(tick), ha="center", va="bottom", fontsize=10)
    _draw_critical_difference(axes, left, ranking, (right - left) / (count - 1))
    for index, (name, rank) in enumerate(zip(ranking.series, ranking.ranks, strict=True)):
        first = index < half
        depth = -0.25 - bars - ROW * (index if first else count - 1 - index)
        edge = left - 0.1 if first else right + 0.1
        axes.plot([place(rank), place(rank), edge], [0, depth, depth], color=FAINT, linewidth=0.9)
        text = f"{name}  {rank:.2f}" if first else f"{rank:.2f}  {name}"
        axes.text(
            edge - 0.06 if first else edge + 0.06,
            depth,
            text,
            ha="right" if first else "left",
            va="center",
            fontsize=10.5,
        )
    ranks = dict(zip(ranking.series, ranking.ranks, strict=True))
    for index, group in enumerate(ranking.groups):
        ends = [place(ranks[group[0]]) - 0.04, place(ranks[group[-1]]) + 0.04]
        axes.plot(ends, [-0.1 - 0.12 * index] * 2, color=INK, linewidth=4, solid_capstyle="butt")


def _draw_critical_difference(axes: Axes, left: float, ranking: Ranking, step: float) -> None:
    """Its length above the axis; one that is longer than the axis is only said."""
    length = ranking.critical_difference * step
    text = f"critical difference {ranking.critical_difference:.2f} (5 %, {ranking.datasets} data sets)"
    if length <= WIDTH - left - 0.3:
        axes.plot([left, left + length], [0.5, 0.5], color=INK, linewidth=1.6, marker="|", markersize=8)
    axes.text(left, 0.62, text, ha="left", va="bottom", fontsize=10, color=FAINT)

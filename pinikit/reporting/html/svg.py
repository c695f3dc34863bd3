"""Figures by matplotlib as SVG that is part of a page and takes the page's colours and fonts."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup, escape

from pinikit.reporting import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID, PAPER = "#010203", "#040506", "#070809", "#0a0b0c"
"""Stand for the page's own colours until the figure is drawn."""

LOOKS = figure.STYLES[:6]
"""Colours and markers of series: as many as stay easy to tell apart, also in the dark."""

DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), (0, (8, 3)), (0, (3, 3)))
"""Of lines, so that colour is not all that tells series apart."""

_CSS = {
    INK: "currentColor",
    FAINT: "var(--faint)",
    GRID: "var(--grid)",
    PAPER: "var(--paper)",
    figure.INK: "currentColor",
    figure.FAINT: "var(--faint)",
    figure.UNTRAINED[0]: "var(--faint)",
    "#ffffff": "none",
    **{colour: f"var(--s{index})" for index, (colour, _) in enumerate(LOOKS, 1)},
}

_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "pinikit",
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": FAINT,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.facecolor": "none",
}


def inline_svg(name: str, text: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> Markup:
    """A figure as an ``<svg>`` element; equal input gives equal bytes.

    Args:
        name: unique on the page; begins its identifiers.
        text: what a reader who cannot see it should be told.
        size: width and height in inches, 96 CSS pixels each at most.
        draw: puts axes into an empty figure.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        whole = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(whole)
        draw(whole)
        stream = io.StringIO()
        whole.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return adopted(stream.getvalue(), name, text, size[0])


def quiet_axis(axes: Axes, which: Literal["x", "y"]) -> None:
    """No grid lines along one axis."""
    axes.grid(visible=False, axis=which)


def plain_numbers(axes: Axes, which: str) -> None:
    """Whole powers of ten on a logarithmic axis as a reader writes them: 0.1, 10, 1,000, 1M."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(lambda value, _: plain_number(value))


def plain_number(value: float) -> str:
    """``0.1``, ``10``, ``1,000``, ``10k``, ``1M``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):g}{unit}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def whole_epochs(axes: Axes) -> None:
    """Ticks at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.set_xlabel("epoch")


def adopted(svg: str, name: str, text: str, width: float) -> Markup:
    """matplotlib's document as an element: own identifiers, the page's colours and fonts.

    Args:
        svg: the document.
        name: unique on the page; begins its identifiers.
        text: what a reader who cannot see it should be told.
        width: in inches, 96 CSS pixels each at most.
    """
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r"(font: [^;\"']*?px|font-family:) [^;\"]+", r"\1 var(--sans)", svg)
    for colour, css in _CSS.items():
        svg = svg.replace(colour, css)
    view = re.search(r'viewBox="[^"]+"', svg)
    head = (
        f'<svg {view.group() if view else ""} role="img" aria-label="{escape(text)}" '
        f'style="max-width: {width * 96:.0f}px" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return Markup(re.sub(r"\s*\n\s*", "\n", head + svg[svg.index(">") + 1 :]))

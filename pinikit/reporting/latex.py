"""``table.tex``: the comparison for a paper, with booktabs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pinikit import __version__
from pinikit.reporting.headline import axes_text, task_text
from pinikit.reporting.marks import INTERVAL, TESTED, mark
from pinikit.reporting.settings import BROAD, Grid, grid_of
from pinikit.reporting.text import plural
from pinikit.study.statistics import (
    LEVEL,
    ArmSummary,
    finished_by_arm,
    leaders,
    other_labels,
    other_summaries,
)

if TYPE_CHECKING:
    from pinikit.api import StudyResult

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "[": "{[}",  # which, and the star, would belong to the end of the line before
    "]": "{]}",
    "*": "{*}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": r"$-$",
    "–": r"--",
    "…": r"\dots{}",
    "Δ": r"$\Delta$",
    "μ": r"$\mu$",
    "µ": r"$\mu$",
    "σ": r"$\sigma$",
    "ε": r"$\varepsilon$",
    "τ": r"$\tau$",
    "λ": r"$\lambda$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "∞": r"$\infty$",
    "\u00a0": "~",
}
MARKS = {TESTED: "^{*}", INTERVAL: r"^{\circ}", "": ""}
"""In mathematics."""

_BOLD = (
    "% Bold: the most accurate arm, and those that the seeds do not tell from it (0 lies in the 95 %",
    "% t-interval of the paired difference, not corrected for the number of arms).",
)


def escape(text: str) -> str:
    """Plain text for LaTeX. Letters beyond Latin-1 that are not in ``SPECIAL`` need LuaLaTeX or XeLaTeX."""
    return "".join(SPECIAL.get(letter, letter) for letter in " ".join(text.split()))


def table_tex(result: StudyResult) -> str:
    """A floating table: arms with their differences, or series × settings in a study with axes."""
    summaries = result.summaries
    grid = grid_of(result.study, result.results, summaries)
    body = _arm_table(result, summaries) if grid is None else _grid_table(grid)
    label = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in result.study.name)
    lines = [
        f"% pinikit {__version__}; needs \\usepackage{{booktabs}}",
        *_BOLD,
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_caption(result, summaries, grid)}}}",
        rf"  \label{{tab:{label}}}",
        *(f"  {line}" for line in body),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _arm_table(result: StudyResult, summaries: Sequence[ArmSummary]) -> list[str]:
    baseline = result.study.baseline
    best = leaders(finished_by_arm(result.results), [row.arm for row in summaries])
    labels = other_labels(result.results)
    other = {(row.arm, row.label): row.accuracy for row in other_summaries(result.study, result.results)}
    head = ["Arm", r"Accuracy (\%)", *(rf"on \texttt{{{escape(label)}}}" for label in labels)]
    if baseline is not None:
        head += [rf"$\Delta$ to \texttt{{{escape(baseline)}}}", r"95\,\% interval"]
    rows = [
        [
            rf"\texttt{{{escape(row.arm)}}}",
            _accuracy(row, best),
            *(_number(other[row.arm, label].mean, other[row.arm, label].interval) for label in labels),
            *([] if baseline is None else [_difference(row), _interval(row)]),
            _count(row.trainable_parameters),
        ]
        for row in summaries
    ]
    return _tabular([*head, "Parameters"], rows)


def _grid_table(grid: Grid) -> list[str]:
    """As in the report: settings are columns up to ``BROAD`` of them, else rows."""

    def cell(series: str, setting: str) -> str:
        row = grid.rows.get((series, setting))
        return "" if row is None else _accuracy(row, grid.leaders, MARKS[mark(row)])

    names = [rf"\texttt{{{escape(name)}}}" for name in grid.series]
    if len(grid.settings) <= BROAD:
        head = [escape(grid.axes), *map(escape, grid.settings)]
        return _tabular(head, _crossed(names, grid.series, grid.settings, cell))
    settings = [escape(setting) for setting in grid.settings]
    turned = _crossed(settings, grid.settings, grid.series, lambda setting, series: cell(series, setting))
    return _tabular([escape(grid.axes), *names], turned)


def _crossed(
    names: Sequence[str], lines: Sequence[str], columns: Sequence[str], cell: Callable[[str, str], str]
) -> list[list[str]]:
    return [
        [name, *(cell(line, column) for column in columns)] for name, line in zip(names, lines, strict=True)
    ]


def _tabular(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"  \toprule",
        f"  {' & '.join(head)} \\\\",
        r"  \midrule",
        *(f"  {' & '.join(row)} \\\\" for row in rows),
        r"  \bottomrule",
        r"\end{tabular}",
    ]


def _caption(result: StudyResult, summaries: Sequence[ArmSummary], grid: Grid | None) -> str:
    """The protocol, so that the table can be read alone."""
    study = result.study
    models = dict.fromkeys(str(run.config["backbone"]["name"]) for run in study.runs)
    usual = all(row.noise in ("mean", "") for row in summaries)
    task = task_text(study.runs) if grid is None else axes_text(study)
    noise = "at its mean" if usual else "as each run evaluated it"
    words = [
        *([study.question] if study.question else []),
        f"Test accuracy of {', '.join(models)} at the last epoch with noise {noise}; {task}; "
        f"{plural(len(study.seeds), 'seed')}.",
    ]
    if len(study.seeds) > 1:
        words.append("± is the half-width of the 95 % t-interval over seeds.")
    if grid is None and other_labels(result.results):
        words.append("Columns with on: test pictures of other data than was trained on.")
    parts = [escape(" ".join(words))]
    if study.baseline is not None:
        parts.append(escape(f"Differences are paired by seed, to {study.baseline}"))
        parts[-1] += " at the same setting." if grid else "."
        parts += _legend(summaries)
    return " ".join(parts)


def _legend(summaries: Sequence[ArmSummary]) -> list[str]:
    used = {mark(row) for row in summaries}
    meaning = {
        TESTED: rf"$p < {LEVEL}$ (Wilcoxon signed-rank, Holm-corrected).",
        INTERVAL: r"the 95\,\% interval of the difference leaves out 0 (not corrected).",
    }
    return [f"${MARKS[sign]}$ {text}" for sign, text in meaning.items() if sign in used]


def _accuracy(row: ArmSummary, best: frozenset[str], raised: str = "") -> str:
    return _number(row.accuracy, row.accuracy_interval, raised, bold=row.arm in best)


def _number(mean: float, interval: float, raised: str = "", *, bold: bool = False) -> str:
    if math.isnan(mean):
        return "--"
    text = f"{mean:.2f}" if math.isnan(interval) else rf"{mean:.2f} \pm {interval:.2f}"
    return rf"$\mathbf{{{text}}}{raised}$" if bold else f"${text}{raised}$"


def _difference(row: ArmSummary) -> str:
    if math.isnan(row.difference):
        return ""
    return f"${row.difference:+.2f}{MARKS[mark(row)]}$"


def _interval(row: ArmSummary) -> str:
    if math.isnan(row.difference_low):
        return ""
    return rf"$[{row.difference_low:+.2f},\ {row.difference_high:+.2f}]$"


def _count(value: float) -> str:
    return "--" if math.isnan(value) else f"{int(value):,}".replace(",", r"\,")

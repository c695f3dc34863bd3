"""Tables, figures and reports of studies. pandas, matplotlib and jinja2 are imported where they are used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pinikit import __version__
from pinikit.data.files import write_atomic

if TYPE_CHECKING:
    from pinikit.api import StudyResult

REPORT = "report.md"
RESULTS = "results.csv"
SUMMARY = "summary.csv"
TABLE = "table.tex"
PAGE = "report.html"
FIGURES = ("accuracy.png", "accuracy.svg")
RANKS = ("ranks.png", "ranks.svg")
"""Only where a study has enough series and data sets for a critical difference."""

PAGE_LAYOUT = 1
"""Raised when the page shows the same results otherwise."""

HEAD = 2048
"""Bytes at the beginning of a page among which its digest stands."""


def write_report(result: StudyResult) -> list[Path]:
    """Write ``report.md``, the page, both CSV files, ``table.tex`` and the figures to the study's folder.

    Equal results give equal bytes, so a report of this version that is there is left alone. ``report.md`` is
    written last: if it is there, so is the rest.

    Returns:
        The files, the report first.

    Raises:
        PinikitError: a file cannot be written.
    """
    from pinikit.reporting.latex import table_tex
    from pinikit.reporting.markdown import report_text
    from pinikit.reporting.tables import results_csv, summary_csv

    texts = {
        RESULTS: results_csv(result),
        SUMMARY: summary_csv(result),
        TABLE: table_tex(result),
        REPORT: report_text(result),
    }
    folder, digest = result.folder, _digest([result], texts)
    if not _is_written(folder, texts, digest):
        _forget(folder / REPORT)
        _draw(result)
        _write_page([result], folder / PAGE, digest)
        for name, text in texts.items():
            write_atomic(folder / name, text)
    names = (REPORT, PAGE, RESULTS, SUMMARY, TABLE, *FIGURES, *RANKS)
    return [folder / name for name in names if (folder / name).is_file()]


def write_page(results: Sequence[StudyResult], path: Path) -> None:
    """Write a page about several studies side by side; one that shows the same already is left alone.

    Raises:
        PinikitError: it cannot be written.
    """
    from pinikit.reporting.markdown import report_text

    digest = _digest(results, {str(place): report_text(result) for place, result in enumerate(results)})
    if not has_digest(path, digest):
        _write_page(results, path, digest)


def _write_page(results: Sequence[StudyResult], path: Path, digest: str) -> None:
    from pinikit.reporting.html.page import html_page

    write_atomic(path, html_page(results, digest))


def _digest(results: Sequence[StudyResult], texts: Mapping[str, str]) -> str:
    """Tells pages with different content apart: of the runs' checksums, and what else is said of them."""
    content = hashlib.sha256(f"{__version__} {PAGE_LAYOUT}".encode())
    for result in results:
        study = result.study
        for part in (study.name, study.question, *map(str, study.overrides), str(study.picked)):
            content.update(part.encode() + b"\0")
        for arm, reason in study.dropped.items():
            content.update(f"{arm}\0{reason}\0".encode())
        for (arm, seed), item in result.results.items():
            content.update(f"{arm}\0{seed}\0{item.content.get('checksum')}\0".encode())
    for text in texts.values():
        content.update(text.encode())
    return content.hexdigest()


def _is_written(folder: Path, texts: Mapping[str, str], digest: str) -> bool:
    drawn = all((folder / name).is_file() for name in FIGURES) and has_digest(folder / PAGE, digest)
    return drawn and all(_is_same(folder / name, text) for name, text in texts.items())


def has_digest(path: Path, digest: str) -> bool:
    """Whether a page was made of what ``digest`` stands for."""
    try:
        with path.open("rb") as stream:
            return digest.encode() in stream.read(HEAD)
    except OSError:
        return False


def _is_same(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False


def _forget(path: Path) -> None:
    """Remove an outdated report, so that a torn rewrite is noticed next time."""
    path.unlink(missing_ok=True)


def _draw(result: StudyResult) -> None:
    from pinikit.reporting.figure import accuracy_figure

    for name, content in zip(FIGURES, accuracy_figure(result), strict=True):
        write_atomic(result.folder / name, content)
    draw_ranks(result)


def draw_ranks(result: StudyResult) -> None:
    """Draw the critical-difference diagram, or remove it where the study has none (any more)."""
    from pinikit.reporting.rank_figure import rank_figure
    from pinikit.study.statistics import ranking

    ranks = ranking(result.study, result.results)
    if ranks is None or not ranks.tested:
        for name in RANKS:
            _forget(result.folder / name)
        return
    for name, content in zip(RANKS, rank_figure(ranks), strict=True):
        write_atomic(result.folder / name, content)

"""Tables, figure and report of a study. pandas and matplotlib are imported where they are used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pinikit.data.files import write_atomic

if TYPE_CHECKING:
    from pinikit.api import StudyResult

REPORT = "report.md"
RESULTS = "results.csv"
SUMMARY = "summary.csv"
FIGURES = ("accuracy.png", "accuracy.svg")


def write_report(result: StudyResult) -> list[Path]:
    """Write report, ``results.csv``, ``summary.csv`` and the figure as PNG and SVG to the study's folder.

    Equal results give equal bytes, so a report of this version that is there is left alone. ``report.md`` is
    written last: if it is there, so is the rest.

    Returns:
        The files, the report first.

    Raises:
        PinikitError: a file cannot be written.
    """
    from pinikit.reporting.markdown import report_text
    from pinikit.reporting.tables import results_csv, summary_csv

    texts = {RESULTS: results_csv(result), SUMMARY: summary_csv(result), REPORT: report_text(result)}
    folder = result.folder
    if not _is_written(folder, texts):
        _forget(folder / REPORT)
        _draw(result)
        for name, text in texts.items():
            write_atomic(folder / name, text)
    return [folder / name for name in (REPORT, RESULTS, SUMMARY, *FIGURES) if (folder / name).is_file()]


def _is_written(folder: Path, texts: dict[str, str]) -> bool:
    drawn = all((folder / name).is_file() for name in FIGURES)
    return drawn and all(_is_same(folder / name, text) for name, text in texts.items())


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

"""``results.csv`` and ``summary.csv``: everything that was measured, to the last digit."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pinikit.study.statistics import ArmSummary, long_rows

if TYPE_CHECKING:
    from pinikit.api import StudyResult


def results_csv(result: StudyResult) -> str:
    """One line per run and noise mode."""
    rows = long_rows(result.study, result.results)
    return _csv(list(dict.fromkeys(key for row in rows for key in row)), rows)


def summary_csv(result: StudyResult) -> str:
    """One line per arm."""
    rows = [vars(row) for row in result.summaries]
    return _csv([item.name for item in dataclasses.fields(ArmSummary)], rows)


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Comma-separated lines; unknown numbers stay empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if _is_unknown(value) else value for key, value in row.items()})
    return text.getvalue()


def _is_unknown(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)

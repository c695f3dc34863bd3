"""``results.csv`` and ``summary.csv``: everything that was measured, to the last digit."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pinikit.study.statistics import ArmSummary, long_rows, other_summaries

if TYPE_CHECKING:
    from pinikit.api import StudyResult


def results_csv(result: StudyResult) -> str:
    """One line per run and noise mode."""
    rows = long_rows(result.study, result.results)
    return _csv(list(dict.fromkeys(key for row in rows for key in row)), rows)


def summary_csv(result: StudyResult) -> str:
    """One line per arm."""
    other = _other_data(result)
    rows = [{**vars(row), **other.get(row.arm, {})} for row in result.summaries]
    columns = dict.fromkeys(key for found in other.values() for key in found)
    return _csv([*(item.name for item in dataclasses.fields(ArmSummary)), *columns], rows)


def _other_data(result: StudyResult) -> dict[str, dict[str, float]]:
    """By arm, columns for each label of other data that runs were tested on, and for their mean."""
    found: dict[str, dict[str, float]] = {}
    for row in other_summaries(result.study, result.results):
        name = "on" if row.label is None else f"on.{row.label}"
        found.setdefault(row.arm, {}).update(
            {
                f"{name}.accuracy": row.accuracy.mean,
                f"{name}.accuracy_interval": row.accuracy.interval,
                f"{name}.difference": row.comparison.mean,
                f"{name}.difference_low": row.comparison.low,
                f"{name}.difference_high": row.comparison.high,
                f"{name}.pairs": row.comparison.pairs,
            }
        )
    return found


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

"""All trials of a search as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from pinikit.tuning.results import TrialRow, TuneResult


def trials_csv(result: TuneResult) -> str:
    """One line per trial, by number; what a trial lacks stays empty.

    Columns: number, state, label, means of the metrics over seeds, parameters (``param.`` before Optuna's
    name), metrics by seed (``accuracy.seed_1``), seconds by phase, and what became of the trial.
    """
    rows = [dict(_cells(result, row)) for row in result.trials]
    columns = _columns(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _cells(result: TuneResult, row: TrialRow) -> Iterator[tuple[str, Any]]:
    yield from (("number", row.number), ("state", row.state), ("label", row.label))
    for place, metric in enumerate(result.metrics):
        yield metric, row.values[place] if row.values else ""
    yield from ((f"param.{name}", value) for name, value in row.params.items())
    for seed, values in sorted(row.by_seed.items()):
        yield from ((f"{metric}.seed_{seed}", value) for metric, value in values.items())
    yield from ((f"seconds.{phase}", value) for phase, value in row.seconds.items())
    for key in _LAST:
        value = getattr(row, key)
        yield key, "" if value is None else value


def _columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Every column that a row has, columns of one group together."""
    names = dict.fromkeys(name for row in rows for name in row)
    return sorted(names, key=lambda name: _GROUPS.index(_group(name)))


_LAST = ("began", "ended", "worker", "hash", "same_as", "retry_of", "superseded", "failure")
_GROUPS = ("values", "param", "seed", "seconds", "last")


def _group(name: str) -> str:
    if name in _LAST:
        return "last"
    if name.startswith(("param.", "seconds.")):
        return name.partition(".")[0]
    return "seed" if ".seed_" in name else "values"

"""What the sections of a page are made of: a study's summaries, and what its runs recorded."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pinikit.errors import DataError
from pinikit.reporting.changes import ArmSettings
from pinikit.study.record import RECORD, Record, read_record
from pinikit.study.statistics import ArmSummary

if TYPE_CHECKING:
    from pinikit.api import StudyResult

DETAILED = 8
"""Arms whose runs' records are read: the most accurate ones and their baselines."""

SEEDS = 10
"""Runs of an arm whose records are read."""

History = Mapping[str, list[float]]
"""The columns of a run's ``history.csv``."""


class Material:
    """A study's results as the sections want them; files are read when they are asked for."""

    def __init__(self, result: StudyResult, key: str, level: int) -> None:
        """``key`` begins the study's identifiers on the page; ``level`` is that of headings in a section."""
        self.result, self.study, self.key, self.level = result, result.study, key, level
        self.summaries = result.summaries
        self.by_arm = {row.arm: row for row in self.summaries}
        self._records: dict[str, dict[int, Record]] = {}

    @cached_property
    def settings(self) -> ArmSettings:
        """What arms change."""
        return ArmSettings(self.study)

    @cached_property
    def ranked(self) -> list[ArmSummary]:
        """Arms with finished runs, the most accurate first."""
        return sorted((row for row in self.summaries if row.seeds), key=lambda row: -row.accuracy)

    def leading(self, count: int) -> list[ArmSummary]:
        """At most ``count`` arms in the study's order: the baseline of the best, and the most accurate."""
        chosen = {row.arm for row in self.ranked[:count]}
        reference = self.study.arms[self.ranked[0].arm].baseline if self.ranked else None
        if reference in self.by_arm and reference not in chosen and self.by_arm[reference].seeds:
            chosen -= {self.ranked[:count][-1].arm}
            chosen |= {reference}
        return [row for row in self.summaries if row.arm in chosen]

    @cached_property
    def detailed(self) -> list[str]:
        """The arms that are looked at closely."""
        return [row.arm for row in self.leading(DETAILED)]

    @cached_property
    def pair(self) -> tuple[str, str] | None:
        """The most accurate arm with a baseline of which both have records, and that baseline."""
        for row in self.ranked[:DETAILED]:
            baseline = self.study.arms[row.arm].baseline
            known = baseline in self.by_arm and row.arm != baseline
            if baseline is not None and known and self.records(row.arm) and self.records(baseline):
                return row.arm, baseline
        return None

    def finished(self, arm: str) -> dict[int, Path]:
        """Folders of an arm's finished runs by seed, at most :data:`SEEDS`."""
        store = self.result.folder.parent.parent / "by-id"
        found: dict[int, Path] = {}
        for seed in self.study.seeds:
            item = self.result.results.get((arm, seed))
            if item is not None and item.finished and len(found) < SEEDS:
                found[seed] = store / item.run_id
        return found

    def records(self, arm: str) -> Mapping[int, Record]:
        """An arm's records by seed; runs without one, or with a damaged one, are left out."""
        if arm not in self._records:
            self._records[arm] = {}
            for seed, folder in self.finished(arm).items():
                try:
                    self._records[arm][seed] = read_record(folder / RECORD)
                except DataError:
                    continue
        return self._records[arm]

    def histories(self, arm: str) -> list[History]:
        """The training histories of an arm's runs; empty for arms that train nothing."""
        found = (_read_history(folder / "history.csv") for folder in self.finished(arm).values())
        return [history for history in found if history]


def _read_history(path: Path) -> History:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except OSError:
        return {}
    names = [name for name in rows[0] if name] if rows else []
    return {name: [_float(row.get(name)) for row in rows] for name in names}


def _float(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan

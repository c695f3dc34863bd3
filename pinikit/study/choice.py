"""Which runs of a study are worked on now: those that are not finished, and what ``--rerun`` asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from pinikit.errors import ConfigError, nearest
from pinikit.study.patterns import match_arms
from pinikit.study.results import checksum_of
from pinikit.study.store import Store, StoredResult
from pinikit.study.study import Run, Study

ALL, FAILED = "all", "failed"


@dataclass(frozen=True)
class Choice:
    """The runs of a study by what becomes of them. Runs that are neither kept nor to do are left alone."""

    kept: Mapping[tuple[str, int], StoredResult]
    """Finished results that stay, by arm and seed."""
    untested: Mapping[tuple[str, int], StoredResult]
    """Finished results that lack other data: their runs are to do, but only tested there."""
    todo: tuple[Run, ...]
    known: Mapping[str, str]
    """Checksums of the sound results that are there, failed ones too, by the identity of the run."""
    damaged: tuple[str, ...]
    """A line for each result that is of no use."""

    @cached_property
    def retest(self) -> frozenset[str]:
        """Identities of the runs to do that are not trained but only tested on other data."""
        trained = {run.id for run in self.todo if (run.arm, run.seed) not in self.untested}
        return frozenset(result.run_id for result in self.untested.values()) - trained


def choose(study: Study, store: Store, rerun: str | None = None) -> Choice:
    """Split the runs of a study into those that are kept and those to do.

    Args:
        study: resolved.
        store: its results.
        rerun: None takes what is not finished, failed runs among it, and finished runs that were not tested
            on all their other data. ``all`` takes every run, and patterns of arms (``pini*,text_*``) take
            those of these arms besides. ``failed`` takes what failed, is damaged or was not tested on other
            data, and nothing that was never tried.

    Raises:
        ConfigError: no arm matches a pattern.
    """
    again = _wanted_again(study, rerun)
    ids, there = dict.fromkeys(run.id for run in study.runs), frozenset(store.run_ids())
    results = {key: store.load(key) if key in there else None for key in ids}
    lacking = (key for key, result in results.items() if result is None and key in there)
    damage = {key: text for key in lacking if (text := store.damage(key)) is not None}
    kept, untested, todo = {}, {}, []
    for run in study.runs:
        result = results[run.id]
        if result is None or not result.finished or again(run):
            if rerun != FAILED or result is not None or run.id in damage:
                todo.append(run)
        elif result.untested:
            untested[run.arm, run.seed] = result
            todo.append(run)
        else:
            kept[run.arm, run.seed] = result
    known = {key: checksum_of(result) for key, result in results.items() if result is not None}
    lines = [
        f"run {run.id} (arm {run.arm}, seed {run.seed}) is damaged and will be run again: {damage[run.id]}"
        for run in todo
        if run.id in damage
    ]
    return Choice(kept, untested, tuple(todo), known, tuple(lines))


def _wanted_again(study: Study, rerun: str | None) -> Callable[[Run], bool]:
    """Which runs are trained again though they are finished."""
    if rerun is None or rerun == FAILED:
        return lambda run: False
    if rerun == ALL:
        return lambda run: True
    try:
        arms = set(match_arms(study.arms, rerun, "--rerun"))
    except ConfigError as error:
        raise ConfigError(f"{error}; or {ALL}, {FAILED}{nearest(rerun, [ALL, FAILED])}") from error
    return lambda run: run.arm in arms

"""Looking into a result store: how far studies are, what runs there are, what they are and how they differ.

Imports no torch and verifies no checksums but in :func:`verify`, so it is quick.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pinikit.data.files import read_json
from pinikit.errors import ConfigError, DataError, listing, nearest
from pinikit.study.index import StudyIndex, index_of, read_index
from pinikit.study.resume import Kept, checkpoint_damage, kept_checkpoints
from pinikit.study.store import RESULT, Store, StoredResult

State = Literal["finished", "untested", "failed", "running", "to do", "damaged"]

STATES: tuple[State, ...] = ("finished", "untested", "failed", "running", "to do", "damaged")
"""What becomes of a run. ``untested``: finished, but for tests on other data; ``running``: a live process
holds its lock; ``to do``: it has no result; ``damaged``: its result cannot be read."""


@dataclass(frozen=True)
class RunRow:
    """A run in a few words."""

    id: str
    state: State
    studies: tuple[str, ...]
    """The studies that refer to it, as they were asked for last."""
    arm: str
    seed: int | None
    data: str
    shots: int | None
    accuracy: float | None
    """The headline metric, in percent."""
    changed: float
    """When something was written last, in seconds since 1970."""
    size: int
    """Bytes on disk."""
    error: str


@dataclass(frozen=True)
class ArmStatus:
    """How far an arm of a study is."""

    arm: str
    counts: Mapping[str, int]
    """Its runs by state."""
    changed: float | None
    """When something of it was written last, in seconds since 1970; None if nothing was."""
    epoch: int | None = None
    """Epochs done of a training that is under way or was interrupted, as its last checkpoint tells."""
    epochs: int | None = None
    errors: Mapping[int, str] = field(default_factory=dict)
    """Why runs failed or were not tested on other data, by seed."""


@dataclass(frozen=True)
class StudyStatus:
    """How far a study is."""

    name: str
    command: str
    """What to type to go on."""
    arms: tuple[ArmStatus, ...]

    @property
    def counts(self) -> Mapping[str, int]:
        """All runs by state; a run that two arms share counts for both."""
        return {state: sum(arm.counts[state] for arm in self.arms) for state in STATES}

    @property
    def changed(self) -> float | None:
        """When something of it was written last."""
        return max((arm.changed for arm in self.arms if arm.changed is not None), default=None)


@dataclass(frozen=True)
class Difference:
    """A value that two runs do not share; None stands for one that a run does not have."""

    part: str
    """``configuration``, ``identity``, ``environment``, ``metrics`` or ``costs``."""
    key: str
    values: tuple[Any, Any]


@dataclass(frozen=True)
class Removal:
    """What came of removing runs."""

    removed: tuple[str, ...]
    size: int
    busy: tuple[str, ...]
    """Runs that are being trained: they stayed."""


# --- studies ------------------------------------------------------------------------------------------


def study_status(
    source: str | Path | None = None, overrides: Sequence[str] = (), *, runs: str | Path = "runs"
) -> list[StudyStatus]:
    """How far a study is, or all studies of a store.

    Args:
        source: the name of a study in the store, which is taken as it was run last; a study file or the
            name of a shipped study, which is resolved with ``overrides``; None for all of the store.
        overrides: ``key.path=value`` words. With them, a name means the shipped study.
        runs: the folder of the result store.

    Raises:
        ConfigError: there is no such study, or it is wrong.
        DataError: an index of the store is damaged.
    """
    store = Store(runs)
    if source is None:
        indices = [read_index(store, name) for name in store.study_names()]
    else:
        indices = [_index(store, source, overrides)]
    probe = _Probe(store)
    return [_status(index, probe) for index in indices]


def _index(store: Store, source: str | Path, overrides: Sequence[str]) -> StudyIndex:
    known = store.study_names()
    if str(source) in known and not overrides:
        return read_index(store, str(source))
    from pinikit.config.loading import shipped_studies
    from pinikit.study.checks import recall_dropped
    from pinikit.study.study import resolve_study

    shipped = shipped_studies()
    if not Path(source).is_file() and str(source) not in shipped:
        raise ConfigError(
            f"study {str(source)!r}: no such file, and no such study in {store.folder}"
            f"{nearest(str(source), [*known, *shipped])}; there: {listing(known)}; "
            f"shipped: {listing(shipped)}"
        )
    return index_of(recall_dropped(resolve_study(source, overrides), store))


class _Probe:
    """Finds out the state of runs; what all of them need is read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._there = frozenset(store.run_ids())
        self._kept = {run_id: kept for kept in kept_checkpoints(store) for run_id in kept.runs}
        self._busy = frozenset(run_id for run_id in store.locked_ids() if store.busy(run_id))

    def look(self, run_id: str) -> tuple[State, Mapping[str, Any], float | None]:
        """A run's state, its result (empty without one), and when it changed."""
        result, changed = self._result(run_id) if run_id in self._there else (None, None)
        if (kept := self._kept.get(run_id)) is not None:
            changed = max(changed or 0.0, kept.moment)
        if run_id in self._busy:
            return "running", result or {}, changed
        if result is None:
            return "to do", {}, changed
        return _state(result), result, changed

    def kept(self, run_id: str) -> Kept | None:
        """The checkpoint that the run is part of."""
        return self._kept.get(run_id)

    def _result(self, run_id: str) -> tuple[dict[str, Any] | None, float | None]:
        folder = self._store.run_folder(run_id)
        path = folder / RESULT
        try:
            changed = path.stat().st_mtime
        except OSError:
            return None, _newest(folder)
        try:
            content = read_json(path, "result")
        except DataError:
            content = {}
        return content if isinstance(content, dict) else {}, changed


def _state(result: Mapping[str, Any]) -> State:
    """Of a run that has this result, and is not being trained."""
    if (status := result.get("status")) == "finished":
        return "untested" if result.get("untested") else "finished"
    return "failed" if status == "failed" else "damaged"


def _error(result: Mapping[str, Any]) -> str:
    """Why a run failed, or was not tested on other data; empty where all went well."""
    if result.get("error"):
        return str(result["error"])
    untested = result.get("untested")
    reasons = untested.items() if isinstance(untested, Mapping) else ()
    return "; ".join(f"not tested on {label}: {reason}" for label, reason in reasons)


def _newest(folder: Path) -> float | None:
    return max((facts.st_mtime for facts in _files(folder).values()), default=None)


def _size(folder: Path) -> int:
    """Bytes on disk."""
    return sum(facts.st_size for facts in _files(folder).values())


def _files(folder: Path) -> dict[str, os.stat_result]:
    """The files in a folder by name; what a process removes meanwhile is left out."""
    found = {}
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.is_file(follow_symlinks=False):
                    found[entry.name] = entry.stat(follow_symlinks=False)
    return found


def _status(index: StudyIndex, probe: _Probe) -> StudyStatus:
    arms = tuple(_arm_status(arm, seeds, probe) for arm, seeds in index.runs.items())
    return StudyStatus(index.name, index.command, arms)


def _arm_status(arm: str, seeds: Mapping[int, str], probe: _Probe) -> ArmStatus:
    looked = {seed: probe.look(run_id) for seed, run_id in seeds.items()}
    counts = Counter(state for state, _, _ in looked.values())
    open_runs = [seeds[seed] for seed, (state, _, _) in looked.items() if state in ("running", "to do")]
    kept = next((found for run_id in open_runs if (found := probe.kept(run_id)) is not None), None)
    return ArmStatus(
        arm,
        {state: counts[state] for state in STATES},
        max((changed for _, _, changed in looked.values() if changed is not None), default=None),
        None if kept is None else kept.epoch,
        None if kept is None else kept.epochs,
        {seed: _error(item) for seed, (state, item, _) in looked.items() if state in ("failed", "untested")},
    )


# --- runs ---------------------------------------------------------------------------------------------


def list_runs(
    runs: str | Path = "runs",
    *,
    study: str | None = None,
    arm: str | None = None,
    failed: bool = False,
    unused: bool = False,
) -> list[RunRow]:
    """The runs of a store: those of studies in their order, then the others, oldest first.

    Args:
        runs: the folder of the result store.
        study: only those that this study refers to, under its names of arms.
        arm: only arms that match this shell pattern.
        failed: only failed ones.
        unused: only those that no study refers to.

    Raises:
        ConfigError: there is no such study.
        DataError: an index of the store is damaged.
    """
    store = Store(runs)
    known = store.study_names()
    if study is not None and study not in known:
        raise ConfigError(
            f"--study: found {study!r}{nearest(study, known)}; in {store.folder} there is {listing(known)}"
        )
    users, places = _references(store, known)
    probe = _Probe(store)
    rows = [
        _row(store, probe, run_id, users.get(run_id, ()), places.get((study, run_id)))
        for run_id in store.run_ids()
        if (study is None or study in users.get(run_id, ())) and not (unused and run_id in users)
    ]
    order = {run_id: place for place, run_id in enumerate(users)}
    rows.sort(key=lambda row: (order.get(row.id, len(order)), row.changed))
    return [
        row
        for row in rows
        if (arm is None or fnmatch.fnmatchcase(row.arm, arm)) and (not failed or row.state == "failed")
    ]


def _references(
    store: Store, names: Sequence[str]
) -> tuple[dict[str, tuple[str, ...]], dict[tuple[str | None, str], tuple[str, int]]]:
    """Names of studies by run, and arm and seed by study (None: the first that refers to it) and run."""
    users: dict[str, tuple[str, ...]] = {}
    places: dict[tuple[str | None, str], tuple[str, int]] = {}
    for name in names:
        for arm, seed, run_id in read_index(store, name).entries():
            if name not in users.get(run_id, ()):
                users[run_id] = (*users.get(run_id, ()), name)
            places.setdefault((name, run_id), (arm, seed))
            places.setdefault((None, run_id), (arm, seed))
    return users, places


def _row(
    store: Store, probe: _Probe, run_id: str, studies: tuple[str, ...], place: tuple[str, int] | None
) -> RunRow:
    state, result, changed = probe.look(run_id)
    folder = store.run_folder(run_id)
    config = _content(folder / "config.json").get("config", {})
    data = config.get("data", {})
    arm, seed = place or (str(result.get("arm", "")), result.get("seed", config.get("seed")))
    return RunRow(
        run_id,
        state,
        studies,
        arm,
        seed,
        str(data.get("name", "")),
        data.get("shots"),
        _accuracy(run_id, result),
        changed or 0.0,
        _size(folder),
        _error(result),
    )


def _content(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none, or a damaged one."""
    try:
        content = read_json(path)
    except DataError:
        return {}
    return content if isinstance(content, dict) else {}


def _accuracy(run_id: str, result: Mapping[str, Any]) -> float | None:
    from pinikit.study.statistics import headline

    try:
        return headline(StoredResult(run_id, result)) if result.get("status") == "finished" else None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return None


def describe_run(run: str, runs: str | Path = "runs") -> dict[str, Any]:
    """All that is known of a run: state, configuration, metrics, costs, tries, files, environment, log.

    Raises:
        ConfigError: there is no such run.
        DataError: an index of the store is damaged.
    """
    store = Store(runs)
    run_id = store.find(run)
    users, places = _references(store, store.study_names())
    probe = _Probe(store)
    row = _row(store, probe, run_id, users.get(run_id, ()), places.get((None, run_id)))
    result, folder, kept = probe.look(run_id)[1], store.run_folder(run_id), probe.kept(run_id)
    described = _content(folder / "config.json")
    return {
        "id": run_id,
        "state": row.state,
        "folder": str(folder),
        "arm": row.arm,
        "seed": row.seed,
        "studies": list(row.studies),
        "changed": row.changed,
        "damage": store.damage(run_id),
        "error": row.error,
        "tries": list(result.get("tries", ())),
        "epoch": None if kept is None else [kept.epoch, kept.epochs],
        "template": described.get("template"),
        "classes": len(described.get("class_names", ())),
        "config": described.get("config", {}),
        "metrics": result.get("metrics", {}),
        "costs": result.get("costs", {}),
        "environment": _content(folder / "environment.json"),
        "identity": described.get("identity", result.get("identity", {})),
        "files": {name: facts.st_size for name, facts in sorted(_files(folder).items())},
    }


def compare_runs(one: str, other: str, runs: str | Path = "runs") -> list[Difference]:
    """What two runs do not have in common; lists are compared as a whole.

    Raises:
        ConfigError: there is no such run.
        DataError: an index of the store is damaged.
    """
    both = [describe_run(run, runs) for run in (one, other)]
    found = []
    for part, name in (
        ("configuration", "config"),
        ("identity", "identity"),
        ("environment", "environment"),
        ("metrics", "metrics"),
        ("costs", "costs"),
    ):
        left, right = (dict(_flat(run[name])) for run in both)
        found += [
            Difference(part, key, (left.get(key), right.get(key)))
            for key in dict.fromkeys([*left, *right])
            if left.get(key) != right.get(key)
            and not (part == "identity" and _told_before(key, left.get(key), right.get(key)))
        ]
    return found


def _told_before(key: str, *values: Any) -> bool:
    """Whether the configuration says the same as this key of the identity."""
    told = ("data", "method", "evaluate", "precision", "device", "seed", "quick_gelu")
    head = key.partition(".")[0]
    return head in told or (head == "components" and None in values)  # one run does not have the component


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Key paths of a nested mapping and what stands there."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


# --- removing and checking ----------------------------------------------------------------------------


def remove_runs(ids: Sequence[str], runs: str | Path = "runs") -> Removal:
    """Remove runs, and how far those were that have no result; those being trained stay.

    Studies that refer to them train them again when they are run next.

    Raises:
        PinikitError: the disk refuses.
    """
    store = Store(runs)
    removed, busy, size = [], [], 0
    unfinished = {run_id for run_id in ids if not (store.run_folder(run_id) / RESULT).is_file()}
    for run_id in ids:
        bytes_there = _size(store.run_folder(run_id))
        if store.remove(run_id):
            removed.append(run_id)
            size += bytes_there
        else:
            busy.append(run_id)
    for kept in list(kept_checkpoints(store)):
        if unfinished & set(kept.runs) & set(removed) and not any(map(store.busy, kept.runs)):
            shutil.rmtree(kept.folder, ignore_errors=True)
    return Removal(tuple(removed), size, tuple(busy))


def verify(ids: Sequence[str] = (), runs: str | Path = "runs") -> tuple[int, dict[str, str]]:
    """Read everything and compare it with its checksums; of all runs and checkpoints if none are named.

    Returns:
        How many results and checkpoints were read, and what is wrong with which, by identity or folder.
        Runs without a result are none.
    """
    store = Store(runs)
    chosen = ids or store.run_ids()
    damaged = {run_id: damage for run_id in chosen if (damage := store.damage(run_id)) is not None}
    count = sum((store.run_folder(run_id) / RESULT).is_file() for run_id in chosen)
    if not ids:
        folders = store.group_folders()
        found = {str(folder): checkpoint_damage(folder) for folder in folders}
        damaged |= {folder: damage for folder, damage in found.items() if damage is not None}
        count += len(folders)
    return count, damaged

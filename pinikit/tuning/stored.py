"""A search that was begun before: what was asked for, and what its storage holds. optuna is imported late."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pinikit.errors import ConfigError
from pinikit.study.store import Store
from pinikit.tuning.request import REQUEST, Request
from pinikit.tuning.study import TuneStudy, resolve_tune

if TYPE_CHECKING:
    from optuna.study import Study as OptunaStudy

    from pinikit.tuning.results import TuneResult


def known_request(store: Store, source: str | Path, storage: str | None = None) -> Request | None:
    """What was asked for last of a search; None if it was never begun in this store.

    Args:
        store: where.
        source: the name of a search in the store, a study file, or a shipped study's name.
        storage: takes the place of the one that is known.

    Raises:
        ConfigError: there is no such study, or the storage had a password, which is not kept.
        DataError: the record is damaged.
    """
    folder = store.study_folder(str(source))
    if not (folder / REQUEST).is_file():
        folder = store.study_folder(resolve_tune(source).name)
    if not (folder / REQUEST).is_file():
        return None
    request, secret = Request.load(folder)
    if secret and storage is None:
        raise ConfigError("--storage: must be given again, as its password is not written to any file")
    return replace(request.at(storage), runs=str(store.folder))  # which may have been moved


def stored_search(source: str | Path, *, runs: str | Path = "runs", storage: str | None = None) -> TuneResult:
    """What is known of a search; nothing is evaluated.

    Args:
        source: the name of a search in the store, a study file, or a shipped study's name.
        runs: the folder of the result store.
        storage: where the search is kept, if it was never begun in this store.

    Raises:
        ConfigError: there is no such search, or its storage cannot be reached.
    """
    from pinikit.tuning.results import collect

    store = Store(runs)
    request = known_request(store, source, storage) or Request(str(source), storage=storage, runs=str(runs))
    study = resolve_tune(request.source, request.overrides)
    found = _open(study, store, request.storage)
    return collect(study, found, request, found.user_attrs.get("notes", ()))


def _open(study: TuneStudy, store: Store, storage: str | None) -> OptunaStudy:
    """Optuna's study of a search that must be there."""
    import optuna

    from pinikit.tuning.storage import DATABASE, journal_path, open_storage

    folder = store.study_folder(study.name)
    file = folder / DATABASE if storage is None else journal_path(storage)
    if file is None or file.is_file():
        kept = open_storage(storage, folder, lambda text: None)
        if study.name in optuna.get_all_study_names(kept):
            return optuna.load_study(storage=kept, study_name=study.name)
    place = "--storage" if storage is not None else str(folder)
    raise ConfigError(f"study {study.name!r}: no search of this name is in {place}; pinikit tune begins one")

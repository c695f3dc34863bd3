"""Results between processes: who may write one, which are new, how one replaces another. Imports no torch.

Whoever trains a run holds its lock, so a result is written by one process only. Where a sound result is
to be replaced (``--rerun``), the new one is made in a hidden store beside it and moved in place once it is
whole.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pinikit.data.files import write_json
from pinikit.errors import PinikitError
from pinikit.study.executors import Try
from pinikit.study.store import RESULT, Store, StoredResult
from pinikit.study.study import Run

FRESH = ".fresh"
"""Folder of the store in which results are made that will replace sound ones."""

REPLACED = ".replaced"
"""Where those stay until the new ones are in place."""

LOG = "run.log"


def checksum_of(result: StoredResult) -> str:
    """Tells a result from an earlier or later one of the same run."""
    return str(result.content["checksum"])


def known_results(store: Store, ids: Iterable[str]) -> dict[str, str]:
    """Checksums of the sound results that are there, failed ones too."""
    found = ((key, store.load(key)) for key in ids)
    return {key: checksum_of(result) for key, result in found if result is not None}


def new_results(store: Store, ids: Iterable[str], known: Mapping[str, str]) -> dict[str, StoredResult]:
    """Sound results that are there, and were not when ``known`` was taken: another process made them."""
    found = ((key, store.load(key)) for key in ids)
    return {
        key: result for key, result in found if result is not None and checksum_of(result) != known.get(key)
    }


@contextlib.contextmanager
def try_locks(store: Store, runs: Sequence[Run]) -> Iterator[bool]:
    """Hold the locks of all runs, without waiting; False if another process holds one of them.

    Raises:
        PinikitError: the disk refuses.
    """
    with contextlib.ExitStack() as locks:
        yield all(_try(locks, store.lock(key)) for key in sorted(run.id for run in runs))


def _try(locks: contextlib.ExitStack, lock: FileLock) -> bool:
    try:
        locks.enter_context(lock.acquire(blocking=False))
    except Timeout:
        return False
    except OSError as error:
        raise PinikitError(f"Cannot write {lock.lock_file}: {error.strerror}.") from error
    return True


def sweep_locks(store: Store, ids: Iterable[str]) -> None:
    """Remove the lock files of these runs, but for those that a process holds."""
    for key in set(store.locked_ids()).intersection(ids):
        remove_lock(store.lock(key))


def remove_lock(lock: FileLock) -> None:
    """Remove a lock's file, unless another process holds it."""
    with contextlib.suppress(Timeout, OSError), lock.acquire(blocking=False):
        Path(lock.lock_file).unlink()


@contextlib.contextmanager
def writing_study(store: Store, name: str) -> Iterator[None]:
    """Hold the right to write a study's folder, of which killed processes' leftovers are removed first.

    Raises:
        PinikitError: the disk refuses.
    """
    folder = store.study_folder(name)
    lock = FileLock(folder.parent / f".{name}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise PinikitError(f"Cannot write {folder}: {error.strerror}.") from error
    try:
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        yield
    finally:
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()


# --- what a run's folder says -----------------------------------------------------------------------------


def described(run: Run) -> dict[str, Any]:
    """What ``config.json`` says of a run."""
    return {
        "run_id": run.id,
        "config": run.config,
        "template": run.template,
        "class_names": run.manifest.class_names,
        "identity": run.identity,
    }


def result_head(run: Run, study: str, tries: Sequence[Try]) -> dict[str, Any]:
    """What every result says: the run, and the earlier tries of it that came to nothing."""
    return {
        "arm": run.arm,
        "seed": run.seed,
        "study": study,
        "identity": run.identity,
        "tries": [asdict(item) for item in tries],
    }


def save_failure(store: Store, run: Run, study: str, tries: Sequence[Try]) -> StoredResult:
    """Record that the last of ``tries`` came to nothing; its process could not do so itself.

    The caller holds the run's lock. A sound finished result stays: the failure is in what is returned, and
    in the log.

    Raises:
        PinikitError: the disk refuses.
    """
    *earlier, last = tries
    head = result_head(run, study, earlier)
    content = {**head, "status": "failed", "failure": last.failure, "error": last.reason}
    folder = store.run_folder(run.id)
    stored = store.load(run.id)
    if stored is not None and stored.finished:
        _log(folder, f"another run of it failed: {last.reason}")
        return StoredResult(run.id, content)
    if not (folder / "config.json").is_file():
        write_json(folder / "config.json", described(run))
    _log(folder, f"failed: {last.reason}")
    return store.save(run.id, content)


def save_untested(store: Store, run: Run, study: str, tries: Sequence[Try]) -> StoredResult:
    """Record that the last of ``tries`` to test a finished run on other data came to nothing.

    The caller holds the run's lock.

    Raises:
        PinikitError: the disk refuses.
    """
    stored, reason = store.load(run.id), tries[-1].reason
    if stored is None or not stored.finished:
        return save_failure(store, run, study, tries)
    _log(store.run_folder(run.id), f"not tested on {', '.join(stored.untested)}: {reason}")
    return store.save(run.id, {**stored.content, "untested": dict.fromkeys(stored.untested, reason)})


def _log(folder: Path, text: str) -> None:
    with contextlib.suppress(OSError), (folder / LOG).open("a", encoding="utf-8") as log:
        log.write(f"{text}\n")


# --- replacing a sound result -----------------------------------------------------------------------------


def fresh_store(store: Store) -> Store:
    """Where results are made that will replace sound ones of ``store``."""
    return Store(store.folder / FRESH)


def replace_result(store: Store, result: StoredResult) -> StoredResult:
    """Move a result of :func:`fresh_store` to its place; a failed one does not replace a finished one.

    The caller holds the run's lock. A process that dies in between leaves both; see :func:`tidy_replaced`.
    """
    new, place = fresh_store(store).run_folder(result.run_id), store.run_folder(result.run_id)
    earlier = store.load(result.run_id)
    if earlier is not None and earlier.finished and not result.finished:
        _log(place, "another run of it failed; what it logged:\n" + _text(new / LOG))
        shutil.rmtree(new, ignore_errors=True)
        return result
    old = store.folder / REPLACED / result.run_id
    try:
        old.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(old, ignore_errors=True)
        if place.exists():
            place.rename(old)
        new.rename(place)
    except OSError as error:
        raise PinikitError(f"Cannot write {place}: {error.strerror}.") from error
    shutil.rmtree(old, ignore_errors=True)
    return result


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def tidy_replaced(store: Store, *, checkpoints: bool = False) -> None:
    """Mend what processes left that died while they replaced results; those of living ones stay.

    Args:
        store: the one whose results are replaced.
        checkpoints: remove how far replacements were, too, where nobody makes any.
    """
    for folder in (*store.folder.glob(f"{REPLACED}/*"), *store.folder.glob(f"{FRESH}/by-id/*")):
        with contextlib.suppress(Timeout, OSError), store.lock(folder.name).acquire(blocking=False):
            place = store.run_folder(folder.name)
            if folder.parent.name == REPLACED and not (place / RESULT).is_file():
                shutil.rmtree(place, ignore_errors=True)
                folder.rename(place)
            else:
                shutil.rmtree(folder)
    with contextlib.suppress(OSError):  # refused unless it is empty
        (store.folder / REPLACED).rmdir()
    fresh = fresh_store(store).folder
    with contextlib.suppress(OSError):
        if checkpoints:
            _remove_empty(fresh / "by-id")  # so nobody works there
            shutil.rmtree(fresh / "by-group", ignore_errors=True)
        _remove_empty(fresh / "by-id")
        fresh.rmdir()


def _remove_empty(folder: Path) -> None:
    """Remove a folder, which may be missing.

    Raises:
        OSError: it is not empty.
    """
    with contextlib.suppress(FileNotFoundError):
        folder.rmdir()

"""The result store: runs by their identity, and studies as lists of runs. Imports no torch.

``by-id/<run id>/`` holds a run: ``config.json``, ``manifest.json``, ``history.csv``, ``checkpoint.*``,
``record.safetensors`` (see ``record.py``),
``environment.json``, ``run.log`` and, written last, ``result.json`` with the checksums of the others.
A run without a sound ``result.json`` is not finished. ``studies/<name>/`` holds a study's index and report,
``by-group/`` how far runs are that are being trained (see ``resume.py``).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pinikit.data.files import checksum, read_json, sha256_file, write_json
from pinikit.errors import ConfigError, DataError, PinikitError

FORMAT = 1
RESULT = "result.json"
INDEX = "study.json"
CHECKED_FILES = (
    "checkpoint.safetensors",
    "checkpoint.json",
    "history.csv",
    "record.safetensors",
    "manifest.json",
    "config.json",
)

OPTIONAL_FILES = ("record.safetensors",)
"""Those of them that a finished run may lack."""


@dataclass(frozen=True)
class StoredResult:
    """What ``result.json`` of a run says."""

    run_id: str
    content: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        """Whether the run ended well; a failed one has ``error`` instead of metrics."""
        return bool(self.content["status"] == "finished")

    @property
    def error(self) -> str:
        """Why the run failed."""
        return str(self.content.get("error", ""))

    def metrics(self, split: str, mode: str) -> Mapping[str, Any]:
        """Metrics of ``test`` or ``val`` with noise treated as ``mode`` says."""
        found: Mapping[str, Any] = self.content["metrics"][split][mode]
        return found

    @property
    def other_data(self) -> Mapping[str, Mapping[str, Any]]:
        """Other data that the run was tested on, by label: facts, and under ``test`` metrics by mode."""
        found: Mapping[str, Mapping[str, Any]] = self.content["metrics"].get("other_data", {})
        return found

    @property
    def untested(self) -> Mapping[str, str]:
        """Other data that a finished run was not tested on, by label, with the reason: the next call does."""
        found: Mapping[str, str] = self.content.get("untested", {})
        return found

    @property
    def costs(self) -> Mapping[str, Any]:
        """Seconds, memory, trainable parameters, rates."""
        found: Mapping[str, Any] = self.content["costs"]
        return found


class Store:
    """The folder ``runs``."""

    def __init__(self, folder: str | Path = "runs") -> None:
        self.folder = Path(folder)

    def prepare(self) -> None:
        """Make the folders and see that they can be written to, before anything is spent.

        Raises:
            ConfigError: they cannot.
        """
        try:
            (self.folder / "by-id").mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder / "by-id"):
                pass
        except OSError as error:
            raise ConfigError(
                f"--runs: cannot write to {self.folder} ({error.strerror}); choose another folder with --runs"
            ) from error

    def run_folder(self, run_id: str) -> Path:
        """Where a run lives."""
        return self.folder / "by-id" / run_id

    def study_folder(self, name: str) -> Path:
        """Where a study lives."""
        return self.folder / "studies" / name

    def group_folder(self, run_ids: Iterable[str]) -> Path:
        """Where the checkpoint of runs lies that are trained together."""
        name = hashlib.sha256(" ".join(run_ids).encode()).hexdigest()[:16]
        return self.folder / "by-group" / name

    def group_folders(self) -> list[Path]:
        """The checkpoints that there are."""
        return _folders(self.folder / "by-group")

    def run_ids(self) -> list[str]:
        """The runs that there are, finished or not, in the order of their identities."""
        return [path.name for path in _folders(self.folder / "by-id")]

    def find(self, run: str) -> str:
        """The identity of a run, from its first digits or its folder in this store.

        Raises:
            ConfigError: no run, or several, begin so.
        """
        place = self.folder / "by-id"
        path = Path(run)
        if path.is_dir() and path.resolve().parent == place.resolve():
            return path.resolve().name
        found = [run_id for run_id in self.run_ids() if run and run_id.startswith(run)]
        if len(found) != 1:
            what = f"{len(found)} runs begin so" if found else "no run begins so"
            raise ConfigError(
                f"run {run!r}: {what} in {place}; allowed: a run's folder there, or its first digits"
            )
        return found[0]

    def locked_ids(self) -> list[str]:
        """The runs that have a lock file: a process trains them, or did."""
        return sorted(path.stem for path in (self.folder / "by-id").glob("*.lock"))

    def study_names(self) -> list[str]:
        """The studies that there are, in alphabetical order."""
        return [path.name for path in _folders(self.folder / "studies") if (path / INDEX).is_file()]

    def lock(self, run_id: str) -> FileLock:
        """Held while a run is trained, so that two processes never train the same run."""
        return FileLock(self.folder / "by-id" / f"{run_id}.lock")

    def busy(self, run_id: str) -> bool:
        """Whether a process holds the run's lock now; asking for it takes the lock for a moment."""
        lock = self.lock(run_id)
        if not Path(lock.lock_file).is_file():
            return False
        try:
            with lock.acquire(timeout=0):
                return False
        except Timeout:
            return True
        except OSError:  # a store that may only be read: it cannot be found out
            return False

    def load(self, run_id: str) -> StoredResult | None:
        """A run's result, or None if there is none or it is damaged; see :meth:`damage`."""
        found = self._checked(run_id)
        return StoredResult(run_id, found) if isinstance(found, dict) else None

    def damage(self, run_id: str) -> str | None:
        """What is wrong with a stored result; None if it is sound or absent."""
        found = self._checked(run_id)
        return found if isinstance(found, str) else None

    def _checked(self, run_id: str) -> dict[str, Any] | str | None:
        """A sound result's content; of a damaged one what is wrong; None where there is none."""
        folder = self.run_folder(run_id)
        if not (folder / RESULT).is_file():
            return None
        try:
            content: Any = read_json(folder / RESULT)
            if not isinstance(content, dict) or content.get("checksum") != checksum(content):
                return f"{folder / RESULT} does not match its own checksum"
            for name, expected in content["files"].items():
                if sha256_file(folder / name) != expected:
                    return f"{folder / name} does not match its checksum"
        except (DataError, OSError, KeyError, ValueError) as error:
            return f"{folder / RESULT}: {error}"
        return content

    def clear(self, run_id: str) -> None:
        """Make an empty folder for a run, without what an earlier try left there.

        Raises:
            PinikitError: the disk refuses.
        """
        folder = self.run_folder(run_id)
        try:
            (folder / RESULT).unlink(missing_ok=True)  # first: nothing counts as finished from here on
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PinikitError(f"Cannot write {folder}: {error.strerror}.") from error

    def remove(self, run_id: str) -> bool:
        """Remove a run and all of its files; False, and nothing happens, where it is being trained.

        Raises:
            PinikitError: the disk refuses.
        """
        folder = self.run_folder(run_id)
        try:
            with self.lock(run_id).acquire(timeout=0) as held:
                (folder / RESULT).unlink(missing_ok=True)  # first: nothing counts as finished from here on
                shutil.rmtree(folder)
                Path(held.lock_file).unlink(missing_ok=True)
        except Timeout:
            return False
        except FileNotFoundError:
            return True  # another process was faster
        except OSError as error:
            raise PinikitError(f"Cannot remove {folder}: {error.strerror}.") from error
        return True

    def save(self, run_id: str, content: Mapping[str, Any]) -> StoredResult:
        """Write ``result.json``, last of a run's files, with the checksums of the others.

        Raises:
            PinikitError: it cannot be written, or a file of a finished run is missing or cannot be read.
        """
        folder = self.run_folder(run_id)
        files = _checksums(folder, content["status"] == "finished")
        whole = {"format": FORMAT, "run_id": run_id, **content, "files": files}
        whole["checksum"] = checksum(whole)
        write_json(folder / RESULT, whole)
        return StoredResult(run_id, whole)


def _checksums(folder: Path, finished: bool) -> dict[str, str]:
    """Checksums of a run's files; a finished run has all but those that are optional.

    Raises:
        DataError: one that must be there is missing, or one cannot be read.
    """
    needed = [name for name in CHECKED_FILES if finished and name not in OPTIONAL_FILES]
    names = [name for name in CHECKED_FILES if name in needed or (folder / name).is_file()]
    return {name: sha256_file(folder / name) for name in names}


def _folders(place: Path) -> list[Path]:
    """The folders in a place, by name; none where there is no such place. Hidden ones are left out."""
    try:
        with os.scandir(place) as entries:
            names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [place / name for name in sorted(names)]

"""The result store: runs by their identity, and studies as lists of runs. Imports no torch.

``by-id/<run id>/`` holds a run: ``config.json``, ``manifest.json``, ``history.csv``, ``checkpoint.*``,
``environment.json``, ``run.log`` and, written last, ``result.json`` with the checksums of the others.
A run without a sound ``result.json`` is not finished. ``studies/<name>/`` holds a study's index and report.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from pinikit.data.files import checksum, read_json, sha256_file, write_json
from pinikit.errors import ConfigError, DataError, PinikitError

FORMAT = 1
RESULT = "result.json"
CHECKED_FILES = ("checkpoint.safetensors", "checkpoint.json", "history.csv", "manifest.json", "config.json")


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
            probe = self.folder / "by-id" / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
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

    def lock(self, run_id: str) -> FileLock:
        """Held while a run is trained, so that two processes never train the same run."""
        return FileLock(self.folder / "by-id" / f"{run_id}.lock")

    def load(self, run_id: str) -> StoredResult | None:
        """A run's result, or None if there is none or it is damaged; see :meth:`damage`."""
        path = self.run_folder(run_id) / RESULT
        if not path.is_file() or self.damage(run_id) is not None:
            return None
        return StoredResult(run_id, read_json(path))

    def damage(self, run_id: str) -> str | None:
        """What is wrong with a stored result; None if it is sound or absent."""
        folder = self.run_folder(run_id)
        if not (folder / RESULT).is_file():
            return None
        try:
            content = read_json(folder / RESULT)
            if not isinstance(content, dict) or content.get("checksum") != checksum(content):
                return f"{folder / RESULT} does not match its own checksum"
            for name, expected in content["files"].items():
                if sha256_file(folder / name) != expected:
                    return f"{folder / name} does not match its checksum"
        except (DataError, OSError, KeyError, ValueError) as error:
            return f"{folder / RESULT}: {error}"
        return None

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

    def save(self, run_id: str, content: Mapping[str, Any]) -> StoredResult:
        """Write ``result.json``, last of a run's files, with the checksums of the others."""
        folder = self.run_folder(run_id)
        files = {name: sha256_file(folder / name) for name in CHECKED_FILES if (folder / name).is_file()}
        whole = {"format": FORMAT, "run_id": run_id, **content, "files": files}
        whole["checksum"] = checksum(whole)
        write_json(folder / RESULT, whole)
        return StoredResult(run_id, whole)

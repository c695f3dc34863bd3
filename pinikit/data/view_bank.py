"""The view bank on disk: frozen activations in checksummed files of some rows each. Imports no torch.

``views/<recipe>/recipe.json`` says how the rows below it were computed, and
``views/<recipe>/<stage>/<sha256>.safetensors`` holds some rows of one stage with the keys they go by.
A file is written once, whole, under the SHA-256 of its bytes; its time of change says when it was last
used. Processes share the folder without a lock: what one of them removes, others can go on reading.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pinikit.data.files import cache_folder, canonical_json, read_json, sha256_file, write_atomic, write_json
from pinikit.errors import ConfigError, DataError, PinikitError

try:
    import fcntl
except ImportError:  # Windows, which does not remove a file that is open
    fcntl = None  # type: ignore[assignment]  # mypy takes it for the module

SIZE_VARIABLE = "PINIKIT_CACHE_SIZE"
"""Environment variable: how large the view bank may grow, such as ``50 GB``; ``0`` for none on disk."""

DEFAULT_LIMIT = 20 * 10**9
RESERVE = 500 * 10**6
"""Bytes of the disk that are left free for results; on a small disk a twentieth of it."""

PATIENCE = 180.0
"""Seconds after which a process no longer waits for another one that computes the same but writes nothing."""

NOTE_AFTER = 10.0
"""Seconds after which a process that waits says so."""

FORGOTTEN = 3600.0
"""Seconds after which a temporary file is what a killed process left behind."""

ENDING = ".safetensors"
RECIPE = "recipe.json"
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the bits of a row, but for the picture and the view's seed."""

    backbone: str
    """The backbone's name, for the reader: the hash of its weights is what counts."""
    facts: Mapping[str, Any]
    """JSON values: weights, transform, precision, device, versions."""

    @property
    def key(self) -> str:
        """24 hex digits of the SHA-256 of the facts."""
        return hashlib.sha256(canonical_json(dict(self.facts)).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Holding:
    """What the bank has of one recipe and stage."""

    backbone: str
    stage: str
    precision: str
    device: str
    views: int
    """How many augmented views; 0 if the pictures are clean."""
    pictures: int
    files: int
    size: int
    """In bytes."""
    used: float
    """When one of its files was last used, in seconds since 1970."""


@dataclass(frozen=True)
class Pruned:
    """What a call of :meth:`ViewBank.prune` did, in files and bytes."""

    files: int
    size: int
    in_use: int
    """Files that were to go but are in use by a process."""


class NoRoomError(PinikitError):
    """The bank may not grow by that much."""


class DamagedError(DataError):
    """A file of rows was read and is not what was written; one that cannot be read may be sound."""


def warn(text: str) -> None:
    """Say something as a Python warning."""
    warnings.warn(text, stacklevel=3)


def user_bank(notice: Callable[[str], None] = warn) -> ViewBank:
    """The bank in the user's cache folder (``PINIKIT_CACHE``), as large as ``PINIKIT_CACHE_SIZE`` says.

    Raises:
        ConfigError: ``PINIKIT_CACHE_SIZE`` is no size.
    """
    text = os.environ.get(SIZE_VARIABLE)
    limit = DEFAULT_LIMIT if text is None else parse_size(text, SIZE_VARIABLE)
    return ViewBank(cache_folder() / "views", limit, notice)


def parse_size(text: str, where: str) -> int:
    """Bytes from ``20 GB``, ``500MB``, ``1.5 TB`` or a plain number.

    Raises:
        ConfigError: it is none of these; ``where`` says what was read.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B)?", text.strip().upper())
    if match is None:
        raise ConfigError(f"{where}: found {text!r}; allowed: bytes, or a number with KB, MB, GB or TB")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def parse_age(text: str, where: str) -> float:
    """Seconds from ``30d``, ``12h`` or ``90m``.

    Raises:
        ConfigError: it is none of these; ``where`` says what was read.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([dhm])", text.strip().lower())
    if match is None:
        raise ConfigError(f"{where}: found {text!r}; allowed: days, hours or minutes such as 30d, 12h, 90m")
    return float(match[1]) * {"d": 86400, "h": 3600, "m": 60}[match[2]]


def size_text(size: float) -> str:
    """``0 B``, ``12.3 MB``, ``1.50 GB``."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 999.5:
            digits = 0 if unit == "B" else 2 if size < 9.995 else 1 if size < 99.95 else 0
            return f"{size:.{digits}f} {unit}"
        size /= 1000
    return f"{size:.2f} TB"


class ViewBank:
    """Files of banked rows in a folder that several processes share, bounded in size.

    Args:
        folder: where; made when the first row is written.
        limit: bytes that all files together may have. Those not used for the longest time go first;
            what a living process uses stays.
        notice: told of damaged files, and of rows that find no room.
    """

    def __init__(self, folder: Path, limit: int, notice: Callable[[str], None] = warn) -> None:
        self.folder, self.limit, self.notice = folder, limit, notice
        self._said: set[str] = set()
        self._turn: FileLock | None = None

    def say_once(self, text: str) -> None:
        """Give a notice, unless it was given before."""
        if text not in self._said:
            self._said.add(text)
            self.notice(text)

    # --- what is there ---------------------------------------------------------------------------

    def stage_folder(self, recipe: Recipe, stage: str) -> Path:
        """Where the rows of a recipe and stage are."""
        return self.folder / recipe.key / stage

    def files(self) -> list[Path]:
        """All files of rows."""
        return sorted(self.folder.glob(f"*/*/[!.]*{ENDING}"))

    def size(self) -> int:
        """Bytes of all files together."""
        return sum(status.st_size for _, status in _statuses(self.files()))

    def holdings(self) -> list[Holding]:
        """What there is, by recipe and stage. Files that cannot be read count with their bytes alone."""
        found = []
        for stage in sorted(self.folder.glob("*/*/")):
            statuses = _statuses(stage.glob(f"[!.]*{ENDING}"))
            if statuses:
                found.append(_holding(stage, statuses))
        return sorted(found, key=lambda holding: (holding.backbone, holding.precision, holding.stage))

    def verify(self) -> list[str]:
        """Read every file and compare it with its checksum.

        Returns:
            A line for each damaged file; empty if all are sound. Files that vanish meanwhile are none.
        """
        lines = []
        for path in self.files():
            try:
                check_file(path)
            except DataError as error:
                if path.exists():
                    lines.append(str(error))
        return lines

    # --- writing and removing --------------------------------------------------------------------

    def write(self, recipe: Recipe, stage: str, data: bytes) -> Path:
        """Store a file of rows; removes others if need be. If that is refused, this process's turn ends.

        Raises:
            NoRoomError: it would exceed the limit, or take the last of the disk.
            PinikitError: the disk refuses.
        """
        folder = self.stage_folder(recipe, stage)
        path = folder / f"{hashlib.sha256(data).hexdigest()}{ENDING}"
        try:
            self._make_room(len(data))
            _describe(recipe, folder.parent)
            write_atomic(path, data)
        except PinikitError:
            self._end_turn()  # the others would wait for nothing
            raise
        return path

    def _make_room(self, size: int) -> None:
        self._remove_leftovers()
        bound = f"it may grow to {size_text(self.limit)} ({SIZE_VARIABLE})"
        if size > self.limit:
            raise NoRoomError(f"{bound}, and these rows take {size_text(size)}")
        excess, lacking = self.size() + size - self.limit, self._lacking_on_disk(size)
        wanted = max(excess, lacking)
        freed = self._remove_oldest(wanted).size if wanted > 0 else 0
        if excess > freed:
            raise NoRoomError(f"{bound} and everything in it is in use")
        if lacking > freed:
            reserve = size_text(self._disk()[0])
            raise NoRoomError(f"the disk is full but for {reserve} that are left for results")

    def room(self) -> int:
        """Bytes that it can still take before anything in it is removed."""
        return max(min(self.limit - self.size(), -self._lacking_on_disk(0)), 0)

    def _lacking_on_disk(self, size: int) -> int:
        """Bytes that must be freed before ``size`` more can be written."""
        reserve, free = self._disk()
        return size + reserve - free

    def _disk(self) -> tuple[int, int]:
        """Bytes of the disk that are left for results, and bytes that are free."""
        folder = next(path for path in (self.folder, *self.folder.absolute().parents) if path.is_dir())
        disk = shutil.disk_usage(folder)
        return min(RESERVE, disk.total // 20), disk.free

    def prune(self, size: int | None = None, age: float | None = None) -> Pruned:
        """Remove files that were not used for ``age`` seconds, then the oldest down to ``size`` bytes."""
        self._remove_leftovers()
        aged = Pruned(0, 0, 0)
        if age is not None:
            old = [path for path, status in _statuses(self.files()) if time.time() - status.st_mtime >= age]
            aged = self._remove(old)
        sized = Pruned(0, 0, 0)
        if size is not None:
            sized = self._remove_oldest(self.size() - size)
        self._remove_empty_folders()
        in_use = max(aged.in_use, sized.in_use)
        return Pruned(aged.files + sized.files, aged.size + sized.size, in_use)

    def _remove_oldest(self, wanted: int) -> Pruned:
        """Free at least ``wanted`` bytes, if so much is not in use."""
        statuses = _statuses(self.files())
        ordered = sorted(statuses, key=lambda entry: entry[1].st_mtime_ns)
        return self._remove((path for path, _ in ordered), wanted)

    def _remove(self, paths: Iterable[Path], wanted: float = float("inf")) -> Pruned:
        files = size = in_use = 0
        for path in paths:
            if size >= wanted:
                break
            freed = _remove_unused(path)
            in_use += freed is None
            files += bool(freed)
            size += freed or 0
        return Pruned(files, size, in_use)

    def _remove_leftovers(self) -> None:
        """Temporary files of processes that were killed while they wrote."""
        for path, status in _statuses(self.folder.glob("*/**/.*.tmp")):
            if time.time() - status.st_mtime > FORGOTTEN:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _remove_empty_folders(self) -> None:
        for stage in self.folder.glob("*/*/"):
            with contextlib.suppress(OSError):
                stage.rmdir()  # refused unless it is empty
        for recipe in self.folder.glob("*/"):
            if not any(recipe.glob("*/")):
                shutil.rmtree(recipe, ignore_errors=True)

    # --- several processes -----------------------------------------------------------------------

    @contextlib.contextmanager
    def turn(self, recipe: Recipe) -> Iterator[None]:
        """Held while rows are computed, so that processes do not compute the same ones side by side.

        It saves work; nothing wrong is read without it. So a process does not wait for ever: if the one
        that has its turn writes nothing for ``PATIENCE`` seconds, or locks do not work here, it goes on.
        A turn ends at once when the bank refuses a row, as the others would not find it.
        """
        if self.limit == 0:  # nobody else would find what is computed
            yield
            return
        lock = FileLock(self.folder / recipe.key / "turn.lock")
        try:
            (self.folder / recipe.key).mkdir(parents=True, exist_ok=True)
            self._wait_for(lock, recipe)
        except OSError:
            pass
        self._turn = lock
        try:
            yield
        finally:
            self._end_turn()

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._turn.release()
            self._turn = None

    def _wait_for(self, lock: FileLock, recipe: Recipe) -> None:
        seen, begin = -1, time.monotonic()
        since = begin
        while not lock.is_locked and time.monotonic() - since < PATIENCE:
            try:
                lock.acquire(timeout=1, poll_interval=0.05)
            except Timeout:
                files = sum(1 for _ in (self.folder / recipe.key).glob(f"*/[!.]*{ENDING}"))
                if files != seen:
                    seen, since = files, time.monotonic()
                if time.monotonic() - begin > NOTE_AFTER:
                    self.say_once("waiting for another process that computes activations of the same kind")


def check_file(path: Path) -> None:
    """Compare a file of rows with its checksum.

    Raises:
        DamagedError: they differ.
        DataError: the file is gone or cannot be read.
    """
    if sha256_file(path) != path.name.removesuffix(ENDING):
        raise DamagedError(f"{path}: it does not match its checksum")


def lease(path: Path) -> int | None:
    """Mark a file as used now, and as in use until the handle that is returned is closed or the process ends.

    None where files cannot be locked; what is mapped stays readable there, too, when its file is removed.
    """
    if fcntl is None:
        return None
    try:
        os.utime(path)
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return handle


def read_keys(path: Path) -> tuple[list[bytes], list[int]]:
    """The keys and view numbers of a file's rows.

    Raises:
        DamagedError: it is no such file.
        DataError: the file is gone or cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as content:
            keys = content.get_tensor("keys")  # [M, 40] uint8
            views = content.get_tensor("views")  # [M]
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error}.") from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path}: {error}") from error
    return [row.tobytes() for row in keys], views.tolist()


def picture_of(key: bytes) -> bytes:
    """The part of a row's key that stands for the picture's content."""
    return key[:32]


def row_key(content: bytes, seed: int) -> bytes:
    """What a row goes by: SHA-256 of the picture's content and the seed of the view; 40 bytes."""
    return content + seed.to_bytes(8, "big")


def _describe(recipe: Recipe, folder: Path) -> None:
    """Write ``recipe.json`` unless it is there."""
    path = folder / RECIPE
    if not path.is_file():
        write_json(path, {"backbone": recipe.backbone, **recipe.facts})


def _holding(stage: Path, statuses: list[tuple[Path, os.stat_result]]) -> Holding:
    try:
        facts = read_json(stage.parent / RECIPE)
    except DataError:
        facts = {}
    facts = facts if isinstance(facts, dict) else {}
    pictures: set[bytes] = set()
    views: set[int] = set()
    for path, _ in statuses:
        with contextlib.suppress(DataError):
            keys, numbers = read_keys(path)
            pictures.update(map(picture_of, keys))
            views.update(numbers)
    return Holding(
        backbone=str(facts.get("backbone", "unknown")),
        stage=stage.name,
        precision=str(facts.get("precision", "unknown")),
        device=str(facts.get("device", "unknown")),
        views=len(views - {0}),
        pictures=len(pictures),
        files=len(statuses),
        size=sum(status.st_size for _, status in statuses),
        used=max(status.st_mtime for _, status in statuses),
    )


def _statuses(paths: Iterable[Path]) -> list[tuple[Path, os.stat_result]]:
    """The files with their size and times; those that vanish meanwhile are left out."""
    found = []
    for path in paths:
        with contextlib.suppress(OSError):
            found.append((path, path.stat()))
    return found


def _remove_unused(path: Path) -> int | None:
    """Remove a file that no process uses.

    Returns:
        The bytes that were freed; 0 if it was gone already, None if it is in use.
    """
    try:
        with path.open("rb") as stream:
            if fcntl is not None:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = os.fstat(stream.fileno()).st_size
            if fcntl is not None:
                path.unlink()
        if fcntl is None:
            path.unlink()
    except FileNotFoundError:
        return 0
    except OSError:
        return None
    return size

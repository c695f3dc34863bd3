"""Banked rows of one recipe and stage: found, verified, memory-mapped, and gathered."""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pinikit.data.view_bank import (
    ENDING,
    DamagedError,
    Recipe,
    ViewBank,
    check_file,
    lease,
    read_keys,
)
from pinikit.errors import DataError, PinikitError

FILE_BYTES = 64 * 2**20
"""Rows are written when so much has come together,"""

FILE_SECONDS = 30.0
"""or when the first of them is so old: what a killed process loses."""


class Segment:
    """Some rows of a stage, in a file or, where no file could be written, in memory."""

    def __init__(self, keys: Sequence[bytes], path: Path | None = None, rows: Tensor | None = None) -> None:
        self.keys, self.path, self._rows = keys, path, rows
        self.readers: weakref.WeakSet[Rows] = weakref.WeakSet()
        """Who may still ask for its rows."""
        self._lease: Callable[[], object] = _nothing
        self._checked: tuple[int, ...] | None = None

    @property
    def rows(self) -> Tensor:
        """[M, ...] as stored; memory-mapped if they are in a file.

        Raises:
            DataError: :meth:`open` was not called or did not succeed.
        """
        if self._rows is None:
            raise DataError(f"{self.path} was not opened.")
        return self._rows

    @property
    def is_open(self) -> bool:
        """Whether the rows can be read."""
        return self._rows is not None

    def open(self) -> None:
        """Verify and map the file; until :meth:`close` it is in use.

        Raises:
            DamagedError: it is not what was written.
            DataError: it is gone or cannot be read.
        """
        if self._rows is not None:
            return
        assert self.path is not None
        handle = lease(self.path)
        try:
            self._check(self.path)
            self._rows = _mapped(self.path)
        except BaseException:
            if handle is not None:
                os.close(handle)
            raise
        if handle is not None:
            self._lease = weakref.finalize(self, os.close, handle)

    def close(self) -> None:
        """Let go of the file: it can be removed, or opened again."""
        if self.path is not None:
            self._rows = None
            self._lease()  # a second call does nothing

    def _check(self, path: Path) -> None:
        """Compare the file with its checksum, unless this process has done so before."""
        file = _identity(path)
        if file is None or file != self._checked:
            check_file(path)
            self._checked = file


class Rows:
    """The rows of some keys, wherever they lie."""

    def __init__(self, places: Sequence[tuple[Segment, int]]) -> None:
        self._segments = list(dict.fromkeys(segment for segment, _ in places))
        numbers = {segment: number for number, segment in enumerate(self._segments)}
        for segment in self._segments:
            segment.readers.add(self)
        self._segment = torch.tensor([numbers[segment] for segment, _ in places])  # [M]
        self._row = torch.tensor([row for _, row in places])  # [M]

    def __len__(self) -> int:
        return len(self._row)

    @property
    def size(self) -> int:
        """Bytes of all of them, as stored."""
        if not self._segments:
            return 0
        counts = torch.bincount(self._segment, minlength=len(self._segments)).tolist()
        return sum(
            int(n) * int(segment.rows[0].nbytes) for n, segment in zip(counts, self._segments, strict=True)
        )

    def take(self, index: Tensor) -> Tensor:
        """Copies [B, ...] of the rows at ``index`` [B], an int64 tensor on the CPU."""
        segments, rows = self._segment[index], self._row[index]
        present: list[int] = segments.unique().tolist()
        if len(present) == 1:
            return self._segments[present[0]].rows.index_select(0, rows)
        parts = [self._segments[number].rows for number in present]
        dtype = parts[0].dtype if len({part.dtype for part in parts}) == 1 else torch.float32
        taken = torch.empty(len(index), *parts[0].shape[1:], dtype=dtype)
        for number, part in zip(present, parts, strict=True):
            here = (segments == number).nonzero()[:, 0]
            taken[here] = part.index_select(0, rows[here]).to(dtype)
        return taken


class Shelf:
    """The rows of a recipe and stage; without a bank on disk, in memory only.

    Args:
        recipe: how the rows are computed.
        stage: of which stage they are.
        bank: where files are; None for none.
    """

    def __init__(self, recipe: Recipe, stage: str, bank: ViewBank | None) -> None:
        self._recipe, self._stage = recipe, stage
        self._bank = bank if bank is not None and bank.limit > 0 else None
        self._segments: dict[Path, Segment] = {}
        self._places: dict[bytes, tuple[Segment, int]] = {}
        self._waiting: list[tuple[Sequence[bytes], Sequence[int], Tensor]] = []
        self._since = 0.0
        self._refused: set[Path] = set()  # files that could not be read
        self._unwritten: list[Segment] = []

    def refresh(self) -> None:
        """See what other processes have written or removed since."""
        if self._bank is None:
            return
        folder = self._bank.stage_folder(self._recipe, self._stage)
        there = set(folder.glob(f"[!.]*{ENDING}"))
        self._refused &= there
        for path in self._segments.keys() - there:
            if not self._segments[path].is_open:
                self._drop(self._segments[path])
        for path in sorted(there - self._segments.keys() - self._refused):
            self._enter(path)

    def missing(self, keys: Iterable[bytes]) -> set[bytes]:
        """Those of ``keys`` that have no row. The files of all others are verified and open then."""
        keys = set(keys)
        for segment in {self._places[key][0] for key in keys if key in self._places}:
            try:
                segment.open()
            except DataError as error:
                self._drop(segment)
                self._report(segment.path, error)
        return {key for key in keys if key not in self._places}

    def known(self, keys: Iterable[bytes]) -> frozenset[bytes]:
        """Those of ``keys`` that have a row, whose file need not be sound."""
        return frozenset(key for key in keys if key in self._places)

    def add(self, keys: Sequence[bytes], views: Sequence[int], rows: Tensor) -> None:
        """Take in rows [M, ...]; they can be read after :meth:`flush`."""
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.append((keys, views, rows))
        size = sum(rows.nbytes for _, _, rows in self._waiting)
        enough = FILE_BYTES if self._bank is None else min(FILE_BYTES, self._bank.limit // 8)
        if size >= enough or time.monotonic() - self._since >= FILE_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what was added; what cannot be written stays in memory."""
        if not self._waiting:
            return
        keys = [key for part, _, _ in self._waiting for key in part]
        views = [view for _, part, _ in self._waiting for view in part]
        rows = torch.cat([rows for _, _, rows in self._waiting])
        self._waiting = []
        written = None if self._bank is None else self._write(self._bank, keys, views, rows)
        if written is None:
            written = Segment(keys, rows=rows)
            self._unwritten.append(written)
        self._place(written)

    def release(self, keep: int = 0) -> int:
        """Let go of rows that nobody may ask for any more: of their files, and of those in memory only.

        Args:
            keep: bytes of rows in memory only that may stay.

        Returns:
            Bytes of rows in memory only that stayed.
        """
        for segment in self._segments.values():
            if not segment.readers:
                segment.close()
        stayed = 0
        for segment in tuple(self._unwritten):
            if segment.readers or stayed + segment.rows.nbytes <= keep:
                stayed += segment.rows.nbytes
            else:
                self._unwritten.remove(segment)
                self._drop(segment)
        return stayed

    def rows(self, keys: Sequence[bytes]) -> Rows:
        """The rows of ``keys``, in that order; none of them is missing."""
        return Rows([self._places[key] for key in keys])

    def _write(self, bank: ViewBank, keys: list[bytes], views: list[int], rows: Tensor) -> Segment | None:
        """A file of the rows, read back and in use; None if that was not possible."""
        tensors = {
            "keys": torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(len(keys), -1),
            "views": torch.tensor(views, dtype=torch.int32),
            "rows": rows.contiguous(),
        }
        try:
            segment = Segment(keys, bank.write(self._recipe, self._stage, save(tensors)))
        except PinikitError as error:
            bank.say_once(f"the view bank takes no more rows, which stay in memory: {error}")
            return None
        with contextlib.suppress(DataError):
            segment.open()
        return segment if segment.is_open else None

    def _enter(self, path: Path) -> None:
        try:
            keys, _ = read_keys(path)
        except DataError as error:
            self._report(path, error)
            return
        self._place(Segment(keys, path))

    def _place(self, segment: Segment) -> None:
        if segment.path is not None:
            self._segments[segment.path] = segment
        for row, key in enumerate(segment.keys):
            held = self._places.get(key)
            if held is None or not held[0].is_open:
                self._places[key] = (segment, row)

    def _drop(self, segment: Segment) -> None:
        if segment.path is not None:
            self._segments.pop(segment.path, None)
        for key in segment.keys:
            if key in self._places and self._places[key][0] is segment:
                del self._places[key]

    def _report(self, path: Path | None, error: DataError) -> None:
        """Say what is wrong with a file, and remove it if it is damaged.

        One that cannot be read may be sound. One that another process has removed is no news.
        """
        if path is None or not path.exists():
            return
        assert self._bank is not None
        self._refused.add(path)
        what = "file of the view bank that cannot be read"
        if isinstance(error, DamagedError):
            what = "damaged file of the view bank"
            with contextlib.suppress(OSError):  # the folder may be shared, and read-only
                path.unlink()
        self._bank.say_once(f"{what}, its rows are computed again: {error}")


def _mapped(path: Path) -> Tensor:
    try:
        with safe_open(path, framework="pt") as content:
            rows: Tensor = content.get_tensor("rows")
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error}.") from error
    except SafetensorError as error:
        raise DamagedError(f"{path}: {error}") from error
    return rows


def _identity(path: Path) -> tuple[int, ...] | None:
    """What changes when another file takes its place; None if it cannot be found out."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size


def _nothing() -> None:
    """There is no lease."""

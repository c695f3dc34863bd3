"""Banked rows of one recipe and stage: found, verified, memory-mapped, and gathered."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pinikit.data.view_bank import ENDING, Recipe, ViewBank, damage, lease, read_keys
from pinikit.errors import DataError, PinikitError

FILE_BYTES = 64 * 2**20
"""Rows are written when so much has come together,"""

FILE_SECONDS = 30.0
"""or when the first of them is so old: what a killed process loses."""


class Segment:
    """Some rows of a stage, in a file or, where no file could be written, in memory."""

    def __init__(self, keys: Sequence[bytes], path: Path | None = None, rows: Tensor | None = None) -> None:
        self.keys, self.path, self._rows = keys, path, rows

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

    def open(self) -> str | None:
        """Verify and map the file, once; from then on it is in use.

        Returns:
            Why that is not possible; None if it was.
        """
        if self._rows is None:
            assert self.path is not None
            handle = lease(self.path)
            reason = damage(self.path)
            if reason is None:
                reason = self._map(self.path)
            if handle is not None and reason is None:
                weakref.finalize(self, os.close, handle)
            elif handle is not None:
                os.close(handle)
            return reason
        return None

    def _map(self, path: Path) -> str | None:
        try:
            with safe_open(path, framework="pt") as content:
                self._rows = content.get_tensor("rows")
        except (SafetensorError, OSError) as error:
            return str(error)
        return None


class Rows:
    """The rows of some keys, wherever they lie."""

    def __init__(self, places: Sequence[tuple[Segment, int]]) -> None:
        self._segments = list(dict.fromkeys(segment for segment, _ in places))
        numbers = {segment: number for number, segment in enumerate(self._segments)}
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

    def refresh(self) -> None:
        """See what other processes have written or removed since."""
        if self._bank is None:
            return
        folder = self._bank.stage_folder(self._recipe, self._stage)
        there = set(folder.glob(f"[!.]*{ENDING}"))
        for path in self._segments.keys() - there:
            if not self._segments[path].is_open:
                self._drop(self._segments[path])
        for path in sorted(there - self._segments.keys()):
            self._enter(path)

    def missing(self, keys: Iterable[bytes]) -> set[bytes]:
        """Those of ``keys`` that have no row. The files of all others are verified and open then."""
        keys = set(keys)
        for segment in {self._places[key][0] for key in keys if key in self._places}:
            reason = segment.open()
            if reason is not None:
                self._drop(segment)
                self._report(segment.path, reason)
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
        self._place(written or Segment(keys, rows=rows))

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
        return None if segment.open() else segment

    def _enter(self, path: Path) -> None:
        try:
            keys, _ = read_keys(path)
        except DataError as error:
            if path.exists():
                self._report(path, str(error))
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

    def _report(self, path: Path | None, reason: str) -> None:
        """Remove a damaged file and say so; one that another process has removed is no news."""
        if path is None or not path.exists():
            return
        path.unlink(missing_ok=True)
        assert self._bank is not None
        self._bank.notice(f"damaged file of the view bank, its rows are computed again: {path}: {reason}")

"""Banked activations of some pictures in some views, as training and evaluation read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from pinikit.data.shelf import Rows
from pinikit.seeding import generator

RESIDENT = {"cpu": 2**28, "cuda": 2**30}
"""Bytes up to which views are kept on the device as one tensor a stage, as stored, by device type (other
types as cpu). Larger ones stay memory-mapped and are gathered batch by batch: on the processor that costs
little more."""


def view_numbers(views: int, epochs: int) -> Sequence[int]:
    """The views that so many epochs need of each picture: 1 to min(views, epochs), or the clean one (0).

    Each epoch takes another view as long as there is one, so with ``views`` ≥ ``epochs`` every epoch
    sees a fresh augmentation of each picture.
    """
    return range(1, min(views, epochs) + 1) if views else (0,)


@dataclass(frozen=True)
class StageRows:
    """A stage's rows, view by view [K·N, ...], and how what a tower goes on from is made of them."""

    rows: Rows
    prepare: Callable[[Tensor], Tensor] = lambda rows: rows


class Views:
    """K views of N pictures at some stages.

    Args:
        stages: their rows; ``rows`` ``k·N + n`` is view k of picture n.
        pictures: N.
        device: where tensors are handed out.
        dtype: their number format.
        timed: entered while rows are gathered from memory-mapped files.
    """

    def __init__(
        self,
        stages: Mapping[str, StageRows],
        pictures: int,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        timed: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._stages, self.pictures = dict(stages), pictures
        self._device, self._dtype, self._timed = device, dtype, timed
        self.count = len(next(iter(stages.values())).rows) // pictures
        """K."""
        self._resident: dict[str, Tensor] = {}  # stage: [K·N, ...]
        bound = RESIDENT.get(device.type, RESIDENT["cpu"])
        self._prepare = {name: stage.prepare for name, stage in stages.items()}
        if sum(stage.rows.size for stage in stages.values()) <= bound:
            everything = torch.arange(self.count * pictures)
            self._resident = {name: self._send(stage.rows.take(everything)) for name, stage in stages.items()}
            self._stages = {}  # nothing is read from files any more

    def gather(self, views: Tensor, pictures: Tensor) -> dict[str, Tensor]:
        """Tensors [B, ...] by stage of the views and pictures with these indices [B], 0 to K-1 and 0 to N-1.

        Views that stay in files want index tensors on the CPU; resident ones take them from either place.
        """
        index = views.to(pictures.device) * self.pictures + pictures
        if self._resident:
            index = index.to(self._device, non_blocking=True)  # does not wait for the steps before
            return {name: self._ready(name, rows[index]) for name, rows in self._resident.items()}
        with self._timed():
            return self._gather_files(index.cpu())

    def rows(self, first: int, last: int) -> dict[str, Tensor]:
        """Tensors [B, ...] by stage: pictures ``first`` to ``last`` - 1, at most, in their first view."""
        last = min(last, self.pictures)
        if self._resident:
            return {name: self._ready(name, rows[first:last]) for name, rows in self._resident.items()}
        with self._timed():
            return self._gather_files(torch.arange(first, last))

    def of_epoch(self, epoch: int, seed: int) -> Tensor:
        """Which view [N] each picture shows in an epoch, an index on the CPU.

        Over K epochs every picture shows each of its K views once, in an order of its own.
        """
        turn, step = divmod(epoch, self.count)
        stream = generator(seed, "views", turn)
        return torch.rand(self.pictures, self.count, generator=stream).argsort(1)[:, step]

    def _gather_files(self, index: Tensor) -> dict[str, Tensor]:
        sent = {name: self._send(stage.rows.take(index)) for name, stage in self._stages.items()}
        return {name: self._ready(name, rows) for name, rows in sent.items()}

    def _send(self, rows: Tensor) -> Tensor:
        """To the device as stored; CUDA copies on its own only from pinned memory."""
        if self._device.type == "cuda":
            rows = rows.pin_memory()
        return rows.to(self._device, non_blocking=True)

    def _ready(self, name: str, rows: Tensor) -> Tensor:
        return self._prepare[name](rows).to(self._dtype)

"""Frozen activations, computed once and kept in memory: the clean tensors that runs start from."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from pinikit.backbones.base import Backbone
from pinikit.data.catalogue import DataSet, Item
from pinikit.data.transforms import load_pictures, transform_for
from pinikit.training.precision import autocast

BATCH = 64
"""Pictures per pass. Short batches are padded to it, so a row does not depend on its neighbours."""


class Encoding(Protocol):
    """Told how many pictures of how many were encoded in one request."""

    def __call__(self, done: int, total: int) -> None:
        """Called after each batch."""


class Bank:
    """Clean activations by stage, view and picture, of one backbone and data set."""

    def __init__(self, backbone: Backbone, dataset: DataSet, precision: str) -> None:
        self.backbone, self.dataset, self.precision = backbone, dataset, precision
        self.device = backbone.logit_scale.device
        self.seconds = 0.0
        """Time spent encoding so far."""
        self._rows: dict[tuple[str, int, str], Tensor] = {}

    def get(
        self,
        stages: Collection[str],
        items: Sequence[Item],
        view: int,
        progress: Encoding = lambda done, total: None,
    ) -> dict[str, Tensor]:
        """The clean tensors [N, ...] of ``items`` at ``stages``; view 0 is clean, others are augmented.

        Raises:
            DataError: a picture cannot be read.
        """
        missing = [
            item for item in items if any((stage, view, item.id) not in self._rows for stage in stages)
        ]
        for first in range(0, len(missing), BATCH):
            batch = missing[first : first + BATCH]
            self._encode(stages, batch, view)
            progress(first + len(batch), len(missing))
        return {stage: torch.stack([self._rows[stage, view, item.id] for item in items]) for stage in stages}

    def _encode(self, stages: Collection[str], items: Sequence[Item], view: int) -> None:
        start = time.perf_counter()
        transform = transform_for(self.dataset, self.backbone.preprocess, view)
        pixels = load_pictures(self.dataset, items, transform, view).to(self.device)
        if set(stages) == {"pixels"}:
            tensors = {"pixels": pixels}
        else:
            padded = functional.pad(pixels, (0, 0) * 3 + (0, BATCH - len(items)))
            with torch.no_grad(), autocast(self.device, self.precision):
                tensors = self.backbone.image.read(padded, stages)
        for stage, tensor in tensors.items():
            for item, row in zip(items, tensor.float(), strict=False):
                self._rows[stage, view, item.id] = row
        self.seconds += time.perf_counter() - start

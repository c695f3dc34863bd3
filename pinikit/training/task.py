"""What a method sees of a few-shot task: train and validation pictures, never the test set."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pinikit.backbones.base import Backbone, Prompts
from pinikit.data.catalogue import Item
from pinikit.data.manifest import SplitManifest
from pinikit.training.bank import Bank, Encoding
from pinikit.training.views import Views


class Split:
    """Some pictures of a task, with their labels and their banked activations."""

    def __init__(self, bank: Bank, items: Sequence[Item], progress: Encoding) -> None:
        self._bank, self._items, self._progress = bank, items, progress
        self.labels = torch.tensor([item.label for item in items], device=bank.device)  # [N]

    def __len__(self) -> int:
        return len(self._items)

    def views(self, stages: Collection[str], numbers: Sequence[int] = (0,)) -> Views:
        """Views of all pictures at image ``stages``; view 0 is not augmented and stands alone."""
        return self._bank.views(stages, self._items, numbers, self._progress)

    def activations(self, stages: Collection[str], view: int = 0) -> dict[str, Tensor]:
        """One view of all pictures as tensors [N, ...]: for stages so small that memory is no matter."""
        return self.views(stages, [view]).rows(0, len(self))


@dataclass(frozen=True)
class Task:
    """A few-shot classification task. ``val`` is None where the data set has no validation split."""

    backbone: Backbone
    prompts: Prompts
    class_names: tuple[str, ...]
    views: int
    train: Split
    val: Split | None


def make_task(bank: Bank, prompts: Prompts, manifest: SplitManifest, views: int, progress: Encoding) -> Task:
    """The task of a split manifest. Its test items are left out."""
    val = Split(bank, manifest.val, progress) if manifest.val else None
    train = Split(bank, manifest.train, progress)
    return Task(bank.backbone, prompts, manifest.class_names, views, train, val)

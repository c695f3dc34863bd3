"""Contrastive losses in two directions: every image finds its class text, every class text its images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from optuna.distributions import FloatDistribution
from torch import Tensor
from torch.nn import functional

from pinikit.components.contracts import Loss
from pinikit.components.losses._terms import (
    cosines,
    masked_logsumexp,
    mean_per_class,
    mean_where,
    own_class,
)


class ClipInfonce(Loss):
    """CLIP's contrastive loss: half cross-entropy over classes, half over the images of the batch.

    A class's images are all positives: its term is the mean of their −log softmax over the batch, and the
    mean is taken over the classes in it. With one image per class this is the loss of Radford et al.,
    "Learning Transferable Visual Models From Natural Language Supervision", 2021 (open_clip's
    ``ClipLoss``).
    """

    name = "clip_infonce"
    version = 1

    def __init__(self) -> None:
        pass

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """½ (rows + columns), a scalar."""
        rows, columns = _smoothed(batch["logits"], batch["labels"], 0.0)
        return (rows + columns) / 2


class NormSoftmax(Loss):
    """ALIGN's loss: both directions with smoothed labels, summed, at a temperature of its own.

    A class's images are all positives, as in ``clip_infonce``. Published with a learned temperature (Jia
    et al., "Scaling Up Visual and Vision-Language Representation Learning With Noisy Text Supervision",
    ICML 2021, arXiv 2102.05918).

    ``smoothing`` is the share of a target that all classes get alike.
    """

    name = "norm_softmax"
    version = 1
    requires = frozenset({"image_features", "text_features", "labels"})

    def __init__(
        self,
        temperature: Annotated[float, FloatDistribution(0.01, 1.0, log=True)] = 0.05,
        smoothing: Annotated[float, FloatDistribution(0.0, 0.5)] = 0.1,
    ) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature: found {temperature}; allowed: above 0")
        if not 0 <= smoothing <= 1:
            raise ValueError(f"smoothing: found {smoothing}; allowed: 0 to 1")
        self._temperature, self._smoothing = temperature, smoothing

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Rows + columns, a scalar."""
        rows, columns = self.directions(batch)
        return rows + columns

    def directions(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Image to text, and text to image."""
        logits = cosines(batch["image_features"], batch["text_features"]) / self._temperature
        return _smoothed(logits, batch["labels"], self._smoothing)


class DecoupledClip(Loss):
    """CLIP's loss with the positives taken out of the denominators: log Σ over negatives − positive.

    Both directions, averaged; a class's images are all positives. It can be negative. A row or a class
    without negatives is left out (Yeh et al., "Decoupled Contrastive Learning", ECCV 2022, arXiv
    2110.06848; as in lucidrains/x-clip).
    """

    name = "decoupled_clip"
    version = 1

    def __init__(self) -> None:
        pass

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """½ (rows + columns), a scalar."""
        logits, own = batch["logits"], own_class(batch["labels"], batch["logits"].shape[1])
        positives = logits.gather(1, batch["labels"].unsqueeze(1)).squeeze(1)
        rows = masked_logsumexp(logits, ~own, 1) - positives
        columns = masked_logsumexp(logits, ~own, 0) - mean_per_class(logits, own)
        has_columns = own.any(0) & ~own.all(0)
        return (mean_where(rows, ~own.all(1)) + mean_where(columns, has_columns)) / 2


def _smoothed(logits: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy over classes and over images, each with ``smoothing`` of its target spread evenly."""
    own = own_class(labels, logits.shape[1])
    over_images = -logits.log_softmax(0)  # [B, C]
    columns = (1 - smoothing) * mean_per_class(over_images, own) + smoothing * over_images.mean(0)
    rows = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    return rows, mean_where(columns, own.any(0))

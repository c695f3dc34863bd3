"""Cross-entropy with smoothed labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from optuna.distributions import FloatDistribution
from torch import Tensor
from torch.nn import functional

from pinikit.components.contracts import Loss


class LabelSmoothingCe(Loss):
    """(1 − e) · cross-entropy + e · mean over classes of −log p.

    e = 0 is the cross-entropy, e = 1 has a uniform target (Szegedy et al., "Rethinking the Inception
    Architecture for Computer Vision", CVPR 2016).

    e is ``smoothing``.
    """

    name = "label_smoothing_ce"
    version = 1

    def __init__(self, smoothing: Annotated[float, FloatDistribution(0.0, 0.5)] = 0.1) -> None:
        if not 0 <= smoothing <= 1:
            raise ValueError(f"smoothing: found {smoothing}; allowed: 0 to 1")
        self._smoothing = smoothing

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean over rows, a scalar."""
        return functional.cross_entropy(batch["logits"], batch["labels"], label_smoothing=self._smoothing)

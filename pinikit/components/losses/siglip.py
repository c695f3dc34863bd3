"""The sigmoid loss of SigLIP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from optuna.distributions import FloatDistribution
from torch import Tensor
from torch.nn import functional

from pinikit.components.bounds import check_above_zero
from pinikit.components.contracts import Loss
from pinikit.components.losses._terms import cosines, own_class


class Siglip(Loss):
    """Every (image, class) pair as a yes-or-no question, without a softmax.

    Σ softplus(−y (scale · cos + bias)) / B with y = 1 for the true class, else −1. Every pair is a
    question of its own; there is no softmax. Summed over the pairs and divided by the rows B, as
    published (Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023, arXiv 2303.15343;
    open_clip's ``SigLipLoss``). There scale and bias are learned; here they are fixed, as the backbone's
    are.
    """

    name = "siglip"
    version = 1
    requires = frozenset({"image_features", "text_features", "labels"})

    def __init__(
        self,
        scale: Annotated[float, FloatDistribution(1.0, 100.0, log=True)] = 10.0,
        bias: Annotated[float, FloatDistribution(-20.0, 0.0)] = -10.0,
    ) -> None:
        check_above_zero(scale=scale)
        self._scale, self._bias = scale, bias

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The sum over classes, averaged over rows, a scalar."""
        logits = self._scale * cosines(batch["image_features"], batch["text_features"]) + self._bias
        return self.of_logits(logits, batch["labels"])

    @staticmethod
    def of_logits(logits: Tensor, labels: Tensor) -> Tensor:
        """The same from logits [B, C]."""
        sign = 2 * own_class(labels, logits.shape[1]).to(logits.dtype) - 1
        return functional.softplus(-sign * logits).sum(1).mean()

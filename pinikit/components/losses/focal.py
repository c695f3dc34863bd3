"""Focal losses: rows that are classified well count less."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from optuna.distributions import FloatDistribution
from torch import Tensor
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from pinikit.components.bounds import check_above_zero
from pinikit.components.contracts import Loss
from pinikit.components.losses._terms import cosines, own_class


class FocalCe(Loss):
    """−(1 − p)^γ log p of the true class; γ = 0 is the cross-entropy.

    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017 (arXiv 1708.02002), with a softmax.
    """

    name = "focal_ce"
    version = 1

    def __init__(self, gamma: Annotated[float, FloatDistribution(0.0, 5.0)] = 2.0) -> None:
        if gamma < 0:
            raise ValueError(f"gamma: found {gamma}; allowed: 0 or more")
        self._gamma = gamma

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean over rows, a scalar."""
        nll = functional.cross_entropy(batch["logits"], batch["labels"], reduction="none")
        missed = -torch.expm1(-nll)  # 1 − p, exact where p is nearly 1
        missed = missed.clamp_min(torch.finfo(missed.dtype).tiny)  # γ < 1 has no finite slope at 0
        return (missed**self._gamma * nll).mean()


class SigmoidFocal(Loss):
    """The focal loss of every (image, class) pair as a yes-or-no question, with logits scale · cos + bias.

    ``alpha`` weighs the pairs that belong together, 1 − alpha the others; null weighs them alike. γ = 0
    without alpha is the binary cross-entropy (Lin et al., ICCV 2017, arXiv 1708.02002; torchvision's
    ``sigmoid_focal_loss``).
    """

    name = "sigmoid_focal"
    version = 1
    requires = frozenset({"image_features", "text_features", "labels"})

    def __init__(
        self,
        alpha: float | None = 0.25,
        gamma: Annotated[float, FloatDistribution(1.0, 5.0)] = 2.0,
        scale: Annotated[float, FloatDistribution(1.0, 100.0, log=True)] = 10.0,
        bias: Annotated[float, FloatDistribution(-20.0, 0.0)] = -10.0,
    ) -> None:
        if alpha is not None and not 0 <= alpha <= 1:
            raise ValueError(f"alpha: found {alpha}; allowed: 0 to 1, or null")
        if gamma != 0 and gamma < 1:
            raise ValueError(f"gamma: found {gamma}; allowed: 0, or 1 and more, where the slope is finite")
        self._alpha, self._gamma = -1.0 if alpha is None else alpha, gamma
        check_above_zero(scale=scale)
        self._scale, self._bias = scale, bias

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean over all pairs, a scalar."""
        logits = self._scale * cosines(batch["image_features"], batch["text_features"]) + self._bias
        return self.of_logits(logits, own_class(batch["labels"], logits.shape[1]))

    def of_logits(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean over logits [B, C] and whether each pair belongs together."""
        loss: Tensor = sigmoid_focal_loss(
            logits, targets.to(logits.dtype), alpha=self._alpha, gamma=self._gamma, reduction="mean"
        )
        return loss

"""Supervised contrastive loss between image features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from optuna.distributions import FloatDistribution
from torch import Tensor

from pinikit.components.contracts import Loss
from pinikit.components.losses._terms import cosines, masked_logsumexp, mean_where


class Supcon(Loss):
    """Image features of a class attract each other, all others repel.

    −mean over positives of log softmax; noise samples of an image are positives, too. Anchors without
    a positive in the batch are left out; it is 0 if there are none at all. It does not look at the text,
    so it stands beside a classification loss (Khosla et al., "Supervised Contrastive Learning", NeurIPS
    2020, arXiv 2004.11362).

    Cosines are divided by ``temperature``.
    """

    name = "supcon"
    version = 1
    requires = frozenset({"image_features", "labels"})

    def __init__(self, temperature: Annotated[float, FloatDistribution(0.01, 1.0, log=True)] = 0.1) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature: found {temperature}; allowed: above 0")
        self._temperature = temperature

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean over anchors that have a positive, a scalar."""
        features, labels = batch["image_features"], batch["labels"]
        scores = cosines(features, features) / self._temperature  # [B, B]
        others = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        positive = (labels.unsqueeze(0) == labels.unsqueeze(1)) & others
        counts = positive.sum(1)
        attraction = scores.masked_fill(~positive, 0.0).sum(1) / counts.clamp_min(1)
        return mean_where(masked_logsumexp(scores, others, 1) - attraction, counts > 0)

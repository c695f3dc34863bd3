"""Generalised cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from optuna.distributions import FloatDistribution
from torch import Tensor
from torch.nn import functional

from pinikit.components.contracts import Loss


class GeneralisedCe(Loss):
    """(1 − p^q) / q of the true class: bounded, so that wrong labels and hopeless rows pull less.

    q → 0 is the cross-entropy, q = 1 half the mean absolute error (Zhang, Sabuncu, "Generalized Cross
    Entropy Loss for Training Deep Neural Networks with Noisy Labels", NeurIPS 2018, arXiv 1805.07836).
    """

    name = "generalised_ce"
    version = 1

    def __init__(self, q: Annotated[float, FloatDistribution(0.1, 1.0)] = 0.7) -> None:
        if not 0 < q <= 1:
            raise ValueError(f"q: found {q}; allowed: above 0, up to 1")
        self._q = q

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean over rows, a scalar."""
        nll = functional.cross_entropy(batch["logits"], batch["labels"], reduction="none")
        return (-torch.expm1(-self._q * nll) / self._q).mean()

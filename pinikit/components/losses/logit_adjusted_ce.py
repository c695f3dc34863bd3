"""Cross-entropy that makes up for classes with few pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from optuna.distributions import FloatDistribution
from torch import Tensor
from torch.nn import functional

from pinikit.components.bounds import check_not_negative
from pinikit.components.contracts import Loss

_RARE = 1e-12
"""A class without pictures counts as this rare."""


class LogitAdjustedCe(Loss):
    """Cross-entropy of logits + τ log prior, the prior being the classes' shares of the training pictures.

    τ = 0, or as many pictures of every class, is the cross-entropy. Predictions are made without the
    prior, so rare classes are not crowded out (Menon et al., "Long-tail learning via logit adjustment", ICLR
    2021, arXiv 2007.07314).
    """

    name = "logit_adjusted_ce"
    version = 1
    requires = frozenset({"logits", "labels", "class_prior"})

    def __init__(self, tau: Annotated[float, FloatDistribution(0.25, 4.0, log=True)] = 1.0) -> None:
        check_not_negative(tau=tau)
        self._tau = tau

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean over rows, a scalar."""
        adjusted = batch["logits"] + self._tau * batch["class_prior"].clamp_min(_RARE).log()
        return functional.cross_entropy(adjusted, batch["labels"])

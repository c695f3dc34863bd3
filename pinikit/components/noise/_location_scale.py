"""Families that shift and stretch a standard variate, each number independently."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from torch import Tensor
from torch.distributions import Distribution

from pinikit.components.contracts import Constraint, Noise


class LocationScale(Noise):
    """mean + scale · base, where ``base`` holds the family's standard variates."""

    parameters = ("mean", "scale")

    def __init__(self, scale: Constraint) -> None:
        self._scale = scale

    @property
    def constraints(self) -> Mapping[str, Constraint]:
        """``scale`` as chosen; ``mean`` is real."""
        return {"scale": self._scale}

    def sample(self, params: Mapping[str, Tensor], base: Tensor) -> Tensor:
        """mean + scale · base."""
        return params["mean"] + params["scale"] * base

    def mean(self, params: Mapping[str, Tensor]) -> Tensor:
        """The mean."""
        return params["mean"]

    def log_prob(self, params: Mapping[str, Tensor], sample: Tensor) -> Tensor:
        """Log-density of ``sample``, summed over the last axis."""
        density: Tensor = self._distribution(params).log_prob(sample)
        return density.sum(-1)

    def entropy(self, params: Mapping[str, Tensor]) -> Tensor:
        """Entropy in nats, summed over the last axis."""
        entropy: Tensor = self._distribution(params).entropy()
        return entropy.sum(-1)

    @abstractmethod
    def _distribution(self, params: Mapping[str, Tensor]) -> Distribution:
        """The same as one of torch's; the families are symmetric, so the sign of the scale is dropped."""

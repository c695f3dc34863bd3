"""Diagonal Gaussian noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from pinikit.components.contracts import Constraint, Noise, Shape


class Gaussian(Noise):
    """Diagonal Gaussian: mean + std · ε, ε ~ N(0, 1).

    Paper: Huang, Zhang, Li, "Enhance Vision-Language Alignment with Noise", AAAI 2025
    (arXiv 2412.10817). Its prompt noise leaves the sign of std free (``std: sign_free``), its image
    noise takes the absolute value (``std: abs``). |0| has no slope: where heads begin at zero, a free sign
    lets std leave it; ``softplus`` and ``exp`` make 0.69 and 1 of a raw 0, so they begin with much noise.
    """

    name = "gaussian"
    synonyms = ("gaussian_diag",)
    version = 1
    parameters = ("mean", "std")

    def __init__(self, std: Literal["abs", "softplus", "exp", "sign_free"] = "abs") -> None:
        self._std: Constraint = std

    @property
    def constraints(self) -> Mapping[str, Constraint]:
        """``std`` as chosen; ``mean`` is real."""
        return {"std": self._std}

    def base(self, shape: Shape, generator: torch.Generator) -> Tensor:
        """Standard normal numbers of ``shape``."""
        return torch.randn(shape, generator=generator, device=generator.device)

    def sample(self, params: Mapping[str, Tensor], base: Tensor) -> Tensor:
        """mean + std · base."""
        return params["mean"] + params["std"] * base

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

    def kl(self, params: Mapping[str, Tensor], prior_std: float = 1.0) -> Tensor:
        """KL divergence to N(0, prior_std²) in nats, summed over the last axis."""
        own = self._distribution(params)
        prior = Normal(torch.zeros_like(own.loc), torch.full_like(own.scale, prior_std))
        return kl_divergence(own, prior).sum(-1)

    @staticmethod
    def _distribution(params: Mapping[str, Tensor]) -> Normal:
        return Normal(params["mean"], params["std"].abs(), validate_args=False)

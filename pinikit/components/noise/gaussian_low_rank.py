"""Gaussian noise with a low-rank covariance beside the diagonal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from optuna.distributions import CategoricalDistribution
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal

from pinikit.components.contracts import Constraint, Noise, Shape


class GaussianLowRank(Noise):
    """Gaussian with covariance F Fᵀ + diag(std²): mean + F ε₁ + std · ε₂, F of ``rank`` columns.

    The vector is the last axis of the event (at ``pixels`` a row of the picture). Raw values of F are
    divided by √rank, so that the noise's size at equal raw values does not depend on the rank (Ong, Nott,
    Smith, "Gaussian Variational Approximation with a Factor Covariance Structure", JCGS 2018).
    """

    name = "gaussian_low_rank"
    synonyms = ("gaussian_lowrank",)
    version = 1
    parameters = ("mean", "factor", "std")

    def __init__(
        self,
        rank: Annotated[int, CategoricalDistribution([1, 2, 4, 8, 16])] = 4,
        std: Literal["abs", "softplus", "exp", "sign_free"] = "abs",
    ) -> None:
        if rank < 1:
            raise ValueError(f"rank: found {rank}; allowed: 1 or more")
        self._rank = rank
        self._std: Constraint = std

    def parameter_shapes(self, event_shape: Shape) -> dict[str, Shape]:
        """``factor`` has an axis more, of length rank."""
        return {"mean": event_shape, "factor": (*event_shape, self._rank), "std": event_shape}

    @property
    def constraints(self) -> Mapping[str, Constraint]:
        """``std`` as chosen; the others are real."""
        return {"std": self._std}

    def constrain(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As constrained, ``factor`` divided by √rank."""
        params = super().constrain(raw)
        return {**params, "factor": params["factor"] / math.sqrt(self._rank)}

    def base(self, shape: Shape, generator: torch.Generator) -> dict[str, Tensor]:
        """Standard normal numbers: ``factor`` [..., rank] and ``diagonal`` of ``shape``."""
        shapes = {"factor": (*shape[:-1], self._rank), "diagonal": shape}
        return {
            name: torch.randn(size, generator=generator, device=generator.device)
            for name, size in shapes.items()
        }

    def sample(self, params: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> Tensor:
        """mean + F · base + std · base."""
        together = (params["factor"] @ base["factor"].unsqueeze(-1)).squeeze(-1)  # [..., D]
        return params["mean"] + together + params["std"] * base["diagonal"]

    def mean(self, params: Mapping[str, Tensor]) -> Tensor:
        """The mean."""
        return params["mean"]

    def log_prob(self, params: Mapping[str, Tensor], sample: Tensor) -> Tensor:
        """Log-density of ``sample`` over the last axis."""
        density: Tensor = self._distribution(params).log_prob(sample)
        return density

    def entropy(self, params: Mapping[str, Tensor]) -> Tensor:
        """Entropy in nats over the last axis."""
        entropy: Tensor = self._distribution(params).entropy()
        return entropy

    def kl(self, params: Mapping[str, Tensor], prior_std: float = 1.0) -> Tensor:
        """KL divergence to N(0, prior_std² I) in nats over the last axis."""
        mean, factor, std = params["mean"], params["factor"], params["std"]
        width, variance = mean.shape[-1], prior_std**2
        spread = factor.square().sum((-2, -1)) + std.square().sum(-1) + mean.square().sum(-1)
        # The entropy holds ½ log det of the covariance, by Cholesky factors of rank × rank.
        cross = 0.5 * spread / variance + width * (0.5 * math.log(2 * math.pi) + math.log(prior_std))
        return cross - self.entropy(params)

    @staticmethod
    def _distribution(params: Mapping[str, Tensor]) -> LowRankMultivariateNormal:
        diagonal = params["std"].square()
        return LowRankMultivariateNormal(params["mean"], params["factor"], diagonal, validate_args=False)

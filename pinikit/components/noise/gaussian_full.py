"""Gaussian noise with a full covariance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pinikit.components.contracts import Constraint, Noise, Shape


class GaussianFull(Noise):
    """Gaussian with covariance L Lᵀ: mean + L ε, L lower triangular with a positive diagonal.

    D² numbers for a vector of D: for narrow backbones, or with ``injector: free``; see
    ``gaussian_low_rank``. The vector is the last axis of the event (at ``pixels`` a row of the picture).
    The raw matrix's lower triangle is divided by √D, so that the noise's size at equal raw values does
    not depend on D.
    """

    name = "gaussian_full"
    version = 1
    parameters = ("mean", "tril")

    def __init__(self, diagonal: Literal["abs", "softplus", "exp"] = "abs") -> None:
        self._diagonal: Constraint = diagonal

    def parameter_shapes(self, event_shape: Shape) -> dict[str, Shape]:
        """``tril`` is [..., D, D]."""
        return {"mean": event_shape, "tril": (*event_shape, event_shape[-1])}

    @property
    def constraints(self) -> Mapping[str, Constraint]:
        """The diagonal of ``tril`` as chosen."""
        return {"diagonal": self._diagonal}

    def constrain(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mean, and the matrix without what stands above its diagonal."""
        matrix = raw["tril"]
        params = super().constrain({"mean": raw["mean"], "diagonal": matrix.diagonal(dim1=-2, dim2=-1)})
        below = matrix.tril(-1) / math.sqrt(matrix.shape[-1])
        return {"mean": params["mean"], "tril": below + torch.diag_embed(params["diagonal"])}

    def base(self, shape: Shape, generator: torch.Generator) -> Tensor:
        """Standard normal numbers of ``shape``."""
        return torch.randn(shape, generator=generator, device=generator.device)

    def sample(self, params: Mapping[str, Tensor], base: Tensor) -> Tensor:
        """mean + L · base."""
        return params["mean"] + (params["tril"] @ base.unsqueeze(-1)).squeeze(-1)

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
        width = params["mean"].shape[-1]
        spread = params["tril"].square().sum((-2, -1)) + params["mean"].square().sum(-1)
        cross = 0.5 * spread / prior_std**2 + width * (0.5 * math.log(2 * math.pi) + math.log(prior_std))
        return cross - self.entropy(params)

    @staticmethod
    def _distribution(params: Mapping[str, Tensor]) -> MultivariateNormal:
        return MultivariateNormal(params["mean"], scale_tril=params["tril"], validate_args=False)

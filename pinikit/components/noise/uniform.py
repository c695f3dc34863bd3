"""Uniform noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.distributions import Uniform as TorchUniform

from pinikit.components.contracts import Shape
from pinikit.components.noise._location_scale import LocationScale


class Uniform(LocationScale):
    """Diagonal uniform on [mean − scale, mean + scale]: noise that is bounded.

    The standard deviation is scale / √3.
    """

    name = "uniform"
    version = 1

    def __init__(self, scale: Literal["abs", "softplus", "exp", "sign_free"] = "abs") -> None:
        super().__init__(scale)

    def base(self, shape: Shape, generator: torch.Generator) -> Tensor:
        """Uniform numbers of ``shape`` on [−1, 1)."""
        return 2 * torch.rand(shape, generator=generator, device=generator.device) - 1

    def kl(self, params: Mapping[str, Tensor], prior_std: float = 1.0) -> Tensor:
        """KL divergence to N(0, prior_std²) in nats, summed over the last axis."""
        own = self._distribution(params)
        prior = Normal(torch.zeros_like(own.low), torch.full_like(own.low, prior_std))
        return kl_divergence(own, prior).sum(-1)

    def _distribution(self, params: Mapping[str, Tensor]) -> TorchUniform:
        half = params["scale"].abs()
        return TorchUniform(params["mean"] - half, params["mean"] + half, validate_args=False)

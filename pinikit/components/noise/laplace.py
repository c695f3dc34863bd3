"""Laplace noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Laplace as TorchLaplace
from torch.distributions import kl_divergence

from pinikit.components.contracts import Shape
from pinikit.components.noise._location_scale import LocationScale
from pinikit.components.noise._uniform import open_uniform


class Laplace(LocationScale):
    """Diagonal Laplace: mean − scale · sgn(u) log(1 − |u|), u uniform on (−1, 1).

    The standard deviation is √2 · scale. Heavier tails and a sharper peak than Gaussian noise
    (Johnson, Kotz, Balakrishnan, "Continuous Univariate Distributions", vol. 2, ch. 24).
    """

    name = "laplace"
    version = 1

    def __init__(self, scale: Literal["abs", "softplus", "exp", "sign_free"] = "abs") -> None:
        super().__init__(scale)

    def base(self, shape: Shape, generator: torch.Generator) -> Tensor:
        """Standard Laplace numbers of ``shape``."""
        return self.standard(2 * open_uniform(shape, generator) - 1)

    @staticmethod
    def standard(uniform: Tensor) -> Tensor:
        """Standard Laplace numbers from uniform ones on (−1, 1)."""
        return -uniform.sign() * torch.log1p(-uniform.abs())

    def kl(self, params: Mapping[str, Tensor], prior_scale: float = 1.0) -> Tensor:
        """KL divergence to Laplace(0, prior_scale) in nats, summed over the last axis."""
        own = self._distribution(params)
        prior = TorchLaplace(torch.zeros_like(own.loc), torch.full_like(own.scale, prior_scale))
        return kl_divergence(own, prior).sum(-1)

    def _distribution(self, params: Mapping[str, Tensor]) -> TorchLaplace:
        return TorchLaplace(params["mean"], params["scale"].abs(), validate_args=False)

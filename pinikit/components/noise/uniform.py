"""Uniform noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
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

    def entropy(self, params: Mapping[str, Tensor]) -> Tensor:
        """Σ log(2 |scale|) in nats, over the last axis."""
        return (2 * params["scale"].abs()).log().sum(-1)

    def kl(self, params: Mapping[str, Tensor], prior_std: float = 1.0) -> Tensor:
        """KL divergence to N(0, prior_std²) in nats, summed over the last axis.

        Σ [½ log 2π + log s + (mean² + scale²/3) / (2 s²)] less the entropy; the bounds mean ± scale would
        cancel where the scale is small.
        """
        spread = (params["mean"].square() + params["scale"].square() / 3) / (2 * prior_std**2)
        cross = spread + 0.5 * math.log(2 * math.pi) + math.log(prior_std)
        return cross.sum(-1) - self.entropy(params)

    def _distribution(self, params: Mapping[str, Tensor]) -> TorchUniform:
        half = params["scale"].abs()
        return TorchUniform(params["mean"] - half, params["mean"] + half, validate_args=False)

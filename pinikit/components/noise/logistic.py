"""Logistic noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Distribution,
    SigmoidTransform,
    TransformedDistribution,
    Uniform,
)

from pinikit.components.contracts import Shape
from pinikit.components.noise._location_scale import LocationScale
from pinikit.components.noise._uniform import open_uniform


class Logistic(LocationScale):
    """Diagonal logistic: mean + scale · log(u / (1 − u)), u uniform on (0, 1).

    The standard deviation is π/√3 · scale (Johnson, Kotz, Balakrishnan, "Continuous Univariate
    Distributions", vol. 2, ch. 23).
    """

    name = "logistic"
    version = 1

    def __init__(self, scale: Literal["abs", "softplus", "exp", "sign_free"] = "abs") -> None:
        super().__init__(scale)

    def base(self, shape: Shape, generator: torch.Generator) -> Tensor:
        """Standard logistic numbers of ``shape``."""
        return torch.logit(open_uniform(shape, generator))

    def entropy(self, params: Mapping[str, Tensor]) -> Tensor:
        """Σ log(scale) + 2 in nats, over the last axis."""
        return (params["scale"].abs().log() + 2).sum(-1)

    def _distribution(self, params: Mapping[str, Tensor]) -> Distribution:
        uniform = Uniform(
            torch.zeros_like(params["mean"]), torch.ones_like(params["mean"]), validate_args=False
        )
        stretch = AffineTransform(params["mean"], params["scale"].abs())
        return TransformedDistribution(uniform, [SigmoidTransform().inv, stretch], validate_args=False)

"""Student-t noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from optuna.distributions import FloatDistribution
from torch import Tensor
from torch.distributions import StudentT as TorchStudentT

from pinikit.components.contracts import Shape
from pinikit.components.noise._location_scale import LocationScale
from pinikit.components.noise._uniform import open_uniform


class StudentT(LocationScale):
    """Diagonal Student-t: mean + scale · t(df), heavy tails that turn Gaussian as df grows.

    The standard deviation is √(df / (df − 2)) · scale for df > 2. Variates by the polar method, which needs
    two uniform numbers each and no rejection: t = √(df (u^(−2/df) − 1)) cos 2πv (Bailey, "Polar
    Generation of Random Variates with the t-Distribution", Mathematics of Computation 62, 1994).
    """

    name = "student_t"
    version = 1

    def __init__(
        self,
        df: Annotated[float, FloatDistribution(2.1, 30.0, log=True)] = 5.0,
        scale: Literal["abs", "softplus", "exp", "sign_free"] = "abs",
    ) -> None:
        if df <= 1:
            raise ValueError(f"df: found {df}; allowed: more than 1, below which there is no mean")
        super().__init__(scale)
        self._df = df

    def base(self, shape: Shape, generator: torch.Generator) -> Tensor:
        """Standard Student-t numbers of ``shape``."""
        radius, angle = open_uniform((2, *shape), generator).unbind(0)
        squared = self._df * torch.expm1(radius.log() * (-2 / self._df))
        return squared.sqrt() * (2 * math.pi * angle).cos()

    def _distribution(self, params: Mapping[str, Tensor]) -> TorchStudentT:
        return TorchStudentT(self._df, params["mean"], params["scale"].abs(), validate_args=False)

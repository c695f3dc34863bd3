"""Controls: what is left of Gaussian noise when a part of it is taken away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from optuna.distributions import FloatDistribution
from torch import Tensor

from pinikit.components.contracts import Constraint, Noise, Shape


class MuOnly(Noise):
    """Learned mean without randomness: the control for "does noise help".

    At the prompt template this is CoOp's shared context in residual form, at the image feature a
    text-conditioned residual adapter.
    """

    name = "mu_only"
    version = 1
    parameters = ("mean",)

    def __init__(self) -> None:
        pass

    def base(self, shape: Shape, generator: torch.Generator) -> Tensor:
        """Nothing is random: zeros."""
        return torch.zeros(shape, device=generator.device)

    def sample(self, params: Mapping[str, Tensor], base: Tensor) -> Tensor:
        """The mean."""
        return params["mean"] + torch.zeros_like(base)

    def mean(self, params: Mapping[str, Tensor]) -> Tensor:
        """The mean."""
        return params["mean"]


class SigmaOnly(Noise):
    """Zero-mean Gaussian with a learned standard deviation."""

    name = "sigma_only"
    version = 1
    parameters = ("std",)

    def __init__(self, std: Literal["abs", "softplus", "exp", "sign_free"] = "abs") -> None:
        self._std: Constraint = std

    @property
    def constraints(self) -> Mapping[str, Constraint]:
        """``std`` as chosen."""
        return {"std": self._std}

    def base(self, shape: Shape, generator: torch.Generator) -> Tensor:
        """Standard normal numbers of ``shape``."""
        return torch.randn(shape, generator=generator, device=generator.device)

    def sample(self, params: Mapping[str, Tensor], base: Tensor) -> Tensor:
        """std · base."""
        return params["std"] * base

    def mean(self, params: Mapping[str, Tensor]) -> Tensor:
        """Zero."""
        return torch.zeros_like(params["std"])


class Isotropic(Noise):
    """Gaussian with one fixed standard deviation; nothing is learned."""

    name = "isotropic"
    version = 1

    def __init__(self, std: Annotated[float, FloatDistribution(1e-3, 1.0, log=True)] = 0.1) -> None:
        if std < 0:
            raise ValueError(f"std: found {std}; allowed: 0 or more")
        self._std = std

    def base(self, shape: Shape, generator: torch.Generator) -> Tensor:
        """Standard normal numbers of ``shape``."""
        return torch.randn(shape, generator=generator, device=generator.device)

    def sample(self, params: Mapping[str, Tensor], base: Tensor) -> Tensor:
        """std · base."""
        return self._std * base

    def mean(self, params: Mapping[str, Tensor]) -> Tensor:
        """Zero."""
        return torch.zeros(())


class Zero(Noise):
    """No noise at all: the identity, whatever the injector."""

    name = "zero"
    version = 1

    def __init__(self) -> None:
        pass

    def base(self, shape: Shape, generator: torch.Generator) -> Tensor:
        """Zeros of ``shape``."""
        return torch.zeros(shape, device=generator.device)

    def sample(self, params: Mapping[str, Tensor], base: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(base)

    def mean(self, params: Mapping[str, Tensor]) -> Tensor:
        """Zero."""
        return torch.zeros(())

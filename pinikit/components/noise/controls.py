"""Controls: what is left of Gaussian noise when a part of it is taken away."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Literal

import torch
from optuna.distributions import FloatDistribution
from torch import Tensor
from torch.distributions import Normal

from pinikit.components.contracts import Constraint, Noise, Shape
from pinikit.components.noise.gaussian import Gaussian


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
    """Zero-mean Gaussian with a learned standard deviation.

    ``std`` says what becomes of a raw standard deviation, as for ``gaussian``.
    """

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
    """Gaussian with one fixed standard deviation; nothing is learned.

    ``std`` is that standard deviation.
    """

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


class Shuffled(Gaussian):
    """Gaussian noise with another picture's mean and standard deviation.

    The control for "does it matter that an injector reads the picture": each row of a batch gets the
    parameters of another one, which a fixed random order names, whatever the order of the classes. Where an
    injector yields one row for all (``free``) nothing is shuffled.

    ``std`` says what becomes of a raw standard deviation, as for ``gaussian``.
    """

    name = "shuffled"
    version = 2

    def __init__(self, std: Literal["abs", "softplus", "exp", "sign_free"] = "abs") -> None:
        super().__init__(std)

    def sample(self, params: Mapping[str, Tensor], base: Tensor) -> Tensor:
        """Another row's mean + std · base."""
        return super().sample(self._of_other_rows(params), base)

    def mean(self, params: Mapping[str, Tensor]) -> Tensor:
        """Another row's mean."""
        return _of_another_row(params["mean"])

    @classmethod
    def _distribution(cls, params: Mapping[str, Tensor]) -> Normal:
        return super()._distribution(cls._of_other_rows(params))

    @staticmethod
    def _of_other_rows(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: _of_another_row(value) for name, value in params.items()}


def _of_another_row(value: Tensor) -> Tensor:
    """Rows [N, ...], each replaced by the one that a random cycle through all N names."""
    return value[_other_rows(len(value), value.device)]


@lru_cache(maxsize=64)
def _other_rows(rows: int, device: torch.device) -> Tensor:
    """For each of N rows another one, [N]: the same for every batch of N, and no row itself unless N is 1."""
    cycle = torch.randperm(rows, generator=torch.Generator().manual_seed(rows))
    return torch.empty_like(cycle).index_copy_(0, cycle, cycle.roll(1)).to(device)


class Antithetic(Gaussian):
    """Gaussian noise in pairs of rows with opposite base noise, ±ε, which lowers the gradient's variance.

    With ``samples: 2`` (or 4, …) and ``share: image`` the pairs are samples of one picture; ``pini`` refuses
    all else (Hammersley, Morton, "A new Monte Carlo technique: antithetic variates", 1956).

    ``std`` says what becomes of a raw standard deviation, as for ``gaussian``.
    """

    name = "antithetic"
    version = 1
    in_pairs = True

    def __init__(self, std: Literal["abs", "softplus", "exp", "sign_free"] = "abs") -> None:
        super().__init__(std)

    def base(self, shape: Shape, generator: torch.Generator) -> Tensor:
        """Standard normal numbers of ``shape``; rows 2i and 2i + 1 have opposite signs."""
        half = super().base(((shape[0] + 1) // 2, *shape[1:]), generator)
        return torch.stack([half, -half], 1).flatten(0, 1)[: shape[0]]

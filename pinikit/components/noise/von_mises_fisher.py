"""Von Mises–Fisher noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated

import numpy as np
import torch
from optuna.distributions import FloatDistribution
from torch import Tensor
from torch.nn import functional

from pinikit.components.contracts import Noise, Shape
from pinikit.components.noise._bessel import log_bessel
from pinikit.components.noise._uniform import open_uniform
from pinikit.errors import ConfigError

_MOST = 1e8
"""Above it the length of the mean, a ratio of Bessel functions, is lost in rounding."""


class VonMisesFisher(Noise):
    """A vector of learned length in a random direction: ‖mean‖ · v, v ~ vMF(mean / ‖mean‖, kappa).

    ``mean`` here is the distribution's mode; its expectation is shorter by A = I_{D/2}(κ) / I_{D/2−1}(κ).
    The vector is the last axis of the event. v = cos θ m + sin θ t with t uniform among the unit vectors
    orthogonal to m; θ by the inverse of its distribution function from a table, one uniform number each,
    where Wood's method rejects (Wood, "Simulation of the von Mises Fisher Distribution", 1994; Mardia,
    Jupp, "Directional Statistics", 2000).
    """

    name = "von_mises_fisher"
    synonyms = ("vmf",)
    version = 1
    parameters = ("mean",)

    def __init__(self, kappa: Annotated[float, FloatDistribution(10.0, 10000.0, log=True)] = 200.0) -> None:
        if not 0 < kappa <= _MOST:
            raise ValueError(f"kappa: found {kappa}; allowed: above 0, up to {_MOST:.0e}")
        self._kappa = kappa

    def parameter_shapes(self, event_shape: Shape) -> dict[str, Shape]:
        """The event's own.

        Raises:
            ConfigError: the vectors have a single number, so no direction.
        """
        if event_shape[-1] < 2:
            raise ConfigError(
                f"noise 'von_mises_fisher': found an event of shape {event_shape}; allowed: vectors of 2 or "
                "more numbers"
            )
        return {"mean": event_shape}

    def base(self, shape: Shape, generator: torch.Generator) -> dict[str, Tensor]:
        """``angle`` [..., 1] to the mean direction, in radians, and ``normal`` numbers of ``shape``."""
        uniform = open_uniform((*shape[:-1], 1), generator)
        normal = torch.randn(shape, generator=generator, device=generator.device)
        return {"angle": _angles(uniform, shape[-1], self._kappa), "normal": normal}

    def sample(self, params: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> Tensor:
        """‖mean‖ (cos θ m + sin θ t)."""
        mean, angle = params["mean"], base["angle"]
        direction = functional.normalize(mean, dim=-1)
        across = base["normal"] - (base["normal"] * direction).sum(-1, keepdim=True) * direction
        tangent = functional.normalize(across, dim=-1)
        length: Tensor = mean.norm(dim=-1, keepdim=True)
        return angle.cos() * mean + angle.sin() * length * tangent

    def mean(self, params: Mapping[str, Tensor]) -> Tensor:
        """A · mean."""
        return self.resultant(params["mean"].shape[-1]) * params["mean"]

    def resultant(self, width: int) -> float:
        """A: the length of the mean of unit vectors v in ``width`` dimensions."""
        return math.exp(log_bessel(width / 2, self._kappa) - log_bessel(width / 2 - 1, self._kappa))

    def log_prob(self, params: Mapping[str, Tensor], sample: Tensor) -> Tensor:
        """Log-density of the sample's direction on the unit sphere, over the last axis."""
        cosine = functional.cosine_similarity(params["mean"], sample, dim=-1)
        return self._log_normaliser(sample.shape[-1]) + self._kappa * cosine

    def entropy(self, params: Mapping[str, Tensor]) -> Tensor:
        """Entropy of the direction in nats, over the last axis."""
        width = params["mean"].shape[-1]
        value = -self._log_normaliser(width) - self._kappa * self.resultant(width)
        return params["mean"].new_full(params["mean"].shape[:-1], value)

    def _log_normaliser(self, width: int) -> float:
        order = width / 2 - 1
        logs = order * math.log(self._kappa) - width / 2 * math.log(2 * math.pi)
        return logs - log_bessel(order, self._kappa)


_CELLS = 8192


def _angles(uniform: Tensor, width: int, kappa: float) -> Tensor:
    """Angles to the mean direction at the probabilities ``uniform``."""
    edges, cumulative = _table(width, kappa, uniform.device)
    wanted = uniform.double()
    cell = torch.searchsorted(cumulative, wanted).clamp(1, _CELLS)
    low, high = cumulative[cell - 1], cumulative[cell]
    part = (wanted - low) / (high - low).clamp_min(torch.finfo(torch.float64).tiny)
    angles: Tensor = edges[cell - 1] + part * (edges[cell] - edges[cell - 1])
    return angles.to(uniform.dtype)


@lru_cache(maxsize=64)
def _table(width: int, kappa: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Angles, and the share of directions below each: the density is ∝ exp(κ cos θ) sin^(D−2) θ.

    The cells span twelve standard deviations to both sides of the mode, 1/340 of one each.
    """
    rest = width - 2
    cosine = 2 * kappa / (rest + math.hypot(rest, 2 * kappa))  # at the mode
    mode = math.acos(min(cosine, 1.0))
    curvature = kappa * cosine + (rest / (1 - cosine**2) if rest else 0.0)
    reach = 12 / math.sqrt(curvature)
    edges = np.linspace(max(mode - reach, 0.0), min(mode + reach, math.pi), _CELLS + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    logs = kappa * np.cos(middle) + rest * np.log(np.sin(middle))
    weights = np.exp(logs - logs.max())
    cumulative = np.concatenate([[0.0], np.cumsum(weights / weights.sum())])
    return torch.from_numpy(edges).to(device), torch.from_numpy(cumulative).to(device)

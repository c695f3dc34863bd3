"""Masks: noise that takes numbers or positions away; for ``combine: multiply``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from torch import Tensor

from pinikit.components.contracts import Event, Noise, Shape
from pinikit.components.noise._uniform import open_uniform
from pinikit.errors import ConfigError

_COMBINES = frozenset({"multiply"})


def _masked(shape: Shape, over: str) -> Shape:
    """The shape of the mask: one number for each element, or for each position."""
    return shape if over == "element" else (*shape[:-1], 1)


def _check_positions(event: Event, over: str) -> None:
    """Positions are all axes but the last: pictures have theirs elsewhere, and a single vector has none."""
    if over == "position" and (event.channel_axis != -1 or len(event.shape) < 2):
        raise ConfigError(
            f"over: found 'position' at an event of shape {event.shape}, which is no row of tokens or "
            "patches; allowed here: over: element"
        )


class BernoulliMask(Noise):
    """Dropout: m / (1 − p) − 1 with m ~ Bernoulli(1 − p); nothing is learned.

    With ``combine: multiply`` the tensor becomes x · m / (1 − p), whose mean is x; p = 0 is the identity.
    ``over: position`` drops whole tokens or patches (Srivastava et al., "Dropout", JMLR 2014).
    """

    name = "bernoulli_mask"
    synonyms = ("dropout",)
    version = 1
    combines = _COMBINES

    def __init__(
        self,
        p: Annotated[float, FloatDistribution(0.01, 0.7)] = 0.1,
        over: Annotated[
            Literal["element", "position"], CategoricalDistribution(["element", "position"])
        ] = "element",
    ) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"p: found {p}; allowed: 0 to below 1")
        self._p, self._over = p, over

    def check_event(self, event: Event) -> None:
        """Whole positions can be dropped of tokens and patches only."""
        _check_positions(event, self._over)

    def base(self, shape: Shape, generator: torch.Generator) -> Tensor:
        """1 where something is kept, 0 where it is dropped."""
        uniform = torch.rand(_masked(shape, self._over), generator=generator, device=generator.device)
        return (uniform >= self._p).to(uniform.dtype)

    def sample(self, params: Mapping[str, Tensor], base: Tensor) -> Tensor:
        """base / (1 − p) − 1."""
        return base / (1 - self._p) - 1

    def mean(self, params: Mapping[str, Tensor]) -> Tensor:
        """Zero."""
        return torch.zeros(())


class GumbelGate(Noise):
    """Learned soft gates: sigmoid(logit(e) + logit) − 1, e uniform; a relaxed Bernoulli mask.

    With ``combine: multiply`` the tensor becomes x · gate. e = (1 − b) − (1 − 2b) u with b = 1e-4 and
    temperature 1, as published ("Learn Beneficial Noise as Graph Augmentation", ICML 2025, arXiv
    2505.19024). A raw logit of zero keeps with probability ``keep``; logits of ±∞ give gates of 1 and 0.
    ``over: position`` gates whole tokens or patches.
    """

    name = "gumbel_gate"
    version = 1
    combines = _COMBINES
    parameters = ("logit",)

    def __init__(
        self,
        keep: Annotated[float, FloatDistribution(0.5, 0.99)] = 0.9,
        over: Annotated[
            Literal["element", "position"], CategoricalDistribution(["element", "position"])
        ] = "element",
    ) -> None:
        if not 0 < keep < 1:
            raise ValueError(f"keep: found {keep}; allowed: between 0 and 1")
        self._raised, self._over = math.log(keep / (1 - keep)), over

    def check_event(self, event: Event) -> None:
        """Whole positions can be gated of tokens and patches only."""
        _check_positions(event, self._over)

    def parameter_shapes(self, event_shape: Shape) -> dict[str, Shape]:
        """One logit for each element, or for each position."""
        return {"logit": _masked(event_shape, self._over)}

    def constrain(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The logit, raised by that of ``keep``."""
        return {"logit": raw["logit"] + self._raised}

    def base(self, shape: Shape, generator: torch.Generator) -> Tensor:
        """Squeezed logistic numbers, one for each gate."""
        return self.squeezed(open_uniform(_masked(shape, self._over), generator))

    @staticmethod
    def squeezed(uniform: Tensor) -> Tensor:
        """logit(e), e = (1 − b) − (1 − 2b) u, from u uniform on (0, 1)."""
        return torch.logit((1 - _SQUEEZE) - (1 - 2 * _SQUEEZE) * uniform)

    def sample(self, params: Mapping[str, Tensor], base: Tensor) -> Tensor:
        """sigmoid(base + logit) − 1, which is −sigmoid(−(base + logit))."""
        return -torch.sigmoid(-(base + params["logit"]))

    def mean(self, params: Mapping[str, Tensor]) -> Tensor:
        """The expected gate less 1."""
        return _expected_gate(params["logit"]) - 1


_SQUEEZE = 1e-4
"""b: how far u is kept from 0 and 1."""


def _expected_gate(logit: Tensor) -> Tensor:
    """The mean of sigmoid(logit(e) + a) over e uniform on [b, 1 − b], in closed form.

    With r = exp(a) and k = r − 1 it is r ∫ e / (1 + k e) de / (1 − 2b). It is computed for −|a|, where
    nothing overflows, in double precision, as 1/k² cancels; near zero by its series.
    """
    a, b = -logit.double().abs(), _SQUEEZE
    near = a > -1e-2
    k = torch.expm1(torch.where(near, torch.full_like(a, -1.0), a))
    logs = torch.log1p(k * (1 - b)) - torch.log1p(k * b)
    closed = (1 + k) * (1 / k - logs / (k.square() * (1 - 2 * b)))
    slope = 0.25 - (0.5 - b) ** 2 / 3
    low = torch.where(near, 0.5 + slope * a - a**3 / 180, closed)
    return torch.where(logit > 0, 1 - low, low).to(logit.dtype)

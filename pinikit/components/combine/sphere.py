"""Noise that moves a vector on its sphere."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pinikit.components.contracts import Combine


class Sphere(Combine):
    """Exponential map: the noise's tangential part turns x on the sphere of its own norm.

    With x̂ = x/‖x‖ and v = n − ⟨n, x̂⟩x̂ the result is ‖x‖ (cos‖v‖ x̂ + sin‖v‖/‖v‖ v), over the last
    axis. The norm of x is kept, so zero noise is the identity at every stage.
    """

    name = "sphere"
    version = 1

    def __init__(self) -> None:
        pass

    def __call__(self, clean: Tensor, noise: Tensor) -> Tensor:
        """The turned vector."""
        norm: Tensor = clean.norm(dim=-1, keepdim=True)
        unit = functional.normalize(clean, dim=-1)
        tangent = noise - (noise * unit).sum(-1, keepdim=True) * unit
        square = tangent.square().sum(-1, keepdim=True)
        turn = _cos_sqrt(square) - 1  # exactly 0 without noise: the clean tensor comes back bit for bit
        return clean + norm * (turn * unit + _sinc_sqrt(square) * tangent)


_SMALL = 1e-16
"""Below this squared angle the series is exact in double precision and its gradient is finite."""


def _cos_sqrt(square: Tensor) -> Tensor:
    """cos(√a); 1 − a/2 near zero."""
    safe = torch.where(square > _SMALL, square, torch.ones_like(square))
    return torch.where(square > _SMALL, safe.sqrt().cos(), 1 - square / 2)


def _sinc_sqrt(square: Tensor) -> Tensor:
    """sin(√a)/√a; 1 − a/6 near zero."""
    safe = torch.where(square > _SMALL, square, torch.ones_like(square))
    return torch.where(square > _SMALL, safe.sqrt().sin() / safe.sqrt(), 1 - square / 6)

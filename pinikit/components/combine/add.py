"""Additive noise."""

from __future__ import annotations

from torch import Tensor

from pinikit.components.contracts import Combine


class Add(Combine):
    """x + n, as PiNI does."""

    name = "add"
    version = 1

    def __init__(self) -> None:
        pass

    def __call__(self, clean: Tensor, noise: Tensor) -> Tensor:
        """The sum."""
        return clean + noise

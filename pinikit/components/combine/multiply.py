"""Multiplicative noise."""

from __future__ import annotations

from torch import Tensor

from pinikit.components.contracts import Combine


class Multiply(Combine):
    """x ⊙ (1 + n): noise that scales with the tensor it meets."""

    name = "multiply"
    version = 1

    def __init__(self) -> None:
        pass

    def __call__(self, clean: Tensor, noise: Tensor) -> Tensor:
        """The product."""
        return clean * (1 + noise)

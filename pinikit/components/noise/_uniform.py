"""Uniform numbers whose logarithms are finite."""

from __future__ import annotations

import torch
from torch import Tensor

from pinikit.components.contracts import Shape

_LOWEST, _HIGHEST = 2.0**-25, 1 - 2.0**-24
"""``torch.rand`` in single precision yields multiples of 2**-24, zero among them."""


def open_uniform(shape: Shape, generator: torch.Generator) -> Tensor:
    """Uniform numbers u of ``shape`` in the open interval (0, 1): log(u) and log(1 − u) are finite."""
    return torch.rand(shape, generator=generator, device=generator.device).clamp(_LOWEST, _HIGHEST)

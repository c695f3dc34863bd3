"""Layers with reproducible initial values: PyTorch's own rules, each tensor from its own stream.

A tensor's values depend on the run's seed and the tensor's name only. So two arms that differ in
one part (say ``gaussian`` and ``mu_only``) start from equal values in all the parts that they share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from pinikit.seeding import generator

Layer = TypeVar("Layer", bound=nn.Module)


@dataclass(frozen=True)
class Initialiser:
    """Creates parameters for one injection of one run."""

    seed: int | None
    """None leaves parameters without values, for a look at their shapes."""
    label: str

    def stream(self, name: str) -> torch.Generator:
        """The generator of the tensor ``name``."""
        return generator(self.seed or 0, "initialise", self.label, name)

    def normal(self, name: str, shape: tuple[int, ...], std: float) -> nn.Parameter:
        """A parameter drawn from N(0, std²)."""
        if self.seed is None:
            return nn.Parameter(torch.empty(shape))
        return nn.Parameter(torch.randn(shape, generator=self.stream(name)) * std)

    def linear(self, name: str, inputs: int, outputs: int, *, zero: bool = False) -> nn.Linear:
        """A biased linear layer with PyTorch's default initial values, or zeros."""
        layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
        return self._fill(layer, name, inputs, zero)

    def conv(self, name: str, inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
        """A stride-1, same-size convolution without bias, with PyTorch's default initial values."""
        shape = {"kernel_size": kernel, "padding": kernel // 2, "bias": False}
        layer: nn.Conv2d = nn.utils.skip_init(nn.Conv2d, inputs, outputs, **shape)
        return self._fill(layer, name, inputs * kernel * kernel, zero=False)

    def _fill(self, layer: Layer, name: str, fan_in: int, zero: bool) -> Layer:
        if self.seed is None:
            return layer
        bound = 0.0 if zero else 1 / math.sqrt(fan_in)  # kaiming_uniform_(a=√5) of weight and bias
        with torch.no_grad():
            for key, parameter in layer.named_parameters():
                parameter.copy_(self._uniform(f"{name}.{key}", parameter, bound))
        return layer

    def _uniform(self, name: str, like: Tensor, bound: float) -> Tensor:
        return (2 * torch.rand(like.shape, generator=self.stream(name)) - 1) * bound

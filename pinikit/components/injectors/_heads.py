"""The last layer of injectors that yield one vector per parameter."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from pinikit.components.contracts import Event, Noise
from pinikit.components.initialise import Initialiser


class Heads(nn.Module):
    """One linear layer per noise parameter, from a hidden vector to the event's channels."""

    def __init__(self, noise: Noise, channels: int, hidden: int, initialise: Initialiser, zero: bool) -> None:
        super().__init__()
        self._shapes = noise.parameter_shapes((channels,))
        self.layers = nn.ModuleDict(
            {
                name: initialise.linear(name, hidden, prod(shape), zero=zero)
                for name, shape in self._shapes.items()
            }
        )

    def forward(self, hidden: Tensor) -> dict[str, Tensor]:
        """[..., hidden] → each parameter [..., *shape]."""
        return {name: layer(hidden).unflatten(-1, self._shapes[name]) for name, layer in self.layers.items()}


def spread(params: dict[str, Tensor], event: Event) -> dict[str, Tensor]:
    """Parameters [N, channels, …] of a whole event, ready to broadcast over its positions."""
    return {name: event.spread(value) for name, value in params.items()}

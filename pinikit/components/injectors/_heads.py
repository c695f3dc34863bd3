"""The last layer of injectors that yield one vector per parameter."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from pinikit.components.contracts import Event, Noise, Shape
from pinikit.components.initialise import Initialiser
from pinikit.errors import ConfigError


class Heads(nn.Module):
    """One linear layer per noise parameter, from a hidden vector to the event's channels.

    Raises:
        ConfigError: the event is a picture and the noise has parameters of another shape.
    """

    def __init__(self, noise: Noise, event: Event, hidden: int, initialise: Initialiser, zero: bool) -> None:
        super().__init__()
        self._shapes = vector_shapes(noise, event)
        self.layers = nn.ModuleDict(
            {
                name: initialise.linear(name, hidden, prod(shape), zero=zero)
                for name, shape in self._shapes.items()
            }
        )

    def forward(self, hidden: Tensor) -> dict[str, Tensor]:
        """[..., hidden] → each parameter [..., *shape]."""
        return {name: layer(hidden).unflatten(-1, self._shapes[name]) for name, layer in self.layers.items()}


def vector_shapes(noise: Noise, event: Event) -> dict[str, Shape]:
    """Shapes of the parameters of noise on a vector of the event's channels.

    Raises:
        ConfigError: the event is a picture, and a parameter has more than one number for each channel.
    """
    shapes = noise.parameter_shapes((event.channels,))
    for name, shape in shapes.items():
        if event.channel_axis != -1 and shape != (event.channels,):
            raise ConfigError(
                f"noise parameter {name!r} has the shape {shape} for {event.channels} channels, which this "
                "injector cannot spread over a picture; allowed at pixels: noise with one number per "
                "channel, or injector: free"
            )
    return shapes


def spread(params: dict[str, Tensor], event: Event) -> dict[str, Tensor]:
    """Parameters [N, channels, …] of a whole event, ready to broadcast over its positions."""
    return {name: event.spread(value) for name, value in params.items()}

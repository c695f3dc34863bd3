"""Fixed parameters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pinikit.components.contracts import Injector, Noise, Surroundings
from pinikit.components.initialise import Initialiser
from pinikit.errors import ConfigError, listing, nearest


class Constant(Injector):
    """Noise parameters fixed by hand, e.g. ``values: {mean: 0.0, std: 0.05}``; nothing is learned."""

    name = "constant"
    version = 1

    def __init__(self, values: dict[str, float]) -> None:
        super().__init__()
        self._values = values

    def build(self, noise: Noise, around: Surroundings, initialise: Initialiser) -> None:
        """Check that every parameter of the noise has a value."""
        for name in self._values:
            if name not in noise.parameters:
                raise ConfigError(
                    f"injector 'constant': values.{name}: the noise has no such parameter"
                    f"{nearest(name, noise.parameters)}; allowed: {listing(noise.parameters)}"
                )
        if missing := [name for name in noise.parameters if name not in self._values]:
            raise ConfigError(f"injector 'constant': values: missing {listing(missing)}")
        for name, shape in noise.parameter_shapes(around.event.shape).items():
            self.register_buffer(name, torch.full((1, *shape), self._values[name]), persistent=False)

    def forward(self, context: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The fixed values."""
        return {name: self.get_buffer(name) for name in self._values}

"""Fixed parameters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pinikit.components.contracts import Injector, Noise, Surroundings
from pinikit.components.initialise import Initialiser
from pinikit.errors import ConfigError, listing, nearest


class Constant(Injector):
    """Noise parameters fixed by hand, e.g. ``values: {mean: 0.0, std: 0.05}``; nothing is learned.

    A value that the noise would turn into another one (``std: softplus`` makes 0.72 of 0.05) is refused.
    """

    name = "constant"
    version = 1

    def __init__(self, values: dict[str, float]) -> None:
        super().__init__()
        self._values = values

    def build(self, noise: Noise, around: Surroundings, initialise: Initialiser) -> None:
        """Check that every parameter of the noise has a value, and that the noise takes it as it is."""
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
        for name, made in noise.constrain(self.forward({})).items():
            self._check_kept(name, made)

    def _check_kept(self, name: str, made: Tensor) -> None:
        """Refuse a value of which the noise makes others."""
        low, high = made.min().item(), made.max().item()
        value = torch.tensor(self._values[name]).item()  # as precise as what was made
        if not low == high == value:
            others = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
            raise ConfigError(
                f"injector 'constant': values.{name}: found {self._values[name]}, of which the noise makes "
                f"{others}; allowed: what the noise takes as it is"
            )

    def forward(self, context: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The fixed values."""
        return {name: self.get_buffer(name) for name in self._values}

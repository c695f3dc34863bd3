"""Free parameters, one set per class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from optuna.distributions import FloatDistribution
from torch import Tensor, nn

from pinikit.components.bounds import check_not_negative
from pinikit.components.contracts import Injector, Noise, Surroundings
from pinikit.components.initialise import Initialiser
from pinikit.errors import ConfigError


class FreePerClass(Injector):
    """Noise parameters learned directly, one set per class; text sites only.

    Ahead of the class name this gives up the prefix that classes share, so it costs more than ``free``.

    Each is initialised N(0, ``init_std`` ²).
    """

    name = "free_per_class"
    version = 1

    def __init__(self, init_std: Annotated[float, FloatDistribution(1e-3, 0.1, log=True)] = 0.02) -> None:
        super().__init__()
        check_not_negative(init_std=init_std)
        self._init_std = init_std

    def build(self, noise: Noise, around: Surroundings, initialise: Initialiser) -> None:
        """One tensor [C, *shape] per parameter."""
        if around.side != "text":
            raise ConfigError(
                "injector 'free_per_class': an image site has no class axis; allowed: text sites"
            )
        shapes = noise.parameter_shapes(around.event.shape)
        self.values = nn.ParameterDict(
            {
                name: initialise.normal(name, (around.classes, *shape), self._init_std)
                for name, shape in shapes.items()
            }
        )

    def forward(self, context: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parameters themselves."""
        return dict(self.values.items())

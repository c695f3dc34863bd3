"""Free parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from optuna.distributions import FloatDistribution
from torch import Tensor, nn

from pinikit.components.bounds import check_not_negative
from pinikit.components.contracts import Injector, Noise, Surroundings
from pinikit.components.initialise import Initialiser


class Free(Injector):
    """Noise parameters learned directly, shared by all classes and images: PiNI's text side.

    Each is initialised N(0, init_std²) (Huang, Zhang, Li, AAAI 2025).
    """

    name = "free"
    version = 1

    def __init__(self, init_std: Annotated[float, FloatDistribution(1e-3, 0.1, log=True)] = 0.02) -> None:
        super().__init__()
        check_not_negative(init_std=init_std)
        self._init_std = init_std

    def build(self, noise: Noise, around: Surroundings, initialise: Initialiser) -> None:
        """One tensor [1, *shape] per parameter."""
        shapes = noise.parameter_shapes(around.event.shape)
        self.values = nn.ParameterDict(
            {name: initialise.normal(name, (1, *shape), self._init_std) for name, shape in shapes.items()}
        )

    def forward(self, context: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parameters themselves."""
        return dict(self.values.items())

"""A mixture of small networks inside a frozen random bottleneck."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Annotated

import torch
from optuna.distributions import CategoricalDistribution
from torch import Tensor, nn

from pinikit.components.contracts import Injector, Noise, Surroundings
from pinikit.components.initialise import Initialiser
from pinikit.components.injectors._heads import vector_shapes
from pinikit.errors import ConfigError


class BottleneckMixture(Injector):
    """Σ_k ω_k φ_k(x W_down) W_up for each noise parameter, W_down and W_up random and frozen.

    φ_k are two-layer ReLU networks as narrow as the bottleneck, ω learned weights that begin at 1/K. x is
    the clean tensor at the site, along its channels. An adaptation of "Mixture of Noise for PTM-based
    Class-Incremental Learning" (2025), whose text alone was at hand: there the noise is drawn inside the
    bottleneck and there is one network per task.

    ``width`` is the bottleneck's, K is ``experts``.
    """

    name = "bottleneck_mixture"
    version = 1

    def __init__(
        self,
        width: Annotated[int, CategoricalDistribution([8, 16, 32, 64])] = 16,
        experts: Annotated[int, CategoricalDistribution([1, 2, 4, 8])] = 2,
    ) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width: found {width}; allowed: 1 or more")
        if experts < 1:
            raise ValueError(f"experts: found {experts}; allowed: 1 or more")
        self._width, self._experts = width, experts

    @property
    def requires(self) -> frozenset[str]:
        """The clean tensor at the site."""
        return frozenset({"here"})

    def build(self, noise: Noise, around: Surroundings, initialise: Initialiser) -> None:
        """The frozen projections, and for each parameter its experts and their weights."""
        if around.event.channel_axis != -1:
            raise ConfigError(
                "injector 'bottleneck_mixture': needs channels on the last axis, which pixels have not; "
                "allowed there: cnn_pixel, unet_pixel"
            )
        self._shapes = vector_shapes(noise, around.event)
        channels = around.event.channels
        self.register_buffer("down", _random(initialise, "down", channels, self._width))
        for name, shape in self._shapes.items():
            self.register_buffer(f"up_{name}", _random(initialise, f"up.{name}", self._width, prod(shape)))
        self.experts = nn.ModuleDict(
            {
                name: nn.ModuleList([self._expert(f"{name}.{k}", initialise) for k in range(self._experts)])
                for name in self._shapes
            }
        )
        self.weights = nn.ParameterDict(
            {name: nn.Parameter(torch.full((self._experts,), 1 / self._experts)) for name in self._shapes}
        )

    def forward(self, context: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters of the event's shape."""
        narrow = context["here"] @ self.get_buffer("down")  # [N, ..., width]
        return {
            name: (self._mixed(name, narrow) @ self.get_buffer(f"up_{name}")).unflatten(-1, shape)
            for name, shape in self._shapes.items()
        }

    def _mixed(self, name: str, narrow: Tensor) -> Tensor:
        experts = self.experts[name]
        assert isinstance(experts, nn.ModuleList)
        values = torch.stack([expert(narrow) for expert in experts], -1)  # [N, ..., width, K]
        mixed: Tensor = values @ self.weights[name]
        return mixed

    def _expert(self, name: str, initialise: Initialiser) -> nn.Sequential:
        layers = [initialise.linear(f"{name}.{i}", self._width, self._width) for i in range(2)]
        return nn.Sequential(layers[0], nn.ReLU(), layers[1])


def _random(initialise: Initialiser, name: str, inputs: int, outputs: int) -> Tensor:
    """A fixed random projection that keeps sizes on average: N(0, 1/inputs)."""
    return initialise.normal(name, (inputs, outputs), inputs**-0.5).detach()

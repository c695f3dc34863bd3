"""One small network for each noise parameter."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Annotated, Literal

from optuna.distributions import CategoricalDistribution
from torch import Tensor, nn

from pinikit.components.contracts import Injector, Noise, Surroundings
from pinikit.components.initialise import Initialiser
from pinikit.components.injectors._heads import spread, vector_shapes
from pinikit.errors import ConfigError


class FeatureMlp(Injector):
    """A two-layer ReLU network of its own for each noise parameter: PiNGDA's feature noise.

    With ``noise: gaussian`` mean = MLP₁(x) and std = |MLP₂(x)|; ``mlp`` shares the first layer instead.
    ``context: here`` reads the clean tensor at the site along its channels, ``context: image_feature``
    the global image feature ("Learn Beneficial Noise as Graph Augmentation", ICML 2025, arXiv 2505.19024;
    released code: pi_noise_generator.py).

    ``hidden`` is the networks' width; with ``zero_init_heads`` their last layers begin at zero.
    """

    name = "feature_mlp"
    version = 1

    def __init__(
        self,
        hidden: Annotated[int, CategoricalDistribution([64, 128, 256, 512])] = 256,
        context: Literal["here", "image_feature"] = "here",
        zero_init_heads: Annotated[bool, CategoricalDistribution([False, True])] = False,
    ) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"hidden: found {hidden}; allowed: 1 or more")
        self._hidden, self._context, self._zero = hidden, context, zero_init_heads

    @property
    def requires(self) -> frozenset[str]:
        """The one context that was chosen."""
        return frozenset({self._context})

    def build(self, noise: Noise, around: Surroundings, initialise: Initialiser) -> None:
        """Two layers per parameter; the input is as wide as the context's last axis."""
        if self._context == "here" and around.event.channel_axis != -1:
            raise ConfigError(
                "injector 'feature_mlp': context 'here' needs channels on the last axis, which pixels have "
                "not; allowed there: context: image_feature, or the injectors cnn_pixel and unet_pixel"
            )
        self._event, self._shapes = around.event, vector_shapes(noise, around.event)
        width = around.context[self._context][-1]
        self.networks = nn.ModuleDict(
            {
                name: nn.Sequential(
                    initialise.linear(f"{name}.input", width, self._hidden),
                    nn.ReLU(),
                    initialise.linear(f"{name}.output", self._hidden, prod(shape), zero=self._zero),
                )
                for name, shape in self._shapes.items()
            }
        )

    def forward(self, context: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters of the event's shape (``here``) or one vector per image (``image_feature``)."""
        read = context[self._context]
        params = {name: net(read).unflatten(-1, self._shapes[name]) for name, net in self.networks.items()}
        return params if self._context == "here" else spread(params, self._event)

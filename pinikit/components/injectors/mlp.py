"""A small network on one vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from optuna.distributions import CategoricalDistribution
from torch import Tensor, nn

from pinikit.components.contracts import Injector, Noise, Surroundings
from pinikit.components.initialise import Initialiser
from pinikit.components.injectors._heads import Heads, spread
from pinikit.errors import ConfigError


class Mlp(Injector):
    """Linear, ReLU and one linear head per noise parameter.

    ``context: here`` reads the clean tensor at the site, along its channels and for each position on
    its own; ``context: image_feature`` reads the global image feature and yields one vector for all
    positions. In PiNI's framework figure, not in its released code (Huang, Zhang, Li, AAAI 2025).

    ``hidden`` is the width in between; with ``zero_init_heads`` the heads begin at zero.
    """

    name = "mlp"
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
        """Two layers; the input is as wide as the context's last axis."""
        if self._context == "here" and around.event.channel_axis != -1:
            raise ConfigError(
                "injector 'mlp': context 'here' needs channels on the last axis, which pixels have not; "
                "allowed there: context: image_feature, or the injector cnn_pixel"
            )
        self._event = around.event
        width = around.context[self._context][-1]
        self.input = initialise.linear("input", width, self._hidden)
        self.heads = Heads(noise, around.event, self._hidden, initialise, self._zero)

    def forward(self, context: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters of the event's shape (``here``) or one vector per image (``image_feature``)."""
        params: dict[str, Tensor] = self.heads(nn.functional.relu(self.input(context[self._context])))
        return params if self._context == "here" else spread(params, self._event)

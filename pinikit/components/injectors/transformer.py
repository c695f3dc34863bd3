"""A small transformer over the site's positions and the classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from optuna.distributions import CategoricalDistribution
from torch import Tensor, nn

from pinikit.components.contracts import Injector, Noise, Surroundings
from pinikit.components.initialise import Initialiser
from pinikit.components.injectors._heads import Heads
from pinikit.errors import ConfigError


class Transformer(Injector):
    """Pre-norm transformer layers over the site's positions and the noisy text features together.

    The clean tensor's positions (one, at a feature) and the classes are projected to ``width`` and attend
    to each other; every position's output gives its noise parameters through linear heads. It has no
    position embedding, so positions and classes are sets. Image sites but pixels; a design of pinikit's
    own from torch's layers (Vaswani et al., NeurIPS 2017).

    With ``zero_init_heads`` the heads begin at zero.
    """

    name = "transformer"
    version = 1

    def __init__(
        self,
        width: Annotated[int, CategoricalDistribution([32, 64, 128, 256])] = 64,
        layers: Annotated[int, CategoricalDistribution([1, 2, 3])] = 1,
        heads: Annotated[int, CategoricalDistribution([1, 2, 4])] = 4,
        zero_init_heads: Annotated[bool, CategoricalDistribution([False, True])] = False,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers: found {layers}; allowed: 1 or more")
        if heads < 1 or width % heads or width < 1:
            raise ValueError(f"width: found {width} with {heads} heads; allowed: a multiple of the heads")
        self._width, self._layers, self._heads, self._zero = width, layers, heads, zero_init_heads

    @property
    def requires(self) -> frozenset[str]:
        """The clean tensor at the site, noisy text features."""
        return frozenset({"here", "noisy_text_feature"})

    def build(self, noise: Noise, around: Surroundings, initialise: Initialiser) -> None:
        """Two projections, the layers and the heads."""
        if around.side != "image" or around.event.channel_axis != -1:
            raise ConfigError(
                "injector 'transformer': reads positions of the image tower and text features, found an "
                f"event of shape {around.event.shape} on the {around.side} side; "
                "allowed: image sites but pixels"
            )
        text_width = around.context["noisy_text_feature"][-1]
        self._single = len(around.event.shape) == 1
        self.position = initialise.linear("position", around.event.channels, self._width)
        self.text = initialise.linear("text", text_width, self._width)
        self.layers = nn.ModuleList(
            [_layer(f"layer{k}", self._width, self._heads, initialise) for k in range(self._layers)]
        )
        self.norm = nn.LayerNorm(self._width)
        self.heads = Heads(noise, around.event, self._width, initialise, self._zero)

    def forward(self, context: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters of the event's shape."""
        here = context["here"].unsqueeze(1) if self._single else context["here"]  # [B, P, channels]
        classes = self.text(context["noisy_text_feature"]).expand(len(here), -1, -1)  # [B, C, width]
        tokens = torch.cat([self.position(here), classes], 1)
        for layer in self.layers:
            tokens = layer(tokens)
        params: dict[str, Tensor] = self.heads(self.norm(tokens[:, : here.shape[1]]))
        return {name: value.squeeze(1) for name, value in params.items()} if self._single else params


def _layer(name: str, width: int, heads: int, initialise: Initialiser) -> nn.TransformerEncoderLayer:
    """torch's layer, without dropout, its matrices from streams of their own; biases are zero."""
    layer: nn.TransformerEncoderLayer = nn.utils.skip_init(
        nn.TransformerEncoderLayer, width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True
    )
    with torch.no_grad():
        for key, parameter in layer.named_parameters():
            if parameter.ndim == 2:
                outputs, inputs = parameter.shape
                parameter.copy_(initialise.normal(f"{name}.{key}", (outputs, inputs), inputs**-0.5))
            else:
                parameter.fill_(float("norm" in key and key.endswith("weight")))
    return layer

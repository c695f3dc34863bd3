"""PiNI's image noise generator with spatial queries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from optuna.distributions import CategoricalDistribution
from torch import Tensor

from pinikit.components.contracts import Injector, Noise, Surroundings
from pinikit.components.initialise import Initialiser
from pinikit.components.injectors._attention import TextAttention
from pinikit.components.injectors._heads import Heads
from pinikit.errors import ConfigError


class CrossAttentionSpatial(Injector):
    """Every spatial feature attends to the noisy text features.

    At a site with as many positions as there are spatial features each position gets its own noise
    parameters; at the image feature the raw outputs are averaged over positions, before ``std: abs`` and the
    like, so outputs of opposite signs cancel. In PiNI's framework figure, not in its released trainer (Huang,
    Zhang, Li, AAAI 2025).

    ``reduction``, ``scaled``, ``detach_keys`` and ``zero_init_heads`` are those of ``cross_attention``.
    """

    name = "cross_attention_spatial"
    version = 1

    def __init__(
        self,
        reduction: Annotated[int, CategoricalDistribution([1, 2, 4, 8])] = 1,
        scaled: Annotated[bool, CategoricalDistribution([False, True])] = False,
        detach_keys: bool = False,
        zero_init_heads: Annotated[bool, CategoricalDistribution([False, True])] = False,
    ) -> None:
        super().__init__()
        if reduction < 1:
            raise ValueError(f"reduction: found {reduction}; allowed: 1 or more")
        self._reduction, self._zero = reduction, zero_init_heads
        self._scaled, self._detach_keys = scaled, detach_keys

    @property
    def requires(self) -> frozenset[str]:
        """Clean spatial features, noisy text features."""
        return frozenset({"spatial_feature", "noisy_text_feature"})

    def build(self, noise: Noise, around: Surroundings, initialise: Initialiser) -> None:
        """Three projections and the heads."""
        if around.side != "image":
            raise ConfigError(
                "injector 'cross_attention_spatial': reads spatial features, which a text site does not "
                "have; allowed: image sites"
            )
        positions, width = around.context["spatial_feature"]
        if len(around.event.shape) > 1 and around.event.shape[0] != positions:
            raise ConfigError(
                f"injector 'cross_attention_spatial': the site's event {around.event.shape} does not have "
                f"the {positions} positions of spatial_feature; allowed: such a site, or image_feature"
            )
        text_width = around.context["noisy_text_feature"][-1]
        hidden = max(width // self._reduction, 1)
        self._average = len(around.event.shape) == 1
        self.attention = TextAttention(width, text_width, hidden, initialise, self._scaled, self._detach_keys)
        self.heads = Heads(noise, around.event, hidden, initialise, self._zero)

    def forward(self, context: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """[B, P, W] per parameter, or [B, D], the raw outputs averaged over positions."""
        params: dict[str, Tensor] = self.heads(
            self.attention(context["spatial_feature"], context["noisy_text_feature"])
        )
        return {name: value.mean(1) for name, value in params.items()} if self._average else params

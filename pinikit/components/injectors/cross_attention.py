"""PiNI's image noise generator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from optuna.distributions import CategoricalDistribution
from torch import Tensor

from pinikit.components.contracts import Injector, Noise, Surroundings
from pinikit.components.initialise import Initialiser
from pinikit.components.injectors._attention import TextAttention
from pinikit.components.injectors._heads import Heads, spread
from pinikit.errors import ConfigError


class CrossAttention(Injector):
    """The global image feature attends to the noisy text features: PiNI's image side.

    a = softmax(q kᵀ) v, then one linear head per noise parameter; all layers have biases and h = D //
    reduction. At sites with positions, all positions share the vector. Image sites only (Huang, Zhang,
    Li, AAAI 2025; released code: trainers/clip_vpn.py).

    ``scaled`` divides the scores by √h, ``detach_keys`` cuts the gradient into the text side, and with
    ``zero_init_heads`` the heads begin at zero.
    """

    name = "cross_attention"
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
        """Clean image feature, noisy text features."""
        return frozenset({"image_feature", "noisy_text_feature"})

    def build(self, noise: Noise, around: Surroundings, initialise: Initialiser) -> None:
        """Three projections and the heads."""
        if around.side != "image":
            raise ConfigError(
                "injector 'cross_attention': reads image features, which a text site does not have; "
                "allowed: image sites (text sites: free, free_per_class, mlp, constant)"
            )
        width, text_width = around.context["image_feature"][-1], around.context["noisy_text_feature"][-1]
        hidden = max(width // self._reduction, 1)
        self._event = around.event
        self.attention = TextAttention(width, text_width, hidden, initialise, self._scaled, self._detach_keys)
        self.heads = Heads(noise, around.event, hidden, initialise, self._zero)

    def forward(self, context: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One vector per image and parameter, broadcast over positions."""
        hidden = self.attention(context["image_feature"], context["noisy_text_feature"])
        return spread(self.heads(hidden), self._event)

"""Noise parameters inside the span of the classes' text features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from optuna.distributions import FloatDistribution
from torch import Tensor, nn

from pinikit.components.contracts import Injector, Noise, Surroundings
from pinikit.components.initialise import Initialiser
from pinikit.errors import ConfigError


class TextGuidedFeature(Injector):
    """γ · softmax((x W + b) tᵀ / √D) t for each noise parameter: a weighted mean of text features.

    x is the clean image feature, t the noisy text features; W [D, D], b [D] and the number γ, which
    begins at ``gain``, are each parameter's own. Site ``image_feature`` only; γ = 0 gives zero parameters. An
    adaptation of "Task-Oriented Multi-Modal Mutual Learning for Vision-Language Models" (Long et al.,
    ICCV 2023, arXiv 2303.17169), which adds such a mean to the image feature.
    """

    name = "text_guided_feature"
    version = 1

    def __init__(self, gain: Annotated[float, FloatDistribution(1e-3, 1.0, log=True)] = 0.1) -> None:
        super().__init__()
        self._gain = gain

    @property
    def requires(self) -> frozenset[str]:
        """Clean image feature, noisy text features."""
        return frozenset({"image_feature", "noisy_text_feature"})

    def build(self, noise: Noise, around: Surroundings, initialise: Initialiser) -> None:
        """A projection and a gain per parameter."""
        width = around.context["noisy_text_feature"][-1]
        shapes = noise.parameter_shapes(around.event.shape)
        if around.side != "image" or around.event.shape != (width,):
            raise ConfigError(
                f"injector 'text_guided_feature': yields vectors like text features, of {width} numbers; "
                f"found an event of shape {around.event.shape} on the {around.side} side; "
                "allowed: site image_feature"
            )
        for name, shape in shapes.items():
            if shape != (width,):
                raise ConfigError(
                    f"injector 'text_guided_feature': the noise's parameter {name!r} has the shape {shape}; "
                    "allowed: noise whose parameters are vectors like the image feature"
                )
        self._scale = width**-0.5
        self.queries = nn.ModuleDict({name: initialise.linear(name, width, width) for name in shapes})
        self.gains = nn.ParameterDict({name: nn.Parameter(torch.tensor(self._gain)) for name in shapes})

    def forward(self, context: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One vector per image and parameter."""
        image, text = context["image_feature"], context["noisy_text_feature"]
        return {
            name: self.gains[name] * (query(image) @ text.mT * self._scale).softmax(-1) @ text
            for name, query in self.queries.items()
        }

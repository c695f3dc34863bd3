"""Zero-shot CLIP."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pinikit.backbones.base import Backbone, Prompts
from pinikit.components.contracts import Classified, Draw, Footprint, Method, Predictor
from pinikit.training.context import RunContext
from pinikit.training.model import NoisyModel
from pinikit.training.task import Task


class ZeroShot(Method):
    """Cosine between image feature and class text feature; nothing is learned.

    Paper: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
    ICML 2021 (arXiv 2103.00020).
    """

    name = "zero_shot"
    version = 1

    def __init__(self) -> None:
        pass

    def footprint(self, backbone: Backbone, prompts: Prompts) -> Footprint:
        """Nothing changes, nothing is trained."""
        return Footprint("image_feature", "nothing trained", 0)

    def check_transfer(
        self, backbone: Backbone, prompts: Prompts, other: Prompts, *, same_classes: bool
    ) -> None:
        """Any classes will do."""

    def fit(self, task: Task, run: RunContext) -> Predictor:
        """Encode the class names."""
        return _ZeroShotPredictor(task.backbone, task.prompts)

    def restore(self, backbone: Backbone, prompts: Prompts, state: Mapping[str, Tensor]) -> Predictor:
        """Encode the class names."""
        return _ZeroShotPredictor(backbone, prompts)


class _ZeroShotPredictor(Predictor):
    stochastic = False
    requires = frozenset({"image_feature"})

    def __init__(self, backbone: Backbone, prompts: Prompts) -> None:
        self._model = NoisyModel(backbone, prompts, [], seed=0)

    def classifier(self, draw: Draw) -> Callable[[Mapping[str, Tensor]], Classified]:
        def classify(activations: Mapping[str, Tensor]) -> Classified:
            with torch.no_grad():
                return Classified(self._model(activations, draw).logits, {})

        return classify

    def state(self) -> dict[str, Tensor]:
        return {}

    @property
    def trainable_parameters(self) -> int:
        return 0

"""Losses that hold the noisy model to the frozen one, which serves as teacher.

They stand beside a classification loss, and are small or 0 where noise changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from optuna.distributions import FloatDistribution
from torch import Tensor
from torch.nn import functional

from pinikit.components.bounds import check_not_negative
from pinikit.components.contracts import Loss
from pinikit.components.losses._terms import soft_cross_entropy, unit


class LogitMseDistill(Loss):
    """Squared difference of noisy and frozen logits, summed over classes.

    Published as (1 − λ) cross-entropy + λ of this, λ 0.5: weigh the two (Barkan et al., "Scalable Attentive
    Sentence-Pair Modeling via Distilled Sentence Embedding", AAAI 2020, arXiv 1908.05161).
    """

    name = "logit_mse_distill"
    version = 1
    requires = frozenset({"logits", "clean_logits"})

    def __init__(self) -> None:
        pass

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean over rows, a scalar."""
        return (batch["logits"] - batch["clean_logits"]).square().sum(1).mean()


class DistillClip(Loss):
    """Cross-entropy to the frozen model's softmax, over classes and over the images of the batch.

    ½ (rows + columns), as open_clip's ``DistillClipLoss``; columns are all classes, each with its softmax
    over the batch.
    """

    name = "distill_clip"
    version = 1
    requires = frozenset({"logits", "clean_logits"})

    def __init__(self) -> None:
        pass

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """A scalar, the teacher's entropy or more."""
        logits, teacher = batch["logits"], batch["clean_logits"]
        rows = soft_cross_entropy(logits, teacher.softmax(1))
        return (rows + soft_cross_entropy(logits.mT, teacher.mT.softmax(1))) / 2


class PromptsrcScl(Loss):
    """PromptSRC's self-consistency: texts, images and predictions stay near the frozen ones.

    text · mean |t̂ − t̂⁰| + image · mean |x̂ − x̂⁰| + KL(frozen ‖ noisy) of the predictions. The KL is
    averaged over rows; ``per_sample: false`` divides it by the classes, too, as the published code does
    (Khattak et al., "Self-regulating Prompts", ICCV 2023, arXiv 2307.06948).
    """

    name = "promptsrc_scl"
    version = 1
    requires = frozenset(
        {
            "logits",
            "image_features",
            "text_features",
            "clean_logits",
            "clean_image_features",
            "clean_text_features",
        }
    )

    def __init__(
        self,
        text: Annotated[float, FloatDistribution(0.1, 100.0, log=True)] = 25.0,
        image: Annotated[float, FloatDistribution(0.1, 100.0, log=True)] = 10.0,
        per_sample: bool = True,
    ) -> None:
        check_not_negative(text=text, image=image)
        self._text, self._image, self._per_sample = text, image, per_sample

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """A scalar, 0 or more."""
        features = [
            unit(batch[name])
            for name in ("text_features", "clean_text_features", "image_features", "clean_image_features")
        ]
        return self.of_units(*features) + self.of_logits(batch["logits"], batch["clean_logits"])

    def of_units(self, text: Tensor, clean_text: Tensor, image: Tensor, clean_image: Tensor) -> Tensor:
        """The terms of the features, from unit vectors: texts [C, D], images [B, D]."""
        texts, images = (text - clean_text).abs().mean(), (image - clean_image).abs().mean()
        return self._text * texts + self._image * images

    def of_logits(self, logits: Tensor, clean: Tensor) -> Tensor:
        """The term of the predictions, from logits [B, C]."""
        total = functional.kl_div(
            logits.log_softmax(1), clean.log_softmax(1), reduction="sum", log_target=True
        )
        return total / (len(logits) if self._per_sample else logits.numel())


class Kgcoop(Loss):
    """mean ‖t̂ − t̂⁰‖² over classes: text features stay near the hand-written prompts' frozen ones.

    Published with a weight of 8 beside the cross-entropy (Yao, Zhang, Xu, "Visual-Language Prompt Tuning
    with Knowledge-guided Context Optimization", CVPR 2023, arXiv 2303.13283). The frozen prompts are the
    run's own.
    """

    name = "kgcoop"
    version = 1
    requires = frozenset({"text_features", "clean_text_features"})

    def __init__(self) -> None:
        pass

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """A scalar, 0 to 4."""
        difference = unit(batch["text_features"]) - unit(batch["clean_text_features"])
        return difference.square().sum(1).mean()

"""TCL's losses between modalities and within one, with the frozen model as its momentum model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from optuna.distributions import FloatDistribution
from torch import Tensor
from torch.nn import functional

from pinikit.components.bounds import check_above_zero
from pinikit.components.contracts import Loss
from pinikit.components.losses._terms import cosines, mean_where, own_class, unit


class TclCma(Loss):
    """Noisy images find frozen class texts, noisy class texts find frozen images, by partly soft targets.

    The target is α · softmax of the frozen model's similarities + (1 − α) · the truth, in which a class's
    images in the batch share a text's target (cross-modal alignment of Yang et al., "Vision-Language
    Pre-Training with Triple Contrastive Learning", CVPR 2022, arXiv 2202.10401; without its queue).

    Cosines are divided by ``temperature``.
    """

    name = "tcl_cma"
    version = 1
    requires = frozenset(
        {"image_features", "text_features", "clean_image_features", "clean_text_features", "labels"}
    )

    def __init__(
        self,
        temperature: Annotated[float, FloatDistribution(0.01, 1.0, log=True)] = 0.07,
        alpha: Annotated[float, FloatDistribution(0.0, 1.0)] = 0.4,
    ) -> None:
        check_above_zero(temperature=temperature)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha: found {alpha}; allowed: 0 to 1")
        self._temperature, self._alpha = temperature, alpha

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """½ (images + texts), a scalar."""
        to_text, to_image = self.directions(batch)
        return (to_text + to_image) / 2

    def directions(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Images to texts, over rows, and texts to images, over the classes in the batch."""
        images, texts = batch["clean_image_features"], batch["clean_text_features"]
        own, teacher = own_class(batch["labels"], len(texts)), cosines(images, texts)
        rows = self.terms(cosines(batch["image_features"], texts), teacher, own)
        columns = self.terms(cosines(batch["text_features"], images), teacher.mT, own.mT)
        return rows.mean(), mean_where(columns, own.any(0))

    def terms(self, found: Tensor, teacher: Tensor, own: Tensor) -> Tensor:
        """Each query's cross-entropy [Q], of similarities with keys [Q, K] and the keys that are its own."""
        hard = own.to(found.dtype) / own.sum(1, keepdim=True).clamp_min(1)
        soft = (teacher / self._temperature).softmax(1)
        target = self._alpha * soft + (1 - self._alpha) * hard
        return -(target * (found / self._temperature).log_softmax(1)).sum(1)


class TclImc(Loss):
    """Every noisy image finds its own frozen feature, and every noisy class text its own.

    To stand beside a classification loss: it keeps pictures, and classes, apart as they are without noise
    (intra-modal contrast of Yang et al., "Vision-Language Pre-Training with Triple Contrastive Learning",
    CVPR 2022, arXiv 2202.10401; without its queue).

    Cosines are divided by ``temperature``.
    """

    name = "tcl_imc"
    version = 1
    requires = frozenset({"sample_features", "text_features", "clean_image_features", "clean_text_features"})

    def __init__(self, temperature: Annotated[float, FloatDistribution(0.01, 1.0, log=True)] = 0.07) -> None:
        check_above_zero(temperature=temperature)
        self._temperature = temperature

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """½ (images + texts), a scalar."""
        images, texts = self.modalities(batch)
        return (images + texts) / 2

    def modalities(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Images among images, and texts among texts."""
        noisy = batch["sample_features"]
        pictures, samples, width = noisy.shape
        clean = batch["clean_image_features"].view(pictures, samples, width)[:, 0]  # equal for all samples
        images = self.among(unit(noisy.flatten(0, 1)), unit(clean), samples)
        return images, self.among(unit(batch["text_features"]), unit(batch["clean_text_features"]))

    def among(self, queries: Tensor, keys: Tensor, each: int = 1) -> Tensor:
        """Cross-entropy of unit queries [K · each, D] whose unit keys [K, D] stand in the same order.

        Further keys are nobody's.
        """
        own = torch.arange(len(queries), device=keys.device) // each
        return functional.cross_entropy(queries @ keys.mT / self._temperature, own)

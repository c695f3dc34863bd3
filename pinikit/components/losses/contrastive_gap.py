"""Terms against the gap between image and text features, on the unit sphere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from optuna.distributions import FloatDistribution
from torch import Tensor

from pinikit.components.contracts import Loss
from pinikit.components.losses._terms import cosines, masked_logsumexp, own_class, unit


class Uniformity(Loss):
    """log mean exp(−t ‖a − b‖²) over pairs of one modality: spreads features out.

    Over pairs of images and over pairs of class texts, averaged. To stand beside a classification
    loss; images of the same class repel each other, too (Wang, Isola, ICML 2020, arXiv 2005.10242; Fahim,
    Murphy, Fyshe, "It's Not a Modality Gap", 2024, arXiv 2405.18570).
    """

    name = "uniformity"
    version = 1
    requires = frozenset({"image_features", "text_features"})

    def __init__(self, t: Annotated[float, FloatDistribution(0.5, 10.0, log=True)] = 2.0) -> None:
        if t <= 0:
            raise ValueError(f"t: found {t}; allowed: above 0")
        self._t = t

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """A scalar, 0 or less."""
        return (self.of_rows(batch["image_features"]) + self.of_rows(batch["text_features"])) / 2

    def of_rows(self, rows: Tensor) -> Tensor:
        """The same of one set [N, D]; 0 for a single row."""
        pairs = torch.triu(torch.ones(len(rows), len(rows), dtype=torch.bool, device=rows.device), 1)
        return _log_mean_exp(-self._t * _squared_distances(rows, rows), pairs)


class CrossUniformity(Loss):
    """log mean exp(−t ‖a − b‖²) over images and the texts of other classes: pushes the wrong pairs apart.

    To stand beside a classification loss (Fahim, Murphy, Fyshe, "It's Not a Modality Gap", 2024, arXiv
    2405.18570).
    """

    name = "cross_uniformity"
    version = 1
    requires = frozenset({"image_features", "text_features", "labels"})

    def __init__(self, t: Annotated[float, FloatDistribution(0.5, 10.0, log=True)] = 2.0) -> None:
        if t <= 0:
            raise ValueError(f"t: found {t}; allowed: above 0")
        self._t = t

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """A scalar, 0 or less."""
        image, text = batch["image_features"], batch["text_features"]
        pairs = ~own_class(batch["labels"], len(text))
        return _log_mean_exp(-self._t * _squared_distances(image, text), pairs)


class Alignment(Loss):
    """mean ‖a − b‖^α over images and their class's text: pulls the right pairs together.

    To stand beside a classification loss (Wang, Isola, "Understanding Contrastive Representation Learning
    through Alignment and Uniformity on the Hypersphere", ICML 2020, arXiv 2005.10242).
    """

    name = "alignment"
    version = 1
    requires = frozenset({"image_features", "text_features", "labels"})

    def __init__(self, alpha: Annotated[float, FloatDistribution(1.0, 4.0)] = 2.0) -> None:
        if alpha <= 0:
            raise ValueError(f"alpha: found {alpha}; allowed: above 0")
        self._alpha = alpha

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """A scalar, 0 or more."""
        return self.of_pairs(batch["image_features"], batch["text_features"][batch["labels"]])

    def of_pairs(self, image: Tensor, text: Tensor) -> Tensor:
        """The same of rows that belong together, [B, D] both."""
        squared = 2 - 2 * (unit(image) * unit(text)).sum(-1)
        return squared.clamp_min(1e-30).pow(self._alpha / 2).mean()  # α < 2 has no finite slope at 0


class Cyclic(Loss):
    """Images should be as similar to each other as their classes' texts are.

    ¼ B [mean (AAᵀ − BBᵀ)² + mean (ABᵀ − BAᵀ)²]. A are the images' unit vectors, B their class texts'.
    To stand beside a classification loss (Goel et al., "CyCLIP", NeurIPS 2022, arXiv 2205.14459, as in
    Fahim, Murphy, Fyshe, 2024, arXiv 2405.18570).
    """

    name = "cyclic"
    version = 1
    requires = frozenset({"image_features", "text_features", "labels"})

    def __init__(self) -> None:
        pass

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """A scalar, 0 or more."""
        image, text = unit(batch["image_features"]), unit(batch["text_features"][batch["labels"]])
        within = (image @ image.mT - text @ text.mT).square().mean()
        across = image @ text.mT
        return 0.25 * len(image) * (within + (across - across.mT).square().mean())


def _squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """Between unit vectors, by cosines: the gradient is finite where two coincide."""
    return 2 - 2 * cosines(left, right)


def _log_mean_exp(values: Tensor, keep: Tensor) -> Tensor:
    """log of the mean of exp(values) over what is kept; 0 if nothing is."""
    if not values.numel():
        return values.sum()
    count = keep.sum().to(values.dtype)
    mean = masked_logsumexp(values.flatten(), keep.flatten(), 0) - count.clamp_min(1).log()
    return torch.where(count > 0, mean, torch.zeros_like(mean))

"""Losses of residuals: the direction between two sets of features, and the noise as a residual."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from optuna.distributions import FloatDistribution
from torch import Tensor
from torch.nn import functional

from pinikit.components.bounds import check_not_negative
from pinikit.components.contracts import Loss
from pinikit.components.losses._terms import nearest_of_another_class, unit


class ResidualGuidance(Loss):
    """RAVE's residual vector as a guide for image features, from where images are to where texts are.

    mean (cos(x, r) − m₊ · r)² with r = norm(m₊ − m₋), m₊ the normalised mean of the frozen class texts and
    m₋ that of the batch's frozen images. To stand beside a classification loss: it closes the gap between the
    modalities, whatever the class (Gaintseva, Benning, Slabaugh, "RAVE: Residual Vector Embedding for
    CLIP-Guided Backlit Image Enhancement", ECCV 2024, arXiv 2404.01889, where the sets are well-lit and
    backlit pictures).
    """

    name = "residual_guidance"
    version = 1
    requires = frozenset({"image_features", "clean_image_features", "clean_text_features"})

    def __init__(self) -> None:
        pass

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean over rows, a scalar, 0 or more."""
        return self.of_sets(
            batch["image_features"], batch["clean_text_features"], batch["clean_image_features"]
        )

    @classmethod
    def of_sets(cls, rows: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The same of rows [B, D], guided from the set ``negative`` to ``positive``, [N, D] each."""
        direction, target = cls.direction(positive, negative)
        return (unit(rows) @ direction - target).square().mean()

    @staticmethod
    def direction(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        """r [D], and m₊ · r, a scalar."""
        towards, away = (unit(unit(rows).mean(0)) for rows in (positive, negative))
        residual = unit(towards - away)
        return residual, towards @ residual


class TripletMse(Loss):
    """A picture's own noise should bring it nearer to its class text than another picture's noise would.

    relu(m(t, x + r) − m(t, x + r') + margin): r is the picture's own noise at the image feature, r' that of
    the most similar picture of another class in the batch, t the class text and m the mean squared
    difference over the whole batch, so that there is one hinge a batch. ``swap`` takes the smaller of m(t,
    x + r') and m(x + r, x + r'). To stand beside a classification loss (Liao et al., "Denoising as
    Adaptation", ICLR 2025, arXiv 2406.18516, whose residuals are a restoration network's).
    """

    name = "triplet_mse"
    version = 1
    requires = frozenset({"image_features", "text_features", "clean_image_features", "labels"})

    def __init__(
        self,
        margin: Annotated[float, FloatDistribution(0.01, 10.0, log=True)] = 0.1,
        swap: bool = False,
    ) -> None:
        check_not_negative(margin=margin)
        self._margin, self._swap = margin, swap

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """A scalar, 0 or more."""
        noisy, clean, labels = batch["image_features"], batch["clean_image_features"], batch["labels"]
        nearest, found = nearest_of_another_class(clean, labels)
        swapped = torch.where(found.unsqueeze(1), clean + (noisy - clean)[nearest], noisy)
        return self.of_triplets(batch["text_features"][labels], noisy, swapped)

    def of_triplets(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The same of rows [B, D]."""
        away = functional.mse_loss(anchor, negative)
        if self._swap:
            away = away.minimum(functional.mse_loss(positive, negative))
        return functional.relu(functional.mse_loss(anchor, positive) - away + self._margin)

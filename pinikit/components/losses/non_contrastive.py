"""Losses between an image's feature and its class's text feature that need no negatives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from optuna.distributions import FloatDistribution
from torch import Tensor
from torch.nn import functional

from pinikit.components.bounds import check_above_zero, check_not_negative
from pinikit.components.contracts import Loss
from pinikit.components.losses._terms import unit


def _pairs(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Image features, and the text feature of each image's class, [B, D] both."""
    return batch["image_features"], batch["text_features"][batch["labels"]]


class Barlip(Loss):
    """κ (Σ_d (C_dd − 1)² + λ Σ_{d≠e} C_de²) with C the cross-correlation of image and text features.

    Each dimension should agree across the modalities, and different ones carry different things. C =
    XᵀT/B; ``standardise`` centres and scales every dimension over the batch first, as the batch norm at
    the end of the published projector does (Fini et al., "Improved Baselines for Vision-Language
    Pre-training", TMLR 2023, arXiv 2305.08675, after Barlow Twins).

    κ is ``scale``, λ is ``redundancy``.
    """

    name = "barlip"
    version = 1
    requires = frozenset({"image_features", "text_features", "labels"})

    def __init__(
        self,
        scale: Annotated[float, FloatDistribution(1e-3, 1.0, log=True)] = 0.025,
        redundancy: Annotated[float, FloatDistribution(1e-4, 0.1, log=True)] = 5e-3,
        standardise: bool = True,
    ) -> None:
        check_above_zero(scale=scale)
        check_not_negative(redundancy=redundancy)
        self._scale, self._redundancy, self._standardise = scale, redundancy, standardise

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """A scalar."""
        image, text = _pairs(batch)
        return self.of_pairs(image, text)

    def of_pairs(self, image: Tensor, text: Tensor) -> Tensor:
        """The same of rows that belong together, [B, D] both."""
        if self._standardise:
            image, text = _standardised(image), _standardised(text)
        cross = image.mT @ text / len(image)  # [D, D]
        diagonal = cross.diagonal()
        rest = cross.square().sum() - diagonal.square().sum()
        return self._scale * ((diagonal - 1).square().sum() + self._redundancy * rest)


class Siamlip(Loss):
    """½ [d(x, sg t) + d(t, sg x)], d = 2 − 2 cos, sg without gradient: each side moves towards the other.

    Fini et al., "Improved Baselines for Vision-Language Pre-training", TMLR 2023 (arXiv 2305.08675), after
    SimSiam; without its projectors and predictors.
    """

    name = "siamlip"
    version = 1
    requires = frozenset({"image_features", "text_features", "labels"})

    def __init__(self) -> None:
        pass

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean over images, a scalar."""
        image, text = _pairs(batch)
        return self.of_predictions(image, text, image, text)

    @staticmethod
    def of_predictions(image: Tensor, text: Tensor, image_target: Tensor, text_target: Tensor) -> Tensor:
        """The same with targets of their own, all [B, D]."""
        towards_text = (unit(image) * unit(text_target.detach())).sum(-1)
        towards_image = (unit(text) * unit(image_target.detach())).sum(-1)
        return (2 - towards_text - towards_image).mean()


class Vicreg(Loss):
    """VICReg: agreement, spread of each dimension, and no correlation between dimensions.

    invariance · MSE + variance · mean hinge(1 − deviation) + covariance · squared off-diagonals / D.
    Between image features and their classes' text features, not normalised. A batch of one row has
    invariance only (Bardes, Ponce, LeCun, "VICReg", ICLR 2022, arXiv 2105.04906; as in
    pytorch-metric-learning).
    """

    name = "vicreg"
    version = 1
    requires = frozenset({"image_features", "text_features", "labels"})

    def __init__(
        self,
        invariance: Annotated[float, FloatDistribution(0.1, 100.0, log=True)] = 25.0,
        variance: Annotated[float, FloatDistribution(0.1, 100.0, log=True)] = 25.0,
        covariance: Annotated[float, FloatDistribution(0.01, 10.0, log=True)] = 1.0,
    ) -> None:
        check_not_negative(invariance=invariance, variance=variance, covariance=covariance)
        self._invariance, self._variance, self._covariance = invariance, variance, covariance

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """A scalar."""
        image, text = _pairs(batch)
        return self.of_pairs(image, text)

    def of_pairs(self, image: Tensor, text: Tensor) -> Tensor:
        """The same of rows that belong together, [B, D] both."""
        loss = self._invariance * functional.mse_loss(image, text)
        if len(image) < 2:
            return loss
        hinge = (_hinge(image) + _hinge(text)) / 2
        return loss + self._variance * hinge + self._covariance * (_covariance(image) + _covariance(text))


def _standardised(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(0)
    return centred * (centred.square().mean(0) + 1e-5).rsqrt()


def _hinge(rows: Tensor) -> Tensor:
    """Mean of max(0, 1 − √(variance + 1e-4)) over dimensions."""
    return functional.relu(1 - (rows.var(0) + 1e-4).sqrt()).mean()


def _covariance(rows: Tensor) -> Tensor:
    """Squared covariances of different dimensions, summed and divided by D."""
    centred = rows - rows.mean(0)
    matrix = centred.mT @ centred / (len(rows) - 1)  # torch.cov would wait for the device, to check its own
    return (matrix.square().sum() - matrix.diagonal().square().sum()) / rows.shape[1]

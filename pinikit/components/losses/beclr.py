"""BECLR's contrastive loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from optuna.distributions import FloatDistribution
from torch import Tensor

from pinikit.components.bounds import check_above_zero, check_not_negative
from pinikit.components.contracts import Loss
from pinikit.components.losses._terms import cosines, masked_logsumexp, unit


class Beclr(Loss):
    """Noise samples of a picture agree, and those of different pictures spread out.

    −mean cos over pairs of a picture's samples, one of them without gradient, + negative · log mean exp(cos
    / T) over samples of different pictures. Without the published teacher, predictor and memory: the
    samples serve as all of them. Needs ``samples: 2`` or more. Stands beside a classification loss
    (Poulakakis-Daktylidis, Jamali-Rad, "BECLR", ICLR 2024, arXiv 2402.02444).

    T is ``temperature``.
    """

    name = "beclr"
    version = 1
    requires = frozenset({"sample_features"})
    min_samples = 2

    def __init__(
        self,
        negative: Annotated[float, FloatDistribution(0.01, 1.0, log=True)] = 0.1,
        temperature: Annotated[float, FloatDistribution(0.1, 10.0, log=True)] = 2.0,
    ) -> None:
        check_not_negative(negative=negative)
        check_above_zero(temperature=temperature)
        self._negative, self._temperature = negative, temperature

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """A scalar; without other pictures the agreement only."""
        features = batch["sample_features"]
        return self.agreement(features, features) + self._negative * self.spread(features)

    @staticmethod
    def agreement(predictions: Tensor, targets: Tensor) -> Tensor:
        """−mean cos of each sample with the targets of its picture's other samples, all [B, S, D]."""
        pictures, samples, _ = predictions.shape
        cosine = unit(predictions) @ unit(targets.detach()).mT  # [B, S, S]
        across = cosine.sum() - cosine.diagonal(dim1=1, dim2=2).sum()
        return -across / (pictures * samples * (samples - 1))

    def spread(self, features: Tensor) -> Tensor:
        """log mean exp(cos / T) over samples of different pictures, of [B, S, D]; 0 for one picture."""
        pictures, samples, _ = features.shape
        if pictures < 2:
            return 0 * features.sum()
        rows = features.flatten(0, 1)
        scores = (cosines(rows, rows) / self._temperature).view(pictures, samples, pictures, samples)
        own = scores.new_ones(pictures).diag().bool().view(pictures, 1, pictures, 1)
        count = samples**2 * pictures * (pictures - 1)
        return masked_logsumexp(scores.flatten(), (~own).expand_as(scores).flatten(), 0) - math.log(count)

"""COCONUT's loss: positives from a teacher, negatives from the student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from optuna.distributions import FloatDistribution
from torch import Tensor

from pinikit.components.bounds import check_above_zero
from pinikit.components.contracts import Loss
from pinikit.components.losses._terms import cosines, masked_logsumexp, other_rows


class CoconutNspt(Loss):
    """Noisy image features are drawn to the frozen ones of their class, and pushed from all noisy others.

    −mean over the class's frozen rows, the own one included, of cos / τ, + LSE over the other noisy rows of
    cos / τ (negative-student-positive-teacher). Every row is an anchor; published for rehearsed samples,
    with a contrastive loss of both modalities beside it (after Cappellazzo et al., 2023, arXiv 2310.02699,
    whose code could not be had: our adaptation of the formula).

    τ is ``temperature``.
    """

    name = "coconut_nspt"
    synonyms = ("nspt",)
    version = 1
    requires = frozenset({"image_features", "clean_image_features", "labels"})

    def __init__(self, temperature: Annotated[float, FloatDistribution(0.01, 1.0, log=True)] = 0.1) -> None:
        check_above_zero(temperature=temperature)
        self._temperature = temperature

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean over rows, a scalar; 0 for a single row."""
        terms = self.of_rows(batch["image_features"], batch["clean_image_features"], batch["labels"])
        return terms.mean() if len(terms) > 1 else 0 * terms.sum()

    def of_rows(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Each anchor's term, [B]."""
        others = masked_logsumexp(
            cosines(student, student) / self._temperature, other_rows(len(labels), labels), 1
        )
        positive = labels.unsqueeze(0) == labels.unsqueeze(1)
        scores = cosines(student, teacher) / self._temperature
        return others - scores.masked_fill(~positive, 0.0).sum(1) / positive.sum(1)

"""CWCL: contrast with continuous weights instead of right and wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from optuna.distributions import FloatDistribution
from torch import Tensor

from pinikit.components.bounds import check_above_zero
from pinikit.components.contracts import Loss
from pinikit.components.losses._terms import class_to_images, cosines, own_class, soft_cross_entropy


class Cwcl(Loss):
    """An image's target is spread over classes as similar as the frozen text features say.

    Images to texts: −Σ_c w_yc / Σ_k w_yk · log softmax_c(cos / τ) with w = ½ + ½ cos of the frozen texts of
    classes y and c; plus texts to images, a class's images being all positives. ``weight_temperature`` T
    makes w = exp((cos − 1) / T) instead, which is sharper: frozen texts of classes are all alike (Srinivasa
    et al., "CWCL: Cross-Modal Transfer with Continuously Weighted Contrastive Loss", NeurIPS 2023, arXiv
    2309.14580).

    τ is ``temperature``.
    """

    name = "cwcl"
    version = 1
    requires = frozenset({"image_features", "text_features", "clean_text_features", "labels"})

    def __init__(
        self,
        temperature: Annotated[float, FloatDistribution(0.01, 1.0, log=True)] = 0.07,
        weight_temperature: float | None = None,
    ) -> None:
        check_above_zero(temperature=temperature)
        if weight_temperature is not None:
            check_above_zero(weight_temperature=weight_temperature)
        self._temperature, self._weight_temperature = temperature, weight_temperature

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Rows + columns, a scalar."""
        rows, columns = self.directions(batch, self._weights(batch["clean_text_features"]))
        return rows + columns

    def directions(self, batch: Mapping[str, Tensor], weights: Tensor) -> tuple[Tensor, Tensor]:
        """Images to texts by the weights [C, C] of classes, and texts to images."""
        logits = cosines(batch["image_features"], batch["text_features"]) / self._temperature
        target = (weights / weights.sum(1, keepdim=True))[batch["labels"]]
        own = own_class(batch["labels"], logits.shape[1])
        return soft_cross_entropy(logits, target), class_to_images(logits, own)

    def _weights(self, reference: Tensor) -> Tensor:
        similarity = cosines(reference, reference)
        if self._weight_temperature is None:
            return (1 + similarity) / 2
        return ((similarity - 1) / self._weight_temperature).exp()  # at most 1

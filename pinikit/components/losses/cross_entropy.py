"""Cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from pinikit.components.contracts import Loss


class CrossEntropy(Loss):
    """Mean cross-entropy over images and noise samples (PiNI's loss).

    With S samples per image this is the mean of per-sample losses, not the log of the mean
    probability.
    """

    name = "cross_entropy"
    synonyms = ("ce",)
    version = 1

    def __init__(self) -> None:
        pass

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """−mean log softmax(logits)[label], a scalar."""
        return functional.cross_entropy(batch["logits"], batch["labels"])

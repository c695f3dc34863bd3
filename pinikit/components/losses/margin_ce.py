"""Cross-entropy with a margin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from optuna.distributions import FloatDistribution
from torch import Tensor
from torch.nn import functional

from pinikit.components.contracts import Loss
from pinikit.components.losses._terms import own_class


class MarginCe(Loss):
    """Cross-entropy after the true class's logit is lowered by a margin; 0 is the cross-entropy.

    CosFace's large-margin cosine loss, whose margin m on the cosine is ``margin`` / logit scale (Wang et
    al., "CosFace", CVPR 2018, arXiv 1801.09414).
    """

    name = "margin_ce"
    version = 1

    def __init__(self, margin: Annotated[float, FloatDistribution(0.1, 10.0, log=True)] = 2.0) -> None:
        if margin < 0:
            raise ValueError(f"margin: found {margin}; allowed: 0 or more")
        self._margin = margin

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean over rows, a scalar."""
        logits, labels = batch["logits"], batch["labels"]
        lowered = logits - self._margin * own_class(labels, logits.shape[1]).to(logits.dtype)
        return functional.cross_entropy(lowered, labels)

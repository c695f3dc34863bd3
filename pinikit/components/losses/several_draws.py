"""Losses of what several noise samples make of the same picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from pinikit.components.contracts import Loss


class Iwae(Loss):
    """−log of the mean probability of the true class over noise samples, where PiNI takes the mean of −log.

    By Jensen's inequality it is never above the cross-entropy, and equal to it with one sample: a picture
    need not be classified well by every draw, as in a bound by importance weighting (after Burda, Grosse,
    Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, arXiv 1509.00519; our adaptation).
    """

    name = "iwae"
    version = 1
    requires = frozenset({"sample_logits", "labels"})

    def __init__(self) -> None:
        pass

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean over pictures, a scalar."""
        logits = batch["sample_logits"]  # [B, S, C]
        labels = batch["labels"].view(*logits.shape[:2], 1)
        own = logits.log_softmax(2).gather(2, labels).squeeze(2)  # [B, S]
        return (math.log(logits.shape[1]) - own.logsumexp(1)).mean()


class NoiseConsistency(Loss):
    """Noise samples of a picture should be classified alike: how far each is from their mean.

    ``kl`` is KL(mean p ‖ p_s), ``jensen_shannon`` KL(p_s ‖ mean p), which is at most log S; averaged over
    samples and pictures. Needs ``samples: 2`` or more. To stand beside a classification loss: where all
    samples say the same it is 0.

    ``divergence`` names one of the two.
    """

    name = "noise_consistency"
    version = 1
    requires = frozenset({"sample_logits"})
    min_samples = 2

    def __init__(self, divergence: Literal["kl", "jensen_shannon"] = "kl") -> None:
        self._from_mean = divergence == "kl"

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """A scalar, 0 or more."""
        each = batch["sample_logits"].log_softmax(2)  # [B, S, C]
        mean = each.logsumexp(1, keepdim=True) - math.log(each.shape[1])
        difference = mean.exp() * (mean - each) if self._from_mean else each.exp() * (each - mean)
        return difference.sum(2).mean()

"""Losses that keep the frozen model's order of classes for each picture (CoDiEmb's for similarity).

Zhang et al., "CoDiEmb: A Collaborative yet Distinct Framework for Unified Representation Learning", 2025,
arXiv 2508.11442. Published together, beside a contrastive loss: 2 · ``pearson`` + 0.5 · ``pro`` + 5 ·
``rank_kl``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from optuna.distributions import FloatDistribution
from torch import Tensor
from torch.nn import functional

from pinikit.components.bounds import check_above_zero
from pinikit.components.contracts import Loss
from pinikit.components.losses._terms import cosines, masked_logsumexp, mean_where, unit

_TIE = 1e-8
"""Similarities that are no further apart count as equal."""


class Pearson(Loss):
    """1 − correlation of a picture's noisy logits with its frozen ones, over classes.

    0 where the noisy logits are the frozen ones, stretched and shifted; a picture whose frozen logits are all
    equal counts 0 (CoDiEmb, 2025, arXiv 2508.11442).
    """

    name = "pearson"
    version = 1
    requires = frozenset({"logits", "clean_logits"})

    def __init__(self) -> None:
        pass

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean over rows, a scalar, 0 to 2."""
        found, wanted = batch["logits"], batch["clean_logits"]
        found, reference = (rows - rows.mean(1, keepdim=True) for rows in (found, wanted))
        correlation = (unit(found) * unit(reference)).sum(1)
        constant = wanted.amax(1) == wanted.amin(1)
        return (1 - correlation).masked_fill(constant, 0.0).mean()


class RankKl(Loss):
    """KL from the ranks of a picture's classes in the frozen model to its noisy similarities.

    KL(softmax(a / T) ‖ softmax(cos / T)) / C with a from 1 for the most similar class to 0 for the least;
    equal ones share their average rank (CoDiEmb, 2025, arXiv 2508.11442).

    T is ``temperature``.
    """

    name = "rank_kl"
    version = 1
    requires = frozenset({"image_features", "text_features", "clean_logits"})

    def __init__(self, temperature: Annotated[float, FloatDistribution(0.01, 1.0, log=True)] = 0.05) -> None:
        check_above_zero(temperature=temperature)
        self._temperature = temperature

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean over rows, a scalar, 0 or more."""
        similarity = cosines(batch["image_features"], batch["text_features"])
        return self.of_similarities(similarity, batch["clean_logits"])

    def of_similarities(self, found: Tensor, wanted: Tensor) -> Tensor:
        """The same of noisy similarities, and of anything that has the frozen ones' order, [B, C] both."""
        classes = found.shape[1]
        if classes < 2:
            return 0 * found.sum()
        target = (_ranks(wanted) / (classes - 1)).to(found.dtype) / self._temperature
        logits = (found / self._temperature).log_softmax(1)
        return (
            functional.kl_div(logits, target.log_softmax(1), reduction="sum", log_target=True) / found.numel()
        )


class Pro(Loss):
    """Each class of a picture against all those less similar to it in the frozen model, by how much less.

    For class k with similarity y_k: −log softmax, at k, of x_k · max gap and x_j · (y_k − y_j) over the
    classes j below, where x = cos / T is noisy and y frozen; the mean over k that have one below. Takes
    rows × classes² numbers (preference ranking optimisation as in CoDiEmb, 2025, arXiv 2508.11442).

    T is ``temperature``.
    """

    name = "pro"
    version = 1
    requires = frozenset({"image_features", "text_features", "clean_image_features", "clean_text_features"})

    def __init__(self, temperature: Annotated[float, FloatDistribution(0.01, 1.0, log=True)] = 0.05) -> None:
        check_above_zero(temperature=temperature)
        self._temperature = temperature

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean over rows, a scalar."""
        found = cosines(batch["image_features"], batch["text_features"])
        return self.of_similarities(
            found, cosines(batch["clean_image_features"], batch["clean_text_features"])
        )

    def of_similarities(self, found: Tensor, wanted: Tensor) -> Tensor:
        """The same of noisy and frozen similarities, [B, C] both."""
        scores = found / self._temperature
        gaps = wanted.unsqueeze(2) - wanted.unsqueeze(1)  # [B, C, C]: how far each class is above each other
        below = gaps > _TIE
        own = scores * gaps.amax(2)
        terms = torch.logaddexp(own, masked_logsumexp(scores.unsqueeze(1) * gaps, below, 2)) - own
        used = below.any(2)
        means = terms.masked_fill(~used, 0.0).sum(1) / used.sum(1).clamp_min(1)
        return mean_where(means, used.any(1))


def _ranks(values: Tensor) -> Tensor:
    """From 0 for the lowest of each row to C − 1; equal ones share their average."""
    ordered = values.sort(1).values
    below, upto = (torch.searchsorted(ordered, values.contiguous(), right=right) for right in (False, True))
    return (below + upto - 1) / 2

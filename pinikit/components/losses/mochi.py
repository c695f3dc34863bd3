"""MoCHi: mixtures of hard negatives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from optuna.distributions import FloatDistribution, IntDistribution
from torch import Tensor
from torch.nn import functional

from pinikit.components.bounds import check_above_zero, check_not_negative
from pinikit.components.contracts import Loss
from pinikit.components.losses._terms import own_class, unit


class Mochi(Loss):
    """Each image finds its class text among the others and random mixtures of the hardest.

    Of the ``hardest`` wrong texts, ``pairs`` mixtures of two, norm(αh + (1 − α)h'), α uniform on (0, 1),
    and ``queries`` mixtures of one with the image itself, norm(βq + (1 − β)h), β uniform on (0, ½), are
    further negatives, without gradient. Without both it is the cross-entropy of cos / τ, τ the
    ``temperature``. Published with a queue of a momentum encoder's features instead of class texts
    (Kalantidis et al., "Hard Negative Mixing for Contrastive Learning", NeurIPS 2020, arXiv 2010.01028).
    """

    name = "mochi"
    version = 1
    requires = frozenset({"image_features", "text_features", "labels", "uniform"})

    def __init__(
        self,
        temperature: Annotated[float, FloatDistribution(0.01, 1.0, log=True)] = 0.07,
        hardest: Annotated[int, IntDistribution(1, 32)] = 16,
        pairs: Annotated[int, IntDistribution(0, 32)] = 8,
        queries: Annotated[int, IntDistribution(0, 32)] = 4,
    ) -> None:
        check_above_zero(temperature=temperature, hardest=hardest)
        check_not_negative(pairs=pairs, queries=queries)
        self._temperature, self._hardest, self._pairs, self._queries = temperature, hardest, pairs, queries

    @property
    def uniforms(self) -> int:
        """Two texts and α for each pair, one text and β for each query."""
        return 3 * self._pairs + 2 * self._queries

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean over rows, a scalar; 0 if there is one class only."""
        query, texts = unit(batch["image_features"]), unit(batch["text_features"])
        labels, cosine = batch["labels"], query @ texts.mT
        wrong = cosine.detach().masked_fill(own_class(labels, len(texts)), -torch.inf)
        hard = wrong.topk(min(self._hardest, len(texts) - 1)).indices  # [B, n]
        logits = [cosine]
        if hard.shape[1]:
            mixed = self._mixtures(query, texts[hard], batch["uniform"])
            logits.append((mixed @ query.unsqueeze(2)).squeeze(2))
        return functional.cross_entropy(torch.cat(logits, 1) / self._temperature, labels)

    def _mixtures(self, query: Tensor, hard: Tensor, uniform: Tensor) -> Tensor:
        """Of queries [B, D] and hard negatives [B, n, D], by random numbers [B, ``uniforms``]."""
        one, two, alpha, single, beta = uniform.to(query.dtype).split(
            [self._pairs] * 3 + [self._queries] * 2, dim=1
        )
        count = hard.shape[1]
        first, second, third = ((part * count).long().clamp_max(count - 1) for part in (one, two, single))
        return torch.cat(
            [
                self.between(_rows(hard, first), _rows(hard, second), alpha),
                self.between(query.unsqueeze(1).expand(-1, self._queries, -1), _rows(hard, third), beta / 2),
            ],
            1,
        )

    @staticmethod
    def between(left: Tensor, right: Tensor, share: Tensor) -> Tensor:
        """norm(share · left + (1 − share) · right) of [B, k, D] and shares [B, k], without gradient."""
        share = share.unsqueeze(2)
        return unit(share * left + (1 - share) * right).detach()


def _rows(hard: Tensor, index: Tensor) -> Tensor:
    """Negatives [B, n, D] at the indices [B, k], [B, k, D]."""
    return hard.gather(1, index.unsqueeze(2).expand(-1, -1, hard.shape[2]))

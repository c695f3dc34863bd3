"""Losses that predict one view's balanced assignment to prototypes from another view: SwAV, SwALIP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from optuna.distributions import FloatDistribution, IntDistribution
from torch import Tensor

from pinikit.components.bounds import check_above_zero
from pinikit.components.contracts import Loss
from pinikit.components.losses._terms import cosines, soft_cross_entropy


class Swav(Loss):
    """SwAV between noise samples, with the class texts as prototypes.

    The codes of one sample of each picture, balanced over the batch by Sinkhorn, are predicted by its other
    samples; codes have no gradient. Needs ``samples: 2`` or more. Labels are not looked at, so it stands
    beside a classification loss (Caron et al., "Unsupervised Learning of Visual Features by Contrasting
    Cluster Assignments", NeurIPS 2020, arXiv 2006.09882).

    Sinkhorn takes ``iterations`` steps at ``epsilon``; predictions are made at ``temperature``.
    """

    name = "swav"
    version = 1
    requires = frozenset({"sample_features", "text_features"})
    min_samples = 2

    def __init__(
        self,
        temperature: Annotated[float, FloatDistribution(0.01, 1.0, log=True)] = 0.1,
        epsilon: Annotated[float, FloatDistribution(0.01, 1.0, log=True)] = 0.05,
        iterations: Annotated[int, IntDistribution(1, 10)] = 3,
    ) -> None:
        check_above_zero(temperature=temperature, epsilon=epsilon, iterations=iterations)
        self._temperature, self._epsilon, self._iterations = temperature, epsilon, iterations

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean over assigning samples of the mean over the others, a scalar."""
        features = batch["sample_features"]
        similarity = cosines(features.flatten(0, 1), batch["text_features"])
        by_sample = similarity.view(*features.shape[:2], -1).transpose(0, 1)  # [S, B, C]
        return self.of_similarities(by_sample, range(len(by_sample)))

    def of_similarities(self, similarity: Tensor, assigning: Sequence[int]) -> Tensor:
        """The same of similarities with prototypes [S, B, K] and the samples that give codes."""
        means = []
        for giving in assigning:
            target = codes(similarity[giving], self._epsilon, self._iterations)
            others = [index for index in range(len(similarity)) if index != giving]
            means.append(soft_cross_entropy(similarity[others] / self._temperature, target))
        return torch.stack(means).mean()


class Swalip(Loss):
    """SwALIP: codes of the class texts supervise images, and codes of images the class texts.

    Prototypes are the frozen class texts. Published with a weight of 0.2 beside CLIP's loss, and with
    prototypes of its own (Fini et al., "Improved Baselines for Vision-Language Pre-training", TMLR 2023,
    arXiv 2305.08675).

    Sinkhorn takes ``iterations`` steps at ``epsilon``; predictions are made at ``temperature``.
    """

    name = "swalip"
    version = 1
    requires = frozenset({"image_features", "text_features", "clean_text_features", "labels"})

    def __init__(
        self,
        temperature: Annotated[float, FloatDistribution(0.01, 1.0, log=True)] = 0.1,
        epsilon: Annotated[float, FloatDistribution(0.01, 1.0, log=True)] = 0.05,
        iterations: Annotated[int, IntDistribution(1, 10)] = 3,
    ) -> None:
        check_above_zero(temperature=temperature, epsilon=epsilon, iterations=iterations)
        self._temperature, self._epsilon, self._iterations = temperature, epsilon, iterations

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """½ (images + texts), a scalar."""
        prototypes = batch["clean_text_features"]
        texts = cosines(batch["text_features"], prototypes)[batch["labels"]]
        return self.of_similarities(cosines(batch["image_features"], prototypes), texts)

    def of_similarities(self, image: Tensor, text: Tensor) -> Tensor:
        """The same of similarities with prototypes of rows that belong together, [B, K] both."""
        terms = [
            soft_cross_entropy(found / self._temperature, codes(other, self._epsilon, self._iterations))
            for found, other in ((image, text), (text, image))
        ]
        return (terms[0] + terms[1]) / 2


def codes(similarity: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Balanced assignment of rows to prototypes, [B, K] both: rows sum to 1, columns nearly to B/K.

    Sinkhorn in log space, where exp(similarity / epsilon) would overflow in fp16; without gradient.
    """
    logits = similarity.detach() / epsilon
    for _ in range(iterations):
        logits = logits - logits.logsumexp(0, keepdim=True)
        logits = logits - logits.logsumexp(1, keepdim=True)
    return logits.exp()

"""Contrastive losses between noise samples: those of a picture are its views, and attract each other.

Scores are cosines over a temperature. Pictures of one class repel each other as others do, and texts are
not looked at, so these losses stand beside a classification loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Annotated, Literal

import torch
from optuna.distributions import FloatDistribution
from torch import Tensor

from pinikit.components.bounds import check_above_zero
from pinikit.components.contracts import Loss
from pinikit.components.losses._terms import cosines, masked_logsumexp, mean_where


class Ntxent(Loss):
    """NT-Xent between noise samples: each finds another sample of its picture among all pictures' samples.

    ``positives: pairwise`` takes two samples of every picture at a time and averages over the pairs: with
    two samples SimCLR's loss, which GRACE and PiNGDA use on graphs. ``all`` takes all samples at once, and
    those of the picture share the target. Needs ``samples: 2`` or more (Chen et al., "A Simple Framework
    for Contrastive Learning of Visual Representations", ICML 2020, arXiv 2002.05709; "Learn Beneficial
    Noise as Graph Augmentation", ICML 2025, arXiv 2505.19024).

    Scores are cosines divided by ``temperature``.
    """

    name = "ntxent"
    synonyms = ("grace",)
    version = 1
    requires = frozenset({"sample_features"})
    min_samples = 2

    def __init__(
        self,
        temperature: Annotated[float, FloatDistribution(0.01, 1.0, log=True)] = 0.5,
        positives: Literal["pairwise", "all"] = "pairwise",
    ) -> None:
        check_above_zero(temperature=temperature)
        self._temperature, self._pairwise = temperature, positives == "pairwise"

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean over samples and their positives, a scalar."""
        scores = _Scores(batch["sample_features"], self._temperature)
        by_view = masked_logsumexp(scores.values, scores.others, 2)  # [B, S, S]
        own_view = by_view.diagonal(dim1=1, dim2=2).unsqueeze(2)
        among = torch.logaddexp(own_view, by_view) if self._pairwise else by_view.logsumexp(2, keepdim=True)
        return scores.mean_over_pairs(among - scores.own)


class PolyView(Loss):
    """Each pair of a picture's noise samples on its own, against all samples of other pictures.

    The geometric poly-view loss: −log softmax of one positive among itself and the negatives, averaged over
    ordered pairs; unlike in ``ntxent`` other positives are in no denominator. Needs ``samples: 2`` or more
    (Shidani et al., "Poly-View Contrastive Learning", ICLR 2024, arXiv 2403.05490; as in Koromilas et al.,
    2025, arXiv 2507.06979).

    Scores are cosines divided by ``temperature``.
    """

    name = "poly_view"
    version = 1
    requires = frozenset({"sample_features"})
    min_samples = 2

    def __init__(self, temperature: Annotated[float, FloatDistribution(0.01, 1.0, log=True)] = 0.5) -> None:
        check_above_zero(temperature=temperature)
        self._temperature = temperature

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean over ordered pairs of samples of a picture, a scalar; 0 without other pictures."""
        scores = _Scores(batch["sample_features"], self._temperature)
        negatives = masked_logsumexp(scores.values.flatten(2), scores.foreign.flatten(2), 2).unsqueeze(2)
        return scores.mean_over_pairs(torch.logaddexp(negatives, scores.own) - scores.own)


class MvInfonce(Loss):
    """One term a picture for all interactions of its noise samples.

    LSE of a picture's scores with everything but the samples themselves − LSE of the scores among its own
    samples. Needs ``samples: 2`` or more (Koromilas et al., "A Principled Framework for Multi-View
    Contrastive Learning", 2025, arXiv 2507.06979).

    Scores are cosines divided by ``temperature``.
    """

    name = "mv_infonce"
    version = 1
    requires = frozenset({"sample_features"})
    min_samples = 2

    def __init__(self, temperature: Annotated[float, FloatDistribution(0.01, 1.0, log=True)] = 0.5) -> None:
        check_above_zero(temperature=temperature)
        self._temperature = temperature

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean over pictures, a scalar; 0 without other pictures."""
        scores = _Scores(batch["sample_features"], self._temperature)
        everything = masked_logsumexp(scores.values.flatten(1), scores.others.flatten(1), 1)
        return (everything - scores.alignment()).mean()


class MvDhel(Loss):
    """Alignment of a picture's noise samples, and uniformity of each sample among its like, apart.

    Σ over samples v of LSE over other pictures' v-th samples − LSE over unordered pairs of the picture's own.
    The sums stay in log space, where the published code multiplies them and overflows. Needs
    ``samples: 2`` or more (Koromilas et al., "A
    Principled Framework for Multi-View Contrastive Learning", 2025, arXiv 2507.06979).

    Scores are cosines divided by ``temperature``.
    """

    name = "mv_dhel"
    version = 1
    requires = frozenset({"sample_features"})
    min_samples = 2

    def __init__(self, temperature: Annotated[float, FloatDistribution(0.01, 1.0, log=True)] = 0.5) -> None:
        check_above_zero(temperature=temperature)
        self._temperature = temperature

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean over pictures, a scalar; 0 without other pictures."""
        features = batch["sample_features"]
        if len(features) < 2:
            return 0 * features.sum()
        scores = _Scores(features, self._temperature)
        by_view = masked_logsumexp(scores.values, scores.foreign, 2)  # [B, S, S]
        uniformity = by_view.diagonal(dim1=1, dim2=2).sum(1)
        half = torch.triu(scores.pairs, 1)  # unordered: each pair once
        return (uniformity - scores.alignment(half)).mean()


class ClusterWeightedInfonce(Loss):
    """Each noise sample finds another one of its picture; only samples of other classes are negatives.

    LSE over pictures of other classes − the positive, which is not in the denominator, so it can be
    negative; a picture without others is left out. MEOW weighs a negative by the number of clusterings in
    which it lies elsewhere: here the classes are the one clustering. Needs ``samples: 2`` or more (Yu et
    al., "Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Adaptively Weighted Negative
    Samples", TKDE, arXiv 2212.13847).

    Scores are cosines divided by ``temperature``.
    """

    name = "cluster_weighted_infonce"
    synonyms = ("meow",)
    version = 1
    requires = frozenset({"sample_features", "labels"})
    min_samples = 2

    def __init__(self, temperature: Annotated[float, FloatDistribution(0.01, 1.0, log=True)] = 0.4) -> None:
        check_above_zero(temperature=temperature)
        self._temperature = temperature

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean over ordered pairs of samples of a picture, a scalar; 0 if there is one class only."""
        features = batch["sample_features"]
        labels = batch["labels"].view(*features.shape[:2])[:, 0]
        clusters = (labels.unsqueeze(1) != labels.unsqueeze(0)).to(features.dtype)
        pairs = [
            self.of_similarities(cosines(features[:, one], features[:, other]), clusters)
            for one, other in permutations(range(features.shape[1]), 2)
        ]
        return torch.stack(pairs).mean()

    def of_similarities(self, similarity: Tensor, weights: Tensor) -> Tensor:
        """One view's anchors among another view's keys, whose negatives have these weights, [B, B] both."""
        scores, kept = similarity / self._temperature, weights > 0
        denominator = masked_logsumexp(scores + weights.masked_fill(~kept, 1.0).log(), kept, 1)
        return mean_where(denominator - scores.diagonal(), kept.any(1))


class _Scores:
    """Cosines over a temperature between all noise samples, and which of them belong together."""

    def __init__(self, features: Tensor, temperature: float) -> None:
        """Of features [B, S, D]."""
        pictures, samples, _ = features.shape
        rows = features.flatten(0, 1)
        shape = (pictures, samples, pictures, samples)
        self.values = (cosines(rows, rows) / temperature).view(shape)
        same = torch.eye(pictures, dtype=torch.bool, device=features.device)
        self.foreign = ~same.view(pictures, 1, pictures, 1).expand(shape)
        """Whether two samples are of different pictures, [B, S, B, S]."""
        self.pairs = ~torch.eye(samples, dtype=torch.bool, device=features.device)
        """Ordered pairs of different samples, [S, S]."""
        self.others = self.foreign | self.pairs.view(1, samples, 1, samples)
        """Whether two samples are not the same one, [B, S, B, S]."""
        self.own = self.values.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        """Scores within a picture, [B, S, S]."""

    def alignment(self, pairs: Tensor | None = None) -> Tensor:
        """LSE of a picture's own scores over some pairs of its samples, all ordered ones by default, [B]."""
        chosen = self.pairs if pairs is None else pairs
        return masked_logsumexp(self.own.flatten(1), chosen.flatten(), 1)

    def mean_over_pairs(self, values: Tensor) -> Tensor:
        """The mean of [B, S, S] over ordered pairs of different samples, a scalar."""
        return (values * self.pairs).sum() / (len(values) * self.pairs.sum())

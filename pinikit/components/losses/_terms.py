"""Parts that several losses share. Exponentials are summed in log space and masked beforehand."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_NOWHERE = -1e30
"""What is masked counts as this: finite, so that a row without anything left has finite gradients."""


def unit(rows: Tensor) -> Tensor:
    """Rows [..., D] of length 1."""
    return functional.normalize(rows, dim=-1, eps=1e-12)


def cosines(image: Tensor, text: Tensor) -> Tensor:
    """[B, D], [C, D] → [B, C]."""
    return unit(image) @ unit(text).mT


def own_class(labels: Tensor, classes: int) -> Tensor:
    """Which class text belongs to which image, [B, C]."""
    return labels.unsqueeze(1) == torch.arange(classes, device=labels.device)


def masked_logsumexp(values: Tensor, keep: Tensor, dim: int) -> Tensor:
    """log Σ exp over what is kept; about −1e30 where nothing is."""
    return values.masked_fill(~keep, _NOWHERE).logsumexp(dim)


def mean_where(values: Tensor, keep: Tensor) -> Tensor:
    """The mean of what is kept, a scalar; 0 if nothing is."""
    kept = values.masked_fill(~keep, 0.0).sum()
    mean: Tensor = kept / keep.sum().clamp_min(1)
    return mean


def other_rows(count: int, like: Tensor) -> Tensor:
    """True off the diagonal, [N, N], on the device of ``like``."""
    return ~torch.eye(count, dtype=torch.bool, device=like.device)


def class_to_images(logits: Tensor, own: Tensor) -> Tensor:
    """Every class finds its images among the batch's, by logits [B, C], a scalar.

    A class's images count alike. Classes without an image in the batch are left out.
    """
    return mean_where(mean_per_class(-logits.log_softmax(0), own), own.any(0))


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """−Σ target · log softmax(logits) over the last axis, averaged over the others, a scalar."""
    return -(target * logits.log_softmax(-1)).sum(-1).mean()


def nearest_of_another_class(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """For each row [B] the index of the most similar row of another class, and whether there is one.

    Where there is none, the index is some row's.
    """
    foreign = labels.unsqueeze(0) != labels.unsqueeze(1)
    return cosines(features, features).masked_fill(~foreign, -2.0).argmax(1), foreign.any(1)


def mean_per_class(values: Tensor, own: Tensor) -> Tensor:
    """The mean of [B, C] over each class's own images, [C]; 0 for a class without any."""
    mean: Tensor = values.masked_fill(~own, 0.0).sum(0) / own.sum(0).clamp_min(1)
    return mean

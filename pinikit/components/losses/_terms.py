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


def mean_per_class(values: Tensor, own: Tensor) -> Tensor:
    """The mean of [B, C] over each class's own images, [C]; 0 for a class without any."""
    mean: Tensor = values.masked_fill(~own, 0.0).sum(0) / own.sum(0).clamp_min(1)
    return mean

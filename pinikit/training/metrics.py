"""Metrics of probabilities and labels; accuracies in percent."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

BINS = 15
"""Bins of the expected calibration error."""


def classification_metrics(log_probs: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy, macro accuracy (mean over the classes that occur), NLL in nats, ECE in percent.

    Args:
        log_probs: [N, C].
        labels: [N].
    """
    correct = (log_probs.argmax(1) == labels).double()
    return {
        "accuracy": 100 * correct.mean().item(),
        "macro_accuracy": 100 * _class_means(correct, labels, log_probs.shape[1]),
        "nll": functional.nll_loss(log_probs.double(), labels).item(),
        "ece": 100 * _calibration_error(log_probs.double().exp().amax(1), correct),
    }


def _class_means(correct: Tensor, labels: Tensor, classes: int) -> float:
    counts = torch.bincount(labels, minlength=classes)
    sums = torch.zeros(classes, dtype=correct.dtype, device=correct.device).index_add_(0, labels, correct)
    return (sums[counts > 0] / counts[counts > 0]).mean().item()


def _calibration_error(confidence: Tensor, correct: Tensor) -> float:
    """Expected calibration error with equal-width bins (Guo et al., ICML 2017, eq. 3)."""
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = torch.zeros(BINS, dtype=torch.float64, device=correct.device)
    return gaps.index_add_(0, bins, correct - confidence).abs().sum().item() / len(correct)


def flip_rate(predictions: Tensor) -> float:
    """How often two draws disagree on a picture, in percent: mean over pictures and pairs of draws.

    Args:
        predictions: [K, N] predicted classes of K draws.
    """
    draws = len(predictions)
    if draws < 2:
        return 0.0
    votes = functional.one_hot(predictions).sum(0).double()  # [N, C]
    agreeing = (votes * (votes - 1)).sum(1) / (draws * (draws - 1))
    return 100 * (1 - agreeing.mean().item())

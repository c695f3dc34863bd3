"""Arithmetic on recorded predictions, against the metrics that runs report and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pinikit.reporting.html.predictions import (
    changed_pictures,
    class_accuracies,
    confusion,
    pairs,
    reliability,
)
from pinikit.study.record import Predictions, Record
from pinikit.training.metrics import classification_metrics

CLASSES, PICTURES = 5, 200


def predictions(seed: int, labels: np.ndarray) -> tuple[Predictions, dict[str, float]]:
    """Random ones, and what the run's own metrics say of them."""
    logits = torch.randn(len(labels), CLASSES, generator=torch.Generator().manual_seed(seed)).double()
    logits[torch.arange(len(labels)), torch.from_numpy(labels.astype(int))] += 1
    log_probs = logits.log_softmax(1)
    metrics = classification_metrics(log_probs, torch.from_numpy(labels.astype(int)))
    sure, predicted = log_probs.exp().max(1)
    return Predictions("mean", labels, predicted.numpy().astype(np.uint16), sure.numpy()), metrics


@pytest.fixture
def labels() -> np.ndarray:
    """Of four classes; the fifth has no test picture."""
    return np.random.default_rng(0).integers(0, CLASSES - 1, PICTURES).astype(np.uint16)


def test_class_accuracies_average_to_the_macro_accuracy(labels: np.ndarray) -> None:
    seen, metrics = predictions(1, labels)
    found = class_accuracies([seen, seen], CLASSES)
    assert found.shape == (2, CLASSES)
    assert np.isnan(found[:, CLASSES - 1]).all()
    assert np.nanmean(found[0]) == pytest.approx(metrics["macro_accuracy"])


def test_confusion_counts_every_prediction(labels: np.ndarray) -> None:
    seen, metrics = predictions(2, labels)
    matrix = confusion([seen], CLASSES)
    counts = np.bincount(labels, minlength=CLASSES)
    for true in range(CLASSES - 1):
        for taken in range(CLASSES):
            pairs_ = sum((a == true) and (b == taken) for a, b in zip(labels, seen.predicted, strict=True))
            assert matrix[true, taken] == pytest.approx(100 * pairs_ / counts[true])
    assert np.isnan(matrix[CLASSES - 1]).all()
    weighted = np.nansum(np.diag(matrix) * counts) / counts.sum()
    assert weighted == pytest.approx(metrics["accuracy"])


def test_reliability_holds_the_calibration_error(labels: np.ndarray) -> None:
    seen, metrics = predictions(3, labels)
    bins = reliability([seen])
    error = sum(item.share * abs(item.accuracy - item.confidence) for item in bins)
    assert 100 * error == pytest.approx(metrics["ece"])
    assert sum(item.share for item in bins) == pytest.approx(1)


def test_changes_are_those_that_most_seeds_make() -> None:
    labels = np.array([0, 0, 1, 1], dtype=np.uint16)

    def seen(*predicted: int) -> Predictions:
        return Predictions("mean", labels, np.array(predicted, dtype=np.uint16), np.full(4, 0.5))

    base = seen(1, 0, 1, 2)
    found = changed_pictures([(seen(0, 0, 2, 0), base), (seen(0, 0, 1, 2), base)])
    told = [(item.index, item.before, item.after, item.votes) for item in found]
    assert told == [(0, 1, 0, 2), (2, 1, 2, 1)]  # the last picture goes from wrong to wrong


def test_pairs_need_the_same_test_pictures(labels: np.ndarray) -> None:
    one, _ = predictions(4, labels)
    other, _ = predictions(4, labels[::-1].copy())
    records = {1: Record(one, ()), 2: Record(one, ()), 3: Record(one, ())}
    base = {1: Record(one, ()), 2: Record(other, ())}
    assert list(pairs(records, base)) == [1]

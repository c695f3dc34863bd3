"""Metrics against scikit-learn, loops and enumeration."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss

from pinikit.training.metrics import BINS, classification_metrics, flip_rate


def scores(count: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and labels, some of them right."""
    stream = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=stream)
    logits = 3 * torch.randn(count, classes, generator=stream, dtype=torch.float64)
    logits[range(count), labels] += 2
    return logits.log_softmax(1), labels


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(2, 6), st.integers(0, 2**31))
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_against_scikit_learn(count: int, classes: int, seed: int) -> None:
    log_probs, labels = scores(count, classes, seed)
    metrics = classification_metrics(log_probs, labels)
    predicted = log_probs.argmax(1)
    assert metrics["accuracy"] == pytest.approx(100 * accuracy_score(labels, predicted))
    assert metrics["macro_accuracy"] == pytest.approx(100 * balanced_accuracy_score(labels, predicted))
    assert metrics["nll"] == pytest.approx(log_loss(labels, log_probs.exp(), labels=range(classes)))
    assert metrics["ece"] == pytest.approx(calibration_error(log_probs.exp(), labels))


def calibration_error(probs: torch.Tensor, labels: torch.Tensor) -> float:
    """Guo et al., eq. 3, bin by bin."""
    rows = [
        (max(row), int(row.index(max(row)) == label))
        for row, label in zip(probs.tolist(), labels.tolist(), strict=True)
    ]
    total = 0.0
    for index in range(BINS):
        inside = [pair for pair in rows if index / BINS < pair[0] <= (index + 1) / BINS]
        if inside:
            confidence = sum(pair[0] for pair in inside) / len(inside)
            accuracy = sum(pair[1] for pair in inside) / len(inside)
            total += len(inside) / len(rows) * abs(accuracy - confidence)
    return 100 * total


def test_calibration_error_at_the_ends() -> None:
    certain = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64).log()
    assert classification_metrics(certain, torch.tensor([0, 0]))["ece"] == 0
    assert classification_metrics(certain, torch.tensor([1, 1]))["ece"] == 100
    assert classification_metrics(certain, torch.tensor([0, 1]))["ece"] == 50


def test_macro_accuracy_ignores_classes_that_do_not_occur() -> None:
    log_probs = torch.eye(4, dtype=torch.float64).log_softmax(1)[[0, 0, 0, 1, 3]]
    metrics = classification_metrics(log_probs, torch.tensor([0, 0, 0, 2, 2]))
    assert metrics["accuracy"] == pytest.approx(60)
    assert metrics["macro_accuracy"] == pytest.approx(50)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(2, 7).flatmap(
        lambda k: st.lists(st.lists(st.integers(0, 3), min_size=k, max_size=k), min_size=1, max_size=6)
    )
)
def test_flip_rate_is_the_share_of_pairs_that_differ(pictures: list[list[int]]) -> None:
    pairs = [one != other for draws in pictures for one, other in combinations(draws, 2)]
    assert flip_rate(torch.tensor(pictures).T) == pytest.approx(100 * sum(pairs) / len(pairs))


def test_one_draw_never_flips() -> None:
    assert flip_rate(torch.tensor([[1, 2, 3]])) == 0

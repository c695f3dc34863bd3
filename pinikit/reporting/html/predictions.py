"""Arithmetic on recorded predictions: accuracies of classes, confusions, calibration, changed pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pinikit.study.record import Array, Predictions, Record

BINS = 15
"""Bins of a reliability diagram, as many as the calibration error has."""


@dataclass(frozen=True)
class Bin:
    """Predictions of similar confidence; shares from 0 to 1."""

    confidence: float
    accuracy: float
    share: float
    """Of all predictions."""


@dataclass(frozen=True)
class Changed:
    """A test picture that an arm classifies otherwise than its baseline."""

    index: int
    """In the test split."""
    label: int
    before: int
    after: int
    votes: int
    """On how many seeds exactly this change happens."""
    confidence: float
    """Of the arm, mean over these seeds."""


def class_accuracies(records: Sequence[Predictions], classes: int) -> Array:
    """[runs, C] in percent; NaN where a class has no test picture."""
    rows = []
    for seen in records:
        counts = np.bincount(seen.labels, minlength=classes)
        right = np.bincount(seen.labels[seen.labels == seen.predicted], minlength=classes)
        rows.append(np.where(counts > 0, 100 * right / np.maximum(counts, 1), np.nan))
    return np.array(rows).reshape(len(rows), classes)


def confusion(records: Sequence[Predictions], classes: int) -> Array:
    """[C, C] in percent of the true class's pictures (rows), all runs together; NaN rows have none."""
    counts = np.zeros((classes, classes))
    for seen in records:
        np.add.at(counts, (seen.labels.astype(int), seen.predicted.astype(int)), 1)
    totals = counts.sum(1, keepdims=True)
    return np.where(totals > 0, 100 * counts / np.maximum(totals, 1), np.nan)


def reliability(records: Sequence[Predictions]) -> list[Bin]:
    """Accuracy by confidence in equal bins, all runs together; empty bins are left out."""
    confidence = np.concatenate([seen.confidence for seen in records]).astype(float)
    right = np.concatenate([seen.labels == seen.predicted for seen in records])
    place = np.clip(np.ceil(confidence * BINS).astype(int), 1, BINS)
    return [
        Bin(float(confidence[here].mean()), float(right[here].mean()), float(here.mean()))
        for here in (place == number for number in range(1, BINS + 1))
        if here.any()
    ]


def pairs(
    own: Mapping[int, Record], base: Mapping[int, Record]
) -> dict[int, tuple[Predictions, Predictions]]:
    """Predictions of two arms on the seeds on which both saw the same test pictures."""
    found = {}
    for seed in own:
        if seed in base:
            one, other = own[seed].predictions, base[seed].predictions
            if np.array_equal(one.labels, other.labels):
                found[seed] = (one, other)
    return found


def changed_pictures(seen: Sequence[tuple[Predictions, Predictions]]) -> list[Changed]:
    """Pictures whose prediction an arm changes from wrong to right or back, on most seeds first.

    The pairs are predictions of the arm and of its baseline, all of the same test split.
    """
    votes: dict[tuple[int, int, int], list[float]] = {}
    for own, base in seen:
        moved = (own.predicted != base.predicted) & (
            (own.predicted == own.labels) | (base.predicted == own.labels)
        )
        for index in np.flatnonzero(moved):
            key = (int(index), int(base.predicted[index]), int(own.predicted[index]))
            votes.setdefault(key, []).append(float(own.confidence[index]))
    labels = seen[0][0].labels if seen else np.zeros(0, dtype=np.uint16)
    found = [
        Changed(index, int(labels[index]), before, after, len(sure), float(np.mean(sure)))
        for (index, before, after), sure in votes.items()
    ]
    return sorted(found, key=lambda item: (-item.votes, -item.confidence, item.index))

"""Evaluation of a predictor on a split, with noise at its mean, one draw, or an average of K draws."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pinikit.components.contracts import Draw, Predictor
from pinikit.errors import ConfigError, PinikitError
from pinikit.training.draws import MeanDraw, RandomDraw
from pinikit.training.metrics import classification_metrics, flip_rate
from pinikit.training.task import Split
from pinikit.training.views import Views


def draws_of(mode: str) -> int:
    """How many draws a mode takes: ``mean`` 0, ``sample`` 1, ``mc-K`` K.

    Raises:
        ConfigError: no such mode.
    """
    if mode in ("mean", "sample"):
        return 0 if mode == "mean" else 1
    match = re.fullmatch(r"mc-([1-9]\d*)", mode)
    if match is None:
        raise ConfigError(f"run.evaluate.noise: found {mode!r}; allowed: mean, sample, mc-K such as mc-16")
    return int(match.group(1))


@dataclass(frozen=True)
class _Scored:
    """Log-probabilities [N, C] of one draw and each injection's mean noise-to-feature ratio."""

    log_probs: Tensor
    ratios: dict[str, float]


def evaluate(
    predictor: Predictor,
    split: Split,
    modes: Sequence[str],
    *,
    seed: int,
    batch_size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    witness: Callable[[str, Tensor], None] = lambda mode, log_probs: None,
) -> dict[str, dict[str, Any]]:
    """Metrics by mode.

    ``mc-K`` averages probabilities over K draws and also reports the spread of the single draws'
    accuracies, and how often two draws disagree. The draws of all modes are the first ones of the same
    sequence: ``sample`` is the first of ``mc-K``. One draw of text noise serves the whole split.
    ``witness`` is shown each mode's log-probabilities [N, C].

    Raises:
        PinikitError: a metric is not finite.
    """
    views = split.views(predictor.requires)
    device = split.labels.device
    labels = split.labels.cpu()

    def score(draw: Draw) -> _Scored:
        with torch.no_grad():
            return _score(predictor, views, draw, batch_size)

    count = max(map(draws_of, modes)) if predictor.stochastic else 0
    mean = score(MeanDraw()) if "mean" in modes or count == 0 else None
    draws = []
    for k in range(count):
        draws.append(score(RandomDraw(seed, "evaluate", k, device=device)))
        progress(k + 1, count)
    results = {}
    for mode in modes:
        taken = [mean] if mean is not None and (mode == "mean" or count == 0) else draws[: draws_of(mode)]
        scored = [item for item in taken if item is not None]
        averaged = _averaged(scored)
        results[mode] = _summarise(scored, averaged, labels)
        _check_finite(mode, results[mode])
        witness(mode, averaged)
    return results


def _check_finite(mode: str, metrics: Mapping[str, Any]) -> None:
    """The last training step may have spoiled the parameters after the last loss was computed."""
    flat = {name: value for name, value in metrics.items() if isinstance(value, float)}
    flat |= {f"noise_ratio of {label}": ratio for label, ratio in metrics["noise_ratio"].items()}
    for name, value in flat.items():
        if not math.isfinite(value):
            raise PinikitError(
                f"evaluation with noise {mode!r}: {name} is {value}, as what was trained is out of bounds; "
                "a smaller run.method.optim.lr usually helps"
            )


def _score(predictor: Predictor, views: Views, draw: Draw, batch_size: int) -> _Scored:
    classify = predictor.classifier(draw)
    log_probs, ratios = [], []
    for first in range(0, views.pictures, batch_size):
        classified = classify(views.rows(first, first + batch_size))
        log_probs.append(classified.logits.float().log_softmax(1).cpu())
        ratios.append(
            {label: ratio.float().mean() * len(log_probs[-1]) for label, ratio in classified.ratios.items()}
        )
    means = {label: float(sum(row[label] for row in ratios)) / views.pictures for label in ratios[0]}
    return _Scored(torch.cat(log_probs), means)


def _averaged(draws: Sequence[_Scored]) -> Tensor:
    """Logarithm [N, C] of the draws' mean probabilities."""
    stacked = torch.stack([draw.log_probs for draw in draws])  # [K, N, C]
    return stacked.double().logsumexp(0) - torch.tensor(float(len(draws))).log()


def _summarise(draws: Sequence[_Scored], averaged: Tensor, labels: Tensor) -> dict[str, Any]:
    metrics: dict[str, Any] = classification_metrics(averaged, labels)
    predictions = torch.stack([draw.log_probs.argmax(1) for draw in draws])  # [K, N]
    single = 100 * (predictions == labels).double().mean(1)
    metrics["draw_accuracy_std"] = single.std().item() if len(draws) > 1 else 0.0
    metrics["flip_rate"] = flip_rate(predictions)
    metrics["noise_ratio"] = {
        label: sum(draw.ratios[label] for draw in draws) / len(draws) for label in draws[0].ratios
    }
    return metrics

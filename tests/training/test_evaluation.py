"""Evaluation with noise at its mean, one draw, or many."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from few_shot import IMAGE, TEXT, bank_of, context, held_out, model_of, optim, task_of
from torch import Tensor

from pinikit.backbones.precision import DTYPES
from pinikit.components.contracts import Predictor
from pinikit.components.losses.cross_entropy import CrossEntropy
from pinikit.components.methods.pini import _PiniPredictor
from pinikit.components.methods.zero_shot import ZeroShot
from pinikit.errors import ConfigError
from pinikit.training.bank import Bank
from pinikit.training.draws import MeanDraw, RandomDraw
from pinikit.training.evaluation import draws_of, evaluate
from pinikit.training.loop import Trainee, WeightedLoss, train
from pinikit.training.metrics import classification_metrics, flip_rate

PINI = {"text": TEXT, "image": IMAGE}
MODES = ["mean", "sample", "mc-1", "mc-2", "mc-5"]


@pytest.fixture(scope="module")
def bank() -> Bank:
    return bank_of()


@pytest.fixture(scope="module")
def predictor(bank: Bank) -> Predictor:
    """Noisy enough for draws to disagree."""
    model = model_of(task_of(bank), PINI)
    with torch.no_grad():
        for name, parameter in model.injections.named_parameters():
            if "std" in name:
                parameter.mul_(20)
    return _PiniPredictor(model)


def evaluated(predictor: Predictor, bank: Bank, modes: list[str] = MODES, **changes: Any) -> dict[str, Any]:
    return evaluate(predictor, held_out(bank), modes, **{"seed": 4, "batch_size": 100, **changes})


def log_probs(predictor: Predictor, bank: Bank, draw: Any) -> Tensor:
    activations = held_out(bank).activations(predictor.requires)
    return predictor.classifier(draw)(activations).logits.log_softmax(1)


@pytest.mark.parametrize(("mode", "count"), [("mean", 0), ("sample", 1), ("mc-1", 1), ("mc-16", 16)])
def test_draws_of_a_mode(mode: str, count: int) -> None:
    assert draws_of(mode) == count


@pytest.mark.parametrize("mode", ["", "mc", "mc-", "mc-0", "mc-01", "mc--1", "mc-x", "MEAN", "mean "])
def test_other_modes_are_refused(mode: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.evaluate\.noise: found .*allowed: mean, sample, mc-K"):
        draws_of(mode)


def test_each_mode_is_what_it_says(predictor: Predictor, bank: Bank) -> None:
    labels = held_out(bank).labels
    draws = torch.stack(
        [log_probs(predictor, bank, RandomDraw(4, "evaluate", k)) for k in range(5)]
    ).double()  # [K, N, C]
    found = evaluated(predictor, bank)
    expected = {
        "mean": classification_metrics(log_probs(predictor, bank, MeanDraw()), labels),
        "sample": classification_metrics(draws[0], labels),
        "mc-2": classification_metrics(draws[:2].exp().mean(0).log(), labels),
        "mc-5": classification_metrics(draws.exp().mean(0).log(), labels),
    }
    for mode, metrics in expected.items():
        for name, value in metrics.items():
            assert found[mode][name] == pytest.approx(value, rel=1e-5), (mode, name)
    single = (draws.argmax(2) == labels).double().mean(1) * 100
    assert found["mc-5"]["draw_accuracy_std"] == pytest.approx(single.std().item())
    assert found["mc-5"]["flip_rate"] == pytest.approx(flip_rate(draws.argmax(2)))
    assert found["mc-5"]["flip_rate"] > 0
    for mode in ("mean", "sample", "mc-1"):
        assert found[mode]["flip_rate"] == found[mode]["draw_accuracy_std"] == 0


def test_sample_is_the_first_draw_of_many(predictor: Predictor, bank: Bank) -> None:
    found = evaluated(predictor, bank)
    assert found["sample"] == found["mc-1"]
    for modes in (["sample"], ["mc-5", "sample"], ["sample", "mean"]):
        assert evaluated(predictor, bank, modes)["sample"] == found["sample"]
    assert evaluated(predictor, bank, ["mc-2"])["mc-2"] == found["mc-2"]


def test_the_seed_decides_the_draws(predictor: Predictor, bank: Bank) -> None:
    first, again, other = (evaluated(predictor, bank, seed=seed) for seed in (4, 4, 5))
    assert first == again
    assert first["mean"] == other["mean"]
    assert first["mc-5"]["nll"] != other["mc-5"]["nll"]


def test_the_mean_does_not_depend_on_the_batch_size(predictor: Predictor, bank: Bank) -> None:
    one, other = (evaluated(predictor, bank, ["mean"], batch_size=size)["mean"] for size in (2, 100))
    assert one["accuracy"] == other["accuracy"]
    assert one["nll"] == pytest.approx(other["nll"], rel=1e-5)
    assert one["noise_ratio"] == pytest.approx(other["noise_ratio"], rel=1e-5)


@pytest.mark.parametrize("batch_size", [2, 100])
def test_one_text_draw_serves_the_whole_split(bank: Bank, batch_size: int) -> None:
    """With text noise alone, one draw is one classifier."""
    alone = _PiniPredictor(model_of(task_of(bank), {"text": TEXT}))
    found = evaluated(alone, bank, ["sample"], batch_size=batch_size)["sample"]
    expected = classification_metrics(
        log_probs(alone, bank, RandomDraw(4, "evaluate", 0)), held_out(bank).labels
    )
    assert found["nll"] == pytest.approx(expected["nll"], rel=1e-5)


def test_noise_ratios_by_injection(predictor: Predictor, bank: Bank) -> None:
    found = evaluated(predictor, bank)
    assert set(found["mean"]["noise_ratio"]) == {"text", "image"}
    assert all(value > 0 for value in found["sample"]["noise_ratio"].values())
    activations = held_out(bank).activations(predictor.requires)
    ratios = [
        predictor.classifier(RandomDraw(4, "evaluate", k))(activations).ratios["image"].mean() for k in (0, 1)
    ]
    assert found["mc-2"]["noise_ratio"]["image"] == pytest.approx(float(sum(ratios)) / 2, rel=1e-5)


def test_zero_shot_is_the_same_in_every_mode(bank: Bank) -> None:
    predictor = ZeroShot().fit(task_of(bank), context())
    calls: list[Any] = []
    classifier = predictor.classifier
    predictor.classifier = lambda draw: calls.append(draw) or classifier(draw)  # type: ignore[method-assign]
    found = evaluated(predictor, bank)
    assert all(found[mode] == found["mean"] for mode in MODES)
    assert found["mean"]["noise_ratio"] == {}
    assert len(calls) == 1, "draws that change nothing are not computed"
    expected = classification_metrics(log_probs(predictor, bank, MeanDraw()), held_out(bank).labels)
    assert found["mean"]["nll"] == pytest.approx(expected["nll"], rel=1e-6)


def test_progress_counts_the_draws(predictor: Predictor, bank: Bank) -> None:
    seen: list[tuple[int, int]] = []
    evaluated(predictor, bank, ["mean", "mc-2"], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_other_number_formats_are_near(precision: str) -> None:
    """Trained and evaluated on frozen weights in that format; only those are in it."""
    losses, nll, seen = {}, {}, set()
    for name in ("fp32", precision):
        task, run = task_of(bank_of(precision=name)), context(precision=name)
        model = model_of(task, PINI)
        losses_of_run = [WeightedLoss(CrossEntropy(), 1.0)]
        assert train([Trainee(model, losses_of_run, optim(), task, run)]) == [None]
        losses[name] = [row["loss"] for row in run.history]
        nll[name] = evaluated(_PiniPredictor(model), bank_of(precision=name))["mean"]["nll"]
        seen.add(task.backbone.dtype)
        assert all(parameter.dtype == torch.float32 for parameter in model.injections.parameters())
        assert all(map(math.isfinite, losses[name]))
    assert seen == {torch.float32, DTYPES[precision]}
    assert losses[precision] == pytest.approx(losses["fp32"], rel=0.05)
    assert nll[precision] == pytest.approx(nll["fp32"], rel=0.1)  # random weights: features close together

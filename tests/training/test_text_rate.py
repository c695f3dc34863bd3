"""The speed of the text path: what is counted, and what it is compared with."""

from __future__ import annotations

import time

import pytest
import torch
from few_shot import IMAGE, TEXT, backbone, bank_of, model_of, task_of

from pinikit.components.methods.pini import Pini, _PiniPredictor
from pinikit.components.methods.zero_shot import ZeroShot
from pinikit.training.model import NoisyModel
from pinikit.training.text_rate import matmul_rate, text_rate

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def models() -> list[NoisyModel]:
    return [model_of(task_of(bank_of()), {"text": TEXT, "image": IMAGE}, seed) for seed in (1, 2)]


def test_the_rate_is_operations_over_seconds() -> None:
    left, right = torch.ones(300, 400), torch.ones(400, 500)

    def step() -> None:
        _ = left @ right
        time.sleep(0.02)

    found = text_rate(step, CPU, torch.float32)
    upper = 2 * 300 * 400 * 500 / 0.02
    assert 0 < found.flops_per_second < upper
    plain = matmul_rate(CPU, torch.float32, torch.get_num_threads())
    assert found.matmul_share == pytest.approx(found.flops_per_second / plain)


def test_a_long_step_is_measured_once() -> None:
    calls = []

    def step() -> None:
        calls.append(0)
        time.sleep(0.11)

    text_rate(step, CPU, torch.float32)
    assert len(calls) == 2, "one is counted, one is timed"


def test_the_plain_product_is_measured_once_per_process() -> None:
    assert matmul_rate(CPU, torch.float32, 1) is matmul_rate(CPU, torch.float32, 1)
    assert matmul_rate(CPU, torch.float32, 1) > 0


def test_a_text_step_is_what_training_crosses_and_changes_nothing(models: list[NoisyModel]) -> None:
    before = [
        {name: value.clone() for name, value in model.injections.state_dict().items()} for model in models
    ]
    tower = backbone().text
    tokens = []
    for members in (models[:1], models):
        step = Pini.text_step([_PiniPredictor(model) for model in members])
        assert step is not None
        step()  # clean features are encoded at first use
        start = tower.tokens_encoded
        step()
        tokens.append(tower.tokens_encoded - start)
    lengths = models[0].prompts
    assert tokens[0] == lengths.prefix_length + sum(lengths.suffix_lengths)
    assert tokens[1] == 2 * tokens[0], "a fused step crosses the tower with all arms"
    for model, state in zip(models, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in model.injections.state_dict().items())
        assert all(parameter.grad is None for parameter in model.injections.parameters())


def test_the_text_step_is_differentiated(models: list[NoisyModel]) -> None:
    """Forward and backward together; forward alone has fewer operations."""
    from torch.utils.flop_counter import FlopCounterMode

    from pinikit.training.draws import MeanDraw

    step = Pini.text_step([_PiniPredictor(models[0])])
    assert step is not None
    step()
    with FlopCounterMode(display=False) as both:
        step()
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        models[0].text(MeanDraw())
    assert both.get_total_flops() > 1.5 * forward.get_total_flops() > 0


def test_no_step_where_training_does_not_cross_the_text_tower() -> None:
    image_only = _PiniPredictor(model_of(task_of(bank_of()), {"image": IMAGE}))
    assert Pini.text_step([image_only]) is None
    assert ZeroShot.text_step([image_only]) is None

"""Every noise in a training run: fused arms come out as alone, and the frozen towers get what they expect."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import tiny_backbone
from training.few_shot import Squares, context, model_of, optim, silent

from pinikit.components.losses.cross_entropy import CrossEntropy
from pinikit.data.manifest import make_manifest
from pinikit.plugin import registry
from pinikit.training.bank import Bank
from pinikit.training.draws import MeanDraw, RandomDraw
from pinikit.training.loop import Trainee, WeightedLoss, train
from pinikit.training.task import Task, make_task

NAMES = [entry.name for entry in registry().entries("noise") if entry.source == "pinikit"]
MULTIPLIED = {"bernoulli_mask", "gumbel_gate"}


def injections(noise: str) -> dict[str, dict[str, Any]]:
    combine = "multiply" if noise in MULTIPLIED else "add"
    return {
        "text": {"site": "prompt_template", "injector": "free", "noise": noise, "combine": combine},
        "image": {
            "site": "image_feature",
            "injector": "cross_attention",
            "noise": noise,
            "combine": combine,
            "share": "image",
        },
    }


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    """Two seeds' tasks in double precision."""
    backbone, dataset = tiny_backbone().to(dtype=torch.float64), Squares()
    manifests = [make_manifest(dataset, 2, seed) for seed in (1, 2)]
    prompts = backbone.text.tokenize(dataset.plain_template, manifests[0].class_names)
    bank = Bank(backbone, dataset, "fp32")
    return [make_task(bank, prompts, manifest, 1, silent) for manifest in manifests]


def arms(tasks: list[Task], noise: str) -> list[Trainee]:
    made = []
    for seed, task in enumerate(tasks, 1):
        model = model_of(task, injections(noise), seed).to(torch.float64)
        config = optim(lr=0.05 * seed, batch_size=3, epochs=1)
        made.append(Trainee(model, [WeightedLoss(CrossEntropy(), 1.0)], config, task, context(seed=seed)))
    return made


@pytest.mark.parametrize("noise", NAMES)
def test_an_arm_in_a_group_equals_the_arm_alone(tasks: list[Task], noise: str) -> None:
    together = arms(tasks, noise)
    before = [
        {key: value.clone() for key, value in arm.model.injections.state_dict().items()} for arm in together
    ]
    random = torch.get_rng_state()
    assert train(together, 2) == [None, None]
    assert torch.equal(random, torch.get_rng_state()), "no global randomness"
    for arm, alone, start in zip(together, arms(tasks, noise), before, strict=True):
        assert train([alone], 2) == [None]
        for key, value in alone.model.injections.state_dict().items():
            torch.testing.assert_close(arm.model.injections.state_dict()[key], value, rtol=1e-9, atol=1e-9)
            assert not torch.equal(value, start[key]), f"{key} was trained"
        logits = [
            alone.model(activations(alone), draw).logits for draw in (MeanDraw(), RandomDraw(3, "test"))
        ]
        assert all(found.isfinite().all() for found in logits)
        differs = noise not in ("mu_only", "zero")
        assert torch.equal(*logits) != differs


def activations(arm: Trainee) -> dict[str, torch.Tensor]:
    stream = torch.Generator().manual_seed(4)
    shapes = {name: arm.model.backbone.image.stages[name].shape for name in arm.model.requires}
    return {name: torch.randn(4, *shape, generator=stream).double() for name, shape in shapes.items()}

"""Arms that are trained as one computation: each comes out as it would alone."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from few_shot import IMAGE, TEXT, Squares, context, model_of, optim, silent
from tiny_models import tiny_backbone

from pinikit.backbones.base import Backbone
from pinikit.components.losses.cross_entropy import CrossEntropy
from pinikit.config.schema import OptimConfig
from pinikit.data.manifest import make_manifest
from pinikit.training.bank import Bank
from pinikit.training.loop import Trainee, WeightedLoss, train
from pinikit.training.task import Task, make_task

SITES: dict[str, dict[str, Any]] = {
    "pini": {"text": TEXT, "image": IMAGE},
    "prompt per class": {"text": {"site": "prompt_all", "injector": "free_per_class", "share": "class"}},
    "context of the template": {"text": {"site": "prompt_template", "injector": "mlp", "share": "class"}},
    "inside the text tower": {"text": {"site": {"name": "text_block", "index": 1}, "injector": "free"}},
    "text feature": {"text": {"site": "text_feature", "injector": "mlp", "share": "class"}},
    "image feature, one draw": {"image": {"site": "image_feature", "injector": "mlp"}},
    "spatial feature": {
        "image": {"site": "spatial_feature", "injector": "cross_attention_spatial", "share": "image"}
    },
    "image block": {
        "image": {"site": {"name": "image_block", "index": 0}, "injector": "mlp", "share": "image"}
    },
    "pixels": {"image": {"site": "pixels", "injector": "free", "share": "image"}},
    "everything": {
        "text": TEXT,
        "names": {"site": "prompt_classname", "injector": "mlp", "share": "class"},
        "patches": {"site": "patch_embedding", "injector": "free", "share": "image"},
        "image": IMAGE,
    },
}


def settings(index: int, **changes: Any) -> tuple[OptimConfig, list[WeightedLoss]]:
    """Arms differ in numbers."""
    config = optim(lr=0.01 * (index + 1), weight_decay=0.1 * index, **changes)
    return config, [WeightedLoss(CrossEntropy(), 1.0 + index)]


def task_in(backbone: Backbone, dataset: Squares, seed: int) -> Task:
    bank = Bank(backbone, dataset, "fp32")
    manifest = make_manifest(dataset, 4, seed)
    prompts = backbone.text.tokenize(dataset.plain_template, manifest.class_names)
    return make_task(bank, prompts, manifest, 2, silent)


def trainees(
    backbone: Backbone, injections: dict[str, Any], seeds: tuple[int, ...], **changes: Any
) -> list[Trainee]:
    dataset = Squares(train=30)
    made = []
    for index, seed in enumerate(seeds):
        config, losses = settings(index, **changes)
        task = task_in(backbone, dataset, seed)
        model = model_of(task, injections, seed).to(backbone.logit_scale.dtype)
        made.append(Trainee(model, losses, config, task, context(seed=seed)))
    return made


def state(trainee: Trainee) -> dict[str, torch.Tensor]:
    return dict(trainee.model.injections.state_dict())


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=["fp64", "fp32"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return tiny_backbone().to(dtype=request.param)


EVERYWHERE = [*((torch.float64, site, 1) for site in SITES), (torch.float64, "pini", 3)]
SINGLE = [(torch.float32, "pini", 1), (torch.float32, "everything", 1), (torch.float32, "pixels", 3)]
"""A few again, as only rounding differs."""


@pytest.mark.parametrize(("backbone", "site", "samples"), [*EVERYWHERE, *SINGLE], indirect=["backbone"])
def test_an_arm_in_a_group_equals_the_arm_alone(backbone: Backbone, site: str, samples: int) -> None:
    """Ten steps; seeds (and so pictures), learning rates, weight decays and loss weights differ."""
    tolerance = 1e-9 if backbone.logit_scale.dtype == torch.float64 else 1e-5
    config = {"epochs": 4, "batch_size": 4}  # 3 classes of 4 pictures are 3 steps an epoch
    together = trainees(backbone, SITES[site], (1, 2, 7), **config)
    assert train(together, samples) == [None] * 3
    for arm, alone in zip(together, trainees(backbone, SITES[site], (1, 2, 7), **config), strict=True):
        assert train([alone], samples) == [None]
        for key, value in state(alone).items():
            torch.testing.assert_close(state(arm)[key], value, rtol=tolerance, atol=tolerance)
        for row, expected in zip(arm.run.history, alone.run.history, strict=True):
            assert row == pytest.approx(expected, rel=tolerance, abs=tolerance)
        assert arm.run.images == alone.run.images == 48


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_every_arm_has_an_optimiser_of_its_own(backbone: Backbone, name: str) -> None:
    """Also those that look at whole tensors."""
    if backbone.logit_scale.dtype != torch.float64:
        pytest.skip("its steps are long where gradients are nearly zero: rounding is no measure")
    together, single = (trainees(backbone, SITES["pini"], (3, 4), name=name, epochs=2) for _ in range(2))
    train(together)
    for arm, alone in zip(together, single, strict=True):
        train([alone])
        for key, value in state(alone).items():
            torch.testing.assert_close(state(arm)[key], value, rtol=1e-7, atol=1e-9)


def much_too_fast(backbone: Backbone) -> float:
    """A learning rate at which the loss is no number after few steps."""
    return 1e200 if backbone.logit_scale.dtype == torch.float64 else 1e30


def test_one_arm_that_diverges_leaves_the_others_alone(backbone: Backbone) -> None:
    together, single = (trainees(backbone, SITES["pini"], (1, 2, 3)) for _ in range(2))
    together[1] = replace(together[1], optim=replace(together[1].optim, lr=much_too_fast(backbone), epochs=3))
    first, failure, last = train(together)
    assert (first, last) == (None, None)
    assert "the loss became" in str(failure)
    assert len(together[1].run.history) < 3 or not math.isfinite(together[1].run.history[-1]["loss"])
    for index in (0, 2):
        train([single[index]])
        for key, value in state(single[index]).items():
            torch.testing.assert_close(state(together[index])[key], value, rtol=1e-5, atol=1e-5)


def test_training_ends_when_every_arm_has_failed(backbone: Backbone) -> None:
    both = trainees(backbone, SITES["pini"], (1, 2), epochs=50, warmup_epochs=0)
    both = [replace(arm, optim=replace(arm.optim, lr=much_too_fast(backbone))) for arm in both]
    assert all(train(both))
    assert all(len(arm.run.history) < 6 for arm in both)


def test_the_towers_are_crossed_once_for_all(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {"text": 0, "image": 0}
    for side, method in (("text", "encode_arms"), ("image", "run")):
        tower = getattr(backbone, side)
        original = getattr(tower, method)

        def counted(*args: Any, side: str = side, original: Any = original, **kwargs: Any) -> torch.Tensor:
            calls[side] += 1
            found: torch.Tensor = original(*args, **kwargs)
            return found

        monkeypatch.setattr(tower, method, counted)
    train(trainees(backbone, SITES["everything"], (1, 2, 3), epochs=1, batch_size=4))
    assert calls == {"text": 3 + 3, "image": 3}, "three steps, and clean text features once a set of prompts"

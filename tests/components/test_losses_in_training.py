"""Every loss in a training run, and what the trainer hands to losses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from components.loss_batches import cosines
from tiny_models import tiny_backbone
from torch import Tensor
from training.few_shot import Squares, context, model_of, optim, silent

from pinikit.components.contracts import LOSS_BATCH, Loss
from pinikit.components.methods.pini import Pini
from pinikit.data.manifest import make_manifest
from pinikit.errors import ConfigError
from pinikit.plugin import registry
from pinikit.training.bank import Bank
from pinikit.training.loop import Trainee, WeightedLoss, train
from pinikit.training.task import Task, make_task

ALL: dict[str, Loss] = {
    entry.name: entry.load()() for entry in registry().entries("loss") if entry.source == "pinikit"
}
INJECTIONS: dict[str, dict[str, Any]] = {
    "text": {"site": "text_feature", "injector": "free_per_class", "share": "class"},
    "image": {"site": "image_feature", "injector": "cross_attention", "share": "image"},
}
"""No step crosses a tower."""
PROMPT = {"text": {"site": "prompt_template", "injector": "free"}}
"""For losses that look at tokens."""


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    """Two seeds' tasks in double precision."""
    backbone, dataset = tiny_backbone().to(dtype=torch.float64), Squares()
    manifests = [make_manifest(dataset, 2, seed) for seed in (1, 2)]
    prompts = backbone.text.tokenize(dataset.plain_template, manifests[0].class_names)
    bank = Bank(backbone, dataset, "fp32")
    return [make_task(bank, prompts, manifest, 2, silent) for manifest in manifests]


def arm(task: Task, loss: Loss, seed: int, injections: dict[str, dict[str, Any]] = INJECTIONS) -> Trainee:
    model = model_of(task, injections, seed).to(torch.float64)
    config = optim(lr=0.05 * seed, batch_size=4, epochs=2, warmup_epochs=0)
    return Trainee(model, [WeightedLoss(loss, float(seed))], config, task, context(seed=seed))


def learned(arm: Trainee) -> dict[str, Tensor]:
    return dict(arm.model.injections.state_dict())


@pytest.mark.parametrize("name", ALL)
def test_every_loss_teaches_something_alone(tasks: list[Task], name: str) -> None:
    """Two epochs, of which each is finite."""
    loss = ALL[name]
    trainee = arm(tasks[0], loss, 1, PROMPT if "prompt_tokens" in loss.requires else INJECTIONS)
    before = {key: value.clone() for key, value in learned(trainee).items()}
    assert train([trainee], loss.min_samples) == [None]
    assert len(trainee.run.history) == 2
    assert any(not torch.equal(value, before[key]) for key, value in learned(trainee).items())


# --- what losses are handed ---------------------------------------------------------------------------


class Spy(Loss):
    """Reads everything."""

    requires = frozenset(LOSS_BATCH)

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    @property
    def uniforms(self) -> int:
        return 5

    def __call__(self, batch: Any) -> Tensor:
        self.seen.append(dict(batch))
        loss: Tensor = batch["logits"].square().mean()
        return loss


@pytest.mark.parametrize("site", ["image_feature", "pixels"])
def test_the_entries_are_what_they_say(tasks: list[Task], site: str) -> None:
    """Also where the tower starts at the pixels, and the frozen feature is another stage of the bank."""
    spy, task = Spy(), tasks[0]
    noise = {"site": site, "injector": "free", "share": "image"}
    trainee = arm(task, spy, 1, {"image": noise})
    train([trainee], 3)
    assert len(spy.seen) == 2, "a batch of the six pictures an epoch, as four make one"
    frozen = task.train.views(["image_feature"], [1, 2])
    known = torch.cat(
        [frozen.gather(torch.full((6,), view), torch.arange(6))["image_feature"] for view in (0, 1)]
    )
    for batch in spy.seen:
        pictures = len(batch["sample_features"])
        assert set(batch) == set(LOSS_BATCH)
        assert torch.equal(batch["sample_features"].flatten(0, 1), batch["image_features"])
        assert torch.equal(batch["sample_logits"].flatten(0, 1), batch["logits"])
        assert batch["sample_features"].shape[1] == 3
        clean = batch["clean_image_features"].view(pictures, 3, -1)
        assert torch.equal(clean, clean[:, :1].expand_as(clean))
        distance = (clean[:, 0].unsqueeze(1) - known).abs().amax(2)  # to each view of each picture
        assert (distance.amin(1) < 1e-12).all()
        labels = task.train.labels.repeat(2)[distance.argmin(1)]
        assert torch.equal(batch["labels"].view(pictures, 3)[:, 0], labels)
        assert not torch.allclose(batch["image_features"], batch["clean_image_features"])
        assert torch.equal(batch["text_features"], batch["clean_text_features"]), "no noise there"
        scale = task.backbone.logit_scale
        expected = scale * cosines(batch["clean_image_features"], batch["clean_text_features"])
        torch.testing.assert_close(batch["clean_logits"], expected)
        assert batch["uniform"].shape == (3 * pictures, 5)
        embedding = task.backbone.text.embed(task.prompts)
        assert torch.equal(batch["prompt_tokens"], embedding.prefix[:, 1:]), "without the start of text"
        torch.testing.assert_close(batch["class_prior"], torch.full((3,), 1 / 3))
        assert not any(batch[key].requires_grad for key in batch if key.startswith("clean") or "prior" in key)


def test_random_numbers_of_losses_are_their_own(tasks: list[Task]) -> None:
    """Others at every step and for every loss, equal for equal seeds, in whatever order losses are named."""
    seen = []
    for direction in (1, -1):
        first, second = Spy(), Spy()
        trainee = arm(tasks[0], first, 1)
        losses = [WeightedLoss(first, 1.0, "first"), WeightedLoss(second, 1.0, "second")]
        train([replace(trainee, losses=losses[::direction])])
        seen.append([batch["uniform"] for batch in first.seen + second.seen])
    for again, numbers in zip(*seen, strict=True):
        assert torch.equal(again, numbers)
    assert len({tuple(numbers.flatten().tolist()) for numbers in seen[0]}) == 4
    assert all(numbers.min() >= 0 and numbers.max() < 1 for numbers in seen[0])


def footprint(task: Task, **changes: Any) -> Any:
    return Pini(**{"injections": INJECTIONS, **changes}).footprint(task.backbone, task.prompts)


def test_a_frozen_feature_is_banked_for_training_only(tasks: list[Task]) -> None:
    pixels = {"image": {"site": "pixels", "injector": "free", "share": "image"}}
    assert footprint(tasks[0], losses={"beside": "logit_mse_distill"}).trains_with == frozenset()
    found = footprint(tasks[0], injections=pixels, losses={"beside": "logit_mse_distill"})
    assert (found.reads, found.trains_with) == (frozenset({"pixels"}), frozenset({"image_feature"}))
    assert footprint(tasks[0], injections=pixels).trains_with == frozenset()


def test_one_sample_has_nothing_to_be_compared_with(tasks: list[Task]) -> None:
    with pytest.raises(
        ConfigError, match=r"losses\.views: 'swav' .* found run\.method\.samples: 1; .* 2 or more"
    ):
        footprint(tasks[0], losses={"views": "swav"})
    footprint(tasks[0], losses={"views": "swav"}, samples=2)


def test_losses_of_what_no_injection_changes_are_refused(tasks: list[Task]) -> None:
    text = {"text": INJECTIONS["text"]}
    with pytest.raises(ConfigError, match="losses of image_features only, which no injection changes"):
        footprint(tasks[0], injections=text, losses={"only": "supcon"})
    footprint(tasks[0], injections=text, losses={"only": "supcon", "classify": "cross_entropy"})
    with pytest.raises(ConfigError, match="losses of prompt_tokens only"):
        footprint(tasks[0], injections=text, losses={"only": "simctg_tokens"})
    footprint(tasks[0], injections=PROMPT, losses={"only": "simctg_tokens"})
    with pytest.raises(ConfigError, match="losses of clean_text_features, text_features only, which no"):
        footprint(tasks[0], injections={"image": INJECTIONS["image"]}, losses={"only": "kgcoop"})

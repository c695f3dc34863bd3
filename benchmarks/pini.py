"""pinikit's side of the measurements: PiNI's few-shot task on random pictures, and its training step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks._tools import seconds
from pinikit.backbones.base import Backbone, Prompts
from pinikit.components.methods.pini import PINI, make_injection
from pinikit.config.build import create
from pinikit.config.checking import Checker, Slot, Where
from pinikit.config.schema import InjectionConfig, OptimConfig
from pinikit.data.catalogue import Catalogue, DataSet, Item
from pinikit.data.view_bank import user_bank
from pinikit.plugin import registry
from pinikit.training.bank import Bank
from pinikit.training.context import RunContext
from pinikit.training.loop import Batch, Learner, Trainee, WeightedLoss, step
from pinikit.training.model import NoisyModel, Output
from pinikit.training.task import Split, Task

WORDS = "x " * 16 + "a photo of a"
BATCH = 32
SEED = 1


class RandomPictures(DataSet):
    """Pictures of noise at a backbone's own size; classes take turns."""

    name = "random_pictures"
    plain_template = "a photo of a {}."
    pini_words = "a photo of a"

    def __init__(self, size: tuple[int, int], class_names: Sequence[str], count: int) -> None:
        self.size, self.class_names = size, tuple(class_names)
        self.items = tuple(Item(f"{index}", index % len(class_names)) for index in range(count))

    def read(self) -> Catalogue:
        """Never needed: tasks take ``items`` as they are."""
        raise NotImplementedError

    def open(self, item: Item) -> Image.Image:
        """A picture that depends on the item alone."""
        pixels = np.random.default_rng(int(item.id)).integers(0, 256, (*self.size, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    def check(self, items: Iterable[Item]) -> None:
        """They are always there."""


class Watched(Learner):
    """A learner that remembers what its last step computed."""

    output: Output
    gradients: dict[str, Tensor]

    def loss(self, output: Output, labels: Tensor) -> Tensor:
        """The loss; the features are kept."""
        self.output = output
        return super().loss(output, labels)

    def update(self) -> None:
        """The optimiser step; the gradients are kept."""
        named = self.model.injections.named_parameters()
        self.gradients = {
            name: value.grad.detach().clone() for name, value in named if value.grad is not None
        }
        super().update()


def make_dataset(backbone: Backbone, names: Sequence[str], pictures: int = BATCH) -> RandomPictures:
    """Random pictures for a backbone."""
    height, width = backbone.preprocess["image_size"]
    return RandomPictures((height, width), names, pictures)


def make_task(backbone: Backbone, precision: str, dataset: RandomPictures) -> Task:
    """The few-shot task of all pictures of the data set, not augmented."""
    bank = Bank(backbone, dataset, precision, user_bank())
    train = Split(bank, dataset.items, lambda done, total: None)
    return Task(backbone, make_prompts(backbone, dataset.class_names), dataset.class_names, 0, train, None)


def make_prompts(backbone: Backbone, names: Sequence[str]) -> Prompts:
    """PiNI's prompts."""
    return backbone.text.tokenize(f"{WORDS} {{}}.", names)


def make_model(
    backbone: Backbone, prompts: Prompts, injections: Mapping[str, Any] = PINI, seed: int = SEED
) -> NoisyModel:
    """The frozen backbone with PiNI's two injections, or others."""
    checker, slot, where = Checker(registry()), Slot(InjectionConfig), Where("benchmark")
    made = []
    for label, values in injections.items():
        complete = checker.complete(checker.merge({}, values, slot, where), slot, where)
        spec = InjectionConfig(**complete)
        made.append(make_injection(label, spec, backbone, prompts))
    return NoisyModel(backbone, prompts, made, seed)


def make_learner(task: Task, precision: str, *, samples: int = 1, seed: int = SEED) -> Learner:
    """PiNI with its published recipe on ``task``, ready to train."""
    return Learner(make_trainee(task, precision, seed), samples)


def make_watched(task: Task, precision: str) -> Watched:
    """The same, remembering its last step."""
    return Watched(make_trainee(task, precision, SEED), 1)


def make_trainee(task: Task, precision: str, seed: int) -> Trainee:
    """PiNI with its published recipe on ``task``."""
    device = task.backbone.logit_scale.device
    losses = [WeightedLoss(create("loss", {"name": "cross_entropy"}, "benchmark"), 1.0)]
    optim = OptimConfig(batch_size=BATCH, warmup_epochs=0)
    model = make_model(task.backbone, task.prompts, seed=seed)
    return Trainee(model, losses, optim, task, RunContext(seed, device, precision))


def epoch_seconds(learners: Sequence[Learner], epochs: int, device: torch.device) -> list[float]:
    """Seconds of each of ``epochs``, the learners side by side as one group.

    With no more pictures than a batch has rows, an epoch is one training step.
    """

    def run(epoch: int) -> None:
        for batches in zip(*(learner.batches(epoch) for learner in learners), strict=True):
            step(learners, batches)

    return [seconds(partial(run, epoch), device) for epoch in range(epochs)]


def whole_batch(task: Task, stages: Iterable[str]) -> Batch:
    """All pictures of a task as one batch, in their own order."""
    return Batch(task.train.activations(frozenset(stages)), task.train.labels)

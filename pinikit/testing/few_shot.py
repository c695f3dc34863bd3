"""A tiny backbone and a made-up task, on which components are trained for a few steps."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import open_clip
import torch
from PIL import Image
from torch import Tensor

from pinikit.backbones.assembly import assemble_backbone, seeded_model
from pinikit.backbones.base import Backbone, Prompts
from pinikit.components.contracts import Loss
from pinikit.components.losses.cross_entropy import CrossEntropy
from pinikit.components.methods.pini import make_injection
from pinikit.config.checking import Checker, Slot, Where
from pinikit.config.schema import InjectionConfig, OptimConfig
from pinikit.data.catalogue import Catalogue, DataSet, Item
from pinikit.data.manifest import make_manifest
from pinikit.plugin import registry
from pinikit.testing.isolation import no_global_randomness
from pinikit.training.bank import Bank
from pinikit.training.context import RunContext
from pinikit.training.loop import Trainee, WeightedLoss, train
from pinikit.training.model import NoisyModel
from pinikit.training.task import Task, make_task

CLASSES = ("ant", "grand_piano", "accordion")
TEMPLATE = "x x a photo of a {}."

_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3},
}


class Squares(DataSet):
    """Random pictures whose brightest channel tells the class."""

    name = "squares"
    plain_template = "a photo of a {}."
    pini_words = "a photo of a"

    def read(self) -> Catalogue:
        """Two or three pictures a class in each split."""
        splits = {
            split: tuple(Item(f"{split}/{i}", i % len(CLASSES)) for i in range(size))
            for split, size in {"train": 9, "val": 6, "test": 6}.items()
        }
        return Catalogue(self.name, CLASSES, splits["train"], splits["val"], splits["test"])

    def open(self, item: Item) -> Image.Image:
        """A picture of 32×32 pixels."""
        stream = torch.Generator().manual_seed(sum(map(ord, item.id)))
        pixels = torch.randint(0, 120, (32, 32, 3), generator=stream, dtype=torch.uint8)
        pixels[..., item.label] += 120
        return Image.fromarray(pixels.numpy())

    def fingerprint(self, item: Item) -> bytes:
        """Of the name, which decides the picture."""
        return hashlib.sha256(f"{item.id} {item.label}".encode()).digest()

    def check(self, items: Iterable[Item]) -> None:
        """They are always there."""


@cache
def tiny_backbone() -> Backbone:
    """A CLIP with a ViT of three blocks and random weights, in double precision; not to be changed."""
    model = seeded_model(open_clip.CLIP, _CLIP, 0)
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():  # zeros and ones, which many layers begin with, would hide mistakes
        for name, tensor in model.named_parameters():
            if tensor.ndim == 1:
                tensor.copy_(name.endswith("weight") + 0.2 * torch.rand(tensor.shape, generator=stream))
    backbone = assemble_backbone(model, open_clip.SimpleTokenizer(), name="tiny", weights_hash="tiny")
    return backbone.to(dtype=torch.float64)


@cache
def tiny_tasks(shots: int = 2) -> list[Task]:
    """The tasks of two seeds: so many pictures of each of three classes."""
    backbone, dataset = tiny_backbone(), Squares()
    bank = Bank(backbone, dataset, "fp32")
    manifests = [make_manifest(dataset, shots, seed) for seed in (1, 2)]
    prompts = tokenize(backbone)
    return [make_task(bank, prompts, manifest, 1, lambda done, total: None) for manifest in manifests]


def tokenize(backbone: Backbone, classes: Sequence[str] = CLASSES) -> Prompts:
    """Prompts with context words, a template and class names of several lengths."""
    return backbone.text.tokenize(TEMPLATE, classes)


def noisy_model(
    injections: Mapping[str, Mapping[str, Any]], backbone: Backbone, prompts: Prompts, seed: int = 1
) -> NoisyModel:
    """A model with injections as a study writes them, in double precision.

    Raises:
        ConfigError: something does not fit.
    """
    checker, slot, where = Checker(registry()), Slot(InjectionConfig), Where("test")
    made = []
    for label, values in injections.items():
        config = InjectionConfig(**checker.complete(checker.merge({}, values, slot, where), slot, where))
        made.append(make_injection(label, config, backbone, prompts))
    return NoisyModel(backbone, prompts, made, seed).to(torch.float64)


def check_trained_together(
    injections: Mapping[str, Mapping[str, Any]], loss: Loss | None = None, *, learns: bool = True
) -> None:
    """Two arms in one group come out as alone, to 1e-9.

    After two steps; after one at pixels, which takes long, and of a loss, which knows nothing of steps.

    Args:
        injections: as a study writes them.
        loss: cross-entropy unless given.
        learns: whether every learned number is to change.
    """
    pixels = any(injection["site"] == "pixels" for injection in injections.values())
    samples = max(1 if pixels else 2, loss.min_samples if loss else 1)
    together, singly = (_arms(injections, loss, shots=1 if pixels else 2) for _ in range(2))
    before = [_state(arm) for arm in together]
    with no_global_randomness():
        assert train(together, samples) == [None, None]
    for arm, alone, start in zip(together, singly, before, strict=True):
        assert train([alone], samples) == [None]
        for key, value in _state(alone).items():
            torch.testing.assert_close(_state(arm)[key], value, rtol=1e-9, atol=1e-9)
            assert value.isfinite().all(), f"{key} is not finite after two steps"
            assert not learns or not torch.equal(value, start[key]), f"{key} did not change"


def _arms(injections: Mapping[str, Mapping[str, Any]], loss: Loss | None, shots: int) -> list[Trainee]:
    made = []
    for seed, task in enumerate(tiny_tasks(shots), 1):
        model = noisy_model(injections, task.backbone, task.prompts, seed)
        optim = OptimConfig(lr=0.05 * seed, batch_size=3 if loss is None else 6, epochs=1)
        run = RunContext(seed=seed, device=torch.device("cpu"))
        made.append(Trainee(model, [WeightedLoss(loss or CrossEntropy(), float(seed))], optim, task, run))
    return made


def _state(arm: Trainee) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in arm.model.injections.named_parameters()}

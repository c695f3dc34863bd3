"""A tiny backbone and a made-up data set, for tests of training and evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from PIL import Image
from tiny_models import tiny_backbone

from pinikit.backbones.base import Backbone
from pinikit.backbones.precision import DTYPES
from pinikit.components.methods.pini import make_injection
from pinikit.config.checking import Checker, Slot, Where
from pinikit.config.schema import InjectionConfig, OptimConfig
from pinikit.data.catalogue import Catalogue, DataSet, Item
from pinikit.data.manifest import SplitManifest, make_manifest
from pinikit.plugin import registry
from pinikit.training.bank import Bank
from pinikit.training.context import RunContext
from pinikit.training.model import NoisyModel
from pinikit.training.task import Split, Task, make_task

NAMES = ("ant", "grand_piano", "accordion")
TEMPLATE = "a photo of a {}."
IMAGE: dict[str, Any] = {"site": "image_feature", "injector": "cross_attention", "share": "image"}
TEXT: dict[str, Any] = {"site": "prompt_template", "noise": {"name": "gaussian", "std": "sign_free"}}


class Squares(DataSet):
    """Random pictures whose brightest channel tells the class; remembers which ones were opened."""

    name = "squares"
    plain_template = TEMPLATE
    pini_words = "a photo of a"

    def __init__(self, train: int = 12, val: int = 6, test: int = 9) -> None:
        self.sizes = {"train": train, "val": val, "test": test}
        self.opened: list[str] = []

    def read(self) -> Catalogue:
        items = {
            split: tuple(Item(f"{split}/{i}", i % len(NAMES)) for i in range(size))
            for split, size in self.sizes.items()
        }
        return Catalogue(self.name, NAMES, **items)

    def open(self, item: Item) -> Image.Image:
        self.opened.append(item.id)
        stream = torch.Generator().manual_seed(sum(map(ord, item.id)))
        pixels = torch.randint(0, 120, (32, 32, 3), generator=stream, dtype=torch.uint8)
        pixels[..., item.label] += 120
        return Image.fromarray(pixels.numpy())

    def fingerprint(self, item: Item) -> bytes:
        """Without opening the picture, which tests count."""
        return hashlib.sha256(f"{item.id} {item.label}".encode()).digest()

    def check(self, items: Iterable[Item]) -> None:
        """They are always there."""


@cache
def _backbone(precision: str) -> Backbone:
    return tiny_backbone().to(dtype=DTYPES[precision])


def backbone(precision: str = "fp32") -> Backbone:
    return _backbone(precision)


def silent(done: int, total: int) -> None:
    """No progress is shown."""


def bank_of(dataset: DataSet | None = None, precision: str = "fp32") -> Bank:
    return Bank(backbone(precision), dataset or Squares(), precision)


def task_of(bank: Bank, shots: int = 4, views: int = 2, template: str = TEMPLATE) -> Task:
    manifest = manifest_of(bank, shots)
    prompts = bank.backbone.text.tokenize(template, manifest.class_names)
    return make_task(bank, prompts, manifest, views, silent)


def manifest_of(bank: Bank, shots: int = 4) -> SplitManifest:
    return make_manifest(bank.dataset, shots, 1)


def held_out(bank: Bank) -> Split:
    return Split(bank, manifest_of(bank).test, silent)


def model_of(task: Task, injections: dict[str, dict[str, Any]], seed: int = 1) -> NoisyModel:
    checker, slot, where = Checker(registry()), Slot(InjectionConfig), Where("test")
    made = []
    for label, values in injections.items():
        config = InjectionConfig(**checker.complete(checker.merge({}, values, slot, where), slot, where))
        made.append(make_injection(label, config, task.backbone, task.prompts))
    return NoisyModel(task.backbone, task.prompts, made, seed)


def context(**changes: Any) -> RunContext:
    return RunContext(**{"seed": 1, "device": torch.device("cpu"), **changes})


def optim(**changes: Any) -> OptimConfig:
    return OptimConfig(**{"epochs": 3, "batch_size": 4, "lr": 0.01, **changes})

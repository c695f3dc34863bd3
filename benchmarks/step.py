"""A training step of pinikit beside the published one: seconds, and whether they compute the same.

PiNI (noise on the prompt template and on the image feature), batch 32, random weights. The naive step
sends the pictures and 77 tokens of every class through the frozen towers in fp32; pinikit's starts from
banked image features. Text and image features and all gradients are compared in the same run.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import open_clip
import torch
from torch import Tensor

from benchmarks import _tools
from benchmarks._tools import Row, Table
from benchmarks.naive import Draws, NaivePini, Outcome
from benchmarks.pini import (
    SEED,
    WORDS,
    RandomPictures,
    Watched,
    epoch_seconds,
    make_dataset,
    make_learner,
    make_task,
    make_watched,
    whole_batch,
)
from pinikit.backbones.base import Backbone
from pinikit.training.draws import FixedDraw
from pinikit.training.loop import step
from pinikit.training.task import Task

TARGETS = {("cpu", "fp32"): 25, ("cpu", "auto"): 50, ("cuda", "fp32"): 20, ("cuda", "auto"): 40}
TARGET_AT_1000 = 15
"""Smallest ratios that count as done: for 100 classes by device and precision, and for 1,000 classes."""

NAMES = {
    "text.injector.values.mean": "text_mean",
    "text.injector.values.std": "text_std",
    "image.injector.attention.query": "query",
    "image.injector.attention.key": "key",
    "image.injector.attention.value": "value",
    "image.injector.heads.layers.mean": "image_mean",
    "image.injector.heads.layers.std": "image_std",
}
"""pinikit's names of the parameters, and the naive twin's."""

FAST_STEPS = 5
"""pinikit's steps for each naive one."""

PATIENCE = 120
"""Seconds of naive steps after which no further one is begun."""


@dataclass(frozen=True)
class Rival:
    """The naive twin with its batch, ready to step; whole, or in chunks where memory is short."""

    naive: NaivePini
    pixels: Tensor
    labels: Tensor
    draws: Draws
    bytes_per_class: int
    chunk: int | None

    def step(self) -> Outcome:
        """Forward and backward."""
        if self.chunk is None:
            return self.naive.step(self.pixels, self.labels, self.draws)
        text = self.naive.text_without_graph(self.draws.text, self.chunk)
        return self.naive.step_in_chunks(self.pixels, self.labels, self.draws, text, self.chunk)

    def seconds(self, device: torch.device) -> float:
        """Time of a step with its update, less what chunking needs beforehand."""
        if self.chunk is None:
            work = partial(self.naive.step, self.pixels, self.labels, self.draws)
        else:
            text = self.naive.text_without_graph(self.draws.text, self.chunk)
            work = partial(self.naive.step_in_chunks, self.pixels, self.labels, self.draws, text, self.chunk)

        def whole() -> None:
            work()
            self.naive.update()

        return _tools.seconds(whole, device)


def main(arguments: Sequence[str] | None = None) -> Table:
    """Measure and print."""
    options = _tools.parser(__doc__, classes=(10, 100, 1000), repeat=3).parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    with _tools.private_folder():
        for device in _tools.devices(options.device):
            backbones = {
                precision: _tools.make_backbone(options.backbone, device, precision)
                for precision in _tools.precisions(device, options.backbone)
            }
            for count in options.classes:
                rows += compare(backbones, _tools.class_names(count), options.repeat)
    table = Table("step", "Training step against the published way", rows, notes(options))
    _tools.publish(table, options, arguments)
    return table


def notes(options: argparse.Namespace) -> list[str]:
    """What a reader of the table must know."""
    return [
        f"{options.backbone}, batch 32, noise on prompt_template and image_feature. Seconds are medians of "
        "whole steps, optimiser included; naive and pinikit take turns in one process. After "
        f"{PATIENCE} s of naive steps no further one is begun.",
        "naive is float32 in every row. pinikit's image features come from the view bank, which computes "
        "them once for a study: the benchmark `study` counts that, too.",
        "Δ columns: ‖pinikit − naive‖ / ‖naive‖ for the same parameters, draws and pictures; grad: the "
        "larger of the text and the image injection's gradients.",
        "naive GB: what autograd keeps of the naive text path for all classes at once, counted. chunk: where "
        "that does not fit into free memory, naive goes through so many classes at a time and sums the "
        "gradients. It computes nothing twice inside the clock, so its time is that of a machine with "
        "enough memory.",
    ]


def compare(backbones: Mapping[str, Backbone], names: Sequence[str], repeat: int) -> list[Row]:
    """A row for each precision; the naive twin is measured once for all."""
    exact = backbones["fp32"]
    device = exact.logit_scale.device
    dataset = make_dataset(exact, names)
    tasks = {precision: make_task(each, precision, dataset) for precision, each in backbones.items()}
    learners = {precision: make_watched(task, precision) for precision, task in tasks.items()}
    rival = make_rival(exact, dataset, learners["fp32"])
    outcome = rival.step()  # also warms up
    errors = {
        precision: differences(learner, tasks[precision], rival, outcome)
        for precision, learner in learners.items()
    }
    rival.naive.update()
    timed = {precision: make_learner(task, precision) for precision, task in tasks.items()}
    for learner in timed.values():
        epoch_seconds([learner], 2, device)
    slow: list[float] = []
    fast: dict[str, list[float]] = {precision: [] for precision in backbones}
    while len(slow) < repeat and sum(slow) < PATIENCE:
        slow.append(rival.seconds(device))
        for precision, learner in timed.items():
            fast[precision] += epoch_seconds([learner], FAST_STEPS, device)
    return [
        {
            "device": device.type,
            "classes": len(names),
            "precision": precision,
            "naive s": _tools.median(slow),
            "pinikit s": _tools.median(fast[precision]),
            "ratio": _tools.median(slow) / _tools.median(fast[precision]),
            "target": target(device.type, precision, len(names)),
            **errors[precision],
            "chunk": rival.chunk,
            "naive GB": rival.bytes_per_class * len(names) / 1e9,
        }
        for precision in backbones
    ]


def target(device: str, precision: str, classes: int) -> int | None:
    """The ratio that issue 3 asks for, where it names one."""
    if classes == 1000:
        return TARGET_AT_1000
    return TARGETS[device, "fp32" if precision == "fp32" else "auto"] if classes == 100 else None


def make_rival(backbone: Backbone, dataset: RandomPictures, learner: Watched) -> Rival:
    """The naive twin with the learner's parameters, the data set's pictures, and one draw."""
    device = backbone.logit_scale.device
    naive = make_naive(backbone, dataset.class_names)
    state = {translated(name): value for name, value in learner.model.injections.state_dict().items()}
    naive.generators.load_state_dict(state)
    pixels = torch.stack([naive_transform(backbone)(dataset.open(item)) for item in dataset.items])
    labels = torch.tensor([item.label for item in dataset.items], device=device)
    stream = torch.Generator().manual_seed(SEED)
    shapes = (naive.generators.text_mean.shape, (len(labels), backbone.feature_width))
    draws = Draws(*(torch.randn(shape, generator=stream).to(device) for shape in shapes))
    per_class = bytes_per_class(naive, draws.text)
    chunk = chunk_size(len(dataset.class_names), per_class, _tools.free_bytes(device))
    return Rival(naive, pixels.to(device), labels, draws, per_class, chunk)


def make_naive(backbone: Backbone, names: Sequence[str]) -> NaivePini:
    """The naive twin on the backbone's own model."""
    tokenizer = open_clip.SimpleTokenizer(context_length=backbone.text.context_length)
    return NaivePini(backbone.model, tokenizer, WORDS, names)


def naive_transform(backbone: Backbone) -> open_clip.transform.Compose:
    """open_clip's own evaluation transform with the backbone's settings."""
    settings = backbone.preprocess
    return open_clip.image_transform(
        settings["image_size"],
        is_train=False,
        mean=settings["mean"],
        std=settings["std"],
        resize_mode=settings["resize_mode"],
        interpolation=settings["interpolation"],
    )


def bytes_per_class(naive: NaivePini, draw: Tensor) -> int:
    """What autograd keeps of the text tower for a class."""
    rows = min(2, len(naive.tokens))
    return _tools.saved_bytes(lambda: naive.encode_text(draw, slice(rows)), naive.clip) // rows


def chunk_size(classes: int, per_class: int, free: int) -> int | None:
    """Classes whose graph may be in memory at a time: None for all, with room left for the rest."""
    if classes * per_class < 0.5 * free:
        return None
    return max(10, int(0.3 * free / per_class) // 10 * 10)


def differences(learner: Watched, task: Task, rival: Rival, outcome: Outcome) -> dict[str, float]:
    """Relative differences of pinikit's real step from the naive one's ``outcome``."""
    learner.draw = FixedDraw({"text": rival.draws.text, "image": rival.draws.image})
    step([learner], [whole_batch(task, learner.model.requires)])
    expected = {name: value.grad for name, value in rival.naive.generators.named_parameters()}
    found = {translated(name): gradient for name, gradient in learner.gradients.items()}
    text = [name for name in expected if name.startswith("text_")]
    image = [name for name in expected if name not in text]
    return {
        "Δ text": relative([learner.output.text_features], [outcome.text_features]),
        "Δ image": relative([learner.output.image_features], [outcome.image_features]),
        "Δ grad": max(
            relative([found[name] for name in group], [expected[name] for name in group])
            for group in (text, image)
        ),
    }


def translated(name: str) -> str:
    """A parameter's name in the naive twin."""
    whole, _, last = name.rpartition(".")
    return NAMES[name] if name in NAMES else f"{NAMES[whole]}.{last}"


def relative(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """‖found − expected‖ / ‖expected‖ over all tensors together."""
    pairs = [
        (a.double().flatten(), b.detach().double().flatten()) for a, b in zip(found, expected, strict=True)
    ]
    left, right = (torch.cat(side) for side in zip(*pairs, strict=True))
    return ((left - right).norm() / right.norm()).item()


if __name__ == "__main__":
    main()

"""Batches for tests of losses, from features."""

from __future__ import annotations

import torch
from golden_cases import GoldenCase
from torch import Tensor
from torch.nn import functional

from pinikit.components.contracts import Loss

SCALE = 10.0


def batch(
    rows: int = 8, classes: int = 5, width: int = 6, dtype: torch.dtype = torch.float64, samples: int = 1
) -> dict[str, Tensor]:
    """Random features of so many pictures, noisy and frozen; the labels leave the last class out."""
    stream = torch.Generator().manual_seed(3)
    sizes = (rows * samples, classes, rows, classes)
    image, text, clean_image, clean_text = (
        torch.randn(size, width, generator=stream, dtype=dtype) for size in sizes
    )
    labels = torch.arange(rows) % max(classes - 1, 1)
    clean = {
        "clean_image_features": clean_image.repeat_interleave(samples, 0),
        "clean_text_features": clean_text,
    }
    return of_features(image, text, labels.repeat_interleave(samples), clean)


def of_features(
    image: Tensor, text: Tensor, labels: Tensor, clean: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """All entries; the frozen features are the noisy ones where none are given."""
    if clean is None:
        clean = {"clean_image_features": image.detach(), "clean_text_features": text.detach()}
    logits = SCALE * cosines(image, text)
    samples = _repeats(clean["clean_image_features"])
    return {
        "logits": logits,
        "labels": labels,
        "image_features": image,
        "text_features": text,
        "sample_logits": logits.unflatten(0, (-1, samples)),
        "sample_features": image.unflatten(0, (-1, samples)),
        "clean_logits": SCALE * cosines(clean["clean_image_features"], clean["clean_text_features"]),
        **clean,
        "uniform": torch.rand(len(image), 64, generator=torch.Generator().manual_seed(5)),
        "prompt_tokens": text.unsqueeze(0),
        "class_prior": torch.bincount(labels, minlength=len(text)) / len(labels),
    }


def like(given: dict[str, Tensor], image: Tensor, text: Tensor) -> dict[str, Tensor]:
    """A batch with other noisy features."""
    clean = {name: given[name] for name in ("clean_image_features", "clean_text_features")}
    return of_features(image, text, given["labels"], clean)


def value(loss: Loss, given: dict[str, Tensor]) -> Tensor:
    """Of what it requires, and of nothing else."""
    entries = {name: given[name] for name in loss.requires}
    if "uniform" in entries:
        entries["uniform"] = entries["uniform"][:, : loss.uniforms]
    return loss(entries)


def paired(case: GoldenCase, image: str = "image", text: str = "text") -> dict[str, Tensor]:
    """The reference's rows as a batch in which every image has a class of its own."""
    rows, classes = case.inputs[image], case.inputs[text]
    return {"image_features": rows, "text_features": classes, "labels": torch.arange(len(rows))}


def cosines(left: Tensor, right: Tensor) -> Tensor:
    return functional.normalize(left, dim=-1) @ functional.normalize(right, dim=-1).mT


def _repeats(rows: Tensor) -> int:
    """How often the first row stands at the beginning."""
    same = (rows == rows[:1]).all(1)
    return int(same.int().cumprod(0).sum())

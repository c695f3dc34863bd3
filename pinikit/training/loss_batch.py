"""What losses are handed of a training step: the entries of ``LOSS_BATCH``, those that are required."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from pinikit.components.contracts import LOSS_STAGES, Loss
from pinikit.training.model import NoisyModel, Output
from pinikit.training.precision import at_least_float32

Entries = Mapping[str, Callable[[], Tensor]]
"""How each entry of a batch is computed, in float32 or better."""


def stages_of(losses: Iterable[Loss]) -> frozenset[str]:
    """Image stages whose clean tensors the losses need."""
    return frozenset().union(
        *(LOSS_STAGES.get(name, frozenset()) for loss in losses for name in loss.requires)
    )


def noisy_entries(output: Output, labels: Tensor) -> Entries:
    """Of what the noisy model made of a batch with ``labels`` [B·S]."""

    def by_picture(rows: Tensor) -> Tensor:
        return at_least_float32(rows).view(-1, output.samples, rows.shape[1])

    def template() -> Tensor:
        assert output.template is not None
        return at_least_float32(output.template)

    return {
        "logits": lambda: at_least_float32(output.logits),
        "labels": lambda: labels,
        "image_features": lambda: at_least_float32(output.image_features),
        "text_features": lambda: at_least_float32(output.text_features),
        "prompt_tokens": template,
        "sample_logits": lambda: by_picture(output.logits),
        "sample_features": lambda: by_picture(output.image_features),
    }


def clean_entries(model: NoisyModel, activations: Mapping[str, Tensor], samples: int) -> Entries:
    """Of the same model without noise, from the batch's clean ``activations`` [B, ...] by image stage."""

    def image() -> Tensor:
        return at_least_float32(activations["image_feature"]).repeat_interleave(samples, 0)

    def text() -> Tensor:
        return at_least_float32(model.clean_text)

    return {
        "clean_logits": lambda: at_least_float32(model.logits(image(), text())),
        "clean_image_features": image,
        "clean_text_features": text,
    }


def class_shares(labels: Tensor, classes: int) -> Tensor:
    """Each class's share of pictures with these labels [N], [C]."""
    return torch.bincount(labels, minlength=classes) / len(labels)

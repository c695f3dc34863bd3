"""A backbone from an open_clip model that is already in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pinikit.backbones.base import Backbone
from pinikit.backbones.image import image_size, image_tower
from pinikit.backbones.text import text_tower

DEFAULT_PREPROCESS: dict[str, Any] = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
"""OpenAI's preprocessing, open_clip's default."""


def assemble_backbone(
    model: Any,
    tokenizer: Any,
    *,
    name: str,
    weights_hash: str,
    preprocess: Mapping[str, Any] | None = None,
    notes: tuple[str, ...] = (),
    known_tokens: frozenset[int] | None = None,
) -> Backbone:
    """Freeze ``model`` (in place) and give it stages.

    Args:
        model: an open_clip ``CLIP``, ``CustomTextCLIP`` or ``CoCa``.
        tokenizer: open_clip's tokenizer for it.
        preprocess: ``mean``, ``std``, ``interpolation``, ``resize_mode`` where they differ from OpenAI's.
        known_tokens: ids of the tokens the weights were trained on, None for all.

    Raises:
        ConfigError: the text encoder is of a kind that pinikit does not know.
    """
    model = model.eval().requires_grad_(False)
    image = image_tower(model.visual)
    width = image.stages["image_feature"].shape[-1]
    text = text_tower(model, tokenizer, feature_width=width, known_tokens=known_tokens)
    return Backbone(
        name=name,
        model=model,
        image=image,
        text=text,
        logit_scale=model.logit_scale.detach().exp().reshape(()),
        logit_bias=None if model.logit_bias is None else model.logit_bias.detach().reshape(()),
        feature_width=width,
        preprocess={**DEFAULT_PREPROCESS, **(preprocess or {}), "image_size": image_size(model.visual)},
        weights_hash=weights_hash,
        notes=notes,
    )


def seeded_model(model_class: Any, config: Mapping[str, Any], seed: int) -> torch.nn.Module:
    """A model with random weights that depend on ``seed`` alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: torch.nn.Module = model_class(**config)
    return model

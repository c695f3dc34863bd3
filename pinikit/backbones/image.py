"""Which image tower a model has."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor

from pinikit.backbones.base import ImageTower
from pinikit.backbones.image_conv import ConvTower, modified_resnet_parts, timm_parts
from pinikit.backbones.image_generic import HookedTower
from pinikit.backbones.image_timm_vit import TimmVitTower, is_plain_vit
from pinikit.backbones.image_vit import VitTower


def image_tower(visual: Any) -> ImageTower:
    """The stages of ``model.visual``: by its family where that is known, otherwise through hooks."""
    if type(visual) is VisionTransformer and visual.pool_type != "none":
        return VitTower(visual)
    picture = _blank_picture(visual)
    if type(visual) is ModifiedResNet:
        return ConvTower(visual, modified_resnet_parts(visual), picture)
    if type(visual) is TimmModel:
        if is_plain_vit(visual.trunk):
            return TimmVitTower(visual, picture)
        parts = timm_parts(visual)
        if parts is not None:
            return ConvTower(visual, parts, picture)
    return HookedTower(visual, picture)


def image_size(visual: Any) -> tuple[int, int]:
    """Height and width of the pictures that ``model.visual`` takes."""
    size = visual.image_size
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _blank_picture(visual: Any) -> Tensor:
    parameter = next(visual.parameters())
    return torch.zeros(1, 3, *image_size(visual), device=parameter.device, dtype=parameter.dtype)

"""timm's vision transformer inside open_clip's ``TimmModel``."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pinikit.backbones.base import StageInfo
from pinikit.backbones.image_staged import (
    FEATURE,
    PATCHES,
    PIXELS,
    SPATIAL,
    StagedImageTower,
    block_name,
)


class TimmVitTower(StagedImageTower):
    """``timm.models.vision_transformer.VisionTransformer`` with any pooling.

    ``spatial_feature`` are the tokens after the final norm, which enter the pooling head. Where
    the class token alone is pooled, it is the class feature (leading) and the patches sent through
    the rest of the head.
    """

    def __init__(self, visual: Any, picture: Tensor) -> None:
        """``picture`` [1, 3, H, W] is run through once, to learn the shapes of the stages."""
        self._trunk = visual.trunk
        self._blocks = list(visual.trunk.blocks)
        self._prefix = int(visual.trunk.num_prefix_tokens)
        self._keeps_grid = bool(getattr(visual.trunk, "dynamic_img_size", False))  # patches as [B, h, w, W]
        self._class_pooled = visual.trunk.attn_pool is None and visual.trunk.global_pool == "token"
        self._head = visual.head
        super().__init__(visual, self._describe(picture), class_pooled=self._class_pooled)

    @torch.no_grad()
    def _describe(self, picture: Tensor) -> list[StageInfo]:
        names = [PIXELS, PATCHES, *map(block_name, range(len(self._blocks))), SPATIAL, FEATURE]
        leading = dict.fromkeys(names[2:-2], self._prefix)
        leading[SPATIAL] = 1 if self._class_pooled else self._prefix
        found = {PIXELS: picture}
        for source, target in pairwise(names[:-1]):
            found[target] = self._advance(source, target, found[source])
        found[FEATURE] = self._advance(names[-3], FEATURE, found[names[-3]])
        return [StageInfo(name, tuple(found[name].shape[1:]), leading.get(name, 0)) for name in names]

    def _advance(self, source: str, target: str, value: Tensor) -> Tensor:
        if target == PATCHES:
            patches: Tensor = self._trunk.patch_embed(value)
            return patches.flatten(1, 2) if self._keeps_grid else patches
        if target == SPATIAL:
            return self._spatial(value)
        if target == FEATURE:
            return self._feature(value if source == SPATIAL else self._trunk.norm(value))
        tokens = self._prepare(value) if source == PATCHES else value
        output: Tensor = self._blocks[int(target.rpartition(".")[2])](tokens)
        return output

    def _prepare(self, patches: Tensor) -> Tensor:
        trunk = self._trunk
        if self._keeps_grid:
            patches = patches.reshape(len(patches), *trunk.patch_embed.grid_size, -1)
        tokens: Tensor = trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(patches)))
        return tokens

    def _feature(self, normed: Tensor) -> Tensor:
        feature: Tensor = self._head(self._trunk.forward_head(normed))
        return feature

    def _spatial(self, tokens: Tensor) -> Tensor:
        normed: Tensor = self._trunk.norm(tokens)
        if not self._class_pooled:
            return normed
        trunk = self._trunk
        patches = self._head(trunk.head(trunk.head_drop(trunk.fc_norm(normed[:, self._prefix :]))))
        return torch.cat([self._feature(normed)[:, None], patches], dim=1)


def is_plain_vit(trunk: Any) -> bool:
    """Whether a timm trunk runs just as timm's ``VisionTransformer`` does."""
    from timm.models.vision_transformer import VisionTransformer

    return (
        isinstance(trunk, VisionTransformer)
        and type(trunk).forward_features is VisionTransformer.forward_features
        and type(trunk).forward_head is VisionTransformer.forward_head
        and type(trunk).pool is VisionTransformer.pool
    )

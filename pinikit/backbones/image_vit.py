"""open_clip's own vision transformer."""

from __future__ import annotations

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


class VitTower(StagedImageTower):
    """``open_clip.transformer.VisionTransformer`` with any of its poolings to one vector.

    ``spatial_feature`` is the grid that enters the pooling head. Where the class token alone is
    pooled, it is the class feature (leading) and the patches after the final norm and projection.
    """

    def __init__(self, visual: Any) -> None:
        self._blocks = list(visual.transformer.resblocks)
        self._class_pooled = visual.attn_pool is None and visual.pool_type == "tok"
        super().__init__(visual, self._describe(visual), class_pooled=self._class_pooled)

    def _describe(self, visual: Any) -> list[StageInfo]:
        height, width = visual.image_size
        patches = visual.grid_size[0] * visual.grid_size[1]
        channels = visual.conv1.out_channels
        features = channels if visual.proj is None else visual.proj.shape[1]
        tokens = (patches + 1, channels)
        if self._class_pooled:
            spatial = StageInfo(SPATIAL, (patches + 1, features), leading=1)
        elif visual.attn_pool is not None:
            spatial = StageInfo(SPATIAL, tokens, leading=1)
        else:
            spatial = StageInfo(SPATIAL, (patches, channels))
        blocks = [StageInfo(block_name(i), tokens, leading=1) for i in range(len(self._blocks))]
        return [
            StageInfo(PIXELS, (3, height, width)),
            StageInfo(PATCHES, (patches, channels)),
            *blocks,
            spatial,
            StageInfo(FEATURE, (features,)),
        ]

    def _advance(self, source: str, target: str, value: Tensor) -> Tensor:
        if target == PATCHES:
            maps: Tensor = self._visual.conv1(value)
            return maps.flatten(2).transpose(1, 2)
        if target == SPATIAL:
            return self._spatial(value)
        if target == FEATURE:
            return self._project(self._pool(value))
        tokens = self._with_class_token(value) if source == PATCHES else value
        output: Tensor = self._blocks[int(target.rpartition(".")[2])](tokens)
        return output

    def _with_class_token(self, patches: Tensor) -> Tensor:
        visual = self._visual
        token = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        tokens = torch.cat([token, patches], dim=1) + visual.positional_embedding.to(patches.dtype)
        normed: Tensor = visual.ln_pre(visual.patch_dropout(tokens))
        return normed

    def _spatial(self, tokens: Tensor) -> Tensor:
        if self._class_pooled:
            feature = self._project(self._pool(tokens))
            patches = self._project(self._visual.ln_post(tokens[:, 1:]))
            return torch.cat([feature[:, None], patches], dim=1)
        if self._visual.attn_pool is not None:
            return tokens
        normed: Tensor = tokens if self._visual.final_ln_after_pool else self._visual.ln_post(tokens)
        return normed[:, 1:]

    def _pool(self, tokens: Tensor) -> Tensor:
        """The pooling head, up to the projection; for average pooling, of what ``_spatial`` gives."""
        visual = self._visual
        if visual.attn_pool is not None:
            tokens = visual.ln_post(visual.attn_pool(tokens))
            return tokens[:, 1:].mean(dim=1) if visual.pool_type == "avg" else tokens[:, 0]
        if self._class_pooled:
            # before pooling or after it: the norm acts on each token alone
            normed: Tensor = visual.ln_post(tokens[:, 0])
            return normed
        pooled = tokens.mean(dim=1)
        return visual.ln_post(pooled) if visual.final_ln_after_pool else pooled

    def _project(self, tokens: Tensor) -> Tensor:
        projection = self._visual.proj
        return tokens if projection is None else tokens @ projection

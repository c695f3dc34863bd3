"""Convolutional image towers: open_clip's ``ModifiedResNet`` and the convolutional families of timm.

Their maps [B, W, h, w] are shown as tokens [B, h·w, W]. Maps and kernels have their channels last in
memory: so the change of view costs nothing, and the convolutions take half the time on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pinikit.backbones.base import StageInfo
from pinikit.backbones.image_staged import FEATURE, PATCHES, PIXELS, SPATIAL, StagedImageTower, block_name

Step = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ConvParts:
    """A convolutional tower cut at its stages; every part maps [B, W, h, w] to the same kind."""

    stem: Step
    blocks: Sequence[Step]
    tail: Step
    """From the last block to the map that is pooled."""
    head: Step
    """Pooling and projection: [B, W, h, w] -> [B, D]."""


class ConvTower(StagedImageTower):
    """A chain of convolutional stages. ``spatial_feature`` is the map that enters the pooling head."""

    def __init__(self, visual: nn.Module, parts: ConvParts, picture: Tensor) -> None:
        """``picture`` [1, 3, H, W] is run through once, to learn the shapes of the stages."""
        visual.to(memory_format=torch.channels_last)
        names = [PATCHES, *map(block_name, range(len(parts.blocks))), SPATIAL]
        self._steps = dict(zip(names, [parts.stem, *parts.blocks, parts.tail], strict=True))
        self._head = parts.head
        stages, self._sizes = self._trace(picture)
        super().__init__(visual, stages)

    @torch.no_grad()
    def _trace(self, picture: Tensor) -> tuple[list[StageInfo], dict[str, tuple[int, int]]]:
        maps = _channels_last(picture)
        stages, sizes = [StageInfo(PIXELS, tuple(picture.shape[1:]))], {}
        for name, step in self._steps.items():
            maps = step(maps)
            channels, height, width = maps.shape[1:]
            sizes[name] = (height, width)
            stages.append(StageInfo(name, (height * width, channels)))
        feature = self._head(maps)
        return [*stages, StageInfo(FEATURE, tuple(feature.shape[1:]))], sizes

    def _advance(self, source: str, target: str, value: Tensor) -> Tensor:
        maps = _channels_last(value) if source == PIXELS else _as_map(value, self._sizes[source])
        if target == FEATURE:
            return self._head(maps)
        return self._steps[target](maps).flatten(2).transpose(1, 2)


def _channels_last(pixels: Tensor) -> Tensor:
    return pixels.contiguous(memory_format=torch.channels_last)


def _as_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, h·w, W] -> [B, W, h, w]."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *size)


def modified_resnet_parts(visual: Any) -> ConvParts:
    """open_clip's ``ModifiedResNet``: four residual layers, pooled by attention."""
    return ConvParts(
        stem=visual.stem,
        blocks=[visual.layer1, visual.layer2, visual.layer3, visual.layer4],
        tail=nn.Identity(),
        head=visual.attnpool,
    )


def timm_parts(visual: Any) -> ConvParts | None:
    """The stages of a timm trunk inside ``TimmModel``, or None where its family is not known."""
    trunk = visual.trunk
    for family, cut in _families().items():
        if isinstance(trunk, family) and type(trunk).forward_features is family.forward_features:
            stem, blocks, tail = cut(trunk)
            return ConvParts(stem, blocks, tail, head=lambda maps: visual.head(trunk.forward_head(maps)))
    return None


Cut = Callable[[Any], tuple[Step, Sequence[Step], Step]]


def _families() -> dict[Any, Cut]:
    from timm.models.convnext import ConvNeXt
    from timm.models.efficientnet import EfficientNet
    from timm.models.mobilenetv3 import MobileNetV3
    from timm.models.resnet import ResNet

    return {EfficientNet: _efficientnet, MobileNetV3: _mobilenet, ResNet: _resnet, ConvNeXt: _convnext}


def _efficientnet(trunk: Any) -> tuple[Step, Sequence[Step], Step]:
    stem, tail = nn.Sequential(trunk.conv_stem, trunk.bn1), nn.Sequential(trunk.conv_head, trunk.bn2)
    return stem, list(trunk.blocks), tail


def _mobilenet(trunk: Any) -> tuple[Step, Sequence[Step], Step]:
    return nn.Sequential(trunk.conv_stem, trunk.bn1), list(trunk.blocks), nn.Identity()


def _resnet(trunk: Any) -> tuple[Step, Sequence[Step], Step]:
    stem = nn.Sequential(trunk.conv1, trunk.bn1, trunk.act1, trunk.maxpool)
    return stem, [trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4], nn.Identity()


def _convnext(trunk: Any) -> tuple[Step, Sequence[Step], Step]:
    return trunk.stem, list(trunk.stages), trunk.norm_pre

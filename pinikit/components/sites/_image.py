"""Sites of the image pipeline share this: a stage of the tower and its positions."""

from __future__ import annotations

import torch
from torch import Tensor

from pinikit.backbones.base import Backbone
from pinikit.components.contracts import Event, ImageSite
from pinikit.errors import ConfigError, listing, nearest


class StageSite(ImageSite):
    """All of a stage but its leading special tokens."""

    def __init__(self, backbone: Backbone, stage: str, channel_axis: int = -1) -> None:
        stages = backbone.image.stages
        if stage not in stages:
            raise ConfigError(
                f"site {stage!r}: backbone {backbone.name!r} has no such stage{nearest(stage, stages)}; "
                f"its image stages: {listing(stages)}"
            )
        info = stages[stage]
        self.stage = stage
        self._leading = info.leading
        shape = info.shape if len(info.shape) != 2 else (info.shape[0] - info.leading, info.shape[1])
        self.event = Event(shape, channel_axis)

    def read(self, tensor: Tensor) -> Tensor:
        """The stage's tensor without its leading tokens."""
        return tensor[:, self._leading :] if self._leading else tensor

    def write(self, tensor: Tensor, value: Tensor) -> Tensor:
        """The leading tokens as they were, then ``value``."""
        return torch.cat([tensor[:, : self._leading], value], dim=1) if self._leading else value

"""The output of a block of the image tower."""

from __future__ import annotations

from typing import Literal

from pinikit.backbones.base import Backbone, Prompts
from pinikit.components.contracts import BoundSite, Site
from pinikit.components.sites._image import StageSite
from pinikit.errors import ConfigError


class ImageBlock(Site):
    """Patch tokens [P, W] behind a block: ``image_block.3``, ``image_block.-2``, ``image_block.middle``.

    Blocks count from 0; a negative index counts from the last block; ``middle`` is the block behind
    which half of the tower lies (the lower of two). The class token is left alone.
    """

    name = "image_block"
    version = 1

    def __init__(self, index: int | Literal["middle"]) -> None:
        self._index = index

    def bind(self, backbone: Backbone, prompts: Prompts) -> BoundSite:
        """The stage ``image_block.k``."""
        count = sum(stage.startswith("image_block.") for stage in backbone.image.stages)
        if count == 0:
            raise ConfigError(
                f"site 'image_block': backbone {backbone.name!r} has no image blocks; "
                f"its image stages: {', '.join(backbone.image.stages)}"
            )
        index = (count - 1) // 2 if self._index == "middle" else self._index
        if not -count <= index < count:
            raise ConfigError(
                f"site 'image_block.{index}': backbone {backbone.name!r} has blocks 0 to {count - 1}; "
                f"allowed: {-count} to {count - 1}, or 'middle'"
            )
        return StageSite(backbone, f"image_block.{index % count}")

"""The patch embeddings."""

from __future__ import annotations

from pinikit.backbones.base import Backbone, Prompts
from pinikit.components.contracts import BoundSite, Site
from pinikit.components.sites._image import StageSite


class PatchEmbedding(Site):
    """Patch tokens [P, W] before class token and positions (the stem's output of a CNN)."""

    name = "patch_embedding"
    version = 1

    def __init__(self) -> None:
        pass

    def bind(self, backbone: Backbone, prompts: Prompts) -> BoundSite:
        """The stage ``patch_embedding``."""
        return StageSite(backbone, "patch_embedding")

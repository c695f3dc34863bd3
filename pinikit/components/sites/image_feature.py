"""The global image feature."""

from __future__ import annotations

from pinikit.backbones.base import Backbone, Prompts
from pinikit.components.contracts import BoundSite, Site
from pinikit.components.sites._image import StageSite


class ImageFeature(Site):
    """The global image feature [D] before normalisation: PiNI's image site.

    No gradient crosses the image tower, so pictures are encoded once (Huang, Zhang, Li, AAAI 2025).
    """

    name = "image_feature"
    version = 1

    def __init__(self) -> None:
        pass

    def bind(self, backbone: Backbone, prompts: Prompts) -> BoundSite:
        """The stage ``image_feature``."""
        return StageSite(backbone, "image_feature")

"""The spatial features before the pooling head."""

from __future__ import annotations

from pinikit.backbones.base import Backbone, Prompts
from pinikit.components.contracts import BoundSite, Site
from pinikit.components.sites._image import StageSite


class SpatialFeature(Site):
    """The grid [P, W] that the image tower pools; noise there reaches the image feature pooled.

    In a tower that reads out a class token, the projected patch tokens [P, D] of the last layer do
    not reach the output. There the image feature moves by the mean over positions of what the noise
    changes: "noise averaged over P" of the framework figure in PiNI (Huang, Zhang, Li, AAAI 2025).
    """

    name = "spatial_feature"
    version = 1

    def __init__(self) -> None:
        pass

    def bind(self, backbone: Backbone, prompts: Prompts) -> BoundSite:
        """The stage ``spatial_feature``."""
        return StageSite(backbone, "spatial_feature")

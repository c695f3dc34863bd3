"""The pixels."""

from __future__ import annotations

from pinikit.backbones.base import Backbone, Prompts
from pinikit.components.contracts import BoundSite, Site
from pinikit.components.sites._image import StageSite


class Pixels(Site):
    """The normalised picture [3, H, W]; gradients cross the whole image tower.

    PiNI's pixel variant (Huang, Zhang, Li, AAAI 2025) puts the noise of ``cnn_pixel`` here.
    """

    name = "pixels"
    version = 1

    def __init__(self) -> None:
        pass

    def bind(self, backbone: Backbone, prompts: Prompts) -> BoundSite:
        """The stage ``pixels``, channels first."""
        return StageSite(backbone, "pixels", channel_axis=0)

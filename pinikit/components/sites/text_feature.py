"""The text features."""

from __future__ import annotations

from pinikit.backbones.base import Backbone, Prompts
from pinikit.components.contracts import BoundSite, Event, Site, TextFeatureSite


class TextFeature(Site):
    """The text feature [D] of each class before normalisation; the text tower runs once per task.

    In PiNI's framework figure, not in its released code (Huang, Zhang, Li, AAAI 2025).
    """

    name = "text_feature"
    version = 1

    def __init__(self) -> None:
        pass

    def bind(self, backbone: Backbone, prompts: Prompts) -> BoundSite:
        """The stage ``text_feature``."""
        site = TextFeatureSite()
        site.stage = "text_feature"
        site.event = Event((backbone.feature_width,))
        return site

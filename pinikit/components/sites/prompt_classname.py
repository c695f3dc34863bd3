"""The class names' tokens."""

from __future__ import annotations

from pinikit.backbones.base import Backbone, Prompts
from pinikit.components.contracts import BoundSite, Site
from pinikit.components.sites._prompt import prompt_site


class PromptClassname(Site):
    """The tokens of each class name, up to the longest [N, W]; noise behind a shorter name is dropped."""

    name = "prompt_classname"
    version = 1

    def __init__(self) -> None:
        pass

    def bind(self, backbone: Backbone, prompts: Prompts) -> BoundSite:
        """The first tokens of each suffix."""
        return prompt_site(backbone, prompts, "classname", site=self.name, stage="prompt_embedding")

"""All tokens of the prompt but the special ones."""

from __future__ import annotations

from pinikit.backbones.base import Backbone, Prompts
from pinikit.components.contracts import BoundSite, Site
from pinikit.components.sites._prompt import prompt_site


class PromptAll(Site):
    """Template, class name and what follows it up to the end token, which stays clean [N, W]."""

    name = "prompt_all"
    version = 1

    def __init__(self) -> None:
        pass

    def bind(self, backbone: Backbone, prompts: Prompts) -> BoundSite:
        """Prefix and suffix together."""
        return prompt_site(backbone, prompts, "all", site=self.name, stage="prompt_embedding")

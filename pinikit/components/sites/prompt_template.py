"""The template's tokens."""

from __future__ import annotations

from pinikit.backbones.base import Backbone, Prompts
from pinikit.components.contracts import BoundSite, Site
from pinikit.components.sites._prompt import prompt_site


class PromptTemplate(Site):
    """All template tokens [T, W] before the class name, context words included: PiNI's text site.

    Token embeddings, before positions are added (Huang, Zhang, Li, AAAI 2025).
    """

    name = "prompt_template"
    version = 1

    def __init__(self) -> None:
        pass

    def bind(self, backbone: Backbone, prompts: Prompts) -> BoundSite:
        """Positions ``leading`` to the class name."""
        return prompt_site(backbone, prompts, "template", site=self.name, stage="prompt_embedding")

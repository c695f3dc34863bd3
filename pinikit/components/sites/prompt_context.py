"""The context words in front of the template."""

from __future__ import annotations

from pinikit.backbones.base import Backbone, Prompts
from pinikit.components.contracts import BoundSite, Site
from pinikit.components.sites._prompt import prompt_site


class PromptContext(Site):
    """The leading ``x`` tokens [16, W] of a PiNI prompt only; the template's words stay clean."""

    name = "prompt_context"
    version = 1

    def __init__(self) -> None:
        pass

    def bind(self, backbone: Backbone, prompts: Prompts) -> BoundSite:
        """The first ``context_length`` positions behind the start token."""
        return prompt_site(backbone, prompts, "context", site=self.name, stage="prompt_embedding")

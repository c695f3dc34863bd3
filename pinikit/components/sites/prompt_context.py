"""The context words in front of the template."""

from __future__ import annotations

from pinikit.backbones.base import Backbone, Prompts
from pinikit.components.contracts import BoundSite, Site
from pinikit.components.sites._prompt import PrefixSite


class PromptContext(Site):
    """The leading ``x`` tokens [16, W] of a PiNI prompt only; the template's words stay clean."""

    name = "prompt_context"
    version = 1

    def __init__(self) -> None:
        pass

    def bind(self, backbone: Backbone, prompts: Prompts) -> BoundSite:
        """The first ``context_length`` positions behind the start token."""
        lack = "has no 'x' context words in front (template: pini has)"
        return PrefixSite(backbone, prompts, self.name, prompts.context_length, lack)

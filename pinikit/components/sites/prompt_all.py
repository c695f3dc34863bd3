"""All tokens of the prompt but the special ones."""

from __future__ import annotations

from pinikit.backbones.base import Backbone, Prompts
from pinikit.components.contracts import BoundSite, Site
from pinikit.components.sites._prompt import PrefixSite, SuffixSite, WholeSite


class PromptAll(Site):
    """Template, class name and what follows it up to the end token, which stays clean [N, W]."""

    name = "prompt_all"
    version = 1

    def __init__(self) -> None:
        pass

    def bind(self, backbone: Backbone, prompts: Prompts) -> BoundSite:
        """Prefix and suffix together."""
        suffix = SuffixSite(backbone, tuple(length - 1 for length in prompts.suffix_lengths))
        if prompts.template_length == 0:
            return suffix
        return WholeSite(PrefixSite(backbone, prompts, self.name, prompts.template_length, ""), suffix)

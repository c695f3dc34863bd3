"""The output of a block of the text tower."""

from __future__ import annotations

from typing import Literal

from pinikit.backbones.base import Backbone, Prompts
from pinikit.components.contracts import BoundSite, Site
from pinikit.components.sites._prompt import prompt_site
from pinikit.errors import ConfigError, listing


class TextBlock(Site):
    """Tokens [N, W] of the prompts behind a block: ``text_block.3``, ``.-2``, ``.middle``.

    Blocks count from 0; a negative index counts from the last block; ``middle`` is the block behind
    which half of the tower lies (the lower of two). ``tokens`` are chosen as by the sites
    ``prompt_template``, ``prompt_context``, ``prompt_classname`` and ``prompt_all``.
    """

    name = "text_block"
    version = 1

    def __init__(
        self,
        index: int | Literal["middle"],
        tokens: Literal["template", "context", "classname", "all"] = "template",
    ) -> None:
        self._index, self._tokens = index, tokens

    def bind(self, backbone: Backbone, prompts: Prompts) -> BoundSite:
        """Those tokens at the stage ``text_block.k``."""
        stages = [stage for stage in backbone.text.stages if stage.startswith("text_block.")]
        if not stages:
            raise ConfigError(
                f"site 'text_block': the text tower of backbone {backbone.name!r} has no blocks that can be "
                f"changed; its text stages: {listing(backbone.text.stages)}"
            )
        # only end or class token leave the last block, and both stay clean: noise there reaches nothing
        count = len(stages) - 1
        index = count // 2 if self._index == "middle" else self._index
        if not -count - 1 <= index < count or index == -1:
            raise ConfigError(
                f"site 'text_block.{index}': allowed with backbone {backbone.name!r}: 0 to {count - 1}, "
                f"{-count - 1} to -2, or 'middle'; noise behind its last block {count} does not reach the "
                "text feature"
            )
        stage = stages[index]
        return prompt_site(backbone, prompts, self._tokens, site=stage, stage=stage)

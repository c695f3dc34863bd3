"""Sites of the text tower share this: positions in the shared prefix and in the suffixes."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from pinikit.backbones.base import Backbone, PromptEmbedding, Prompts
from pinikit.components.contracts import Event, PromptSite
from pinikit.errors import ConfigError

Tokens = Literal["template", "context", "classname", "all"]


def prompt_site(backbone: Backbone, prompts: Prompts, tokens: Tokens, *, site: str, stage: str) -> PromptSite:
    """The site of some tokens of the prompts at a text stage.

    Args:
        tokens: the whole template; its leading ``x`` words; each class name; all but the special ones.
        site: the name to use in messages.
        stage: ``prompt_embedding`` or ``text_block.k``.

    Raises:
        ConfigError: the prompts have no such tokens.
    """
    if tokens == "classname":
        return SuffixSite(backbone, stage, prompts.classname_lengths)
    length = prompts.context_length if tokens == "context" else prompts.template_length
    if length == 0 and tokens != "all":
        raise ConfigError(f"site {site!r}: the prompt {prompts.texts[0]!r} {_LACKS[tokens]}")
    prefix = PrefixSite(backbone, prompts, stage, length)
    if tokens != "all":
        return prefix
    suffix = SuffixSite(backbone, stage, tuple(length - 1 for length in prompts.suffix_lengths))
    return WholeSite(prefix, suffix) if length else suffix


_LACKS = {
    "template": "has no template tokens before the class name",
    "context": "has no 'x' context words in front (template: pini has)",
}


class PrefixSite(PromptSite):
    """``length`` tokens of the prefix, behind the leading special tokens."""

    def __init__(self, backbone: Backbone, prompts: Prompts, stage: str, length: int) -> None:
        self.stage = stage
        self.event = Event((length, backbone.text.width))
        self._first = prompts.leading
        self._last = prompts.leading + length

    def read(self, embedding: PromptEmbedding) -> Tensor:
        """[G, length, W]."""
        return embedding.prefix[:, self._first : self._last]

    def write(self, embedding: PromptEmbedding, value: Tensor, *, shared: bool) -> PromptEmbedding:
        """The prefix with those tokens replaced; one prefix for all classes as long as noise is shared."""
        common = min(embedding.shared_length, self._first)
        prefix = embedding.prefix.expand(max(len(value), len(embedding.prefix)), -1, -1)
        value = value.expand(len(prefix), -1, -1)
        parts = [prefix[:, : self._first], value, prefix[:, self._last :]]
        return replace(embedding, prefix=torch.cat(parts, dim=1), common=common)


class SuffixSite(PromptSite):
    """The first tokens of each suffix; classes differ in how many."""

    def __init__(self, backbone: Backbone, stage: str, lengths: tuple[int, ...]) -> None:
        self.stage = stage
        longest = max(lengths)
        self.event = Event((longest, backbone.text.width))
        self.mask = torch.arange(longest) < torch.tensor(lengths)[:, None]  # [C, longest]

    def read(self, embedding: PromptEmbedding) -> Tensor:
        """[C, longest, W]."""
        return embedding.suffix[:, : self.event.shape[0]]

    def write(self, embedding: PromptEmbedding, value: Tensor, *, shared: bool) -> PromptEmbedding:
        """The suffixes with those tokens replaced."""
        rest = embedding.suffix[:, self.event.shape[0] :]
        return replace(embedding, suffix=torch.cat([value, rest], dim=1))


class WholeSite(PromptSite):
    """The template in the prefix together with the first tokens of each suffix."""

    def __init__(self, prefix: PrefixSite, suffix: SuffixSite) -> None:
        self.stage = prefix.stage
        self._prefix, self._suffix = prefix, suffix
        self._split = prefix.event.shape[0]
        self.event = Event((self._split + suffix.event.shape[0], prefix.event.shape[1]))
        assert suffix.mask is not None
        template = torch.ones(len(suffix.mask), self._split, dtype=torch.bool)
        self.mask = torch.cat([template, suffix.mask], dim=1)

    def read(self, embedding: PromptEmbedding) -> Tensor:
        """[C, template and suffix tokens, W]."""
        suffix = self._suffix.read(embedding)
        return torch.cat([self._prefix.read(embedding).expand(len(suffix), -1, -1), suffix], dim=1)

    def write(self, embedding: PromptEmbedding, value: Tensor, *, shared: bool) -> PromptEmbedding:
        """Both parts replaced; with shared noise all rows of the template are equal, one is kept."""
        keep_one = shared and len(embedding.prefix) == 1
        template = value[:1, : self._split] if keep_one else value[:, : self._split]
        embedding = self._prefix.write(embedding, template, shared=shared)
        return self._suffix.write(embedding, value[:, self._split :], shared=shared)

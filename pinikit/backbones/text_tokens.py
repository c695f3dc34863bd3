"""From a template and class names to tokens, and to what the prompts share.

Both kinds of tokenizer that open_clip knows are brought to one interface: BPE as OpenAI made it, and
those of the ``transformers`` library.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from pinikit.backbones.base import Prompts
from pinikit.errors import ConfigError

PLACE = "{}"
CONTEXT_WORD = "x"


class PromptTokenizer(ABC):
    """What :func:`tokenize_prompts` needs of a tokenizer."""

    context_length: int
    leading: int
    """Special tokens in front of every text."""

    @abstractmethod
    def words(self, text: str) -> list[int]:
        """Token ids of ``text`` without special tokens, never truncated."""

    @abstractmethod
    def rows(self, texts: Sequence[str]) -> Tensor:
        """Token ids [C, context_length] as the model wants them: special tokens, padding, truncation."""

    @abstractmethod
    def length(self, text: str) -> int:
        """How many tokens ``text`` would have, special tokens included, if the context were endless."""

    @abstractmethod
    def decode(self, token: int) -> str:
        """The readable form of one token."""


class BpeTokenizer(PromptTokenizer):
    """Around open_clip's ``SimpleTokenizer``: one start token, the text, one end token, zeros."""

    leading = 1

    def __init__(self, tokenizer: Any, context_length: int) -> None:
        self._tokenizer = tokenizer
        self.context_length = context_length

    def words(self, text: str) -> list[int]:
        """Token ids without special tokens."""
        return list(self._tokenizer.encode(text))

    def rows(self, texts: Sequence[str]) -> Tensor:
        """Token ids [C, context_length]."""
        rows = torch.zeros(len(texts), self.context_length, dtype=torch.long)
        start, end = self._tokenizer.sot_token_id, self._tokenizer.eot_token_id
        for row, text in zip(rows, texts, strict=True):
            ids = [start, *self.words(text)[: self.context_length - 2], end]
            row[: len(ids)] = torch.tensor(ids)
        return rows

    def length(self, text: str) -> int:
        """Tokens with special ones, not truncated."""
        return len(self.words(text)) + 2

    def decode(self, token: int) -> str:
        """One token, readable."""
        return str(self._tokenizer.decode([token])).strip()


class HubTokenizer(PromptTokenizer):
    """Around open_clip's ``HFTokenizer``, which wraps a tokenizer of ``transformers``."""

    def __init__(self, tokenizer: Any, context_length: int) -> None:
        self._tokenizer = tokenizer
        self.context_length = context_length
        self._clips_mode = getattr(tokenizer, "tokenizer_mode", "") == "clips"
        self.leading = 1 if self._clips_mode else self._count_leading()

    def words(self, text: str) -> list[int]:
        """Token ids without special tokens."""
        return self._ids(text, special=False)

    def rows(self, texts: Sequence[str]) -> Tensor:
        """Token ids [C, context_length]."""
        if self._clips_mode:
            whole: Tensor = self._tokenizer(list(texts), context_length=self.context_length)
            return whole
        rows: Tensor = self._tokenizer.tokenizer(
            [self._tokenizer.clean_fn(text) for text in texts],
            return_tensors="pt",
            max_length=self.context_length,
            padding="max_length",
            truncation=True,
        ).input_ids
        if self._tokenizer.strip_sep_token:
            rows = rows.masked_fill(rows == self._tokenizer.tokenizer.sep_token_id, 0)
        return rows

    def length(self, text: str) -> int:
        """Tokens with special ones, not truncated."""
        if self._clips_mode:
            return len(self.words(text)) + 2  # start and end; the class token at the far end is not counted
        return len(self._ids(text, special=True))

    def decode(self, token: int) -> str:
        """One token, readable."""
        return str(self._tokenizer.tokenizer.decode([token])).strip()

    def _ids(self, text: str, special: bool) -> list[int]:
        cleaned = self._tokenizer.clean_fn(text)
        ids = self._tokenizer.tokenizer(cleaned, add_special_tokens=special, truncation=False).input_ids
        return [int(token) for token in ids]

    def _count_leading(self) -> int:
        probe = "a"
        bare, framed = self._ids(probe, special=False), self._ids(probe, special=True)
        for start in range(len(framed) - len(bare) + 1):
            if framed[start : start + len(bare)] == bare:
                return start
        return 0


def tokenize_prompts(tokenizer: PromptTokenizer, template: str, class_names: Collection[str]) -> Prompts:
    """Fill ``template`` with every class name (underscores become spaces) and tokenise.

    Raises:
        ConfigError: the template has not exactly one ``{}``, a class name is empty, a prompt is
            longer than the context, or the tokens of the template depend on the class name.
    """
    names = _clean_names(class_names)
    before, after = _split_template(template)
    texts = tuple(f"{before}{name}{after}" for name in names)
    lengths = tuple(map(tokenizer.length, texts))
    _check_lengths(names, lengths, tokenizer.context_length)
    template_ids = tokenizer.words(before.rstrip())
    parts = [(text, f"{before}{name}") for text, name in zip(texts, names, strict=True)]
    return Prompts(
        texts=texts,
        tokens=tokenizer.rows(texts),
        leading=tokenizer.leading,
        template_length=len(template_ids),
        context_length=_context_tokens(tokenizer, before),
        classname_lengths=tuple(_name_tokens(tokenizer, *part, template_ids) for part in parts),
        lengths=lengths,
    )


def _clean_names(class_names: Collection[str]) -> list[str]:
    names = [" ".join(name.replace("_", " ").split()) for name in class_names]
    if not names:
        raise ConfigError("There are no class names to make prompts of.")
    for index, name in enumerate(names):
        if not name:
            raise ConfigError(f"The class name at index {index} is empty.")
    return names


def _split_template(template: str) -> tuple[str, str]:
    if template.count(PLACE) != 1:
        raise ConfigError(
            f"The template {template!r} needs exactly one {PLACE} for the class name, "
            f"it has {template.count(PLACE)}."
        )
    before, after = template.split(PLACE)
    return before, after


def _check_lengths(names: Sequence[str], lengths: Sequence[int], limit: int) -> None:
    for name, length in zip(names, lengths, strict=True):
        if length > limit:
            raise ConfigError(
                f"The prompt of class {name!r} has {length} tokens, the text tower takes {limit}: "
                "use a shorter template or class name."
            )


def _name_tokens(tokenizer: PromptTokenizer, text: str, until_name: str, template_ids: list[int]) -> int:
    """Tokens of the class name in ``text``; one that merges with the words behind it does not count."""
    ids = tokenizer.words(text)
    if ids[: len(template_ids)] != template_ids:
        raise ConfigError(
            f"The template's words run into the class name in {text!r}: put a space before {PLACE}."
        )
    same = takewhile(lambda pair: pair[0] == pair[1], zip(ids, tokenizer.words(until_name), strict=False))
    return sum(1 for _ in same) - len(template_ids)


def _context_tokens(tokenizer: PromptTokenizer, before: str) -> int:
    words = before.split()
    count = next((i for i, word in enumerate(words) if word != CONTEXT_WORD), len(words))
    return len(tokenizer.words(" ".join(words[:count])))

"""What all text towers of open_clip share: tokenising, embedding, and the published path."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pinikit.backbones.base import PromptEmbedding, Prompts, StageInfo, TextTower
from pinikit.backbones.text_tokens import PromptTokenizer, tokenize_prompts


class OpenClipTextTower(TextTower):
    """A text tower of open_clip that is always run as published; exact for every architecture.

    Args:
        encoder: maps tokens [C, L] to text features [C, D] (or to a tuple that begins with them).
        token_embedding: the module of the encoder that turns tokens into vectors.
        known_tokens: ids that the weights were trained on; None where that is not known.
    """

    def __init__(
        self,
        encoder: Any,
        token_embedding: nn.Module,
        tokenizer: PromptTokenizer,
        *,
        feature_width: int,
        causal: bool = False,
        known_tokens: frozenset[int] | None = None,
    ) -> None:
        self._encoder = encoder
        self._token_embedding = token_embedding
        self._tokenizer = tokenizer
        self._known_tokens = known_tokens
        self.causal = causal
        self.context_length = tokenizer.context_length
        self.width = int(token_embedding.weight.shape[1])  # type: ignore[index]
        self.stages = {
            "prompt_embedding": StageInfo("prompt_embedding", (self.context_length, self.width)),
            "text_feature": StageInfo("text_feature", (feature_width,)),
        }

    def tokenize(self, template: str, class_names: Collection[str]) -> Prompts:
        """Tokenise ``template`` for every class. See :func:`tokenize_prompts`."""
        return tokenize_prompts(self._tokenizer, template, class_names)

    def unknown_tokens(self, prompts: Prompts) -> list[str]:
        """Tokens of the prompts outside ``known_tokens``, readable, in alphabetical order."""
        if self._known_tokens is None:
            return []
        used = {int(t) for row, n in zip(prompts.tokens, prompts.lengths, strict=True) for t in row[:n]}
        return sorted({self._tokenizer.decode(token) for token in used - self._known_tokens})

    def embed(self, prompts: Prompts) -> PromptEmbedding:
        """Token embeddings [1, P, W] and [C, S, W], without positions."""
        tokens = self._tokens(prompts)
        shared, end = prompts.prefix_length, max(prompts.lengths)
        return PromptEmbedding(
            prefix=self._token_embedding(tokens[:1, :shared]),
            suffix=self._token_embedding(tokens[:, shared:end]),
        )

    def encode(self, prompts: Prompts, embedding: PromptEmbedding) -> Tensor:
        """Text features [C, D], as published."""
        return self.encode_plain(prompts, embedding)

    def encode_plain(self, prompts: Prompts, embedding: PromptEmbedding) -> Tensor:
        """Text features [C, D], as published, at the full context length."""
        return self._encode_modules(self._tokens(prompts), prompts, embedding)

    def _encode_modules(self, tokens: Tensor, prompts: Prompts, embedding: PromptEmbedding) -> Tensor:
        """Run the encoder's own modules over ``tokens`` [C, T] with the given embeddings in them."""
        embedded = self._join(tokens, prompts, embedding)
        with _output_replaced(self._token_embedding, embedded):
            output = self._encoder(tokens)
        feature: Tensor = output[0] if isinstance(output, tuple) else output
        return feature

    def _join(self, tokens: Tensor, prompts: Prompts, embedding: PromptEmbedding) -> Tensor:
        """Embeddings [C, T, W] of whole prompts; padding keeps its own, whatever the suffix holds there."""
        check_embedding(prompts, embedding)
        count = len(prompts.texts)
        spoken = torch.cat([embedding.prefix.expand(count, -1, -1), embedding.suffix], dim=1)
        lengths = torch.tensor(prompts.lengths, device=tokens.device)
        is_own = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]  # [C, T]
        clean = self._token_embedding(tokens)
        padded = torch.cat([spoken, clean[:, spoken.shape[1] :]], dim=1)
        return torch.where(is_own[..., None], padded, clean)

    def _tokens(self, prompts: Prompts) -> Tensor:
        return prompts.tokens.to(self._token_embedding.weight.device)  # type: ignore[arg-type]


def check_embedding(prompts: Prompts, embedding: PromptEmbedding) -> None:
    """Refuse an embedding whose shapes do not belong to ``prompts``.

    Raises:
        ValueError: naming the found and the expected shape.
    """
    count, shared = len(prompts.texts), prompts.prefix_length
    groups, length = embedding.prefix.shape[:2]
    if groups not in (1, count) or length != shared:
        raise ValueError(f"prefix is {tuple(embedding.prefix.shape)}, expected [1 or {count}, {shared}, W]")
    longest = max(prompts.suffix_lengths)
    if tuple(embedding.suffix.shape[:2]) != (count, longest):
        raise ValueError(f"suffix is {tuple(embedding.suffix.shape)}, expected [{count}, {longest}, W]")


@contextmanager
def _output_replaced(module: nn.Module, value: Tensor) -> Iterator[None]:
    """Let ``module`` return ``value`` inside the block: the way into an encoder without changing it."""
    handle = module.register_forward_hook(lambda _module, _inputs, _output: value)
    try:
        yield
    finally:
        handle.remove()

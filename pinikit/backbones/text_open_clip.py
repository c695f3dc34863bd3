"""What all text towers of open_clip share: tokenising, embedding, and the published path."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pinikit.backbones.base import PromptEdit, PromptEmbedding, Prompts, StageInfo, TextTower
from pinikit.backbones.precision import at_least_float32
from pinikit.backbones.text_tokens import PromptTokenizer, tokenize_prompts
from pinikit.errors import ConfigError, listing, nearest

BLOCK = "text_block."


class OpenClipTextTower(TextTower):
    """A text tower of open_clip that is always run as published; exact for every architecture.

    Args:
        encoder: maps tokens [C, L] to text features [C, D] (or to a tuple that begins with them).
        token_embedding: the module of the encoder that turns tokens into vectors.
        blocks: the encoder's blocks, whose output is tokens [C, L or more, W]; each becomes a stage.
        known_tokens: ids that the weights were trained on; None where that is not known.
    """

    def __init__(
        self,
        encoder: Any,
        token_embedding: nn.Module,
        tokenizer: PromptTokenizer,
        *,
        feature_width: int,
        blocks: Sequence[nn.Module] = (),
        causal: bool = False,
        known_tokens: frozenset[int] | None = None,
    ) -> None:
        self._encoder = encoder
        self._token_embedding = token_embedding
        self._blocks = list(blocks)
        self._tokenizer = tokenizer
        self._known_tokens = known_tokens
        self.causal = causal
        self.context_length = tokenizer.context_length
        self.width = int(token_embedding.weight.shape[1])  # type: ignore[index]  # a tensor
        tokens = (self.context_length, self.width)
        stages = [
            StageInfo("prompt_embedding", tokens),
            *(StageInfo(f"{BLOCK}{index}", tokens) for index in range(len(self._blocks))),
            StageInfo("text_feature", (feature_width,)),
        ]
        self.stages = {stage.name: stage for stage in stages}

    def tokenize(self, template: str, class_names: Collection[str]) -> Prompts:
        """Tokenise ``template`` for every class. See :func:`tokenize_prompts`."""
        return tokenize_prompts(self._tokenizer, template, class_names)

    def token_text(self, token: int) -> str:
        """A token as its tokenizer spells it."""
        return self._tokenizer.decode(token)

    def unknown_tokens(self, prompts: Prompts) -> list[str]:
        """Tokens of the prompts outside ``known_tokens``, readable, in alphabetical order."""
        if self._known_tokens is None:
            return []
        used = {int(t) for row, n in zip(prompts.tokens, prompts.lengths, strict=True) for t in row[:n]}
        return sorted({self._tokenizer.decode(token) for token in used - self._known_tokens})

    def embed(self, prompts: Prompts) -> PromptEmbedding:
        """Token embeddings [1, P, W] and [C, S, W], at least float32, without positions."""
        tokens = self._tokens(prompts)
        shared, end = prompts.prefix_length, max(prompts.lengths)
        return PromptEmbedding(
            prefix=at_least_float32(self._token_embedding(tokens[:1, :shared])),
            suffix=at_least_float32(self._token_embedding(tokens[:, shared:end])),
        )

    def encode(
        self, prompts: Prompts, embedding: PromptEmbedding, edits: Mapping[str, PromptEdit] | None = None
    ) -> Tensor:
        """Text features [C, D], as published."""
        return self.encode_plain(prompts, embedding, edits)

    def encode_plain(
        self, prompts: Prompts, embedding: PromptEmbedding, edits: Mapping[str, PromptEdit] | None = None
    ) -> Tensor:
        """Text features [C, D], as published, at the full context length."""
        return self._encode_modules(self._tokens(prompts), prompts, embedding, edits or {})

    def _encode_modules(
        self,
        tokens: Tensor,
        prompts: Prompts,
        embedding: PromptEmbedding,
        edits: Mapping[str, PromptEdit],
    ) -> Tensor:
        """Run the encoder's own modules over ``tokens`` [C, T] with the given embeddings in them."""
        self._check_edits(edits)
        self.tokens_encoded += tokens.numel()
        embedded = self._join(tokens, prompts, embedding)
        with ExitStack() as changes:
            changes.enter_context(_output_changed(self._token_embedding, lambda _: embedded))
            for stage, edit in edits.items():
                block = self._blocks[block_index(stage)]
                changes.enter_context(_output_changed(block, _edit_tokens(prompts, edit)))
            output = self._encoder(tokens)
        feature: Tensor = output[0] if isinstance(output, tuple) else output
        return at_least_float32(feature)

    def _join(self, tokens: Tensor, prompts: Prompts, embedding: PromptEmbedding) -> Tensor:
        """Embeddings [C, T, W] of whole prompts; padding keeps its own, whatever the suffix holds there."""
        check_embedding(prompts, embedding)
        count = len(prompts.texts)
        clean = self._token_embedding(tokens)
        spoken = torch.cat([embedding.prefix.expand(count, -1, -1), embedding.suffix], dim=1).to(clean.dtype)
        lengths = torch.tensor(prompts.lengths, device=tokens.device)
        is_own = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]  # [C, T]
        padded = torch.cat([spoken, clean[:, spoken.shape[1] :]], dim=1)
        return torch.where(is_own[..., None], padded, clean)

    def _check_edits(self, edits: Mapping[str, PromptEdit]) -> None:
        """Refuse stages that the tower does not have or that have passed already.

        Raises:
            ConfigError: with what there is.
        """
        blocks = [stage for stage in self.stages if stage.startswith(BLOCK)]
        for stage in edits:
            if stage not in blocks:
                raise ConfigError(
                    f"The text tower cannot be edited at {stage!r}{nearest(stage, blocks)}; "
                    f"it can at {listing(blocks)}."
                )

    def _tokens(self, prompts: Prompts) -> Tensor:
        return prompts.tokens.to(self._token_embedding.weight.device)  # type: ignore[arg-type]  # a tensor


def block_index(stage: str) -> int:
    """k of ``text_block.k``."""
    return int(stage.removeprefix(BLOCK))


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


def _edit_tokens(prompts: Prompts, edit: PromptEdit) -> Callable[[Tensor], Tensor]:
    """``edit`` as a function of whole rows of tokens [C, T, W]; what lies behind a prompt stays."""
    shared, end = prompts.prefix_length, max(prompts.lengths)

    def change(tokens: Tensor) -> Tensor:
        wide = at_least_float32(tokens)
        edited = edit(PromptEmbedding(wide[:, :shared], wide[:, shared:end]))
        check_embedding(prompts, edited)
        spoken = torch.cat([edited.prefix.expand(len(tokens), -1, -1), edited.suffix], dim=1)
        lengths = torch.tensor(prompts.lengths, device=tokens.device)
        is_own = torch.arange(end, device=tokens.device) < lengths[:, None]  # [C, end]
        spoken = torch.where(is_own[..., None], spoken.to(tokens.dtype), tokens[:, :end])
        return torch.cat([spoken, tokens[:, end:]], dim=1)

    return change


@contextmanager
def _output_changed(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let ``module`` return what ``change`` makes of its output: a way in without changing the encoder."""
    handle = module.register_forward_hook(lambda _module, _inputs, output: change(output))
    try:
        yield
    finally:
        handle.remove()

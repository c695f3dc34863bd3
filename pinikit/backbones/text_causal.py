"""open_clip's own text transformer, in ``CLIP`` and in ``CustomTextCLIP``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pinikit.backbones.base import PromptEdit, PromptEmbedding, Prompts
from pinikit.backbones.precision import at_least_float32
from pinikit.backbones.prompt_layout import PromptLayout
from pinikit.backbones.shared_prefix import blocks_are_standard, run_blocks
from pinikit.backbones.text_open_clip import BLOCK, OpenClipTextTower, block_index, check_embedding
from pinikit.backbones.text_tokens import PromptTokenizer


class CausalTextTower(OpenClipTextTower):
    """A causal text transformer, run only as far as each prompt's end token.

    What the prompts share is computed once, what they do not share without padding. Where that would
    not be exact, the tower runs truncated at the longest prompt or as published.

    Args:
        encoder: see :class:`OpenClipTextTower`.
        owner: the module that holds the transformer and its embeddings (``CLIP`` or ``TextTransformer``).
    """

    def __init__(
        self,
        encoder: Any,
        owner: Any,
        tokenizer: PromptTokenizer,
        *,
        feature_width: int,
        known_tokens: frozenset[int] | None = None,
    ) -> None:
        super().__init__(
            encoder,
            owner.token_embedding,
            tokenizer,
            feature_width=feature_width,
            blocks=owner.transformer.resblocks,
            causal=True,
            known_tokens=known_tokens,
        )
        self._owner = owner
        self._pool_type: str = getattr(owner, "text_pool_type", None) or owner.pool_type
        self._end_id = int(getattr(owner, "text_eos_id", getattr(owner, "eos_id", -1)))
        self._lengths: WeakKeyDictionary[Prompts, tuple[int, ...] | None] = WeakKeyDictionary()
        self._layouts: WeakKeyDictionary[Prompts, dict[object, PromptLayout]] = WeakKeyDictionary()

    def encode(
        self, prompts: Prompts, embedding: PromptEmbedding, edits: Mapping[str, PromptEdit] | None = None
    ) -> Tensor:
        """Text features [C, D], shared tokens computed once."""
        return self.encode_arms(prompts, [embedding], [edits or {}])[0]

    def encode_arms(
        self,
        prompts: Prompts,
        embeddings: Sequence[PromptEmbedding],
        edits: Sequence[Mapping[str, PromptEdit]] | None = None,
    ) -> Tensor:
        """Text features [A, C, D] of all arms in one pass."""
        each = list(edits or [{}] * len(embeddings))
        for embedding, changes in zip(embeddings, each, strict=True):
            check_embedding(prompts, embedding)
            self._check_edits(changes)
        lengths = self._needed_lengths(prompts)
        if lengths is not None and blocks_are_standard(self._blocks):
            return at_least_float32(self._project(self._encode_rows(prompts, lengths, embeddings, each)))
        arms = [self._encode_each(prompts, lengths, *arm) for arm in zip(embeddings, each, strict=True)]
        return torch.stack(arms)

    def _encode_each(
        self,
        prompts: Prompts,
        lengths: tuple[int, ...] | None,
        embedding: PromptEmbedding,
        edits: Mapping[str, PromptEdit],
    ) -> Tensor:
        """Features [C, D] by the blocks' own forward."""
        if lengths is None or edits:
            return self.encode_plain(prompts, embedding, edits)
        return self._encode_truncated(prompts, embedding, torch.tensor(lengths) - 1)

    def _encode_rows(
        self,
        prompts: Prompts,
        lengths: tuple[int, ...],
        embeddings: Sequence[PromptEmbedding],
        edits: Sequence[Mapping[str, PromptEdit]],
    ) -> Tensor:
        """The last block's output at the end tokens [A, C, W], edits of all arms applied on the way."""
        edited = sorted({block_index(stage) for changes in edits for stage in changes})
        layout, rows = self._pack(prompts, lengths, embeddings)
        rows = rows + layout.positions(self._owner.positional_embedding.to(rows.dtype))
        first = 0
        for index in edited:
            rows = self._run(first, index + 1, rows, layout, ends_only=False)
            changes = [arm.get(f"{BLOCK}{index}") for arm in edits]
            layout, rows = self._edit(prompts, lengths, layout, rows, changes)
            first = index + 1
        if first == len(self._blocks):
            return rows.index_select(1, layout.last_row)
        ends = self._run(first, len(self._blocks), rows, layout, ends_only=True)
        return ends.index_select(1, layout.rank)

    def _run(self, first: int, last: int, rows: Tensor, layout: PromptLayout, *, ends_only: bool) -> Tensor:
        if first == 0:
            self.tokens_encoded += len(rows) * layout.tokens
        return run_blocks(self._blocks[first:last], rows, layout.tiles, ends_only=ends_only)

    def _edit(
        self,
        prompts: Prompts,
        lengths: tuple[int, ...],
        layout: PromptLayout,
        rows: Tensor,
        changes: Sequence[PromptEdit | None],
    ) -> tuple[PromptLayout, Tensor]:
        """Each arm's edit of its rows; the edits may leave the prompts less in common than before."""
        embeddings = []
        for arm, change in zip(rows, changes, strict=True):
            embedding = layout.unpack(at_least_float32(arm))
            embeddings.append(embedding if change is None else change(embedding))
            check_embedding(prompts, embeddings[-1])
        return self._pack(prompts, lengths, embeddings)

    def _pack(
        self, prompts: Prompts, lengths: tuple[int, ...], embeddings: Sequence[PromptEmbedding]
    ) -> tuple[PromptLayout, Tensor]:
        """A layout for all arms and their rows [A, N, W] in it, in the weights' number format."""
        shared = min(*(embedding.shared_length for embedding in embeddings), min(lengths) - 1)
        device = embeddings[0].prefix.device
        known = self._layouts.setdefault(prompts, {})
        if (shared, device) not in known:
            padded = max(prompts.suffix_lengths)
            known[shared, device] = PromptLayout(lengths, shared, prompts.prefix_length, padded, device)
        layout = known[shared, device]
        dtype = self._owner.transformer.get_cast_dtype()
        return layout, torch.stack([layout.pack(embedding) for embedding in embeddings]).to(dtype)

    def _encode_truncated(self, prompts: Prompts, embedding: PromptEmbedding, pooled: Tensor) -> Tensor:
        length = int(pooled.max()) + 1
        self.tokens_encoded += len(pooled) * length
        dtype = self._owner.transformer.get_cast_dtype()
        tokens = torch.cat([embedding.prefix.expand(len(embedding.suffix), -1, -1), embedding.suffix], dim=1)
        tokens = tokens[:, :length].to(dtype) + self._owner.positional_embedding[:length].to(dtype)
        tokens = self._owner.transformer(tokens, attn_mask=self._owner.attn_mask[:length, :length])
        classes = torch.arange(len(tokens), device=tokens.device)
        return at_least_float32(self._project(tokens[classes, pooled.to(tokens.device)]))

    def _project(self, pooled: Tensor) -> Tensor:
        """Final norm and projection; both act on each token alone, so pooling may come first."""
        projection = self._owner.text_projection
        feature: Tensor = self._owner.ln_final(pooled)
        if projection is None:
            return feature
        projected: Tensor = projection(feature) if isinstance(projection, nn.Module) else feature @ projection
        return projected

    def _needed_lengths(self, prompts: Prompts) -> tuple[int, ...] | None:
        """Tokens of each prompt up to the one that becomes the feature; None where that is behind its own."""
        if prompts not in self._lengths:
            self._lengths[prompts] = self._find_lengths(prompts)
        return self._lengths[prompts]

    def _find_lengths(self, prompts: Prompts) -> tuple[int, ...] | None:
        if self._pool_type == "argmax":
            pooled = prompts.tokens.argmax(dim=-1)
        elif self._pool_type == "eos":
            pooled = prompts.tokens.eq(self._end_id).int().argmax(dim=-1)
        else:
            return None
        lengths = tuple(position + 1 for position in pooled.tolist())
        fits = all(needed <= own for needed, own in zip(lengths, prompts.lengths, strict=True))
        return lengths if fits else None


def is_plainly_causal(owner: Any) -> bool:
    """Whether the tower is causal and nothing but the tokens before it reaches the pooled token."""
    mask = getattr(owner, "attn_mask", None)
    if mask is None or getattr(owner, "cls_emb", None) is not None:
        return False
    expected = torch.full_like(mask, float("-inf")).triu(1)
    return torch.equal(mask, expected) and not getattr(owner, "use_pad_mask", False)

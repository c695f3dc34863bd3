"""open_clip's own text transformer, in ``CLIP`` and in ``CustomTextCLIP``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pinikit.backbones.base import PromptEmbedding, Prompts
from pinikit.backbones.shared_prefix import blocks_are_standard, encode_shared_prefix
from pinikit.backbones.text_open_clip import OpenClipTextTower, check_embedding
from pinikit.backbones.text_tokens import PromptTokenizer


class CausalTextTower(OpenClipTextTower):
    """A causal text transformer, run only as far as each prompt's end token.

    Prompts that share their prefix are encoded with the prefix computed once; otherwise the tower
    runs truncated at the longest prompt. Where either would not be exact, it runs as published.

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
            causal=True,
            known_tokens=known_tokens,
        )
        self._owner = owner
        self._pool_type: str = getattr(owner, "text_pool_type", None) or owner.pool_type
        self._end_id = int(getattr(owner, "text_eos_id", getattr(owner, "eos_id", -1)))

    def encode(self, prompts: Prompts, embedding: PromptEmbedding) -> Tensor:
        """Text features [C, D], by the shared prefix where there is one."""
        check_embedding(prompts, embedding)
        pooled = self._pooled_positions(prompts)
        if pooled is None:
            return self.encode_plain(prompts, embedding)
        if embedding.prefix.shape[0] == 1 and self._can_share(prompts, pooled):
            return self._encode_shared(prompts, embedding.prefix, embedding.suffix[None], pooled)[0]
        return self._encode_truncated(prompts, embedding, pooled)

    def encode_arms(self, prompts: Prompts, prefix: Tensor, suffix: Tensor) -> Tensor:
        """Text features [A, C, D] of A different prefixes, in one pass."""
        pooled = self._pooled_positions(prompts)
        if pooled is None or not self._can_share(prompts, pooled):
            return super().encode_arms(prompts, prefix, suffix)
        return self._encode_shared(prompts, prefix, suffix, pooled)

    def _can_share(self, prompts: Prompts, pooled: Tensor) -> bool:
        shared = prompts.prefix_length
        return shared > 0 and int(pooled.min()) >= shared and blocks_are_standard(self._blocks)

    def _encode_shared(self, prompts: Prompts, prefix: Tensor, suffix: Tensor, pooled: Tensor) -> Tensor:
        """Features [A, C, D] of prefixes [A, P, W] and suffixes [A or 1, C, S, W]."""
        shared = prompts.prefix_length
        dtype = self._owner.transformer.get_cast_dtype()
        suffix = suffix[:, :, : int(pooled.max()) + 1 - shared].expand(len(prefix), -1, -1, -1)
        positions = self._owner.positional_embedding.to(dtype)
        prefix = prefix.to(dtype) + positions[:shared]
        suffix = suffix.to(dtype) + positions[shared : shared + suffix.shape[2]]
        ends = pooled.to(suffix.device) - shared
        return self._project(encode_shared_prefix(list(self._blocks), prefix, suffix, ends))

    def _encode_truncated(self, prompts: Prompts, embedding: PromptEmbedding, pooled: Tensor) -> Tensor:
        length = int(pooled.max()) + 1
        dtype = self._owner.transformer.get_cast_dtype()
        tokens = torch.cat([embedding.prefix.expand(len(embedding.suffix), -1, -1), embedding.suffix], dim=1)
        tokens = tokens[:, :length].to(dtype) + self._owner.positional_embedding[:length].to(dtype)
        tokens = self._owner.transformer(tokens, attn_mask=self._owner.attn_mask[:length, :length])
        classes = torch.arange(len(tokens), device=tokens.device)
        return self._project(tokens[classes, pooled.to(tokens.device)])

    def _project(self, pooled: Tensor) -> Tensor:
        """Final norm and projection; both act on each token alone, so pooling may come first."""
        projection = self._owner.text_projection
        feature: Tensor = self._owner.ln_final(pooled)
        if projection is None:
            return feature
        projected: Tensor = projection(feature) if isinstance(projection, nn.Module) else feature @ projection
        return projected

    def _pooled_positions(self, prompts: Prompts) -> Tensor | None:
        """Which token becomes the feature, [C]; None where that is behind a prompt's own tokens."""
        if self._pool_type == "argmax":
            positions = prompts.tokens.argmax(dim=-1)
        elif self._pool_type == "eos":
            positions = prompts.tokens.eq(self._end_id).int().argmax(dim=-1)
        else:
            return None
        return positions if bool((positions < torch.tensor(prompts.lengths)).all()) else None

    @property
    def _blocks(self) -> nn.ModuleList:
        blocks: nn.ModuleList = self._owner.transformer.resblocks
        return blocks


def is_plainly_causal(owner: Any) -> bool:
    """Whether the tower is causal and nothing but the tokens before it reaches the pooled token."""
    mask = getattr(owner, "attn_mask", None)
    if mask is None or getattr(owner, "cls_emb", None) is not None:
        return False
    expected = torch.full_like(mask, float("-inf")).triu(1)
    return torch.equal(mask, expected) and not getattr(owner, "use_pad_mask", False)

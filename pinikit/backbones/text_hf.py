"""Text towers of the ``transformers`` library, which open_clip wraps in ``HFTextEncoder``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pinikit.backbones.base import PromptEdit, PromptEmbedding, Prompts
from pinikit.backbones.text_open_clip import OpenClipTextTower
from pinikit.backbones.text_tokens import PromptTokenizer


class HubTextTower(OpenClipTextTower):
    """A bidirectional text tower. Padding is masked, so it runs truncated at the longest prompt."""

    def __init__(self, encoder: Any, tokenizer: PromptTokenizer, *, feature_width: int) -> None:
        _mend_max_pooler(encoder)
        super().__init__(
            encoder,
            encoder.transformer.get_input_embeddings(),
            tokenizer,
            feature_width=feature_width,
        )
        self._pad_id = int(encoder.config.pad_token_id)

    def encode(
        self, prompts: Prompts, embedding: PromptEmbedding, edits: Mapping[str, PromptEdit] | None = None
    ) -> Tensor:
        """Text features [C, D], without the padding that all prompts have."""
        tokens = self._tokens(prompts)
        return self._encode_modules(tokens[:, : self._needed(prompts)], prompts, embedding, edits or {})

    def _needed(self, prompts: Prompts) -> int:
        """The longest prompt, or the whole context where something other than padding follows."""
        longest = max(prompts.lengths)
        only_padding = bool(prompts.tokens[:, longest:].eq(self._pad_id).all())
        return longest if only_padding else prompts.tokens.shape[1]


class MaskedMaxPooler(nn.Module):
    """Maximum over the tokens that are not padding; open_clip's own would mask the others, and fails."""

    def forward(self, output: Any, attention_mask: Tensor) -> Tensor:
        """``output.last_hidden_state`` [C, T, W], ``attention_mask`` [C, T] -> [C, W]."""
        hidden: Tensor = output.last_hidden_state
        return hidden.masked_fill(attention_mask.unsqueeze(-1) == 0, -torch.inf).max(dim=1).values


def _mend_max_pooler(encoder: Any) -> None:
    if type(encoder.pooler).__name__ == "MaxPooler":
        encoder.pooler = MaskedMaxPooler()

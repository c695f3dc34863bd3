"""Which text tower a model has."""

from __future__ import annotations

from typing import Any

from open_clip.hf_model import HFTextEncoder
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import TextTransformer

from pinikit.backbones.base import TextTower
from pinikit.backbones.text_causal import CausalTextTower, is_plainly_causal
from pinikit.backbones.text_hf import HubTextTower
from pinikit.backbones.text_open_clip import OpenClipTextTower
from pinikit.backbones.text_tokens import BpeTokenizer, HubTokenizer, PromptTokenizer
from pinikit.errors import ConfigError


def text_tower(
    model: Any, tokenizer: Any, *, feature_width: int, known_tokens: frozenset[int] | None = None
) -> TextTower:
    """The text tower of an open_clip model with its tokenizer.

    Raises:
        ConfigError: the model's text encoder is of a kind that pinikit does not know.
    """
    encoder = getattr(model, "text", None)
    if isinstance(encoder, HFTextEncoder):
        return HubTextTower(encoder, _adapt(tokenizer, tokenizer.context_length), feature_width=feature_width)
    owner = model if encoder is None else encoder
    if encoder is not None and not isinstance(encoder, TextTransformer):
        raise ConfigError(f"The text encoder {type(encoder).__name__} is not supported.")
    run = model.encode_text if encoder is None else encoder
    adapted = _adapt(tokenizer, int(owner.context_length))
    if is_plainly_causal(owner):
        return CausalTextTower(run, owner, adapted, feature_width=feature_width, known_tokens=known_tokens)
    return OpenClipTextTower(
        run,
        owner.token_embedding,
        adapted,
        feature_width=feature_width,
        blocks=owner.transformer.resblocks,
        known_tokens=known_tokens,
    )


def _adapt(tokenizer: Any, context_length: int) -> PromptTokenizer:
    kind = BpeTokenizer if isinstance(tokenizer, SimpleTokenizer) else HubTokenizer
    return kind(tokenizer, context_length)

"""Causal encoding of prompts that share their first tokens.

In a causal transformer a token sees only those before it. So what all prompts share is computed
once per layer, its keys and values are kept, and each prompt computes only its own tokens up to the
one that becomes the feature. This is exact, not an approximation.

A leading axis A ("arms") lets several different prefixes run in one pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import open_clip.transformer
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def blocks_are_standard(blocks: Iterable[nn.Module]) -> bool:
    """Whether every block computes what :func:`encode_shared_prefix` assumes.

    A block that was patched, hooked or replaced is not trusted.
    """
    return all(_is_standard(block) for block in blocks)


def encode_shared_prefix(blocks: Sequence[Any], prefix: Tensor, suffix: Tensor, ends: Tensor) -> Tensor:
    """Run the transformer blocks; positions have been added already.

    Args:
        blocks: open_clip's ``ResidualAttentionBlock`` modules.
        prefix: [A, P, W] shared by the C prompts of an arm.
        suffix: [A, C, S, W] each prompt's own tokens.
        ends: [C] index, in the suffix, of the token that becomes the feature.

    Returns:
        The last block's output at ``ends``: [A, C, W].
    """
    causal = torch.ones(suffix.shape[2], suffix.shape[2], dtype=torch.bool, device=suffix.device).tril()
    for block in blocks[:-1]:
        prefix_normed, suffix_normed = block.ln_1(prefix), block.ln_1(suffix)
        prefix_q, prefix_k, prefix_v = _project(block.attn, prefix_normed, "qkv")
        suffix_q, suffix_k, suffix_v = _project(block.attn, suffix_normed, "qkv")
        attended_prefix = F.scaled_dot_product_attention(prefix_q, prefix_k, prefix_v, is_causal=True)
        prefix = _finish(block, prefix, attended_prefix)
        attended = _attend(suffix_q, prefix_k, prefix_v, suffix_k, suffix_v, causal)
        suffix = _finish(block, suffix, attended)
    return _last_block(blocks[-1], prefix, suffix, ends)


def _last_block(block: Any, prefix: Tensor, suffix: Tensor, ends: Tensor) -> Tensor:
    """The last block only for the token at ``ends``: nothing reads its other outputs."""
    suffix_normed = block.ln_1(suffix)
    prefix_k, prefix_v = _project(block.attn, block.ln_1(prefix), "kv")
    suffix_k, suffix_v = _project(block.attn, suffix_normed, "kv")
    (query,) = _project(block.attn, _at(suffix_normed, ends), "q")
    visible = torch.arange(suffix.shape[2], device=suffix.device) <= ends[:, None]  # [C, S]
    attended = _attend(query, prefix_k, prefix_v, suffix_k, suffix_v, visible[:, None, None])
    return _finish(block, _at(suffix, ends), attended).squeeze(2)


def _at(tokens: Tensor, ends: Tensor) -> Tensor:
    """Token ``ends[c]`` of each prompt: [A, C, S, W] -> [A, C, 1, W]."""
    classes = torch.arange(tokens.shape[1], device=tokens.device)
    return tokens[:, classes, ends].unsqueeze(2)


def _project(attention: Any, tokens: Tensor, wanted: str) -> list[Tensor]:
    """Queries, keys, values of ``tokens`` [..., N, W] by name ("qkv", "kv", "q").

    Each is [..., heads, N, W/heads].
    """
    width = tokens.shape[-1]
    rows = slice("qkv".index(wanted[0]) * width, ("qkv".index(wanted[-1]) + 1) * width)
    bias = None if attention.in_proj_bias is None else attention.in_proj_bias[rows]
    projected = F.linear(tokens, attention.in_proj_weight[rows], bias)
    parts = projected.reshape(
        *tokens.shape[:-1], len(wanted), attention.num_heads, -1
    )  # [..., N, len, heads, W/heads]
    return [part.transpose(-2, -3) for part in parts.unbind(-3)]


def _attend(q: Tensor, prefix_k: Tensor, prefix_v: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """Attention of the suffix over prefix and suffix in one softmax.

    Args:
        q: [A, C, heads, Q, d]. prefix_k, prefix_v: [A, heads, P, d]. k, v: [A, C, heads, S, d].
        visible: which of the suffix a query may see, broadcastable to [A, C, heads, Q, S].

    Returns:
        [A, C, heads, Q, d].
    """
    classes, queries = q.shape[1], q.shape[3]
    keys = torch.cat([prefix_k[:, None].expand(-1, classes, -1, -1, -1), k], dim=3)
    values = torch.cat([prefix_v[:, None].expand(-1, classes, -1, -1, -1), v], dim=3)
    sees_prefix = visible.new_ones(*visible.shape[:-2], queries, prefix_k.shape[2])
    mask = torch.cat([sees_prefix, visible], dim=-1)
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)


def _finish(block: Any, residual: Tensor, attended: Tensor) -> Tensor:
    """Output projection, residual and MLP: attended [..., heads, N, d] -> [..., N, W]."""
    merged = attended.transpose(-2, -3).flatten(-2)
    tokens = residual + block.ls_1(block.attn.out_proj(merged))
    finished: Tensor = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
    return finished


def _is_standard(block: nn.Module) -> bool:
    attention = getattr(block, "attn", None)
    return (
        type(block) is open_clip.transformer.ResidualAttentionBlock
        and not hasattr(block, "ln_1_kv")
        and type(attention) is nn.MultiheadAttention
        and attention.in_proj_weight is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
        and not any(map(_is_patched, (block, attention)))
    )


def _is_patched(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))

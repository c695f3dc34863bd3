"""Causal encoding of prompts that share their first tokens.

In a causal transformer a token sees only those before it. So what all prompts share is computed
once per layer, and each prompt computes only its own tokens up to the one that becomes the feature.
This is exact, not an approximation.

A leading axis A ("arms") lets several embeddings of the same prompts run in one pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pinikit.backbones.prompt_layout import Tiles
from pinikit.backbones.tile_attention import attend

CHUNK = 2**26
"""Rows x width x blocks up to which all activations are kept for the backward, about 60 bytes each in
float32; more prompts go in chunks that are computed again there."""

_SLOPE = 1.702  # of QuickGELU


def blocks_are_standard(blocks: Iterable[nn.Module]) -> bool:
    """Whether every block computes what :func:`run_blocks` assumes.

    A block that was patched, hooked or replaced is not trusted.
    """
    return all(_is_standard(block) for block in blocks)


def run_blocks(blocks: Sequence[Any], rows: Tensor, tiles: Tiles, *, ends_only: bool) -> Tensor:
    """Run consecutive transformer blocks; positions have been added before the first.

    Args:
        blocks: open_clip's ``ResidualAttentionBlock`` modules.
        rows: [A, N, W] the prompts' tokens as laid out by ``tiles``.
        tiles: all tiles of the layout.
        ends_only: let the last block compute only the prompts' last tokens.

    Returns:
        The last block's output, [A, N, W], or [A, C, W] in the order of the tiles.
    """
    count = len(tiles.prompts)
    step = _tiles_at_once(rows, tiles, len(blocks))
    if step >= count:
        return _run(blocks, rows, tiles, ends_only)[0]
    outputs: list[Tensor] = []
    shared: list[Tensor] | None = None
    for first in range(0, count, step):
        part = tiles.part(first, min(first + step, count))
        chunk = rows[:, first * tiles.tile : (first + step) * tiles.tile]
        args = (blocks, chunk, part, ends_only, shared, shared is None)
        output, seen = checkpoint(_run, *args, use_reentrant=False, preserve_rng_state=False)
        shared = seen if shared is None else shared
        outputs.append(output)
    return torch.cat(outputs, dim=1)


def _tiles_at_once(rows: Tensor, tiles: Tiles, blocks: int) -> int:
    """Depends on sizes alone, so that the bits of a result do not depend on what memory is free."""
    cost_of_tile = len(rows) * tiles.tile * rows.shape[-1] * blocks
    return max(1, CHUNK // cost_of_tile)


def _run(
    blocks: Sequence[Any],
    rows: Tensor,
    tiles: Tiles,
    ends_only: bool,
    shared: list[Tensor] | None = None,
    keep: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """Some tiles through all blocks.

    Args:
        shared: keys and values [A, shared, 2W] of the shared tokens at each block; None where these
            tokens are the first of ``rows``.
        keep: return those for other tiles to use.

    Returns:
        The output, and what to keep.
    """
    width = rows.shape[-1]
    mask = _additive(tiles.visible, rows)
    seen = []
    for index, block in enumerate(blocks):
        common = None if shared is None else shared[index]
        if ends_only and index == len(blocks) - 1:
            rows, keys = _end_block(block, rows, tiles, common)
        else:
            projected = _project(block.attn, block.ln_1(rows), "qkv")
            rows = _finish(block, rows, attend(projected, mask, block.attn.num_heads, common=common))
            keys = projected[..., width:]
        if keep:
            seen.append(keys[:, : tiles.shared].clone())  # a view would keep all of the keys
    return rows, seen


def _end_block(block: Any, rows: Tensor, tiles: Tiles, common: Tensor | None) -> tuple[Tensor, Tensor]:
    """A block's output at the prompts' last tokens [A, C, W], and the keys and values of all rows."""
    normed = block.ln_1(rows)
    keys = _project(block.attn, normed, "kv")
    query = _project(block.attn, normed.index_select(1, tiles.ends), "q")
    mask = _additive(tiles.ends_visible, rows)
    attended = attend(keys, mask, block.attn.num_heads, query=query, common=common)
    ends = tiles.ends.index_select(0, tiles.kept)
    output = _finish(block, rows.index_select(1, ends), attended.index_select(1, tiles.kept))
    return output, keys


def _additive(visible: Tensor, rows: Tensor) -> Tensor:
    """[t, Q, K] bool as a mask [A·t, 1, Q, K] to add to the scores of ``rows`` [A, N, W]."""
    mask = rows.new_zeros(visible.shape).masked_fill_(~visible, -torch.inf)
    return mask.repeat(len(rows), 1, 1)[:, None]


def _project(attention: Any, tokens: Tensor, wanted: str) -> Tensor:
    """Queries, keys, values of ``tokens`` [..., W] by name ("qkv", "kv", "q"), one behind the other."""
    width = tokens.shape[-1]
    rows = slice("qkv".index(wanted[0]) * width, ("qkv".index(wanted[-1]) + 1) * width)
    bias = None if attention.in_proj_bias is None else attention.in_proj_bias[rows]
    return F.linear(tokens, attention.in_proj_weight[rows], bias)


def _finish(block: Any, residual: Tensor, attended: Tensor) -> Tensor:
    """Output projection, residual and MLP: [..., W]."""
    # in place: nothing keeps the output of a projection or of a layer scale
    tokens = block.ls_1(block.attn.out_proj(attended)).add_(residual)
    change: Tensor = block.ls_2(_mlp(block.mlp, block.ln_2(tokens)))
    return change.add_(tokens)


def _mlp(mlp: Any, tokens: Tensor) -> Tensor:
    """What ``mlp`` gives; OpenAI's x·sigmoid(a·x) as silu(a·x) / a: one kernel, one tensor kept."""
    if not (type(mlp.gelu) is QuickGELU and type(mlp.c_proj) is nn.Linear) or any(map(_is_patched, mlp)):
        whole: Tensor = mlp(tokens)
        return whole
    hidden = F.silu(mlp.c_fc(tokens).mul_(_SLOPE))
    return F.linear(hidden, mlp.c_proj.weight).mul_(1 / _SLOPE).add_(mlp.c_proj.bias)


def _is_standard(block: nn.Module) -> bool:
    attention = getattr(block, "attn", None)
    return (
        type(block) is ResidualAttentionBlock
        and not hasattr(block, "ln_1_kv")
        and type(attention) is nn.MultiheadAttention
        and attention.in_proj_weight is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
        and not any(map(_is_patched, (block, attention)))
    )


def _is_patched(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))

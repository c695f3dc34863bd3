"""Attention of tiles of tokens over the tokens that all share and over themselves.

Explicit matrix products with a backward of their own: gradients come out in the layout of the
projection that made queries, keys and values, without cutting and joining. On a CPU, ``torch``'s
fused attention takes longer at these sizes, most of it in its backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def attend(
    projected: Tensor, mask: Tensor, heads: int, *, query: Tensor | None = None, common: Tensor | None = None
) -> Tensor:
    """One softmax over shared and own tokens for each query.

    Args:
        projected: queries, keys and values [A, t·K, 3W] of the rows of t tiles; or keys and values
            [A, t·K, 2W], where ``query`` is given.
        mask: [A·t, 1, Q, shared + K], added to the scores.
        heads: of the attention; W is divided among them.
        query: other queries than those of all rows, [A, t·Q, W].
        common: keys and values [A, shared, 2W] of the shared tokens; None where they are the first rows.

    Returns:
        [A, t·Q, W].
    """
    attended: Tensor = _Attend.apply(projected, query, common, mask, heads)
    return attended


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, query: Tensor | None, common: Tensor | None, mask: Tensor, heads: int
    ) -> Tensor:
        arms, rows = projected.shape[:2]
        tiles = len(mask) // arms
        shared = mask.shape[-1] - rows // tiles
        ctx.rows, ctx.own_query, ctx.own_common = rows, query is None, common is None
        query = projected[..., : projected.shape[-1] // 3] if query is None else query
        width = query.shape[-1]
        keys = projected[..., -2 * width :]
        common = keys[:, :shared] if common is None else common
        scale = (width // heads) ** -0.5
        scaled = _heads_first(query, tiles, heads) * scale  # [A·t·heads, Q, d]
        both = projected.new_empty(2, arms, tiles, heads, mask.shape[-1], width // heads)
        by_row = both.permute(1, 2, 4, 0, 3, 5)  # [A, t, shared + K, 2, heads, d]
        by_row[:, :, :shared] = common.unflatten(-1, (2, heads, -1))[:, None]
        by_row[:, :, shared:] = keys.unflatten(1, (tiles, -1)).unflatten(-1, (2, heads, -1))
        key, value = both.flatten(1, 3)
        scores = torch.bmm(scaled, key.mT)
        scores.unflatten(0, (-1, heads)).add_(mask)
        weights = scores.softmax(-1)
        ctx.save_for_backward(scaled, both, weights)
        ctx.scale = scale
        return _heads_last(torch.bmm(weights, value), arms, tiles, heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        scaled, both, weights = ctx.saved_tensors
        _, arms, tiles, heads = both.shape[:4]
        key, value = both.flatten(1, 3)
        outer = _heads_first(gradient, tiles, heads)
        to_both = torch.empty_like(both)
        to_key, to_value = to_both.flatten(1, 3)
        torch.bmm(weights.mT, outer, out=to_value)
        to_weights = torch.bmm(outer, value.mT)
        to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
        torch.bmm(to_scores.mT, scaled, out=to_key)
        to_query = _heads_last(torch.bmm(to_scores, key).mul_(ctx.scale), arms, tiles, heads)
        return (*_join(to_query, to_both, ctx.rows, ctx.own_query, ctx.own_common), None, None)


def _join(
    to_query: Tensor, to_both: Tensor, rows: int, own_query: bool, own_common: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of ``projected``, ``query`` and ``common`` from those of queries, and of keys and values."""
    _, arms, tiles, heads, seen, _ = to_both.shape
    width = to_query.shape[-1]
    shared = seen - rows // tiles
    by_row = to_both.permute(1, 2, 4, 0, 3, 5)  # [A, t, shared + K, 2, heads, d]
    to_projected = to_query.new_empty(arms, rows, (3 if own_query else 2) * width)
    to_keys = to_projected[..., -2 * width :]
    to_keys.unflatten(1, (tiles, -1)).unflatten(-1, (2, heads, -1)).copy_(by_row[:, :, shared:])
    to_common = by_row[:, :, :shared].sum(1).reshape(arms, shared, 2 * width)
    if own_common:
        to_keys[:, :shared] += to_common
    if own_query:
        to_projected[..., :width] = to_query
    return to_projected, None if own_query else to_query, None if own_common else to_common


def _heads_first(rows: Tensor, tiles: int, heads: int) -> Tensor:
    """[A, t·Q, W] -> [A·t·heads, Q, W/heads], contiguous."""
    parts = rows.unflatten(1, (tiles, -1)).unflatten(-1, (heads, -1))
    moved: Tensor = parts.transpose(2, 3).flatten(0, 2).contiguous()
    return moved


def _heads_last(rows: Tensor, arms: int, tiles: int, heads: int) -> Tensor:
    """The reverse of :func:`_heads_first`."""
    parts = rows.unflatten(0, (arms, tiles, heads)).transpose(2, 3)  # [A, t, Q, heads, d]
    moved: Tensor = parts.flatten(3).flatten(1, 2)
    return moved

"""Where the tokens of many prompts lie in one matrix of rows, without padding between them.

The rows are cut into *tiles* of equal size, and no prompt is cut by a tile's edge. So every linear
layer sees one dense matrix, and attention is one call over tiles: a tile sees the shared tokens and
itself, under a mask. The shared tokens are the first rows of the first tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from pinikit.backbones.base import PromptEmbedding

TILE = 64
"""Rows that a tile should have: enough for full matrix kernels, few enough to waste little on pairs
of tokens that the mask then hides."""

_SHARED, _EMPTY = -1, -2


@dataclass(frozen=True)
class Tiles:
    """A range of t tiles as the blocks need it; all indices count from its first tile."""

    shared: int
    """Tokens in front of every prompt, seen by all tiles."""
    tile: int
    """Rows of a tile."""
    visible: Tensor  # [t, tile, shared + tile] bool: what each row attends to
    ends: Tensor  # [t·E] row of each prompt's last token; a tile with fewer than E repeats its first row
    ends_visible: Tensor  # [t, E, shared + tile] bool
    kept: Tensor  # [prompts] which of ``ends`` are real
    prompts: tuple[int, ...]
    """Prompts in each tile."""

    def part(self, first: int, last: int) -> Tiles:
        """The tiles from ``first`` to ``last``, the latter not included."""
        wide = self.ends_visible.shape[1]
        before, until = sum(self.prompts[:first]), sum(self.prompts[:last])
        return replace(
            self,
            visible=self.visible[first:last],
            ends=self.ends[first * wide : last * wide] - first * self.tile,
            ends_visible=self.ends_visible[first:last],
            kept=self.kept[before:until] - first * wide,
            prompts=self.prompts[first:last],
        )


class PromptLayout:
    """A layout of C prompts with P prefix tokens, the first ``shared`` of which all have in common.

    Args:
        lengths: tokens of each prompt up to the one that becomes the feature, which is included.
        shared: leading tokens that are the same for all prompts; less than any length.
        prefix: P, tokens in :attr:`PromptEmbedding.prefix`.
        padded: S, tokens in :attr:`PromptEmbedding.suffix`.
        device: where the index tensors are to lie.
    """

    def __init__(
        self, lengths: Sequence[int], shared: int, prefix: int, padded: int, device: torch.device
    ) -> None:
        own = [length - shared for length in lengths]
        tile, tiles = _arrange(own, shared)
        owner, place = _label(own, tiles, tile, shared)  # [N] prompt, [N] token of it
        self.shared, self.rows = shared, len(owner)
        self.tokens = shared + sum(own)
        """Rows that are not empty."""
        self._prefix = prefix
        span = prefix - shared + padded  # own tokens of a prompt in a PromptEmbedding
        is_own = owner >= 0
        self._source = torch.where(is_own, shared + owner * span + place, place).to(device)
        self._positions = (place + shared * is_own).to(device)
        first_row = torch.zeros(len(own), dtype=torch.long)
        starts = is_own & (place == 0)
        first_row[owner[starts]] = starts.nonzero().squeeze(1)
        # a PromptEmbedding is padded: behind its end a prompt shows its last token again
        steps = torch.minimum(torch.arange(span), torch.tensor(own)[:, None] - 1)
        self._back = (first_row[:, None] + steps).to(device)  # [C, span]
        last_row = first_row + torch.tensor(own) - 1
        self.last_row = last_row.to(device)
        order = torch.tensor([prompt for members in tiles for prompt in members])
        self.rank = order.argsort().to(device)
        """[C] where each prompt comes in the order of the tiles."""
        self.tiles = _tiles(tiles, tile, shared, _visible(owner, place, tile, shared), last_row, device)

    def pack(self, embedding: PromptEmbedding) -> Tensor:
        """The rows [N, W] of an embedding; a row that belongs to no prompt repeats another token."""
        suffix = embedding.suffix
        if self.shared < self._prefix:
            own = embedding.prefix[:, self.shared :].expand(len(suffix), -1, -1)
            suffix = torch.cat([own, suffix], dim=1)
        joined = torch.cat([embedding.prefix[0, : self.shared], suffix.flatten(0, 1)])
        return F.embedding(self._source, joined)

    def unpack(self, rows: Tensor) -> PromptEmbedding:
        """The embedding whose rows are ``rows`` [N, W]."""
        own = F.embedding(self._back, rows)  # [C, P - shared + S, W]
        prefix = rows[None, : self.shared]
        unshared = self._prefix - self.shared
        if unshared:
            prefix = torch.cat([prefix.expand(len(own), -1, -1), own[:, :unshared]], dim=1)
        return PromptEmbedding(prefix, own[:, unshared:], common=self.shared)

    def positions(self, table: Tensor) -> Tensor:
        """Each row's own of the positional embeddings [L, W]: [N, W]."""
        return F.embedding(self._positions, table)


def _arrange(own: Sequence[int], shared: int) -> tuple[int, list[list[int]]]:
    """Rows of a tile, and the prompts in each: the smallest tile of which a fitting number is enough."""
    total = shared + sum(own)
    count = max(1, round(total / TILE))
    tile = max(-(-total // count), shared, *own)
    while len(tiles := _fill(own, tile, shared)) > count:
        tile += 1
    return tile, tiles


def _fill(own: Sequence[int], tile: int, shared: int) -> list[list[int]]:
    """Prompts into tiles, the longest that still fits first."""
    by_length: dict[int, list[int]] = {}
    for prompt in sorted(range(len(own)), key=lambda prompt: (-own[prompt], prompt)):
        by_length.setdefault(own[prompt], []).append(prompt)
    tiles: list[list[int]] = []
    room = tile - shared
    while by_length:
        members: list[int] = []
        for length in list(by_length):
            number = min(room // length, len(by_length[length]))
            members += by_length[length][:number]
            del by_length[length][:number]
            room -= number * length
            if not by_length[length]:
                del by_length[length]
        tiles.append(members)
        room = tile
    return tiles


def _label(own: Sequence[int], tiles: list[list[int]], tile: int, shared: int) -> tuple[Tensor, Tensor]:
    """For every row the prompt that it belongs to (or none) and which token of it, or of the shared ones."""
    owner, place = [_SHARED] * shared, list(range(shared))
    for number, members in enumerate(tiles):
        for prompt in members:
            owner += [prompt] * own[prompt]
            place += range(own[prompt])
        empty = (number + 1) * tile - len(owner)
        owner += [_EMPTY] * empty
        place += [0] * empty
    return torch.tensor(owner), torch.tensor(place)


def _visible(owner: Tensor, place: Tensor, tile: int, shared: int) -> Tensor:
    """[t, tile, shared + tile]: a row sees the tokens before it, of its prompt and of the shared ones."""
    owner, place = owner.reshape(-1, tile), place.reshape(-1, tile)
    same = owner[:, :, None] == owner[:, None, :]
    own = same & (place[:, None, :] <= place[:, :, None])
    # the shared rows themselves see each other in their own tile
    seen = (owner != _SHARED)[..., None].expand(-1, -1, shared)
    return torch.cat([seen, own], dim=-1)


def _tiles(
    tiles: list[list[int]], tile: int, shared: int, visible: Tensor, last_row: Tensor, device: torch.device
) -> Tiles:
    wide = max(map(len, tiles))
    ends = (torch.arange(len(tiles)) * tile)[:, None].repeat(1, wide)
    kept: list[int] = []
    for number, members in enumerate(tiles):
        ends[number, : len(members)] = last_row[members]
        kept += range(number * wide, number * wide + len(members))
    ends = ends.flatten()
    return Tiles(
        shared,
        tile,
        visible.to(device),
        ends.to(device),
        visible.flatten(0, 1)[ends].reshape(len(tiles), wide, -1).to(device),
        torch.tensor(kept).to(device),
        tuple(map(len, tiles)),
    )

"""Rows and tiles: every token once, no prompt cut, attention exactly causal."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pinikit.backbones.base import PromptEmbedding
from pinikit.backbones.prompt_layout import TILE, PromptLayout

CPU = torch.device("cpu")


@st.composite
def layouts(draw: st.DrawFn) -> tuple[PromptLayout, list[int], int, int, int]:
    prefix = draw(st.integers(0, 9))
    lengths = [prefix + own for own in draw(st.lists(st.integers(1, 12), min_size=1, max_size=25))]
    shared = draw(st.integers(0, prefix))
    padded = max(lengths) - prefix + draw(st.integers(0, 2))
    return PromptLayout(lengths, shared, prefix, padded, CPU), lengths, shared, prefix, padded


def numbered(count: int, prefix: int, padded: int, shared: int) -> PromptEmbedding:
    """Each token holds its prompt (0 for shared ones) and its position."""
    prompts = torch.arange(1.0, count + 1)[:, None, None]
    positions = torch.arange(float(prefix + padded))[None, :, None]
    tokens = torch.cat([prompts.expand(-1, prefix + padded, -1), positions.expand(count, -1, -1)], dim=-1)
    tokens[:, :shared, 0] = 0
    groups = 1 if shared == prefix else count
    return PromptEmbedding(tokens[:groups, :prefix], tokens[:, prefix:], common=shared)


@settings(max_examples=60, deadline=None)
@given(made=layouts())
def test_rows_hold_every_token_and_see_exactly_what_lies_before_them(made: tuple) -> None:  # type: ignore[type-arg]
    layout, lengths, shared, prefix, padded = made
    tokens = layout.pack(numbered(len(lengths), prefix, padded, shared)).int().tolist()
    tiles = layout.tiles
    assert len(tokens) == layout.rows == len(tiles.prompts) * tiles.tile
    assert layout.tokens == shared + sum(length - shared for length in lengths)
    assert tokens[:shared] == [[0, position] for position in range(shared)]

    def sees(row: int) -> list[list[int]]:
        number, at = divmod(row, tiles.tile)
        inside = tokens[number * tiles.tile : (number + 1) * tiles.tile]
        return [
            key for key, see in zip(tokens[:shared] + inside, tiles.visible[number, at], strict=True) if see
        ]

    for row in range(shared):
        assert sees(row) == tokens[: row + 1]
    used = set(range(shared))
    for c, (last, length) in enumerate(zip(layout.last_row.tolist(), lengths, strict=True)):
        rows = range(last - (length - shared) + 1, last + 1)
        own = [[c + 1, position] for position in range(shared, length)]
        assert [tokens[row] for row in rows] == own
        assert used.isdisjoint(rows)
        used |= set(rows)
        for number, row in enumerate(rows):
            assert sees(row) == tokens[:shared] + own[: number + 1]
    assert tiles.visible.any(-1).all()  # a row that saw nothing would be not a number
    kept = tiles.ends[tiles.kept]
    assert torch.equal(kept[layout.rank], layout.last_row)
    assert sum(tiles.prompts) == len(lengths)


@settings(max_examples=60, deadline=None)
@given(made=layouts())
def test_unpacking_reverses_packing(made: tuple) -> None:  # type: ignore[type-arg]
    layout, lengths, shared, prefix, padded = made
    embedding = numbered(len(lengths), prefix, padded, shared)
    found = layout.unpack(layout.pack(embedding))
    assert torch.equal(found.prefix, embedding.prefix)
    assert found.shared_length == (shared if len(lengths) > 1 else prefix)
    for mine, theirs, length in zip(found.suffix, embedding.suffix, lengths, strict=True):
        assert torch.equal(mine[: length - prefix], theirs[: length - prefix])
        assert (mine[length - prefix :] == theirs[length - prefix - 1]).all()
    table = torch.arange(float(prefix + padded))[:, None]
    positions = layout.positions(table)[layout.last_row, 0]
    assert positions.tolist() == [length - 1 for length in lengths]


def test_few_rows_are_empty() -> None:
    generator = torch.Generator().manual_seed(0)
    for count, shared, longest in ((10, 21, 9), (100, 21, 9), (1000, 21, 12), (100, 1, 30), (1000, 1, 30)):
        lengths = (shared + torch.randint(3, longest, (count,), generator=generator)).tolist()
        layout = PromptLayout(lengths, shared, shared, max(lengths) - shared, CPU)
        assert layout.rows <= 1.06 * layout.tokens
        assert layout.tiles.tile <= 2 * TILE


def test_a_part_is_the_same_tiles_counted_from_its_first() -> None:
    lengths = [21 + n for n in (3, 9, 4, 4, 7, 5, 3, 8, 6, 6, 12) for _ in range(8)]
    layout = PromptLayout(lengths, 21, 21, 12, CPU)
    tiles = layout.tiles
    parts = [tiles.part(0, 2), tiles.part(2, 3), tiles.part(3, len(tiles.prompts))]
    assert sum((part.prompts for part in parts), ()) == tiles.prompts
    first = 0
    rows = []
    for part in parts:
        rows.append(part.ends[part.kept] + first * tiles.tile)
        assert len(part.visible) == len(part.ends_visible) == len(part.prompts)
        first += len(part.prompts)
    assert torch.equal(torch.cat(rows), tiles.ends[tiles.kept])

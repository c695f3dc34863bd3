"""Views of pictures: the same values from memory and from files, and a schedule that shows each once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from few_shot import bank_of
from hypothesis import given, settings
from hypothesis import strategies as st

from pinikit.data.shelf import Shelf
from pinikit.data.view_bank import Recipe, ViewBank, row_key
from pinikit.training import views as module
from pinikit.training.views import StageRows, Views, view_numbers

CPU = torch.device("cpu")


def shelf_of(bank: ViewBank | None = None, stage: str = "image_feature", **facts: Any) -> Shelf:
    return Shelf(Recipe("tiny", {"weights": "w", **facts}), stage, bank)


def key(number: int) -> bytes:
    return row_key(number.to_bytes(32, "big"), number % 7)


def views_of(values: torch.Tensor, *parts: int, bank: ViewBank | None = None, **options: Any) -> Views:
    """Views [K, N, ...] whose rows are added in parts of these sizes, so that they lie in several files."""
    count, pictures = values.shape[:2]
    shelf, rows = shelf_of(bank), values.flatten(0, 1)
    for part in torch.arange(count * pictures).split(parts or (count * pictures,)):
        shelf.add([key(int(n)) for n in part], [0] * len(part), rows[part])
        shelf.flush()
    held = shelf.rows([key(n) for n in range(count * pictures)])
    return Views({"image_feature": StageRows(held)}, pictures, device=CPU, **options)


@pytest.fixture(params=["resident", "mapped"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether views are kept on the device or gathered from where they are banked."""
    if request.param == "mapped":
        monkeypatch.setattr(module, "RESIDENT", {"cpu": 0})
    return str(request.param)


@pytest.mark.parametrize("on_disk", [False, True])
def test_gather_is_indexing(place: str, on_disk: bool, tmp_path: Path) -> None:
    values = torch.randn(3, 5, 4, 2)
    views = views_of(values, 6, 7, 2, bank=ViewBank(tmp_path, 10**9) if on_disk else None)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3 * on_disk
    assert (views.count, views.pictures) == (3, 5)
    k, n = torch.tensor([2, 0, 1, 2, 2]), torch.tensor([4, 0, 4, 4, 1])
    assert torch.equal(views.gather(k, n)["image_feature"], values[k, n])
    assert torch.equal(views.rows(1, 4)["image_feature"], values[0, 1:4])
    assert torch.equal(views.rows(3, 100)["image_feature"], values[0, 3:])


def test_half_precision_is_handed_out_as_float32(place: str) -> None:
    values = torch.randn(1, 4, 3).bfloat16()
    found = views_of(values).rows(0, 4)["image_feature"]
    assert found.dtype == torch.float32
    assert torch.equal(found, values[0].float())


def test_files_of_different_formats_meet(place: str) -> None:
    shelf, exact = shelf_of(), torch.randn(2, 3)
    shelf.add([key(0), key(1)], [0, 0], exact)
    shelf.flush()
    shelf.add([key(2)], [0], torch.ones(1, 3, dtype=torch.bfloat16))
    shelf.flush()
    rows = shelf.rows([key(2), key(1), key(0)])
    found = Views({"x": StageRows(rows)}, 3, device=CPU).rows(0, 3)["x"]
    assert torch.equal(found, torch.stack([torch.ones(3), exact[1], exact[0]]))


def test_double_precision_stays(place: str) -> None:
    values = torch.randn(1, 2, 3, dtype=torch.float64)
    found = views_of(values, dtype=torch.float64).rows(0, 2)["image_feature"]
    assert torch.equal(found, values[0])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 7), st.integers(0, 3), st.integers(0, 9))
def test_over_k_epochs_every_view_is_seen_once(count: int, pictures: int, turn: int, seed: int) -> None:
    coded = torch.arange(count)[:, None] * 100 + torch.arange(pictures)  # [K, N]: view and picture
    views = views_of(coded.float())
    seen: Counter[int] = Counter()
    for step in range(count):
        shown = views.of_epoch(turn * count + step, seed)
        batch = views.gather(shown, torch.arange(pictures))["image_feature"].int()
        assert (batch % 100).tolist() == [*range(pictures)]
        seen.update(batch.tolist())
    assert set(seen.values()) == {1}
    assert len(seen) == count * pictures


def test_pictures_take_their_views_in_orders_of_their_own() -> None:
    views = views_of(torch.zeros(4, 50))
    first = views.of_epoch(0, 1)
    assert set(first.tolist()) == {0, 1, 2, 3}
    assert not torch.equal(first, views.of_epoch(4, 1)), "another turn"
    assert not torch.equal(first, views.of_epoch(0, 2)), "another seed"


def test_enough_views_are_fresh_augmentation() -> None:
    """Views beyond the epochs are not needed; up to them no epoch repeats another one's."""
    assert [*view_numbers(0, 9)] == [0]
    assert [*view_numbers(4, 9)] == [1, 2, 3, 4]
    assert [*view_numbers(100, 3)] == [*view_numbers(3, 3)] == [1, 2, 3]


def test_what_is_read_from_files_counts_as_time_of_the_bank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "RESIDENT", {"cpu": 0})
    bank = bank_of()
    views = bank.views({"image_feature"}, bank.dataset.catalogue().train)
    before = bank.seconds
    views.rows(0, 3)
    assert bank.seconds > before


def test_pixels_are_kept_with_eight_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = bank_of()
    items = bank.dataset.catalogue().train
    views = bank.views({"pixels"}, items)
    (kept,) = views._resident.values()
    assert kept.dtype == torch.uint8
    resident = views.rows(0, 5)["pixels"]
    assert resident.dtype == torch.float32
    monkeypatch.setattr(module, "RESIDENT", {"cpu": 0})
    mapped = bank_of().views({"pixels"}, items)
    assert not mapped._resident
    assert torch.equal(mapped.rows(0, 5)["pixels"], resident)


def test_any_other_device_keeps_what_the_processor_keeps() -> None:
    shelf = shelf_of()
    shelf.add([key(0)], [0], torch.ones(1, 3))
    shelf.flush()
    stages = {"x": StageRows(shelf.rows([key(0)]))}
    assert Views(stages, 1, device=torch.device("meta")).rows(0, 1)["x"].is_meta


def test_cuda_is_sent_rows_from_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As stored; a device that is not there stands for one that is."""
    sent = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda rows: sent.append(rows.dtype) or rows)
    monkeypatch.setattr(torch.Tensor, "to", lambda rows, *_, **__: rows)
    shelf = shelf_of()
    shelf.add([key(0)], [0], torch.ones(1, 3, dtype=torch.uint8))
    shelf.flush()
    Views({"x": StageRows(shelf.rows([key(0)]))}, 1, device=torch.device("cuda"))
    assert sent == [torch.uint8]

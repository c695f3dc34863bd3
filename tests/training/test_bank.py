"""The bank of frozen activations: computed once, row by row, and without a door to the test set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from few_shot import Squares, backbone, bank_of, manifest_of, silent, task_of

from pinikit.backbones.loading import load_backbone
from pinikit.backbones.spec import BackboneSpec
from pinikit.components.datasets.digits import Digits
from pinikit.data.catalogue import DataSet, Item
from pinikit.data.transforms import load_pictures, transform_for
from pinikit.errors import DataError
from pinikit.training.bank import BATCH, Bank
from pinikit.training.task import Split, Task

STAGES = {"image_feature", "patch_embedding"}


def test_activations_are_those_of_the_tower() -> None:
    dataset = Squares()
    bank, items = bank_of(dataset), dataset.catalogue().train
    for view in (0, 2):
        transform = transform_for(dataset, bank.backbone.preprocess, view)
        pixels = load_pictures(dataset, items, transform, view)
        found = bank.get({*STAGES, "pixels"}, items, view)
        with torch.no_grad():
            expected = bank.backbone.image.read(pixels, {*STAGES, "pixels"})
        assert set(found) == set(expected)
        for stage, tensor in expected.items():
            torch.testing.assert_close(found[stage], tensor, rtol=1e-5, atol=1e-5)


def test_views_differ_and_are_the_same_every_time() -> None:
    items = Squares().catalogue().train
    one, other = (
        [bank_of().get({"image_feature"}, items, view)["image_feature"] for view in range(3)]
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not any(torch.allclose(one[i], one[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.fixture(scope="module", params=["tiny", "glyph"])
def bank_source(request: pytest.FixtureRequest) -> Callable[[], Any]:
    """Makes empty banks of a backbone with a data set."""
    glyph = request.param == "glyph"
    frozen = load_backbone(BackboneSpec("glyph")) if glyph else backbone()
    dataset: DataSet = Digits() if glyph else Squares(train=90)
    return lambda: (Bank(frozen, dataset, "fp32"), dataset.catalogue().train[:90])


def test_a_row_depends_neither_on_its_neighbours_nor_on_its_place(bank_source: Any) -> None:
    """To the bit: what a bank holds already decides which pictures are encoded together."""
    whole, items = bank_source()
    together = whole.get(STAGES, items, 0)
    for chosen in ([0], [70, 3, 40], [*range(89, 0, -2)]):
        bank, _ = bank_source()
        alone = bank.get(STAGES, [items[i] for i in chosen], 0)
        for stage in STAGES:
            assert torch.equal(alone[stage], together[stage][chosen]), (stage, chosen)


def test_a_row_does_not_depend_on_what_was_asked_for_before(bank_source: Any) -> None:
    whole, items = bank_source()
    together = whole.get(STAGES, items[:20], 0)
    bank, _ = bank_source()
    bank.get({"image_feature"}, items[10:15], 0)
    again = bank.get(STAGES, items[:20], 0)
    for stage in STAGES:
        assert torch.equal(again[stage], together[stage])


def test_every_picture_is_decoded_and_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Squares(train=BATCH + 6)
    bank, items = bank_of(dataset), dataset.catalogue().train
    passes: list[int] = []
    read = bank.backbone.image.read
    monkeypatch.setattr(
        bank.backbone.image, "read", lambda pixels, stages: passes.append(len(pixels)) or read(pixels, stages)
    )
    progress: list[tuple[int, int]] = []
    bank.get(STAGES, items, 1, lambda done, total: progress.append((done, total)))
    assert passes == [BATCH, BATCH], "the short last batch is padded to the full shape"
    assert progress == [(BATCH, BATCH + 6), (BATCH + 6, BATCH + 6)]
    bank.get({"image_feature"}, items[::-1], 1, lambda *_: pytest.fail("nothing is left to encode"))
    assert len(passes) == 2
    assert sorted(dataset.opened) == sorted(item.id for item in items)
    bank.get({"image_feature"}, items[:3], 2)
    assert len(passes) == 3, "another view is another picture"


def test_pixels_alone_need_no_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = bank_of()
    monkeypatch.setattr(bank.backbone.image, "read", lambda *_: pytest.fail("the tower was run"))
    items = bank.dataset.catalogue().train[:2]
    assert bank.get({"pixels"}, items, 0)["pixels"].shape[0] == 2


def test_an_unreadable_picture_is_named() -> None:
    class Broken(Squares):
        def open(self, item: Item) -> Any:
            raise DataError(f"The picture {item.id} cannot be read.")

    with pytest.raises(DataError, match="train/1"):
        bank_of(Broken()).get({"image_feature"}, [Item("train/1", 1)], 0)


def test_the_test_split_is_out_of_a_method_s_reach() -> None:
    dataset = Squares()
    bank = bank_of(dataset)
    task = task_of(bank)
    assert {field.name for field in dataclasses.fields(task)} == {
        "backbone",
        "prompts",
        "class_names",
        "views",
        "train",
        "val",
    }
    test = {item.id for item in manifest_of(bank).test}
    for split in reached_splits(task):
        split.activations({"image_feature"})
    assert not test & set(dataset.opened)
    assert test.isdisjoint(item.id for split in reached_splits(task) for item in split._items)


def reached_splits(task: Task) -> list[Split]:
    return [
        value for field in dataclasses.fields(task) if isinstance(value := getattr(task, field.name), Split)
    ]


def test_no_validation_pictures_is_none() -> None:
    bank = bank_of(Squares(val=0))
    assert task_of(bank).val is None
    assert len(task_of(bank).train) == 12


def test_labels_stand_beside_their_activations() -> None:
    bank = bank_of()
    items = bank.dataset.catalogue().train
    split = Split(bank, items, silent)
    assert split.labels.tolist() == [item.label for item in items]
    assert len(split.activations({"pixels"})["pixels"]) == len(split)

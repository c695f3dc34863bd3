"""The bank of frozen activations: computed once, row by row, and without a door to the test set."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from few_shot import Squares, backbone, bank_of, manifest_of, silent, task_of
from torch import Tensor

from pinikit.backbones.loading import load_backbone
from pinikit.backbones.spec import BackboneSpec
from pinikit.components.datasets.digits import Digits
from pinikit.data.catalogue import Catalogue, DataSet, Item
from pinikit.data.transforms import load_pictures, transform_for
from pinikit.data.view_bank import ViewBank, read_keys
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


# --- on disk ----------------------------------------------------------------------------------------


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def disk(tmp_path: Path, notices: list[str]) -> ViewBank:
    return ViewBank(tmp_path / "views", 10**9, notices.append)


ALL = {*STAGES, "pixels"}


def on_disk(disk: ViewBank | None, dataset: DataSet | None = None, **changes: Any) -> Bank:
    """A new bank, as another process makes it."""
    return Bank(dataclasses.replace(backbone(), **changes), dataset or Squares(), "fp32", disk)


def loaded(bank: Bank, numbers: Sequence[int] = (1, 2), stages: Collection[str] = ALL) -> dict[str, Tensor]:
    """All views of the train pictures, [K, N, ...] by stage."""
    items = bank.dataset.catalogue().train
    views = bank.views(stages, items, numbers)
    k, n = torch.cartesian_prod(torch.arange(len(numbers)), torch.arange(len(items))).unbind(1)
    return {stage: rows.unflatten(0, (len(numbers), -1)) for stage, rows in views.gather(k, n).items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[stage], other[stage]) for stage in one)


@pytest.mark.parametrize("resident", [2**30, 0])
def test_the_disk_gives_the_bits_of_memory(
    disk: ViewBank, monkeypatch: pytest.MonkeyPatch, resident: int
) -> None:
    monkeypatch.setattr("pinikit.training.views.RESIDENT", {"cpu": resident})
    expected = {numbers: loaded(on_disk(None), numbers) for numbers in ((0,), (1, 2))}
    for turn in ("written", "found"):
        bank = on_disk(disk)
        for numbers, tensors in expected.items():
            assert same(loaded(bank, numbers), tensors), turn
    assert len(disk.files()) == 2 * len(ALL)


def test_several_views_at_once_are_those_of_one_by_one() -> None:
    together = loaded(bank_of(), (1, 2, 3))
    bank, items = bank_of(), Squares().catalogue().train
    for index, view in enumerate((1, 2, 3)):
        alone = bank.get(ALL, items, view)
        assert all(torch.equal(alone[stage], together[stage][index]) for stage in ALL)


def test_clean_and_augmented_views_do_not_mix() -> None:
    with pytest.raises(ValueError, match="View 0"):
        bank_of().views({"pixels"}, Squares().catalogue().train, [0, 1])


def test_what_is_on_disk_is_not_computed_again(disk: ViewBank) -> None:
    first, dataset = on_disk(disk), Squares()
    loaded(first)
    assert (first.images_encoded, first.rows_cached) == (24, 0)
    second = on_disk(disk, dataset)
    loaded(second)
    assert (second.images_encoded, second.rows_cached) == (0, 24)
    assert dataset.opened == []
    loaded(second, (1, 2, 3))
    assert (second.images_encoded, second.rows_cached) == (12, 48)
    assert second.seconds > 0


def test_another_stage_of_the_same_pictures(disk: ViewBank) -> None:
    loaded(on_disk(disk), stages={"image_feature"})
    bank = on_disk(disk)
    assert same(loaded(bank), loaded(on_disk(None)))
    assert bank.images_encoded == 24
    assert {holding.pictures for holding in disk.holdings()} == {12}
    rows = [len(read_keys(path)[0]) for path in disk.files()]
    assert rows == [24] * 3, "no row is stored twice"


class Renamed(Squares):
    """The same pictures under other names."""

    def read(self) -> Catalogue:
        found = super().read()
        train = tuple(Item(item.id.replace("train", "other"), item.label) for item in found.train)
        return dataclasses.replace(found, train=train)

    def open(self, item: Item) -> Any:
        return super().open(self._named(item))

    def fingerprint(self, item: Item) -> bytes:
        return super().fingerprint(self._named(item))

    def _named(self, item: Item) -> Item:
        return Item(item.id.replace("other", "train"), item.label)


class Repainted(Squares):
    """Other pictures under the same names."""

    def open(self, item: Item) -> Any:
        return super().open(item).rotate(180)

    def fingerprint(self, item: Item) -> bytes:
        return DataSet.fingerprint(self, item)


class Uncropped(Squares):
    crop_scale = (0.9, 1.0)


@pytest.mark.parametrize(
    ("other", "numbers", "shared"),
    [
        (lambda disk: on_disk(disk), (1,), True),
        (lambda disk: on_disk(disk, name="another name"), (1,), True),
        (lambda disk: on_disk(disk, Renamed()), (0,), True),
        (lambda disk: on_disk(disk, Renamed()), (1,), False),  # another crop
        (lambda disk: on_disk(disk, Repainted()), (0,), False),
        (lambda disk: on_disk(disk, Uncropped()), (1,), False),
        (lambda disk: on_disk(disk, Uncropped()), (0,), True),
        (lambda disk: on_disk(disk, weights_hash="other"), (1,), False),
        (
            lambda disk: on_disk(disk, preprocess={**backbone().preprocess, "mean": (0.1, 0.2, 0.3)}),
            (1,),
            False,
        ),
        (lambda disk: Bank(backbone(), Squares(), "bf16", disk), (1,), False),
    ],
)
def test_rows_are_shared_if_and_only_if_they_are_equal(
    disk: ViewBank, other: Callable[[ViewBank], Bank], numbers: tuple[int, ...], shared: bool
) -> None:
    loaded(on_disk(disk), numbers)
    bank = other(disk)
    found = loaded(bank, numbers)
    assert bank.images_encoded == (0 if shared else 12)
    if bank.precision == "fp32":
        assert same(found, loaded(without_disk(bank), numbers))


def without_disk(bank: Bank) -> Bank:
    """The same without a disk."""
    return Bank(bank.backbone, bank.dataset, bank.precision)


def test_the_number_of_threads_is_part_of_the_key(disk: ViewBank, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrix products may round in another order."""
    loaded(on_disk(disk))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    bank = on_disk(disk)
    loaded(bank)
    assert bank.images_encoded == 24


@pytest.mark.parametrize("place", [20, -1])
def test_a_damaged_file_is_computed_again(disk: ViewBank, notices: list[str], place: int) -> None:
    expected = loaded(on_disk(disk))
    for path in disk.files():
        content = bytearray(path.read_bytes())
        content[place] ^= 4
        path.write_bytes(content)
    bank = on_disk(disk)
    assert same(loaded(bank), expected)
    assert bank.images_encoded == 24
    assert len(notices) == len(ALL)
    assert all("damaged" in notice for notice in notices)
    assert same(loaded(on_disk(disk)), expected)
    assert disk.verify() == []


def test_work_done_before_an_unreadable_picture_is_kept(disk: ViewBank) -> None:
    class Broken(Squares):
        def open(self, item: Item) -> Any:
            if item.id == f"train/{BATCH + 3}":
                raise DataError(f"The picture {item.id} cannot be read.")
            return super().open(item)

    with pytest.raises(DataError, match=f"train/{BATCH + 3} "):
        loaded(on_disk(disk, Broken(train=BATCH + 6)), (0,))
    whole = on_disk(disk, Squares(train=BATCH + 6))
    assert same(loaded(whole, (0,)), loaded(on_disk(None, Squares(train=BATCH + 6)), (0,)))
    assert whole.images_encoded == 6


def test_a_full_disk_changes_nothing_but_where_rows_are(
    disk: ViewBank, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("pinikit.data.files._write_and_sync", full)
    bank = on_disk(disk)
    assert same(loaded(bank), loaded(on_disk(None)))
    loaded(bank)
    assert bank.images_encoded == 24
    assert len(notices) == 1


def test_half_precision_is_stored_in_half(disk: ViewBank, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where the tower handed out no more than that."""
    half = dataclasses.replace(backbone())
    read = half.image.read
    monkeypatch.setattr(
        half.image,
        "read",
        lambda pixels, stages: {
            stage: tensor.bfloat16().float() if stage == "image_feature" else tensor
            for stage, tensor in read(pixels, stages).items()
        },
    )
    found = loaded(Bank(half, Squares(), "bf16", disk))
    assert same(found, loaded(Bank(half, Squares(), "bf16", disk)))
    sizes = {holding.stage: holding.size for holding in disk.holdings()}
    numel = {stage: tensor.numel() for stage, tensor in found.items()}
    assert numel["image_feature"] * 2 < sizes["image_feature"] < numel["image_feature"] * 2 + 2000
    assert numel["patch_embedding"] * 4 < sizes["patch_embedding"]
    assert numel["pixels"] < sizes["pixels"] < numel["pixels"] + 2000, "pixels have eight bits"


def test_need_is_what_will_be_stored(disk: ViewBank) -> None:
    bank, items = on_disk(disk), Squares().catalogue().train
    threads = torch.get_num_threads()
    before = bank.need(ALL, items, [1, 2], threads)
    assert all(not need.present and len(need.keys) == 24 for need in before)
    loaded(bank)
    head = 24 * 44 + 400  # keys, view numbers and description of a file
    total = sum(need.row_bytes * len(need.keys) for need in before)
    assert total < disk.size() < total + len(ALL) * head
    after = on_disk(disk).need(ALL, items, [1, 2, 3], threads)
    assert all(len(need.present) == 24 and len(need.keys) == 36 for need in after)
    assert {need.shelf for need in after} == {need.shelf for need in before}
    assert not any(need.present for need in bank.need(ALL, items, [1], threads + 1))


@pytest.mark.parametrize("stored", [False, True])
def test_a_picture_crosses_the_tower_once_for_all_stages_that_are_expected(
    disk: ViewBank, stored: bool
) -> None:
    bank = on_disk(disk if stored else None)
    bank.expect(ALL, bank.dataset.catalogue().train, (1, 2))
    first = loaded(bank, stages={"image_feature"})
    assert same(loaded(bank), loaded(on_disk(None)))
    assert first.keys() == {"image_feature"}
    assert bank.images_encoded == 24


def test_nothing_is_stored_that_no_request_reads(disk: ViewBank) -> None:
    """Other stages of other views and of other pictures are expected, too."""
    bank = on_disk(disk)
    items = bank.dataset.catalogue().train
    bank.expect({"image_feature"}, items, (1, 2))
    bank.expect({"patch_embedding"}, items[:5], (1,))
    bank.expect({"pixels"}, items, (0,))
    loaded(bank, stages={"image_feature"})
    assert {holding.stage: (holding.pictures, holding.views) for holding in disk.holdings()} == {
        "image_feature": (12, 2),
        "patch_embedding": (5, 1),
    }
    bank.views({"patch_embedding"}, items[:5], (1,))
    assert bank.images_encoded == 24


def test_equal_requests_share_their_views(disk: ViewBank) -> None:
    bank = on_disk(disk)
    items = bank.dataset.catalogue().train
    one = bank.views(ALL, items, (1, 2))
    assert bank.views(ALL, items, (1, 2)) is one
    assert (bank.images_encoded, bank.rows_cached) == (24, 24)
    assert bank.views({"pixels"}, items, (1, 2)) is not one
    assert bank.views(ALL, items[::-1], (1, 2)) is not one
    assert bank.views(ALL, items, (1,)) is not one


@pytest.mark.parametrize("resident", [2**30, 0])
def test_what_no_views_use_can_be_removed(
    disk: ViewBank, monkeypatch: pytest.MonkeyPatch, resident: int
) -> None:
    monkeypatch.setattr("pinikit.training.views.RESIDENT", {"cpu": resident})
    bank = on_disk(disk)
    items = bank.dataset.catalogue().train
    held = bank.views({"image_feature"}, items, (1,))
    expected = held.rows(0, 12)
    bank.views({"pixels"}, items, (1,))
    bank.release()
    other = ViewBank(disk.folder, disk.limit)
    assert other.prune(size=0).in_use == (0 if resident else 1), "what is resident needs no file"
    assert same(held.rows(0, 12), expected)
    del held
    bank.release()
    other.prune(size=0)
    assert disk.files() == []
    assert same(bank.get({"image_feature"}, items, 1), expected), "computed again"


def test_rows_without_a_file_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = on_disk(None)
    items = bank.dataset.catalogue().train
    for view in range(3):
        bank.get(ALL, items, view)
    bank.release()
    bank.get(ALL, items, 1)
    assert bank.images_encoded == 36, "few stay"
    monkeypatch.setattr("pinikit.training.bank.UNWRITTEN", 0)
    bank.release()
    bank.get(ALL, items, 1)
    assert bank.images_encoded == 48


def test_the_processor_s_matrix_units_are_part_of_the_key(
    disk: ViewBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = set()
    for present in (False, True):
        monkeypatch.setattr("pinikit.training.bank.cpu_multiplies_bf16", lambda present=present: present)
        keys |= {need.shelf for need in on_disk(disk).need({"pixels"}, Squares().catalogue().train, [0], 1)}
    assert len(keys) == 2

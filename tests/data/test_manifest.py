import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pinikit.data.catalogue import Catalogue, DataSet, Item
from pinikit.data.manifest import SplitManifest, load_manifest, make_manifest
from pinikit.errors import ConfigError, DataError


class Toy(DataSet):
    """Three classes with names in shuffled order; ``sizes`` are the train pictures of each."""

    name = "toy"
    plain_template = "a {}."
    pini_words = "a"

    def __init__(self, sizes: tuple[int, ...] = (9, 7, 8), val: int = 6) -> None:
        self.sizes, self.val = sizes, val

    def read(self) -> Catalogue:
        train = [Item(f"train/{label}/{i}", label) for label, n in enumerate(self.sizes) for i in range(n)]
        val = [Item(f"val/{label}/{i}", label) for label in range(3) for i in range(self.val)]
        test = tuple(Item(f"test/{label}", label) for label in range(3))
        for pool in (train, val):
            random.Random(5).shuffle(pool)
        return Catalogue(self.name, ("ant", "bée", "cat_fish"), tuple(train), tuple(val), test)

    def open(self, item: Item) -> Image.Image:
        raise NotImplementedError

    def check(self, items: Iterable[Item]) -> None:
        raise NotImplementedError


def dassl(catalogue: Catalogue, shots: int, seed: int) -> tuple[list[Item], list[Item]]:
    """The published order of draws, from the global generator as there (enough pictures assumed)."""
    random.seed(seed)
    chosen = []
    for pool, count in ((catalogue.train, shots), (catalogue.val, min(shots, 4))):
        tracker = defaultdict(list)
        for item in pool:
            tracker[item.label].append(item)
        split: list[Item] = []
        for members in tracker.values():
            split.extend(random.sample(members, count))
        chosen.append(split)
    return chosen[0], chosen[1]


@pytest.mark.parametrize("shots", [1, 2, 4, 5, 7])
@pytest.mark.parametrize("seed", [0, 1, 2, 99])
def test_sampling_is_that_of_coop(shots: int, seed: int) -> None:
    toy = Toy()
    state = random.getstate()
    manifest = make_manifest(toy, shots, seed)
    assert random.getstate() == state
    train, val = dassl(toy.catalogue(), shots, seed)
    random.setstate(state)
    assert (list(manifest.train), list(manifest.val)) == (train, val)
    assert manifest.test == toy.catalogue().test
    assert manifest.notes == ()


def test_a_pinned_sample() -> None:
    """Guards against a Python whose ``random.sample`` draws otherwise."""
    assert [item.id for item in make_manifest(Toy(), 2, 1).train] == PINNED


PINNED = ["train/2/2", "train/2/1", "train/1/2", "train/1/4", "train/0/2", "train/0/6"]


def test_a_class_with_too_few_pictures_gives_all_of_them_once() -> None:
    manifest = make_manifest(Toy(sizes=(9, 2, 8), val=3), 5, 1)
    assert Counter(item.label for item in manifest.train) == {0: 5, 1: 2, 2: 5}
    assert Counter(item.label for item in manifest.val) == {0: 3, 1: 3, 2: 3}
    train, val = manifest.notes
    assert train == "train: 1 of 3 classes have fewer than 5 pictures (bée 2); each is used once."
    assert val.startswith("val: 3 of 3 classes have fewer than 4 pictures (ant 3, ")


def test_a_data_set_without_val() -> None:
    manifest = make_manifest(Toy(val=0), 3, 1)
    assert manifest.val == ()
    assert manifest.notes == ()


@pytest.mark.parametrize("shots", [0, -1, True, 2.0, "4", None])
def test_shots_must_be_a_whole_number(shots: object) -> None:
    with pytest.raises(ConfigError, match=r"run\.data\.shots is .*at least 1"):
        make_manifest(Toy(), shots, 1)  # type: ignore[arg-type]


def test_a_negative_seed_would_repeat_a_positive_one() -> None:
    with pytest.raises(ConfigError, match=r"split_seed is -1"):
        make_manifest(Toy(), 1, -1)


def test_round_trip(tmp_path: Path) -> None:
    manifest = make_manifest(Toy(), 3, 7)
    manifest.save(tmp_path / "m.json")
    loaded = SplitManifest.load(tmp_path / "m.json")
    assert loaded == manifest
    assert loaded.hash == manifest.hash
    assert len(manifest.hash) == 64
    assert load_manifest(tmp_path / "m.json", Toy()) == manifest
    text = (tmp_path / "m.json").read_text(encoding="utf-8")
    assert '\n    ["test/0", 0],\n' in text
    assert "bée" in text


def test_the_hash_is_pinned() -> None:
    """Run identities stand on it: a change here orphans all finished runs."""
    assert make_manifest(Toy(), 2, 1).hash == HASH


HASH = "4e3269f2a2b4633d2b3e268a8b87b463fdf849838f3f74c4aa6c19ea90b5a2d2"


@settings(deadline=None, max_examples=30)
@given(order=st.permutations(range(11)), indent=st.sampled_from([None, 0, 3]), ascii_only=st.booleans())
def test_equal_content_has_equal_hash(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], indent: int | None, ascii_only: bool
) -> None:
    manifest = make_manifest(Toy(), 2, 1)
    path = tmp_path_factory.mktemp("manifest") / "m.json"
    manifest.save(path)
    content = list(json.loads(path.read_text(encoding="utf-8")).items())
    assert len(content) == 11
    shuffled = dict(content[index] for index in order)
    path.write_text(json.dumps(shuffled, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    assert SplitManifest.load(path).hash == manifest.hash


@pytest.mark.parametrize(
    "change",
    [
        {"shots": 3},
        {"split_seed": 2},
        {"sampler": "other"},
        {"dataset": "toys"},
        {"class_names": ("ant", "bee", "cat_fish")},
        {"val": ()},
    ],
)
def test_other_content_has_another_hash(change: dict) -> None:
    manifest = make_manifest(Toy(), 2, 1)
    assert replace(manifest, **change).hash != manifest.hash


def test_the_order_of_pictures_is_content() -> None:
    manifest = make_manifest(Toy(), 2, 1)
    assert replace(manifest, train=manifest.train[::-1]).hash != manifest.hash


@pytest.mark.parametrize(
    ("found", "put", "message"),
    [
        ('"shots": 2', '"shots": 3', "edited or damaged"),
        ('["test/0", 0]', '["test/9", 0]', "edited or damaged"),
        ('["test/0", 0]', '["test/0", 1]', "edited or damaged"),
        ('["test/0", 0]', '["test/0", 3]', "label 3"),
        ('["test/0", 0]', '["test/1", 0]', "stands twice in test"),
        ('["test/0", 0]', '["test/0"]', r"damaged: test\[0\] must be"),
        ('["test/0", 0]', '["test/0", true]', r"damaged: test\[0\] must be"),
        ('"shots": 2', '"shots": true', "damaged: 'shots'"),
        ('"hash": "', '"hash": "0', "edited or damaged"),
        ('"hash"', '"hush"', "edited or damaged"),
        ('"cat_fish"', "7", "damaged: 'class_names'"),
        ('"split_seed"', '"seed"', "damaged: 'split_seed' is missing"),
        ('"version": 1', '"version": 2', "format version 2; this pinikit reads version 1"),
        ('"pinikit-split-manifest"', '"other"', "not a split manifest"),
        ("}", "", "not valid JSON"),
    ],
)
def test_tampering_is_noticed(tmp_path: Path, found: str, put: str, message: str) -> None:
    path = tmp_path / "m.json"
    make_manifest(Toy(), 2, 1).save(path)
    text = path.read_text(encoding="utf-8")
    assert text.count(found) == 1
    path.write_text(text.replace(found, put), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        SplitManifest.load(path)


def test_any_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    make_manifest(Toy(), 1, 1).save(path)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 37):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            SplitManifest.load(path)
    path.write_text("[]")
    with pytest.raises(DataError, match="not a split manifest"):
        SplitManifest.load(path)


def test_splits_must_not_share_pictures() -> None:
    manifest = make_manifest(Toy(), 2, 1)
    with pytest.raises(DataError, match="is in train and in test; splits must not share"):
        replace(manifest, test=(*manifest.test, manifest.train[0]))
    with pytest.raises(DataError, match="is in train and in val"):
        replace(manifest, val=manifest.train[:1])


def test_a_manifest_must_fit_the_data_set(tmp_path: Path) -> None:
    manifest = make_manifest(Toy(), 2, 1)
    manifest.check_fits(Toy())
    names = manifest.class_names
    stranger = (*manifest.test, Item("test/x", 0))
    for change, message in (
        ({"dataset": "digits"}, "it is for 'digits'"),
        ({"class_names": ("ant", "bee", names[2])}, "class 1 is 'bee' in it and 'bée' in the data set"),
        ({"class_names": (*names, "dog"), "train": (*manifest.train, Item("d", 3))}, "has 4 classes"),
        ({"test": stranger}, "1 pictures are unknown or of another class: test/x"),
        ({"test": (Item("test/0", 1),)}, "unknown or of another class: test/0"),
    ):
        other = replace(manifest, **change)
        other.save(tmp_path / "m.json")
        with pytest.raises(DataError, match=message) as caught:
            load_manifest(tmp_path / "m.json", Toy())
        assert "m.json" in str(caught.value)

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from shared_material import SHARED

from pinikit.components.datasets._coop import CoOpDataSet, read_split_file
from pinikit.components.datasets.caltech101 import Caltech101
from pinikit.components.datasets.dtd import DescribableTextures
from pinikit.data.catalogue import Item
from pinikit.data.manifest import make_manifest
from pinikit.errors import ConfigError, DataError

needs_shared = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the shared pictures are not here")

SPLIT = {
    "train": [["b/1.jpg", 1, "bumpy_road"], ["a/1.jpg", 0, "banded"], ["b/2.jpg", 1, "bumpy_road"]],
    "val": [["a/2.jpg", 0, "banded"]],
    "test": [["a/3.jpg", 0, "banded"], ["b/3.jpg", 1, "bumpy_road"]],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, SPLIT)
    for entries in SPLIT.values():
        for path, _, _ in entries:
            picture = tmp_path / "dtd" / "images" / path
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (5, 4), 7).save(picture)
    return tmp_path


def write(root: Path, split: Any) -> Path:
    path = root / "dtd" / DescribableTextures.split_file
    path.parent.mkdir(exist_ok=True)
    path.write_text(split if isinstance(split, str) else json.dumps(split))
    return path


@pytest.mark.parametrize("inner", ["", "dtd"])
def test_the_root_is_the_folder_or_the_one_around_it(root: Path, inner: str) -> None:
    dataset = DescribableTextures(str(root / inner))
    catalogue = dataset.catalogue()
    assert catalogue.class_names == ("banded", "bumpy_road")
    assert catalogue.train == (Item("b/1.jpg", 1), Item("a/1.jpg", 0), Item("b/2.jpg", 1))
    assert catalogue.val == (Item("a/2.jpg", 0),)
    dataset.check(catalogue.items)
    assert dataset.open(catalogue.train[0]).mode == "RGB"


def test_the_home_folder_may_be_abbreviated(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root))
    assert DescribableTextures("~").catalogue().dataset == "dtd"


def test_the_root_may_come_from_the_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a study over several data sets needs no root for each."""
    monkeypatch.setenv("PINIKIT_DATA", str(root))
    assert DescribableTextures().catalogue().dataset == "dtd"
    monkeypatch.setenv("PINIKIT_DATA", str(root / "gone"))
    assert DescribableTextures(str(root)).catalogue().dataset == "dtd", "what is given counts first"


def test_nothing_is_read_before_it_is_needed() -> None:
    dataset = Caltech101()
    with pytest.raises(ConfigError, match=r"^run\.data\.root is not given: data set 'caltech101'"):
        dataset.catalogue()


def test_a_missing_root_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'dtd'.*gone, which is not a folder.*dtd/ with split_zhou"):
        DescribableTextures(str(tmp_path / "gone")).catalogue()
    with pytest.raises(DataError, match=r"'dtd'.*has no dtd/\. It must hold dtd/ with split_zhou"):
        DescribableTextures(str(tmp_path)).catalogue()


@pytest.mark.parametrize("inner", ["", "dtd"])
def test_a_missing_split_file_says_where_it_belongs(root: Path, inner: str) -> None:
    (root / "dtd" / DescribableTextures.split_file).unlink()
    with pytest.raises(DataError, match=r"dtd/split_zhou_DescribableTextures\.json is missing\. Put CoOp's"):
        DescribableTextures(str(root / inner)).catalogue()


def test_missing_pictures_are_counted_and_named(root: Path) -> None:
    dataset = DescribableTextures(str(root))
    items = dataset.catalogue().items
    for item in items[1:5]:
        (root / "dtd" / "images" / item.id).unlink()
    with pytest.raises(
        DataError, match=r"4 of 6 pictures are missing in .*images: a/1\.jpg, b/2\.jpg, a/2\.jpg, …"
    ):
        dataset.check(items)
    with pytest.raises(DataError, match=r"a/1\.jpg is missing"):
        dataset.open(items[1])


def test_a_missing_picture_folder_is_named(tmp_path: Path) -> None:
    write(tmp_path, SPLIT)
    dataset = DescribableTextures(str(tmp_path))
    with pytest.raises(DataError, match=r"dtd/images is missing\. Put the data set's pictures there"):
        dataset.check(dataset.catalogue().items)


def changed(split: str, entry: Any) -> dict[str, Any]:
    return {**SPLIT, split: [*SPLIT[split], entry]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"train": [}', r"not valid JSON: .* at line 1, column 12"),
        ([], r'must be \{"train"'),
        ({"train": [], "val": []}, r'must be \{"train"'),
        (changed("train", ["a.jpg", 0]), r"train\[3\] is \['a\.jpg', 0\]; it must be \[path, label"),
        (changed("test", ["a.jpg", "0", "banded"]), r"test\[2\]"),
        (changed("test", ["a.jpg", True, "bumpy_road"]), r"test\[2\]"),
        (changed("val", ["/a.jpg", 0, "banded"]), r"val\[1\]: '/a\.jpg' is not a path below"),
        (changed("val", ["x/../../a.jpg", 0, "banded"]), r"val\[1\].*is not a path below"),
        (changed("val", ["", 0, "banded"]), r"val\[1\].*is not a path below"),
        (changed("val", ["a.jpg", 0, "bonded"]), "label 0 is called 'bonded' here and 'banded' before"),
        (changed("train", ["a.jpg", 3, "new"]), "labels must be 0 to 2 without gaps"),
        (changed("train", ["a.jpg", 2, "banded"]), "'banded' and 'banded' are the same"),
        (changed("train", ["a.jpg", 2, ""]), "name of class 2 is empty"),
        (changed("test", ["a.jpg", 2, "new"]), "no picture to train on for the class 'new'"),
        (changed("test", ["a/1.jpg", 0, "banded"]), r"a/1\.jpg is in train and in test"),
    ],
)
def test_a_wrong_split_file_says_what_is_wrong(tmp_path: Path, content: Any, message: str) -> None:
    write(tmp_path, content)
    with pytest.raises(DataError, match=message) as caught:
        DescribableTextures(str(tmp_path)).catalogue()
    assert "data set 'dtd'" in str(caught.value).lower()


def test_templates_are_those_of_coop_and_pini() -> None:
    assert (Caltech101.plain_template, Caltech101.pini_words) == ("a photo of a {}.", "a photo of a")
    assert (DescribableTextures.plain_template, DescribableTextures.pini_words) == ("{} texture.", "texture")
    assert CoOpDataSet.flip
    assert CoOpDataSet.crop_scale == (0.08, 1.0)


@pytest.mark.real
@needs_shared
def test_real_caltech101() -> None:
    dataset = Caltech101(str(SHARED / "data"))
    catalogue = dataset.catalogue()
    assert len(catalogue.class_names) == 100
    assert [len(split) for split in (catalogue.train, catalogue.val, catalogue.test)] == [1967, 400, 2465]
    dataset.check(catalogue.items)
    manifest = make_manifest(dataset, 4, 1)
    assert (len(manifest.train), len(manifest.val), manifest.notes) == (400, 400, ())
    assert dataset.open(manifest.train[0]).mode == "RGB"


@pytest.mark.real
@needs_shared
def test_real_dtd() -> None:
    dataset = DescribableTextures(str(SHARED / "data" / "dtd"))
    catalogue = dataset.catalogue()
    assert [len(split) for split in (catalogue.train, catalogue.val, catalogue.test)] == [600, 240, 360]
    dataset.check(catalogue.items)


@pytest.mark.real
@needs_shared
@pytest.mark.parametrize(
    ("name", "classes", "sizes"),
    [
        ("Caltech101", 100, (4128, 1649, 2465)),
        ("DescribableTextures", 47, (2820, 1128, 1692)),
        ("EuroSAT", 10, (13500, 5400, 8100)),
        ("OxfordFlowers", 102, (4093, 1633, 2463)),
        ("OxfordPets", 37, (2944, 736, 3669)),
        ("StanfordCars", 196, (6509, 1635, 8041)),
        ("UCF101", 101, (7639, 1898, 3783)),
    ],
)
def test_real_split_files(name: str, classes: int, sizes: tuple[int, int, int]) -> None:
    catalogue = read_split_file(SHARED / "data" / "splits" / f"split_zhou_{name}.json", name)
    assert len(catalogue.class_names) == classes
    assert (len(catalogue.train), len(catalogue.val), len(catalogue.test)) == sizes

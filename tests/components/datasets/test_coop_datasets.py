import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from golden_cases import cases
from PIL import Image
from shared_material import SHARED

from pinikit.components.datasets.caltech101 import Caltech101
from pinikit.components.datasets.dtd import DescribableTextures
from pinikit.config.build import create
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


# CoOp's folders (DATASETS.md) and zero-shot prompts (trainers/zsclip.py), and PiNI's words.
PUBLISHED = {
    "oxford_pets": (
        "oxford_pets",
        "images",
        "a photo of a {}, a type of pet.",
        "a type of pet, a photo of a",
    ),
    "oxford_flowers": (
        "oxford_flowers",
        "jpg",
        "a photo of a {}, a type of flower.",
        "a type of flower, a photo of a",
    ),
    "fgvc_aircraft": (
        "fgvc_aircraft",
        "images",
        "a photo of a {}, a type of aircraft.",
        "a type of aircraft, a photo of a",
    ),
    "dtd": ("dtd", "images", "{} texture.", "texture"),
    "eurosat": ("eurosat", "2750", "a centered satellite photo of {}.", "a centered satellite photo of"),
    "stanford_cars": ("stanford_cars", ".", "a photo of a {}.", "a photo of a"),
    "food101": ("food-101", "images", "a photo of {}, a type of food.", "a type of food, a photo of"),
    "sun397": ("sun397", "SUN397", "a photo of a {}.", "a photo of a"),
    "caltech101": ("caltech-101", "101_ObjectCategories", "a photo of a {}.", "a photo of a"),
    "ucf101": ("ucf101", "UCF-101-midframes", "a photo of a person doing {}.", "a photo of a person doing"),
    "imagenet": ("imagenet", "images", "a photo of a {}.", "a photo of a"),
}
SPLIT_FILES = {name for name in PUBLISHED if name not in ("fgvc_aircraft", "imagenet")}


def made(name: str, root: object = None) -> Any:
    """A registered data set."""
    return create("dataset", {"name": name, "root": str(root)}, "run.data")


@pytest.mark.parametrize("name", PUBLISHED)
def test_templates_are_those_of_coop_and_pini(name: str) -> None:
    dataset = made(name)
    assert (dataset.plain_template, dataset.pini_words) == PUBLISHED[name][2:]
    assert dataset.flip
    assert dataset.crop_scale == (0.08, 1.0)


def test_words_of_pini_are_in_its_code() -> None:
    """In the order of the released code's table."""
    case = cases("pini_tokens")[0]
    assert [words[3] for words in PUBLISHED.values()] == case.hyper["templates"][: len(PUBLISHED)]


@pytest.mark.parametrize("name", sorted(SPLIT_FILES))
@pytest.mark.parametrize("inner", [False, True])
def test_folders_are_those_of_coop(tmp_path: Path, name: str, inner: bool) -> None:
    folder, pictures, *_ = PUBLISHED[name]
    dataset = made(name, tmp_path / folder if inner else tmp_path)
    place = tmp_path / folder / pictures / "a"
    place.mkdir(parents=True)
    items = {split: [[f"a/{split}.jpg", 0, "ant_lion"]] for split in ("train", "val", "test")}
    (tmp_path / folder / dataset.split_file).write_text(json.dumps(items))
    for split in items:
        Image.new("RGB", (4, 4)).save(place / f"{split}.jpg")
    catalogue = dataset.catalogue()
    assert catalogue.class_names == ("ant_lion",)
    dataset.check(catalogue.items)
    assert dataset.open(catalogue.test[0]).size == (4, 4)


@pytest.fixture
def aircraft(tmp_path: Path) -> Path:
    folder = tmp_path / "fgvc_aircraft"
    (folder / "images").mkdir(parents=True)
    (folder / "variants.txt").write_text("707-320\nDHC-8 100\n")
    for split, first in (("train", 1), ("val", 3), ("test", 5)):
        lines = [f"{first:07d} 707-320", f"{first + 1:07d} DHC-8 100"]
        (folder / f"images_variant_{split}.txt").write_text("\n".join(lines) + "\n")
    for number in range(1, 7):
        Image.new("RGB", (4, 4)).save(folder / "images" / f"{number:07d}.jpg")
    return folder


def test_aircraft(aircraft: Path) -> None:
    dataset = made("fgvc_aircraft", aircraft.parent)
    catalogue = dataset.catalogue()
    assert catalogue.class_names == ("707-320", "DHC-8 100")
    assert catalogue.val == (Item("0000003.jpg", 0), Item("0000004.jpg", 1))
    dataset.check(catalogue.items)


def test_a_wrong_list_of_aircraft_says_what_is_wrong(aircraft: Path) -> None:
    (aircraft / "images_variant_val.txt").write_text("0000003 707-321\n")
    with pytest.raises(DataError, match=r"val\.txt, line 1: unknown variant '707-321'.*707-320"):
        made("fgvc_aircraft", aircraft).catalogue()
    (aircraft / "images_variant_val.txt").unlink()
    with pytest.raises(DataError, match=r"images_variant_val\.txt is missing\. Put CoOp's"):
        made("fgvc_aircraft", aircraft).catalogue()


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    folder = tmp_path / "imagenet"
    for split in ("train", "val"):
        for number in (2, 1, 3):
            place = folder / "images" / split / f"n0000000{number}"
            place.mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(place / f"{split}_{number}.JPEG")
    names = ["n00000001 missile", "n00000002 tench", "n00000003 missile", "n00000009 not here"]
    (folder / "classnames.txt").write_text("\n".join(names) + "\n")
    return folder


def test_imagenet(imagenet: Path) -> None:
    """Its validation pictures are what is tested on; two of CLIP's class names stand twice."""
    dataset = made("imagenet", imagenet.parent)
    catalogue = dataset.catalogue()
    assert catalogue.class_names == ("missile", "tench", "missile")
    assert catalogue.val == ()
    assert catalogue.test[1] == Item("val/n00000002/val_2.JPEG", 1)
    dataset.check(catalogue.items)
    assert len(make_manifest(dataset, 1, 1).train) == 3


def test_classes_of_imagenet_that_do_not_fit_are_told(imagenet: Path) -> None:
    (imagenet / "images" / "val" / "n00000004").mkdir()
    with pytest.raises(DataError, match=r"n00000004 is not in classnames\.txt"):
        made("imagenet", imagenet).catalogue()
    (imagenet / "images" / "val" / "n00000004").rename(imagenet / "images" / "val" / "n00000009")
    with pytest.raises(DataError, match=r"n00000009 is not in .*train"):
        made("imagenet", imagenet).catalogue()
    shutil.rmtree(imagenet / "images" / "val")
    with pytest.raises(DataError, match=r"images/val is missing"):
        made("imagenet", imagenet).catalogue()


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
        ("caltech101", 100, (4128, 1649, 2465)),
        ("dtd", 47, (2820, 1128, 1692)),
        ("eurosat", 10, (13500, 5400, 8100)),
        ("oxford_flowers", 102, (4093, 1633, 2463)),
        ("oxford_pets", 37, (2944, 736, 3669)),
        ("stanford_cars", 196, (6509, 1635, 8041)),
        ("ucf101", 101, (7639, 1898, 3783)),
    ],
)
def test_real_split_files(name: str, classes: int, sizes: tuple[int, int, int], tmp_path: Path) -> None:
    dataset = made(name, tmp_path)
    folder = tmp_path / dataset.folder
    folder.mkdir()
    shutil.copy(SHARED / "data" / "splits" / dataset.split_file, folder)
    catalogue = dataset.catalogue()
    assert len(catalogue.class_names) == classes
    assert (len(catalogue.train), len(catalogue.val), len(catalogue.test)) == sizes

"""ImageNet's variants, which have test pictures only, in the folders of CoOp's DATASETS.md."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pinikit.config.build import create
from pinikit.data.catalogue import Catalogue, Item
from pinikit.data.manifest import make_manifest
from pinikit.errors import ConfigError, DataError

FOLDERS = {
    "imagenetv2": ("imagenetv2", "imagenetv2-matched-frequency-format-val"),
    "imagenet_sketch": ("imagenet-sketch", "images"),
    "imagenet_a": ("imagenet-adversarial", "imagenet-a"),
    "imagenet_r": ("imagenet-rendition", "imagenet-r"),
}
NAMES = "n00000001 missile\nn00000002 great white shark\nn00000003 missile\n"


def made(name: str, root: Path) -> Any:
    return create("dataset", {"name": name, "root": str(root)}, "run.data")


def write(root: Path, name: str, classes: list[str]) -> Path:
    """Two pictures for each class, beside what must be left alone; gives the folder of the pictures."""
    folder, pictures = FOLDERS[name]
    place = root / folder / pictures
    for class_folder in classes:
        (place / class_folder).mkdir(parents=True)
        for file in ("b.jpeg", "a.jpeg"):
            Image.new("RGB", (4, 4)).save(place / class_folder / file)
    (place / "README.txt").write_text("not a class")
    (root / folder / "classnames.txt").write_text(NAMES)
    return place


@pytest.mark.parametrize("name", list(FOLDERS)[1:])
@pytest.mark.parametrize("inner", [False, True])
def test_variants_with_folders_as_in_imagenet(tmp_path: Path, name: str, inner: bool) -> None:
    write(tmp_path, name, ["n00000003", "n00000002"])
    dataset = made(name, tmp_path / FOLDERS[name][0] if inner else tmp_path)
    catalogue = dataset.catalogue()
    assert catalogue.class_names == ("great white shark", "missile"), "only those that have a folder"
    assert (catalogue.train, catalogue.val) == ((), ())
    assert catalogue.test[1:3] == (Item("n00000002/b.jpeg", 0), Item("n00000003/a.jpeg", 1))
    dataset.check(catalogue.items)
    assert dataset.open(catalogue.test[0]).size == (4, 4)
    assert (dataset.plain_template, dataset.pini_words) == ("a photo of a {}.", "a photo of a")


def test_folders_of_v2_are_labels(tmp_path: Path) -> None:
    place = write(tmp_path, "imagenetv2", ["2", "0", "1"])
    catalogue = made("imagenetv2", tmp_path).catalogue()
    assert catalogue.class_names == ("missile", "great white shark", "missile")
    assert [item.id for item in catalogue.test] == [f"{n}/{file}.jpeg" for n in "012" for file in "ab"]
    assert [item.label for item in catalogue.test] == [0, 0, 1, 1, 2, 2]
    (place / "1").rename(place / "3")
    with pytest.raises(DataError, match=r"'imagenetv2': the folder 3 in .* is no label; .* has 0 to 2"):
        made("imagenetv2", tmp_path).catalogue()
    shutil.rmtree(place / "3")
    with pytest.raises(DataError, match="'imagenetv2': the folder 1 is not in"):
        made("imagenetv2", tmp_path).catalogue()


def test_damage_is_told(tmp_path: Path) -> None:
    place = write(tmp_path, "imagenet_a", ["n00000002"])
    names = place.parent / "classnames.txt"
    (place / "n00000009").mkdir()
    with pytest.raises(DataError, match=r"'imagenet_a': the class n00000009 is not in classnames\.txt"):
        made("imagenet_a", tmp_path).catalogue()
    (place / "n00000009").rename(place / "n00000003")
    with pytest.raises(DataError, match="no picture to test on for the class 'missile'"):
        made("imagenet_a", tmp_path).catalogue()
    names.write_text(NAMES + "n00000001 rocket\n")
    with pytest.raises(DataError, match="names the folder n00000001 twice"):
        made("imagenet_a", tmp_path).catalogue()
    names.unlink()
    with pytest.raises(DataError, match=r"classnames\.txt is missing\. Put CoOp's"):
        made("imagenet_a", tmp_path).catalogue()
    shutil.rmtree(place)
    with pytest.raises(DataError, match=r"imagenet-a is missing\. Put the data set's pictures there"):
        made("imagenet_a", tmp_path).catalogue()


def test_nothing_can_be_trained_on_them(tmp_path: Path) -> None:
    write(tmp_path, "imagenet_r", ["n00000002"])
    with pytest.raises(
        ConfigError, match=r"run\.data\.name: found 'imagenet_r', which has test pictures only"
    ):
        make_manifest(made("imagenet_r", tmp_path), 1, 1)
    with pytest.raises(DataError, match="no picture to train on"):
        Catalogue("toy", ("cat",), (), (), (Item("a", 0),))

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pinikit.components.datasets.image_folder import ImageFolder
from pinikit.data.catalogue import Catalogue
from pinikit.errors import ConfigError, DataError


def fill(root: Path, counts: Mapping[str, int]) -> Path:
    """Empty picture files: reading a catalogue decodes nothing."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for number in range(count):
            (root / folder / f"{number:03d}.jpg").touch()
    return root


def counts(catalogue: Catalogue) -> list[Counter[int]]:
    return [
        Counter(item.label for item in split) for split in (catalogue.train, catalogue.val, catalogue.test)
    ]


def read(root: Path, **parameters: Any) -> Catalogue:
    return ImageFolder(str(root), **parameters).catalogue()


def test_classes_are_split_by_hash_and_stratified(tmp_path: Path) -> None:
    fill(tmp_path, {"dog": 20, "cat": 10, "emu": 2})
    catalogue = read(tmp_path)
    assert catalogue.class_names == ("cat", "dog", "emu")
    assert counts(catalogue) == [{0: 5, 1: 10, 2: 1}, {0: 2, 1: 4}, {0: 3, 1: 6, 2: 1}]
    assert catalogue == read(tmp_path)
    assert {item.id for item in catalogue.items} >= {"cat/000.jpg", "dog/019.jpg"}


def test_the_split_depends_on_nothing_but_the_names(tmp_path: Path) -> None:
    first = read(fill(tmp_path / "one", {"dog": 20, "cat": 10}))
    assert first == read(fill(tmp_path / "elsewhere", {"cat": 10, "dog": 20}))
    more = read(fill(tmp_path / "more", {"cat": 10, "dog": 20, "emu": 9}))
    assert {item.id for item in first.test} < {item.id for item in more.test}


def test_fractions_are_settings(tmp_path: Path) -> None:
    fill(tmp_path, {"dog": 20, "cat": 10})
    assert counts(read(tmp_path, test_fraction=0.5, val_fraction=0.0)) == [{0: 5, 1: 10}, {}, {0: 5, 1: 10}]
    assert counts(read(tmp_path, test_fraction=0.9, val_fraction=0.09))[0] == {0: 1, 1: 1}
    assert counts(read(tmp_path, test_fraction=1e-9))[2] == {0: 1, 1: 1}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"test_fraction": 0.0}, r"run\.data\.test_fraction is 0\.0; it must be above 0 and below 1"),
        ({"test_fraction": 1.0}, r"run\.data\.test_fraction is 1\.0"),
        ({"val_fraction": -0.1}, r"run\.data\.val_fraction is -0\.1; it must be 0 or above"),
        ({"val_fraction": float("nan")}, r"run\.data\.val_fraction is nan"),
        ({"test_fraction": 0.6, "val_fraction": 0.4}, "leave nothing to train on"),
    ],
)
def test_impossible_fractions_are_refused(tmp_path: Path, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(fill(tmp_path, {"cat": 5}), **parameters)


def test_only_visible_pictures_count(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 4, "dog/young": 3, "dog/old": 2, ".hidden": 3})
    for name in ("cat/notes.txt", "cat/.DS_Store", "cat/._001.jpg", "README.md"):
        (tmp_path / name).touch()
    (tmp_path / "cat" / "X.PNG").touch()
    catalogue = read(tmp_path)
    assert catalogue.class_names == ("cat", "dog")
    ids = {item.id for item in catalogue.items}
    assert len(ids) == 10
    assert {"cat/X.PNG", "dog/young/000.jpg", "dog/old/001.jpg"} <= ids


@pytest.mark.parametrize("val", [0, 2])
def test_given_splits_are_kept(tmp_path: Path, val: int) -> None:
    fill(tmp_path, {"train/cat": 3, "train/dog": 1, "test/cat": 2, "test/dog": 4})
    if val:
        fill(tmp_path, {"val/cat": val})
    catalogue = read(tmp_path)
    assert catalogue.class_names == ("cat", "dog")
    assert counts(catalogue) == [{0: 3, 1: 1}, {0: 2} if val else {}, {0: 2, 1: 4}]
    assert catalogue.train[0].id == "train/cat/000.jpg"


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert read(fill(tmp_path, {"bus": 3, "train": 3})).class_names == ("bus", "train")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"train/cat": 3, "val/cat": 3}, r"has train/, val/\. Splits must be train/, test/"),
        ({"train/cat": 3, "valid/cat": 3, "test/cat": 3}, r"has test/, train/, valid/\. Splits must be"),
        ({"train/cat": 3, "test/cat": 3, "cat": 2}, "with nothing beside them"),
        (
            {"train/cat": 3, "test/cats": 3},
            r"'cats' is in .*test but not in .*train \(did you mean 'cat'\?\)",
        ),
        ({"train/cat": 3, "train/dog": 0, "test/cat": 3}, "no picture to train on for the class 'dog'"),
        ({"train/cat": 3, "test/cat": 0}, "no test pictures"),
        ({"cat": 3, "dog": 1}, "dog has 1 pictures; each class needs one to train on and one to test on"),
        ({"cat": 3, "dog": 0}, "dog has 0 pictures"),
        ({}, "has no sub-folders"),
    ],
)
def test_unclear_layouts_are_refused(tmp_path: Path, folders: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(fill(tmp_path, folders))


def test_a_missing_root(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.data\.root is not given: data set 'image_folder'"):
        ImageFolder().catalogue()
    with pytest.raises(DataError, match="not a folder"):
        read(tmp_path / "gone")


@pytest.mark.parametrize(
    "lines", ["a big cat\n good dog \n\n", "n02\tgood dog\nn01\ta big cat", "\ufeffa big cat\r\ngood dog\r\n"]
)
def test_classes_are_named_by_a_file(tmp_path: Path, lines: str) -> None:
    fill(tmp_path / "data", {"n01": 3, "n02": 3})
    (tmp_path / "classes.txt").write_bytes(lines.encode())
    catalogue = read(tmp_path / "data", classes=str(tmp_path / "classes.txt"))
    assert catalogue.class_names == ("a big cat", "good dog")
    assert {item.label for item in catalogue.items if item.id.startswith("n02")} == {1}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("cat", r"has 1 lines for 2 class folders"),
        ("cat\n\ndog", r"has 3 lines for 2 class folders"),
        ("\ndog", "name of class 0 is empty"),
        ("dog\ndog", "'dog' and 'dog' are the same"),
        ("n01\tcat\nn03\tdog", r"line 2: there is no class folder 'n03' \(did you mean"),
        ("n01\tcat\nn02 dog", r"line 2: expected folder<TAB>name, found 'n02 dog'"),
        ("n01\tcat\nn01\tdog", r"line 2: the folder 'n01' is named twice"),
        ("n01\tcat", "no line for the class folder 'n02'"),
        ("n01\tcat\nn02\t", "name of class 1 is empty"),
    ],
)
def test_a_wrong_class_name_file(tmp_path: Path, lines: str, message: str) -> None:
    fill(tmp_path / "data", {"n01": 3, "n02": 3})
    (tmp_path / "classes.txt").write_text(lines)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "data", classes=str(tmp_path / "classes.txt"))


def test_a_missing_class_name_file(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"class name file of data set 'image_folder' .*gone: it does not exist"
    ):
        read(fill(tmp_path, {"cat": 3}), classes=str(tmp_path / "gone"))


def test_pictures_are_opened_upright(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 3})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "cat" / "000.jpg", exif=exif)
    dataset = ImageFolder(str(tmp_path))
    item = next(item for item in dataset.catalogue().items if item.id == "cat/000.jpg")
    assert dataset.open(item).size == (4, 8)
    dataset.check([item])


def test_a_file_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 3})
    try:
        (tmp_path / "cat" / "\udcff.jpg").touch()
    except OSError:
        pytest.skip("this file system refuses such names")
    with pytest.raises(DataError, match="not valid Unicode"):
        read(tmp_path)

"""By what the view bank knows a picture: its content, and how it is opened."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from PIL import Image

from pinikit.components.datasets.digits import Digits
from pinikit.components.datasets.image_folder import ImageFolder
from pinikit.data.catalogue import Catalogue, DataSet, Item
from pinikit.errors import DataError


class Drawn(DataSet):
    """A data set that says nothing of its own on fingerprints."""

    name = "drawn"

    def __init__(self, pictures: dict[str, Image.Image]) -> None:
        self.pictures = pictures

    def read(self) -> Catalogue:
        raise NotImplementedError

    def open(self, item: Item) -> Image.Image:
        return self.pictures[item.id]

    def check(self, items: Iterable[Item]) -> None:
        raise NotImplementedError


def test_equal_pictures_and_only_those_are_equal() -> None:
    white, black = (Image.new("RGB", (4, 2), colour) for colour in ("white", "black"))
    shapes = {"a": white, "b": white.copy(), "c": black, "d": white.resize((2, 4))}
    dataset = Drawn(shapes)
    a, b, c, d = (dataset.fingerprint(Item(name, 0)) for name in "abcd")
    assert a == b
    assert len({a, c, d}) == 3
    assert len(a) == 32


def test_digits_have_fingerprints_of_their_own() -> None:
    digits = Digits()
    items = digits.catalogue().items[:300]
    assert len({digits.fingerprint(item) for item in items}) == 300


def folder(root: Path, colour: str, name: str = "1.png") -> ImageFolder:
    (root / "cat").mkdir(parents=True)
    Image.new("RGB", (4, 4), colour).save(root / "cat" / name)
    return ImageFolder(str(root))


ONE = Item("cat/1.png", 0)


def test_the_same_names_in_another_folder_are_other_pictures(tmp_path: Path) -> None:
    red, green = folder(tmp_path / "a", "red"), folder(tmp_path / "b", "green")
    assert red.fingerprint(ONE) != green.fingerprint(ONE)


def test_the_same_file_under_another_name_is_the_same_picture(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "a", "red"), folder(tmp_path / "b", "red", "2.png")
    assert one.fingerprint(ONE) == other.fingerprint(Item("cat/2.png", 5))


def test_how_a_file_is_opened_counts(tmp_path: Path) -> None:
    class AsStored(ImageFolder):
        upright = False

    class Mirrored(ImageFolder):
        def open(self, item: Item) -> Image.Image:
            return super().open(item).transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    class Whole(ImageFolder):
        def open(self, item: Item) -> Image.Image:
            return super().open(item)

    plain = folder(tmp_path / "a", "red")
    Image.linear_gradient("L").rotate(90).save(tmp_path / "a" / "cat" / "1.png")
    found = {kind(plain.root).fingerprint(ONE) for kind in (ImageFolder, AsStored, Mirrored, Whole)}
    assert len(found) == 4


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    dataset = folder(tmp_path, "red")
    (tmp_path / "cat" / "1.png").unlink()
    with pytest.raises(DataError, match=r"1\.png"):
        dataset.fingerprint(ONE)

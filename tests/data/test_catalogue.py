import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pinikit.data.catalogue import Catalogue, Item, hashed_order
from pinikit.data.pictures import decode
from pinikit.errors import DataError

A, B, C, D = Item("a", 0), Item("b", 1), Item("c", 0), Item("d", 1)


def catalogue(
    names: tuple[str, ...] = ("cat", "dog"),
    train: tuple[Item, ...] = (A, B),
    val: tuple[Item, ...] = (),
    test: tuple[Item, ...] = (C, D),
) -> Catalogue:
    return Catalogue("toy", names, train, val, test)


def test_a_good_catalogue() -> None:
    assert catalogue().items == (A, B, C, D)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ()}, "has no classes"),
        ({"names": ("cat", " ")}, "name of class 1 is empty"),
        ({"names": ("cat", "_")}, "name of class 1 is empty"),
        ({"names": ("cat", "cat")}, "'cat' and 'cat' are the same"),
        ({"names": ("big_cat", "big cat")}, "'big_cat' and 'big cat' are the same"),
        ({"names": ("cat", "\udcff")}, "not valid Unicode"),
        ({"names": ("cat", "dog", "emu")}, "no picture to train on for the class 'emu'"),
        ({"test": ()}, "no test pictures"),
        ({"test": (A,)}, "a is in train and in test"),
        ({"val": (C,)}, "c is in val and in test"),
        ({"train": (A, B, A)}, "a stands twice in train"),
        ({"test": (Item("c", 2),)}, "c in test has label 2; there are 2 classes"),
        ({"test": (Item("c", -1),)}, "label -1"),
        ({"test": (Item("\udcff", 1),)}, "not valid Unicode"),
    ],
)
def test_what_is_wrong_is_said(change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        catalogue(**change)
    assert str(caught.value).startswith("Data set 'toy'")


def test_hashed_order_depends_on_names_only() -> None:
    names = [f"{number}" for number in range(50)]
    order = hashed_order(names)
    assert order == hashed_order(reversed(names)) != names
    assert order[0] == min(names, key=lambda name: hashlib.sha256(name.encode()).digest())


def grey_ramp() -> Image.Image:
    return Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        ("1", "png"),
        ("L", "png"),
        ("LA", "png"),
        ("P", "png"),
        ("RGB", "jpg"),
        ("RGBA", "png"),
        ("CMYK", "jpg"),
        ("CMYK", "tif"),
        ("YCbCr", "jpg"),
    ],
)
def test_pictures_of_any_mode_become_rgb(tmp_path: Path, mode: str, ending: str) -> None:
    path = tmp_path / f"picture.{ending}"
    grey_ramp().convert(mode).save(path)
    picture = decode(path)
    assert (picture.mode, picture.size) == ("RGB", (8, 8))
    if mode not in ("1", "RGB", "CMYK", "YCbCr"):
        assert np.array_equal(np.asarray(picture)[..., 0], np.asarray(grey_ramp()))


def test_wide_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    wide = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert np.asarray(decode(tmp_path / "wide.png"))[..., 1].tolist() == [[0, 1, 128, 255]]


def test_a_transparent_palette_keeps_its_colours(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 2), 1)
    picture.putpalette([0, 0, 0, 10, 200, 30] + [0] * 762)
    picture.save(tmp_path / "palette.png", transparency=bytes([0, 128]))
    assert decode(tmp_path / "palette.png").getpixel((0, 0)) == (10, 200, 30)


def test_the_orientation_tag_is_obeyed_on_request(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "phone.jpg", exif=exif)
    assert decode(tmp_path / "phone.jpg").size == (8, 4)
    assert decode(tmp_path / "phone.jpg", upright=True).size == (4, 8)


@pytest.mark.parametrize("ending", ["jpg", "png"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5])
def test_a_damaged_picture_is_named(tmp_path: Path, ending: str, share: float) -> None:
    whole = tmp_path / f"whole.{ending}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole)
    damaged = tmp_path / f"damaged.{ending}"
    damaged.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    with pytest.raises(DataError, match=rf"damaged\.{ending} cannot be read"):
        decode(damaged)


def test_what_is_no_picture_or_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(DataError, match=r"text\.jpg cannot be read"):
        decode(tmp_path / "text.jpg")
    with pytest.raises(DataError, match=r"gone\.jpg is missing"):
        decode(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match="cannot be read"):
        decode(tmp_path)

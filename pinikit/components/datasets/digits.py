"""Handwritten digits that come with scikit-learn: real pictures without a download."""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pinikit.data.catalogue import Catalogue, DataSet, Item, hashed_order, missing_pictures
from pinikit.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

_CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Digits(DataSet):
    """scikit-learn's 1,797 real handwritten digits of 8×8 pixels (UCI optdigits, Alpaydin & Kaynak 1998).

    The splits are fixed and stratified, whatever a run's seed: of each class, in the order of a hash of
    the pictures' numbers, the first half is the test set; a quarter of the rest is the val pool.
    """

    name = "digits"
    synonyms = ("sklearn_digits",)
    version = 1
    plain_template = "a photo of the digit {}."
    pini_words = "a photo of the digit"
    # A mirrored digit is another sign, and a small piece of one is no digit at all.
    flip = False
    crop_scale = (0.7, 1.0)

    def read(self) -> Catalogue:
        """Class names and splits; see :class:`Digits` for the rule."""
        splits: dict[str, list[Item]] = {"train": [], "val": [], "test": []}
        for label in range(len(_CLASSES)):
            ids = hashed_order(_identifier(i) for i, row in enumerate(self._rows) if row[64] == label)
            test = len(ids) // 2
            val = test + (len(ids) - test) // 4
            parts = {"test": ids[:test], "val": ids[test:val], "train": ids[val:]}
            for split, names in parts.items():
                splits[split] += [Item(name, label) for name in names]
        ordered = {split: tuple(sorted(items, key=lambda item: item.id)) for split, items in splits.items()}
        return Catalogue(self.name, _CLASSES, ordered["train"], ordered["val"], ordered["test"])

    def open(self, item: Item) -> Image:
        """The picture as RGB, 8×8: white strokes on black."""
        from PIL import Image as PillowImage

        # scikit-learn's grey values go from 0 to 16.
        grey = bytes(round(value * 255 / 16) for value in self._grey_values(item))
        return PillowImage.frombytes("L", (8, 8), grey).convert("RGB")

    def check(self, items: Iterable[Item]) -> None:
        """Look whether the items are digits; see :meth:`DataSet.check`."""
        names = [item.id for item in items]
        missing = [name for name in names if _number(name, len(self._rows)) is None]
        if missing:
            raise missing_pictures(self.name, "in scikit-learn's digits", missing, len(names))

    def _grey_values(self, item: Item) -> bytes:
        """The 64 grey values, 0 to 16, row by row."""
        number = _number(item.id, len(self._rows))
        if number is None:
            raise DataError(f"Data set {self.name!r} has no picture {item.id!r}.")
        return self._rows[number][:64]

    @cached_property
    def _rows(self) -> tuple[bytes, ...]:
        return _read_file() or _ask_sklearn()


def _read_file() -> tuple[bytes, ...] | None:
    """64 grey values and the label of each picture; None if scikit-learn keeps its file elsewhere.

    Importing scikit-learn takes seconds, and this is needed to name a run.
    """
    package = importlib.util.find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder, "datasets", "data", "digits.csv.gz")
        if path.is_file():
            with gzip.open(path, "rt") as lines:
                return tuple(bytes(map(int, line.split(","))) for line in lines)
    return None


def _ask_sklearn() -> tuple[bytes, ...]:
    """The same from scikit-learn's public function."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pairs = zip(data.data, data.target, strict=True)
    return tuple(bytes([*map(int, grey), int(label)]) for grey, label in pairs)


def _identifier(number: int) -> str:
    return f"digits/{number:04d}"


def _number(identifier: str, count: int) -> int | None:
    """The picture's number, or None if the identifier is not exactly that of a digit."""
    digits = identifier.removeprefix("digits/")
    number = int(digits) if digits.isascii() and digits.isdigit() else -1
    return number if 0 <= number < count and identifier == _identifier(number) else None

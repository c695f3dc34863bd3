"""Class names and folders that ImageNet and its variants share, in CoOp's layout."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pinikit.components.datasets._coop import CoOpFolder
from pinikit.data.catalogue import Catalogue, Item
from pinikit.data.files import read_text
from pinikit.errors import DataError

NAMES = "classnames.txt"


class ImageNetFolder(CoOpFolder):
    """A data set whose classes are ImageNet's; ``classnames.txt`` has lines such as ``n01440764 tench``."""

    split_file = NAMES
    plain_template = "a photo of a {}."
    pini_words = "a photo of a"

    def class_names(self) -> dict[str, str]:
        """Names by folder, in the order of the lines of ``classnames.txt``.

        Raises:
            ConfigError, DataError: the file is missing or cannot be read, or names a folder twice.
        """
        path = self.file(NAMES)
        text = read_text(path, f"class name file of data set {self.name!r}")
        names: dict[str, str] = {}
        for line in text.splitlines():
            folder, _, name = line.strip().partition(" ")
            if folder in names:
                raise DataError(f"Data set {self.name!r}: {path} names the folder {folder} twice.")
            if folder:
                names[folder] = name.strip()
        return names

    def class_folders(self, place: Path) -> list[str]:
        """Names of the visible folders in ``place``, sorted.

        Raises:
            DataError: there is no such place.
        """
        if not place.is_dir():
            raise DataError(
                f"Data set {self.name!r}: the folder {place} is missing. Put the data set's pictures there."
            )
        return sorted(entry.name for entry in os.scandir(place) if entry.is_dir() and entry.name[0] != ".")


class ImageNetVariant(ImageNetFolder):
    """Pictures to test on: folders that are called as in ImageNet, of all its classes or of some.

    Classes are those that have a folder, in the order of the folders' names.
    """

    def read(self) -> Catalogue:
        """Class names from ``classnames.txt``, pictures from the folders."""
        place, named = self.picture_folder(), self.class_names()
        folders = self.class_folders(place)
        if not folders:
            raise DataError(f"Data set {self.name!r}: {place} has no folders such as n01440764.")
        if unknown := [folder for folder in folders if folder not in named]:
            raise DataError(f"Data set {self.name!r}: the class {unknown[0]} is not in {NAMES}.")
        return tested(self.name, [named[folder] for folder in folders], pictures_in(place, folders))


def tested(dataset: str, names: Sequence[str], test: Iterator[Item]) -> Catalogue:
    """A data set that has test pictures only; CLIP's list, which CoOp took, has some names twice."""
    return Catalogue(dataset, tuple(names), (), (), tuple(test), repeated_names=True, test_only=True)


def pictures_in(place: Path, folders: Sequence[str], below: str = "") -> Iterator[Item]:
    """The files of folders, whose places in ``folders`` are their labels, in the order of their names.

    Args:
        place: where the folders are; one that is missing is empty.
        folders: their names, in the order of the labels.
        below: what items' paths have in front of the folder, e.g. ``train/``.
    """
    for label, folder in enumerate(folders):
        files = os.scandir(place / folder) if (place / folder).is_dir() else ()
        for name in sorted(entry.name for entry in files if entry.name[0] != "."):
            yield Item(f"{below}{folder}/{name}", label)

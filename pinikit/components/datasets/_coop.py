"""CoOp's folder layout and split files, shared by the data sets that come in them.

Source: K. Zhou, J. Yang, C. C. Loy, Z. Liu, "Learning to Prompt for Vision-Language Models", IJCV 2022;
the layout is described in DATASETS.md of https://github.com/KaiyangZhou/CoOp.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from pinikit.data.catalogue import Catalogue, Item
from pinikit.data.files import read_json
from pinikit.data.pictures import PictureFiles
from pinikit.errors import DataError

SPLITS = ("train", "val", "test")
ROOT = "PINIKIT_DATA"
"""Environment variable: the root where ``run.data.root`` is not given."""


class CoOpFolder(PictureFiles):
    """A data set in its folder of CoOp's layout; a subclass gives the three names below and the templates.

    Args:
        root: the folder that contains :attr:`folder`, or that folder; ``PINIKIT_DATA`` unless given.
    """

    path_parameters = ("root",)
    folder: ClassVar[str]
    """The data set's folder below the root, e.g. ``caltech-101``."""
    split_file: ClassVar[str]
    """The file in it that names classes or pictures, e.g. ``split_zhou_Caltech101.json``."""
    pictures: ClassVar[str]
    """The folder in it that paths start from, e.g. ``101_ObjectCategories``; ``.`` for the folder itself."""

    def __init__(self, root: str | None = None) -> None:
        self.root = root

    def picture_folder(self) -> Path:
        """The folder of the pictures; see :meth:`PictureFiles.picture_folder`."""
        folder = self.home() / self.pictures
        if not folder.is_dir():
            raise DataError(
                f"Data set {self.name!r}: the folder {folder} is missing. Put the data set's pictures there."
            )
        return folder

    def file(self, name: str) -> Path:
        """A file of the data set's folder.

        Raises:
            ConfigError, DataError: the folder or the file is missing; says what to put where.
        """
        path = self.home() / name
        if not path.is_file():
            what = "split file" if name.startswith("split_zhou") else "file"
            raise DataError(
                f"Data set {self.name!r}: the {what} {path} is missing. "
                f"Put CoOp's {name} there (DATASETS.md of github.com/KaiyangZhou/CoOp links it)."
            )
        return path

    def home(self) -> Path:
        """The data set's folder.

        Raises:
            ConfigError, DataError: it is not given, or is no such folder; says what it must hold.
        """
        inside = self.pictures != "."
        content = f"{self.split_file} and {self.pictures}/" if inside else self.split_file
        layout = f"{self.folder}/ with {content} in it (or {self.folder}/ itself)"
        root = self.root_folder(layout, os.environ.get(ROOT))
        if (root / self.split_file).is_file():
            return root
        if (root / self.folder).is_dir():
            return root / self.folder
        # The folder itself, with its split file still missing: the reader says so.
        if root.resolve().name == self.folder or (inside and (root / self.pictures).is_dir()):
            return root
        raise DataError(
            f"Data set {self.name!r}: run.data.root is {root}, which has no {self.folder}/. "
            f"It must hold {layout}."
        )


class CoOpDataSet(CoOpFolder):
    """A data set whose splits are one of CoOp's ``split_zhou_*.json``."""

    def read(self) -> Catalogue:
        """Class names and splits from the split file, in its order."""
        return read_split_file(self.file(self.split_file), self.name)


def read_split_file(path: Path, dataset: str) -> Catalogue:
    """Read ``{"train": [[path, label, class name], …], "val": …, "test": …}``.

    The items keep the file's order, which few-shot sampling depends on.

    Raises:
        DataError: the file is missing, not JSON, or not such a file; names the first wrong entry.
    """
    what = f"split file of data set {dataset!r}"
    content = read_json(path, what)
    if not isinstance(content, dict) or any(not isinstance(content.get(split), list) for split in SPLITS):
        raise DataError(f'The {what} {path} must be {{"train": […], "val": […], "test": […]}}.')
    names: dict[int, str] = {}
    items = {
        split: tuple(
            _entry(entry, names, f"The {what} {path}: {split}[{index}]")
            for index, entry in enumerate(content[split])
        )
        for split in SPLITS
    }
    if sorted(names) != list(range(len(names))):
        raise DataError(f"The {what} {path}: labels must be 0 to {len(names) - 1} without gaps.")
    class_names = tuple(names[label] for label in range(len(names)))
    return Catalogue(dataset, class_names, items["train"], items["val"], items["test"])


def _entry(entry: Any, names: dict[int, str], where: str) -> Item:
    """One item of a split file; ``names`` collects the class names met so far."""
    match entry:
        case [str(path), int(label), str(name)] if not isinstance(label, bool):
            pass
        case _:
            raise DataError(f"{where} is {_short(entry)}; it must be [path, label, class name].")
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts:
        raise DataError(f"{where}: {path!r} is not a path below the folder of the pictures.")
    if names.setdefault(label, name) != name:
        raise DataError(f"{where}: label {label} is called {name!r} here and {names[label]!r} before.")
    return Item(path, label)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"

"""The user's own pictures, one folder a class."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path

from pinikit.data.catalogue import Catalogue, Item, hashed_order
from pinikit.data.files import read_text
from pinikit.data.pictures import PictureFiles
from pinikit.errors import ConfigError, DataError, nearest

_LAYOUT = "one folder of pictures a class, or train/, test/ (and val/) with such folders in them"
_ENDINGS = (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
_SPLIT_LIKE = frozenset({"train", "val", "valid", "validation", "dev", "test"})


class ImageFolder(PictureFiles):
    """Your own pictures, one sub-folder a class (the layout of torchvision's ImageFolder).

    With sub-folders train/ and test/ (and val/) these are the splits. Otherwise each class is split by
    a hash of its pictures' paths, so a split depends on nothing but the file names.

    Args:
        root: the folder of the class folders.
        classes: a file that names the classes: one name a line in the order of the sorted folders, or
            ``folder<TAB>name`` lines. Without it the folders' names are used.
        test_fraction: share of each class to test on; at least one picture.
        val_fraction: share of each class for the val pool; 0 for none.
    """

    name = "image_folder"
    synonyms = ("folder",)
    version = 1
    path_parameters = ("root", "classes")
    plain_template = "a photo of a {}."
    pini_words = "a photo of a"
    # People's own pictures come from phones, which store them sideways with an orientation tag.
    upright = True

    def __init__(
        self,
        root: str | None = None,
        classes: str | None = None,
        test_fraction: float = 0.3,
        val_fraction: float = 0.2,
    ) -> None:
        self.root = root
        self.classes = classes
        self.test_fraction = test_fraction
        self.val_fraction = val_fraction

    def picture_folder(self) -> Path:
        """The root; see :meth:`PictureFiles.picture_folder`."""
        return self.root_folder(_LAYOUT)

    def read(self) -> Catalogue:
        """Class names and splits; see :class:`ImageFolder` for the rule."""
        self._check_fractions()
        root = self.picture_folder()
        folders = _sub_folders(root)
        if not folders:
            raise DataError(f"Data set {self.name!r}: {root} has no sub-folders. It must hold {_LAYOUT}.")
        explicit = self._has_splits(root, set(folders))
        classes = _sub_folders(root / "train") if explicit else folders
        parts = self._given_splits(root, classes) if explicit else self._hashed_splits(root, classes)
        return Catalogue(self.name, self._class_names(classes), parts["train"], parts["val"], parts["test"])

    def content(self, items: Iterable[Item]) -> str:
        """SHA-256 over the pictures' names and sizes in bytes: two folders may use the same names."""
        folder = self.picture_folder()
        sizes = [f"{item.id}\t{(folder / item.id).stat().st_size}" for item in items]
        return hashlib.sha256("\n".join(sizes).encode()).hexdigest()

    def _check_fractions(self) -> None:
        for key, low in (("test_fraction", "above 0"), ("val_fraction", "0 or above")):
            value = getattr(self, key)
            # Not `value < 0`: NaN must be refused, too.
            if not (0 <= value < 1) or (key == "test_fraction" and value == 0):
                raise ConfigError(f"run.data.{key} is {value}; it must be {low} and below 1.")
        if self.test_fraction + self.val_fraction >= 1:
            raise ConfigError(
                "run.data.test_fraction and run.data.val_fraction leave nothing to train on: "
                f"{self.test_fraction} + {self.val_fraction} must be below 1."
            )

    def _has_splits(self, root: Path, folders: set[str]) -> bool:
        """Whether the sub-folders are splits rather than classes; refuses what could be either."""
        if not ({"train", "test"} <= folders or ("train" in folders and folders <= _SPLIT_LIKE)):
            return False
        if "test" not in folders or not folders <= {"train", "val", "test"}:
            found = ", ".join(f"{name}/" for name in sorted(folders)[:6])
            raise DataError(
                f"Data set {self.name!r}: {root} has {found}. "
                "Splits must be train/, test/ and, if you like, val/, with nothing beside them."
            )
        return True

    def _given_splits(self, root: Path, classes: list[str]) -> dict[str, tuple[Item, ...]]:
        labels = {folder: label for label, folder in enumerate(classes)}
        splits: dict[str, tuple[Item, ...]] = {}
        for split in ("train", "val", "test"):
            unknown = [folder for folder in _sub_folders(root / split) if folder not in labels]
            if unknown:
                raise DataError(
                    f"Data set {self.name!r}: the class {unknown[0]!r} is in {root / split} "
                    f"but not in {root / 'train'}{nearest(unknown[0], classes)}."
                )
            splits[split] = tuple(
                Item(path, label)
                for folder, label in labels.items()
                for path in _pictures(root, root / split / folder)
            )
        return splits

    def _hashed_splits(self, root: Path, classes: list[str]) -> dict[str, tuple[Item, ...]]:
        splits: dict[str, list[Item]] = {"train": [], "val": [], "test": []}
        for label, folder in enumerate(classes):
            paths = _pictures(root, root / folder)
            if len(paths) < 2:
                raise DataError(
                    f"Data set {self.name!r}: the class folder {root / folder} has {len(paths)} pictures; "
                    "each class needs one to train on and one to test on."
                )
            test, val = self._sizes(len(paths))
            order = hashed_order(paths)
            parts = {"test": order[:test], "val": order[test : test + val], "train": order[test + val :]}
            for split, members in parts.items():
                splits[split] += [Item(path, label) for path in sorted(members)]
        return {split: tuple(items) for split, items in splits.items()}

    def _sizes(self, count: int) -> tuple[int, int]:
        """How many of a class's pictures are for test and val; at least one is left to train on."""
        test = min(max(1, math.floor(count * self.test_fraction + 0.5)), count - 1)
        val = min(math.floor(count * self.val_fraction + 0.5), count - test - 1)
        return test, val

    def _class_names(self, folders: list[str]) -> tuple[str, ...]:
        if self.classes is None:
            return tuple(folders)
        path = Path(self.classes).expanduser()
        lines = read_text(path, f"class name file of data set {self.name!r}").splitlines()
        while lines and not lines[-1].strip():
            lines.pop()
        if any("\t" in line for line in lines):
            return _names_by_folder(lines, folders, path)
        if len(lines) != len(folders):
            raise DataError(
                f"The class name file {path} has {len(lines)} lines for {len(folders)} class folders."
            )
        return tuple(line.strip() for line in lines)


def _names_by_folder(lines: list[str], folders: list[str], path: Path) -> tuple[str, ...]:
    names: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        folder, tab, name = line.partition("\t")
        where = f"The class name file {path}, line {number}"
        if not tab:
            raise DataError(f"{where}: expected folder<TAB>name, found {line!r}.")
        if folder not in folders:
            raise DataError(f"{where}: there is no class folder {folder!r}{nearest(folder, folders)}.")
        if folder in names:
            raise DataError(f"{where}: the folder {folder!r} is named twice.")
        names[folder] = name.strip()
    unnamed = [folder for folder in folders if folder not in names]
    if unnamed:
        raise DataError(f"The class name file {path} has no line for the class folder {unnamed[0]!r}.")
    return tuple(names[folder] for folder in folders)


def _sub_folders(folder: Path) -> list[str]:
    """Names of the visible folders in ``folder``, sorted; none if it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _pictures(root: Path, folder: Path) -> list[str]:
    """Paths below ``root``, with ``/``, of the picture files anywhere in ``folder``, sorted."""
    return sorted(
        path.relative_to(root).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in _ENDINGS and not path.name.startswith(".") and path.is_file()
    )

"""What pinikit knows of a data set: class names, pictures by identifier, splits. Imports no torch."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from pinikit.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Item:
    """One picture: a relative path with ``/`` (or e.g. ``digits/0123``) and the index of its class."""

    id: str
    label: int


@dataclass(frozen=True)
class Catalogue:
    """All pictures of a data set in their fixed splits, in the data set's own order.

    Class names are kept as the data set writes them; underscores become spaces in prompts only.

    Raises:
        DataError: a class name is empty or stands twice, a class has no picture to train on (or, where
            ``test_only``, to test on), there is no test picture, a label is out of range, or a picture
            stands twice.
    """

    dataset: str
    class_names: tuple[str, ...]
    train: tuple[Item, ...]
    val: tuple[Item, ...]
    test: tuple[Item, ...]
    repeated_names: bool = False
    """Whether the published names have some class names twice."""
    test_only: bool = False
    """Whether there is nothing to train on: runs are tested on it (``run.evaluate.other_data``)."""

    def __post_init__(self) -> None:
        who = f"Data set {self.dataset!r}"
        check_class_names(self.class_names, who, repeated=self.repeated_names)
        splits = {"train": self.train, "val": self.val, "test": self.test}
        check_splits(self.class_names, splits, who, every_class_in="test" if self.test_only else "train")

    @property
    def items(self) -> tuple[Item, ...]:
        """The pictures of all splits."""
        return self.train + self.val + self.test


class DataSet(ABC):
    """Pictures with labels and fixed train, val and test pools.

    A data set is made without touching the disk; :meth:`catalogue` is where missing folders and
    settings are noticed. Constructor parameters have literal defaults, as they are read statically.
    """

    name: ClassVar[str]
    synonyms: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1
    """Raised when class names, splits or decoding change."""
    path_parameters: ClassVar[tuple[str, ...]] = ()
    """Constructor parameters that are paths of this machine, so no part of a run's identity."""

    plain_template: ClassVar[str]
    """The hand-written prompt of zero-shot CLIP, with one ``{}`` for the class name."""
    pini_words: ClassVar[str]
    """The words that PiNI puts between its sixteen ``x`` and the class name."""

    flip: ClassVar[bool] = True
    """Whether a mirrored picture is still of its class."""
    crop_scale: ClassVar[tuple[float, float]] = (0.08, 1.0)
    """Smallest and largest share of the picture's area in a training crop."""
    crop_ratio: ClassVar[tuple[float, float]] = (3 / 4, 4 / 3)
    """Smallest and largest width / height of a training crop before it is resized."""

    def catalogue(self) -> Catalogue:
        """Class names and splits, read once.

        Raises:
            ConfigError: a needed parameter, such as ``run.data.root``, is not given.
            DataError: the data set is missing, damaged or inconsistent.
        """
        return self._catalogue

    @cached_property
    def _catalogue(self) -> Catalogue:
        return self.read()

    @abstractmethod
    def read(self) -> Catalogue:
        """Read class names and splits from the disk; called once by :meth:`catalogue`."""

    @abstractmethod
    def open(self, item: Item) -> Image:
        """Decode a picture as RGB; safe to call from several threads.

        Raises:
            DataError: the picture is missing or cannot be decoded.
        """

    @abstractmethod
    def check(self, items: Iterable[Item]) -> None:
        """Look whether the pictures are there, without decoding them.

        Raises:
            DataError: some are not; says how many and names the first three.
        """

    def content(self, items: Iterable[Item]) -> str:
        """What tells these pictures from other ones of the same names, for a run's identity.

        Empty for a published data set, whose split file fixes its pictures.
        """
        return ""

    def fingerprint(self, item: Item) -> bytes:
        """SHA-256 of a picture's content, by which the view bank knows it; safe to call from several threads.

        Of the decoded picture, unless the data set has something cheaper that decides what :meth:`open`
        gives.

        Raises:
            DataError: the picture is missing or cannot be decoded.
        """
        picture = self.open(item)
        head = f"{picture.mode} {picture.width} {picture.height} "
        return hashlib.sha256(head.encode() + picture.tobytes()).digest()


def hashed_order(identifiers: Iterable[str]) -> list[str]:
    """The identifiers in an order that looks random, and depends on nothing but themselves."""
    return sorted(
        identifiers, key=lambda name: (hashlib.sha256(name.encode(errors="surrogatepass")).digest(), name)
    )


def missing_pictures(dataset: str, where: str, missing: list[str], total: int) -> DataError:
    """The error for pictures that are named by a split but are not there."""
    first = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
    return DataError(
        f"Data set {dataset!r}: {len(missing)} of {total} pictures are missing {where}: {first}."
    )


def check_class_names(class_names: tuple[str, ...], who: str, *, repeated: bool = False) -> None:
    """Refuse class names whose prompts would be empty or, unless they may be ``repeated``, equal.

    Raises:
        DataError: there are none, or one is empty, stands twice or is not valid Unicode.
    """
    if not class_names:
        raise DataError(f"{who} has no classes.")
    seen: dict[str, str] = {}
    for label, name in enumerate(class_names):
        _check_unicode(name, who)
        prompt_name = name.replace("_", " ").strip()
        if not prompt_name:
            raise DataError(f"{who}: the name of class {label} is empty.")
        if prompt_name in seen and not repeated:
            raise DataError(
                f"{who}: the class names {seen[prompt_name]!r} and {name!r} are the same in a prompt."
            )
        seen[prompt_name] = name


def check_splits(
    class_names: tuple[str, ...],
    splits: dict[str, tuple[Item, ...]],
    who: str,
    *,
    every_class_in: str = "train",
) -> None:
    """Refuse splits that overlap, have wrong labels, or lack a class or the test pictures.

    Args:
        class_names: by label.
        splits: ``train``, ``val`` and ``test``.
        who: what the message begins with.
        every_class_in: the split in which no class may be missing.

    Raises:
        DataError: what is wrong, with the split and the picture.
    """
    home: dict[str, str] = {}
    for split, items in splits.items():
        for item in items:
            _check_unicode(item.id, who)
            if not 0 <= item.label < len(class_names):
                raise DataError(
                    f"{who}: {item.id} in {split} has label {item.label}; "
                    f"there are {len(class_names)} classes, numbered from 0."
                )
            if item.id in home:
                raise DataError(_twice(who, item.id, home[item.id], split))
            home[item.id] = split
    counts = Counter(item.label for item in splits[every_class_in])
    without = [name for label, name in enumerate(class_names) if not counts[label]]
    if without:
        names = ", ".join(map(repr, without[:3]))
        raise DataError(f"{who}: no picture to {every_class_in} on for the class {names}.")
    if not splits["test"]:
        raise DataError(f"{who} has no test pictures.")


def _twice(who: str, name: str, first: str, second: str) -> str:
    if first == second:
        return f"{who}: {name} stands twice in {first}."
    return f"{who}: {name} is in {first} and in {second}; splits must not share pictures."


def _check_unicode(name: str, who: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{who}: the name {name!r} is not valid Unicode; rename it.") from error

"""Split manifests: exactly which pictures a few-shot task consists of. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pinikit.data.catalogue import DataSet, Item, check_class_names, check_splits
from pinikit.data.files import canonical_json, read_json, write_atomic
from pinikit.errors import ConfigError, DataError

FORMAT = "pinikit-split-manifest"
FORMAT_VERSION = 1
VAL_SHOTS = 4
"""At most this many val pictures a class, as in CoOp."""

T = TypeVar("T")


@dataclass(frozen=True)
class SplitManifest:
    """A few-shot task: the pictures to train on, to validate on and to test on.

    Raises:
        DataError: the splits share a picture, a class has nothing to train on, a label is out of range.
    """

    dataset: str
    shots: int
    split_seed: int
    class_names: tuple[str, ...]
    train: tuple[Item, ...]
    val: tuple[Item, ...]
    test: tuple[Item, ...]
    sampler: str = "coop"

    def __post_init__(self) -> None:
        who = f"Split manifest of {self.dataset!r}"
        check_class_names(self.class_names, who, repeated=True)  # the data set has looked at that
        check_splits(self.class_names, {"train": self.train, "val": self.val, "test": self.test}, who)

    @property
    def items(self) -> tuple[Item, ...]:
        """The pictures of all splits."""
        return self.train + self.val + self.test

    @cached_property
    def hash(self) -> str:
        """SHA-256 (64 hex digits) of the content; the order of the pictures counts."""
        return hashlib.sha256(canonical_json(self._content()).encode()).hexdigest()

    @property
    def notes(self) -> tuple[str, ...]:
        """Things worth telling the user: classes that have fewer pictures than shots."""
        wanted = {"train": self.shots, "val": min(self.shots, VAL_SHOTS)}
        found = {"train": self.train, "val": self.val}
        notes = (self._shortage(split, found[split], wanted[split]) for split in wanted if found[split])
        return tuple(note for note in notes if note)

    def save(self, path: str | Path) -> None:
        """Write the manifest, one picture a line, so that it is whole or absent.

        Raises:
            PinikitError: the file cannot be written.
        """
        head = {"format": FORMAT, "version": FORMAT_VERSION, "hash": self.hash}
        fields = (f"  {_text(key)}: {_field(value)}" for key, value in {**head, **self._content()}.items())
        write_atomic(path, "{\n" + ",\n".join(fields) + "\n}\n")

    @classmethod
    def load(cls, path: str | Path) -> SplitManifest:
        """Read a manifest and verify its hash.

        Raises:
            DataError: the file is missing, damaged, edited, or written by a newer pinikit.
        """
        content = read_json(path, "split manifest")
        where = f"The split manifest {path}"
        _check_head(content, where)
        manifest = cls(
            dataset=_typed(content, "dataset", str, where),
            shots=_typed(content, "shots", int, where),
            split_seed=_typed(content, "split_seed", int, where),
            sampler=_typed(content, "sampler", str, where),
            class_names=_names(_typed(content, "class_names", list, where), where),
            train=_items(content, "train", where),
            val=_items(content, "val", where),
            test=_items(content, "test", where),
        )
        if manifest.hash != content.get("hash"):
            raise DataError(
                f"{where} was edited or damaged: its content does not match its hash. Make it anew."
            )
        return manifest

    def check_fits(self, dataset: DataSet) -> None:
        """Look whether the manifest speaks of this data set's classes and pictures.

        Which pool of the data set a picture is in does not matter, so that a manifest can define a split
        of its own. Whether the files exist is told by :meth:`DataSet.check`.

        Raises:
            DataError: another data set, other class names, or a picture that is unknown or of another class.
        """
        who = f"The split manifest does not fit data set {dataset.name!r}"
        if self.dataset != dataset.name:
            raise DataError(f"{who}: it is for {self.dataset!r}.")
        catalogue = dataset.catalogue()
        if self.class_names != catalogue.class_names:
            raise DataError(f"{who}: {_first_difference(self.class_names, catalogue.class_names)}.")
        labels = {item.id: item.label for item in catalogue.items}
        wrong = [item.id for item in self.items if labels.get(item.id) != item.label]
        if wrong:
            first = ", ".join(wrong[:3])
            raise DataError(f"{who}: {len(wrong)} pictures are unknown or of another class: {first}.")

    def _content(self) -> dict[str, Any]:
        """What the hash is taken of, in the order in which it is written."""
        return {
            "dataset": self.dataset,
            "shots": self.shots,
            "split_seed": self.split_seed,
            "sampler": self.sampler,
            "class_names": list(self.class_names),
            "train": [[item.id, item.label] for item in self.train],
            "val": [[item.id, item.label] for item in self.val],
            "test": [[item.id, item.label] for item in self.test],
        }

    def _shortage(self, split: str, items: tuple[Item, ...], wanted: int) -> str | None:
        counts = Counter(item.label for item in items)
        short = [
            f"{name} {counts[label]}" for label, name in enumerate(self.class_names) if counts[label] < wanted
        ]
        if not short:
            return None
        few = ", ".join(short[:3]) + (", …" if len(short) > 3 else "")
        return (
            f"{split}: {len(short)} of {len(self.class_names)} classes have fewer than {wanted} pictures "
            f"({few}); each is used once."
        )


def make_manifest(dataset: DataSet, shots: int, seed: int) -> SplitManifest:
    """Sample a few-shot task as CoOp does.

    Matched is ``DatasetBase.generate_fewshot_dataset`` of Dassl as CoOp's data sets call it
    (https://github.com/KaiyangZhou/Dassl.pytorch, ``dassl/data/datasets/base_dataset.py``): with Python's
    generator seeded by the run's seed, per class in the order of first appearance, ``shots`` pictures by
    ``random.sample``; first from the train pool, then ``min(shots, 4)`` from the val pool, from the same
    stream. The test set is taken whole. One thing differs: for a class with fewer pictures than shots
    Dassl's default draws with replacement (``random.choices``); here each picture is taken once and no
    random number is spent, which is Dassl's ``repeat=False``. ``SplitManifest.notes`` says when that
    happened; the pictures of later classes, and of val, then differ from Dassl's.

    Raises:
        ConfigError: ``shots`` is below 1 or ``seed`` below 0, or one of them is not a whole number, or there
            is nothing to train on.
        DataError: the data set is missing or damaged.
    """
    _check_whole("run.data.shots", shots, least=1)
    # A negative seed is refused as Python's generator ignores the sign: -1 would be the same as 1.
    _check_whole("run.data.split_seed", seed, least=0)
    catalogue = dataset.catalogue()
    if catalogue.test_only:
        raise ConfigError(
            f"run.data.name: found {catalogue.dataset!r}, which has test pictures only; allowed: a data set "
            "to train on (run.evaluate.other_data tests what was trained there on this one)"
        )
    stream = random.Random(seed)
    return SplitManifest(
        dataset=catalogue.dataset,
        shots=shots,
        split_seed=seed,
        class_names=catalogue.class_names,
        train=_sample(stream, catalogue.train, shots),
        val=_sample(stream, catalogue.val, min(shots, VAL_SHOTS)),
        test=catalogue.test,
    )


def load_manifest(path: str | Path, dataset: DataSet) -> SplitManifest:
    """The manifest of a file (``run.data.manifest``), checked to fit ``dataset``.

    Raises:
        DataError: the file is missing, damaged or edited, or does not fit; names the file.
    """
    manifest = SplitManifest.load(path)
    try:
        manifest.check_fits(dataset)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return manifest


def _sample(stream: random.Random, items: Sequence[Item], shots: int) -> tuple[Item, ...]:
    by_label: dict[int, list[Item]] = {}
    for item in items:
        by_label.setdefault(item.label, []).append(item)
    return tuple(
        item
        for members in by_label.values()
        for item in (stream.sample(members, shots) if len(members) >= shots else members)
    )


def _check_whole(key: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{key} is {value!r}; it must be a whole number of at least {least}.")


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _field(value: Any) -> str:
    """A field of a manifest file as JSON, with one picture a line."""
    if not (isinstance(value, list) and value and isinstance(value[0], list)):
        return _text(value)
    return "[\n" + ",\n".join(f"    {_text(entry)}" for entry in value) + "\n  ]"


def _check_head(content: Any, where: str) -> None:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f'{where} is not a split manifest: "format" must be "{FORMAT}".')
    version = content.get("version")
    if version != FORMAT_VERSION:
        raise DataError(
            f"{where} has format version {version!r}; this pinikit reads version {FORMAT_VERSION}."
        )


def _typed(content: dict[str, Any], key: str, kind: type[T], where: str) -> T:
    value = content.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"{where} is damaged: {key!r} is missing or not of type {kind.__name__}.")
    return value


def _names(values: list[Any], where: str) -> tuple[str, ...]:
    if not all(isinstance(value, str) for value in values):
        raise DataError(f"{where} is damaged: 'class_names' must be texts.")
    return tuple(values)


def _items(content: dict[str, Any], split: str, where: str) -> tuple[Item, ...]:
    items = []
    for index, entry in enumerate(_typed(content, split, list, where)):
        match entry:
            case [str(name), int(label)] if not isinstance(label, bool):
                items.append(Item(name, label))
            case _:
                raise DataError(f"{where} is damaged: {split}[{index}] must be [picture, label].")
    return tuple(items)


def _first_difference(found: tuple[str, ...], expected: tuple[str, ...]) -> str:
    if len(found) != len(expected):
        return f"it has {len(found)} classes, the data set {len(expected)}"
    label = next(label for label, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1])
    return f"class {label} is {found[label]!r} in it and {expected[label]!r} in the data set"

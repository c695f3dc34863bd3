"""The few-shot task as the tuner has it: train and val pictures, no test split. Imports no torch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from pinikit.data.catalogue import DataSet, Item
from pinikit.data.manifest import VAL_SHOTS, SplitManifest
from pinikit.errors import DataError
from pinikit.seeding import derive_seed


@dataclass(frozen=True)
class BlindManifest(SplitManifest):
    """A split manifest without a test split, so that nothing can open it. It is never written to a file."""

    held_out: int = 0
    """How many val pictures were taken from the train pool, as there is no val pool."""
    given_up: int = 0
    """How many of them would have been trained on."""

    def __post_init__(self) -> None:
        """The manifest that it is made of was looked at; only the test split is no longer there."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the pictures."""
        return (*super().notes, *([self._held_out_note] if self.held_out else []))

    @property
    def _held_out_note(self) -> str:
        lost = f"; {self.given_up} of them would else be trained on" if self.given_up else ""
        return (
            f"data set {self.dataset!r} has no val split: {self.held_out} pictures are held out of its train "
            f"split and stand for it, drawn anew for each split seed{lost}"
        )


def blind(manifest: SplitManifest, dataset: DataSet) -> BlindManifest:
    """The manifest without its test split; without a val split, pictures of the train pool become one.

    Raises:
        DataError: there is no val split, and no class has a second picture.
    """
    train, val = manifest.train, manifest.val
    if not val:
        train, val = _hold_out(manifest, dataset)
    return BlindManifest(
        dataset=manifest.dataset,
        shots=manifest.shots,
        split_seed=manifest.split_seed,
        class_names=manifest.class_names,
        train=train,
        val=val,
        test=(),
        sampler=manifest.sampler,
        held_out=0 if manifest.val else len(val),
        given_up=len(manifest.train) - len(train),
    )


def _hold_out(manifest: SplitManifest, dataset: DataSet) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Train and val pictures: of each class as many for val as CoOp's split has, none that is trained on.

    Where a class has no others than its shots, a quarter of those, but at least one, becomes val.
    """
    taken = {item.id for item in (*manifest.train, *manifest.test)}
    pool = [item for item in dataset.catalogue().train if item.id not in taken]
    stream = random.Random(derive_seed(manifest.split_seed, "tune", "held out"))
    most = min(manifest.shots, VAL_SHOTS)
    val: list[Item] = []
    for label in range(len(manifest.class_names)):
        spare, own = _of_class(pool, label), _of_class(manifest.train, label)
        if spare:
            val += stream.sample(spare, min(most, len(spare)))
        elif len(own) > 1:
            val += stream.sample(own, min(most, max(len(own) // 4, 1)))
    if not val:
        raise DataError(
            f"Data set {manifest.dataset!r} has no val split and nothing that could be held out of its train "
            "split: each class has one picture; a search needs pictures that it does not train on."
        )
    chosen = {item.id for item in val}
    return tuple(item for item in manifest.train if item.id not in chosen), tuple(val)


def _of_class(items: Sequence[Item], label: int) -> list[Item]:
    return [item for item in items if item.label == label]

"""What runs will take of the view bank, found out before anything is computed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pinikit.components.contracts import Footprint
from pinikit.data.catalogue import Item
from pinikit.study.run import THREADS, Workshop
from pinikit.study.study import Run
from pinikit.training.bank import Bank, Need
from pinikit.training.views import view_numbers


@dataclass(frozen=True)
class BankPlan:
    """Bytes of banked activations that runs read, each row counted once."""

    needed: int
    """Bytes of all rows."""
    present: int
    """Bytes of those that are in the bank already; what is damaged shows only when it is read."""
    missing_views: int
    """Views of pictures that have to be encoded."""
    room: int
    """Bytes that the bank can still take: up to its limit, and to what the disk has. What is not used may
    be removed for it."""
    limit: int
    """Bytes that the bank may have; 0 if nothing is kept on disk."""
    folder: Path


def expect(runs: Iterable[Run], footprints: Mapping[str, Footprint], workshop: Workshop) -> None:
    """Tell the banks what ``runs`` will read, so that each view of a picture crosses the tower once."""
    for bank, reads, items, numbers, _ in _requests(runs, footprints, workshop):
        bank.expect(reads, items, numbers)


def plan_bank(
    runs: Iterable[Run],
    footprints: Mapping[str, Footprint],
    workshop: Workshop,
    retest: Collection[str] = (),
) -> BankPlan:
    """What ``runs`` will take of the view bank, and how much of it is there.

    Args:
        runs: those to be worked on.
        footprints: by arm.
        workshop: has their backbones and banks.
        retest: identities of those that are not trained but only tested on other data.

    Raises:
        DataError: a picture cannot be read.
    """
    needed = present = 0
    missing: set[tuple[str, bytes]] = set()
    for need in _merged(_needs(runs, footprints, workshop, retest)):
        needed += need.row_bytes * len(need.keys)
        present += need.row_bytes * len(need.present)
        missing |= {(need.shelf[0], key) for key in need.keys - need.present}
    disk = workshop.disk
    return BankPlan(needed, present, len(missing), disk.room(), disk.limit, disk.folder)


def _needs(
    runs: Iterable[Run], footprints: Mapping[str, Footprint], workshop: Workshop, retest: Collection[str]
) -> Iterator[Need]:
    for bank, reads, items, numbers, threads in _requests(runs, footprints, workshop, retest):
        yield from bank.need(reads, items, numbers, threads)


def _requests(
    runs: Iterable[Run],
    footprints: Mapping[str, Footprint],
    workshop: Workshop,
    retest: Collection[str] = (),
) -> Iterator[tuple[Bank, frozenset[str], Sequence[Item], Sequence[int], int]]:
    """What runs ask their banks for, each once: stages, pictures, views, and in how many threads."""
    seen = set()
    for run in runs:
        footprint, threads = footprints[run.arm], run.config["threads"] or THREADS
        reads = _reads_elsewhere(run, workshop) if run.id in retest else _reads(run, footprint, workshop)
        for bank, split, items, numbers in reads:
            only_here = footprint.trains_with if split[1] == "train" else frozenset()
            stages = footprint.reads | only_here
            request = (id(bank), *split, stages, tuple(numbers), threads)
            if request not in seen:
                seen.add(request)
                yield bank, stages, items, numbers, threads


def _reads(
    run: Run, footprint: Footprint, workshop: Workshop
) -> Iterator[tuple[Bank, tuple[str, str], Sequence[Item], Sequence[int]]]:
    """Splits that a run reads, with their pictures and views."""
    bank, key = workshop.bank(run), run.manifest.hash
    if footprint.epochs:
        numbers = view_numbers(run.config["data"]["views"], footprint.epochs)
        yield bank, (key, "train"), run.manifest.train, numbers
    if run.manifest.val:
        yield bank, (key, "val"), run.manifest.val, (0,)
    yield bank, (key, "test"), run.manifest.test, (0,)
    yield from _reads_elsewhere(run, workshop)


def _reads_elsewhere(
    run: Run, workshop: Workshop
) -> Iterator[tuple[Bank, tuple[str, str], Sequence[Item], Sequence[int]]]:
    """The test pictures of other data."""
    for label, other in run.others.items():
        yield workshop.bank(run, label), ("", "other data"), other.items, (0,)


def _merged(needs: Iterable[Need]) -> Iterable[Need]:
    """One for each recipe and stage."""
    merged: dict[tuple[str, str], Need] = {}
    for need in needs:
        held = merged.get(need.shelf)
        if held is not None:
            need = Need(need.shelf, need.row_bytes, held.keys | need.keys, held.present | need.present)
        merged[need.shelf] = need
    return merged.values()

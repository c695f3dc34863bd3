"""Frozen activations, computed once: the clean tensors that runs start from."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.nn import functional

from pinikit.backbones.base import Backbone
from pinikit.backbones.precision import DTYPES
from pinikit.config.hardware import cpu_multiplies_bf16
from pinikit.data.catalogue import DataSet, Item
from pinikit.data.shelf import Shelf
from pinikit.data.transforms import Preprocess, stream_pixels, transform_for, view_seed
from pinikit.data.view_bank import Recipe, ViewBank, row_key
from pinikit.training.precision import exact_convolutions
from pinikit.training.views import StageRows, Views

BATCH = 64
"""Pictures per pass. Short batches are padded to it, so a row does not depend on its neighbours."""

ENCODING = 1
"""Raised when the same picture gives other activations because pinikit itself computes differently."""

UNWRITTEN = 2**31
"""Bytes of rows that found no room on disk, or have none, that stay in memory while nobody reads them."""

PIXELS = "pixels"
DISTRIBUTIONS = ("torch", "torchvision", "timm", "open_clip_torch", "pillow", "numpy")
"""Packages whose versions may change the bits of an activation."""


class Encoding(Protocol):
    """Told how many pictures of how many were encoded in one request."""

    def __call__(self, done: int, total: int) -> None:
        """Called after each batch."""


def _silent(done: int, total: int) -> None:
    """No progress is shown."""


@dataclass(frozen=True)
class _View:
    """One view of one picture, and the key of its rows."""

    item: Item
    number: int
    key: bytes


@dataclass(frozen=True)
class Need:
    """What a request takes of the bank: rows by recipe and stage."""

    shelf: tuple[str, str]
    row_bytes: int
    keys: frozenset[bytes]
    present: frozenset[bytes]
    """Those of ``keys`` that are there; their checksums were not looked at."""


class Bank:
    """Clean activations by stage, view and picture, of one backbone and data set.

    A row of a clean picture is known by the picture's content, so data sets share it; one of an augmented
    view also by the picture's name, which its crop is drawn from.

    Args:
        backbone: computes them.
        dataset: what opens the pictures.
        precision: the run's word for the backbone's number format.
        disk: where rows are kept between processes; None keeps them in memory only.
    """

    def __init__(
        self, backbone: Backbone, dataset: DataSet, precision: str, disk: ViewBank | None = None
    ) -> None:
        self.backbone, self.dataset, self.precision = backbone, dataset, precision
        self.device = backbone.logit_scale.device
        self.seconds = 0.0
        """Time spent encoding, writing and reading so far."""
        self.images_encoded = 0
        """Views that were decoded, transformed and sent through the tower so far."""
        self.rows_cached = 0
        """Views that were asked for and found in the bank so far."""
        self._expected: dict[str, dict[frozenset[str], set[int]]] = {}
        """Views that requests to come will read, by stage and names of pictures."""
        self._disk = disk
        self._alive: WeakValueDictionary[object, Views] = WeakValueDictionary()
        self._shelves: dict[tuple[str, str], Shelf] = {}
        self._fingerprints: dict[str, bytes] = {}

    def expect(self, stages: Collection[str], items: Sequence[Item], numbers: Sequence[int]) -> None:
        """Announce a request: a view of it that another request has encoded is read at these stages, too."""
        names = frozenset(item.id for item in items)
        for stage in stages:
            self._expected.setdefault(stage, {}).setdefault(names, set()).update(numbers)

    def release(self) -> None:
        """Let go of rows that no views use: their files can be removed, and few stay in memory."""
        kept = 0
        for shelf in self._shelves.values():
            kept += shelf.release(UNWRITTEN - kept)

    def get(
        self, stages: Collection[str], items: Sequence[Item], view: int = 0, progress: Encoding = _silent
    ) -> dict[str, Tensor]:
        """The clean tensors [N, ...] of ``items`` at ``stages``; view 0 is clean, others are augmented.

        Raises:
            DataError: a picture cannot be read.
        """
        return self.views(stages, items, [view], progress).rows(0, len(items))

    def views(
        self,
        stages: Collection[str],
        items: Sequence[Item],
        numbers: Sequence[int] = (0,),
        progress: Encoding = _silent,
    ) -> Views:
        """Several views of ``items`` at ``stages``: view 0 alone, or augmented views from 1 on.

        What is not in the bank is computed first. Equal requests share what they are given.

        Raises:
            DataError: a picture cannot be read.
            ValueError: view 0 stands beside augmented ones.
        """
        with self._timed():
            recipe = self._recipe(numbers)
            shelves = {stage: self._shelf(recipe, stage) for stage in sorted(stages)}
            wanted = self._views(items, numbers)
            keys = [view.key for view in wanted]
            request = (recipe.key, *shelves, hashlib.sha256(b"".join(keys)).digest(), len(items))
            views = self._alive.get(request)
            if views is not None:
                self.rows_cached += len(wanted)
                return views
            missing = _missing(shelves, wanted)
            if missing:
                with nullcontext() if self._disk is None else self._disk.turn(recipe):
                    missing = _missing(shelves, wanted)  # another process may have come first
                    self._encode({**self._coming(recipe, missing), **shelves}, shelves, missing, progress)
            self.rows_cached += len(wanted) - len(missing)
            views = Views(
                {stage: self._stage_rows(stage, shelf, keys) for stage, shelf in shelves.items()},
                len(items),
                device=self.device,
                dtype=torch.float64 if self.backbone.dtype == torch.float64 else torch.float32,
                timed=self._timed,
            )
            self._alive[request] = views
            return views

    def _coming(self, recipe: Recipe, views: Sequence[_View]) -> dict[str, Shelf]:
        """Shelves of the stages at which other requests will read some of these views."""
        return {
            stage: self._shelf(recipe, stage)
            for stage in sorted(self._expected)
            if any(self._expects(stage, view) for view in views)
        }

    def _expects(self, stage: str, view: _View) -> bool:
        expected = self._expected.get(stage, {})
        return any(view.number in numbers and view.item.id in names for names, numbers in expected.items())

    def need(
        self, stages: Collection[str], items: Sequence[Item], numbers: Sequence[int], threads: int
    ) -> list[Need]:
        """What :meth:`views` would take in a process with so many threads, before anything is computed."""
        recipe = self._recipe(numbers, threads)
        keys = frozenset(view.key for view in self._views(items, numbers))
        return [self._need(recipe, stage, keys) for stage in stages]

    def _need(self, recipe: Recipe, stage: str, keys: frozenset[bytes]) -> Need:
        shelf = self._shelf(recipe, stage)
        shelf.refresh()
        item_size = 1 if stage == PIXELS else DTYPES[self.precision].itemsize
        row_bytes = torch.Size(self.backbone.image.stages[stage].shape).numel() * item_size
        return Need((recipe.key, stage), row_bytes, keys, shelf.known(keys))

    def _recipe(self, numbers: Sequence[int], threads: int | None = None) -> Recipe:
        if len(numbers) > 1 and 0 in numbers:
            raise ValueError("View 0 and augmented views have different transforms: ask for them apart.")
        transform = transform_for(self.dataset, self.backbone.preprocess, max(numbers))
        facts = {
            "encoding": ENCODING,
            "weights": self.backbone.weights_hash,
            "transform": transform.identity,
            "precision": self.precision,
            "dtype": str(self.backbone.dtype),
            "device": _device_name(self.device),
            "threads": (threads or torch.get_num_threads()) if self.device.type == "cpu" else None,
            "versions": _versions(),
        }
        return Recipe(self.backbone.name, facts)

    def _shelf(self, recipe: Recipe, stage: str) -> Shelf:
        return self._shelves.setdefault((recipe.key, stage), Shelf(recipe, stage, self._disk))

    def _views(self, items: Sequence[Item], numbers: Sequence[int]) -> list[_View]:
        """All views of all pictures, view by view."""
        self._read_fingerprints(items)
        return [self._view(item, number) for number in numbers for item in items]

    def _view(self, item: Item, number: int) -> _View:
        seed = view_seed(item, number) if number else 0  # the clean view is the same under any name
        return _View(item, number, row_key(self._fingerprints[item.id], seed))

    def _read_fingerprints(self, items: Sequence[Item]) -> None:
        new = [item for item in items if item.id not in self._fingerprints]
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            for item, digest in zip(new, pool.map(self.dataset.fingerprint, new), strict=True):
                self._fingerprints[item.id] = digest

    def _encode(
        self, shelves: dict[str, Shelf], asked: Collection[str], views: Sequence[_View], progress: Encoding
    ) -> None:
        """Compute views and put them on the shelves: all at the stages asked for, else what is expected."""
        if not views:
            return
        for shelf in shelves.values():
            shelf.refresh()
        transform = transform_for(self.dataset, self.backbone.preprocess, views[0].number)
        batches = [views[first : first + BATCH] for first in range(0, len(views), BATCH)]
        pictures = [[(view.item, view.number) for view in batch] for batch in batches]
        done = 0
        try:
            with closing(stream_pixels(self.dataset, pictures, transform)) as stream:
                for batch, pixels in zip(batches, stream, strict=True):
                    rows = self._activations(pixels, shelves, transform.preprocess)
                    for stage, shelf in shelves.items():
                        kept = [i for i, v in enumerate(batch) if stage in asked or self._expects(stage, v)]
                        _keep(shelf, [batch[i] for i in kept], rows[stage][kept])
                    done += len(batch)
                    progress(done, len(views))
        finally:
            self.images_encoded += done
            for shelf in shelves.values():
                shelf.flush()

    def _activations(
        self, pixels: Tensor, stages: Collection[str], preprocess: Preprocess
    ) -> dict[str, Tensor]:
        """What is stored of a batch of pictures [B, H, W, 3] uint8: rows [B, ...] by stage, on the CPU."""
        found = {PIXELS: pixels} if PIXELS in stages else {}
        of_tower = [stage for stage in stages if stage != PIXELS]
        if of_tower:
            normalised = preprocess.normalise(pixels)  # [B, 3, H, W]
            padded = functional.pad(normalised, (0, 0) * 3 + (0, BATCH - len(pixels)))
            with torch.no_grad(), exact_convolutions():
                tensors = self.backbone.image.read(padded.to(self.device), of_tower)
            found |= {stage: self._narrow(tensor[: len(pixels)].cpu()) for stage, tensor in tensors.items()}
        return found

    def _narrow(self, rows: Tensor) -> Tensor:
        """In the run's number format where the tower handed out no more than that."""
        narrow = rows.to(DTYPES[self.precision])
        return narrow if torch.equal(narrow.to(rows.dtype), rows) else rows

    def _stage_rows(self, stage: str, shelf: Shelf, keys: Sequence[bytes]) -> StageRows:
        if stage == PIXELS:
            return StageRows(shelf.rows(keys), Preprocess.of(self.backbone.preprocess).normalise)
        return StageRows(shelf.rows(keys))

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start


def _keep(shelf: Shelf, views: Sequence[_View], rows: Tensor) -> None:
    """Put on a shelf what it has not yet."""
    lacking = shelf.missing(view.key for view in views)
    chosen = [row for row, view in enumerate(views) if view.key in lacking]
    if chosen:
        keys, numbers = zip(*((views[row].key, views[row].number) for row in chosen), strict=True)
        shelf.add(keys, numbers, rows[chosen])


def _missing(shelves: dict[str, Shelf], views: Sequence[_View]) -> list[_View]:
    """The views that lack a row at any stage, each once."""
    keys = {view.key: view for view in views}
    lacking: set[bytes] = set()
    for shelf in shelves.values():
        shelf.refresh()
        lacking |= shelf.missing(keys)
    return [view for key, view in keys.items() if key in lacking]


def _device_name(device: torch.device) -> str:
    """The kind of processor, whose kernels decide the last bits."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    matrices = " AMX" if cpu_multiplies_bf16() else ""
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}{matrices}"


@cache
def _versions() -> dict[str, str]:
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

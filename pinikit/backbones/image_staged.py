"""An image tower as a chain of stages, each computed from the one before it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from pinikit.backbones.base import Edit, ImageTower, StageInfo
from pinikit.backbones.precision import at_least_float32, weight_dtype
from pinikit.errors import ConfigError, listing, nearest

PIXELS, PATCHES, SPATIAL, FEATURE = "pixels", "patch_embedding", "spatial_feature", "image_feature"


def block_name(index: int) -> str:
    """The stage behind block ``index``."""
    return f"image_block.{index}"


class StagedImageTower(ImageTower):
    """Runs and reads the chain; a subclass says how to get from one stage to the next."""

    def __init__(self, visual: nn.Module, stages: list[StageInfo], *, class_pooled: bool = False) -> None:
        """A chain of ``stages`` that the modules of ``visual`` compute.

        Where the class token alone is pooled (``class_pooled``), ``spatial_feature`` lies beside the
        path: it is computed only when somebody asks for it.
        """
        self._visual: Any = visual
        self.stages = {stage.name: stage for stage in stages}
        self.resume_points = frozenset(self.stages)
        self._side_stages = frozenset({SPATIAL} if class_pooled else ())

    @abstractmethod
    def _advance(self, source: str, target: str, value: Tensor) -> Tensor:
        """The tensor of ``target`` from that of ``source``, in the weights' number format.

        A stage beside the path may lie between the two; from there :func:`move_mean` goes on.
        """

    def run(
        self,
        value: Tensor,
        *,
        start: str = PIXELS,
        stop: str = FEATURE,
        edits: Mapping[str, Edit] | None = None,
    ) -> Tensor:
        """Go along the chain. See :meth:`ImageTower.run`."""
        edits = edits or {}
        check_stages(self, [stop, *edits], start)
        path = self._path(start, stop, edits)
        clean = value
        edited = edits[start](at_least_float32(clean)) if start in edits else clean
        for source, target in pairwise(path):
            clean = self._step(source, target, clean, edited)
            edited = edits[target](at_least_float32(clean)) if target in edits else clean
        return at_least_float32(edited)

    def read(self, pixels: Tensor, stages: Collection[str]) -> dict[str, Tensor]:
        """Keep what is asked for of one pass. See :meth:`ImageTower.read`."""
        check_stages(self, stages)
        order = list(self.stages)
        last = max(stages, key=order.index, default=PIXELS)
        found = {PIXELS: pixels}
        for source, target in pairwise(self._path(PIXELS, last, stages)):
            found[target] = self._step(source, target, found[source], found[source])
        return {stage: at_least_float32(found[stage]) for stage in stages}

    def _step(self, source: str, target: str, clean: Tensor, edited: Tensor) -> Tensor:
        """The clean tensor of ``target`` from that of ``source``, before and after its edit."""
        if source in self._side_stages:
            return move_mean(clean, edited)
        return self._advance(source, target, edited.to(weight_dtype(self._visual)))

    def _path(self, start: str, stop: str, wanted: Collection[str]) -> list[str]:
        """The stages to compute from ``start`` to ``stop``; those on the side only if wanted."""
        order = list(self.stages)
        first, last = order.index(start), order.index(stop)
        if first > last:
            raise ValueError(f"stage {stop!r} comes before {start!r}")
        skipped = self._side_stages - {start, stop, *wanted}
        return [stage for stage in order[first : last + 1] if stage not in skipped]


def check_stages(tower: ImageTower, names: Collection[str], start: str = PIXELS) -> None:
    """Refuse stages that ``tower`` does not have, and a ``start`` that it cannot go on from.

    Raises:
        ConfigError: with what there is.
    """
    for name in (start, *names):
        if name not in tower.stages:
            hint, known = nearest(name, tower.stages), listing(tower.stages)
            raise ConfigError(f"The image tower has no stage {name!r}{hint}; it has {known}.")
    if start not in tower.resume_points:
        points = listing(stage for stage in tower.stages if stage in tower.resume_points)
        raise ConfigError(f"The image tower cannot go on from {start!r}, only from {points}.")


def move_mean(clean: Tensor, edited: Tensor) -> Tensor:
    """What becomes of the class feature when its spatial stage is edited.

    Both are [B, 1 + P, D]: the class feature, then the projected patches. In a class-token tower
    the last patches do not reach the output, so an edit of them moves the feature by its mean.
    Where nothing was edited the feature is exactly the tower's own.
    """
    if edited is clean:
        return clean[:, 0]
    return edited[:, 0] + (edited[:, 1:] - clean[:, 1:]).mean(dim=1)

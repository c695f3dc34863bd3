"""Which runs are trained together: those that differ in seeds and floating-point numbers only.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pinikit.errors import ConfigError
from pinikit.study.study import Run

if TYPE_CHECKING:
    from pinikit.components.contracts import Footprint

MEMORY = {"cpu": 2 * 2**30, "cuda": 16 * 2**30}
"""Bytes that a group with ``--fuse auto`` may take, by device type: a constant, as groups must not depend
on what else a machine does."""

LARGEST = 64
"""Runs that a group may have with ``--fuse auto``."""


def group_runs(
    runs: Sequence[Run], footprints: Mapping[str, Footprint], fuse: str = "auto"
) -> list[tuple[Run, ...]]:
    """Split the runs of a study into groups, in the study's order.

    The groups follow from the study alone, not from what of it is finished, so a run's numbers do not
    depend on when it was interrupted. Within a group runs are ordered by identity: the order of arms
    and seeds in the study has no effect.

    Args:
        runs: all runs of the study.
        footprints: by arm.
        fuse: ``auto`` (as many as fit :data:`MEMORY`), ``off``, or the most runs that a group may have.

    Raises:
        ConfigError: ``fuse`` is none of these.
    """
    limit = largest_group(fuse)
    alike: dict[Hashable, dict[str, Run]] = {}
    for run, shape in zip(runs, shapes_of(runs), strict=True):
        alike.setdefault(_structure(run, footprints[run.arm], shape), {}).setdefault(run.id, run)
    groups = []
    for members in alike.values():
        ordered = sorted(members.values(), key=lambda run: run.id)
        size = limit or _affordable(ordered[0], footprints[ordered[0].arm])
        groups += [tuple(ordered[first : first + size]) for first in range(0, len(ordered), size)]
    place = {run.id: index for index, run in reversed(list(enumerate(runs)))}
    return sorted(groups, key=lambda group: min(place[run.id] for run in group))


def largest_group(fuse: str) -> int | None:
    """How many runs a group may have; None for ``auto``.

    Raises:
        ConfigError: ``fuse`` is neither ``auto``, nor ``off``, nor a number.
    """
    if fuse == "auto":
        return None
    if fuse == "off":
        return 1
    if not fuse.isdecimal() or int(fuse) < 1:
        raise ConfigError(f"--fuse: found {fuse!r}; allowed: auto, off, or a number of runs from 1 on")
    return int(fuse)


def _affordable(run: Run, footprint: Footprint) -> int:
    budget = MEMORY.get(run.config["device"].partition(":")[0], MEMORY["cpu"])
    return min(max(budget // max(footprint.bytes_per_arm or 1, 1), 1), LARGEST)


def _structure(run: Run, footprint: Footprint, shape: Hashable) -> Hashable:
    """Equal for runs that may be one computation; a run's own identity where it cannot be fused."""
    alone = footprint.bytes_per_arm is None or footprint.trainable_parameters == 0
    return run.id if alone else shape


def related_runs(runs: Sequence[Run], todo: Sequence[Run]) -> list[Run]:
    """Those of ``runs`` that may share a group with one of ``todo``, which they include."""
    wanted = set(shapes_of(todo))
    return [run for run, shape in zip(runs, shapes_of(runs), strict=True) if shape in wanted]


def shapes_of(runs: Sequence[Run]) -> list[Hashable]:
    """For each run what is equal where configurations differ in seeds and floating-point numbers only."""
    known: dict[int, Hashable] = {}  # by the identity of a part, which the runs keep
    return [_shape(run, known) for run in runs]


def _shape(run: Run, known: dict[int, Hashable]) -> Hashable:
    parts = [_blank(value, known) for key, value in run.config.items() if key not in _NO_SHAPE]
    data = [(key, _blank(value, known)) for key, value in run.config["data"].items() if key not in _SAMPLING]
    return (*parts, *data, run.template, len(run.manifest.train), run.manifest.class_names)


_NO_SHAPE = frozenset({"seed", "data", "evaluate"})
_SAMPLING = frozenset({"split_seed", "manifest"})


def _blank(value: Any, known: dict[int, Hashable]) -> Hashable:
    """A part of a configuration with every floating-point number blanked out."""
    if isinstance(value, dict):
        if id(value) not in known:
            known[id(value)] = tuple(sorted((key, _blank(item, known)) for key, item in value.items()))
        return known[id(value)]
    if isinstance(value, list | tuple):
        return ("a list", *(_blank(item, known) for item in value))
    return "a number" if isinstance(value, float) else (value.__class__.__name__, value)

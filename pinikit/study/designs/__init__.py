"""Designs: how a study's arms are derived from its base configuration. One file a kind.

A study file is read and checked once; designs work on plain mappings, which arms share as far as they
are alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pinikit.config.checking import Checker
from pinikit.config.loading import StudyFile
from pinikit.errors import ConfigError, listing, nearest
from pinikit.study.arm import Arm
from pinikit.study.designs.arms import named_arms
from pinikit.study.designs.axes import Point, points
from pinikit.study.designs.draft import MOST_ARMS, Draft, Kind, Series
from pinikit.study.designs.factors import Design, read_design
from pinikit.study.designs.grid import grid
from pinikit.study.designs.leave_one_out import FULL, leave_one_out
from pinikit.study.designs.one_factor import BASE, one_factor
from pinikit.study.designs.zip import zipped

KINDS: Mapping[str, Kind] = {
    "arms": lambda design, base: iter(()),
    "grid": grid,
    "one_factor": one_factor,
    "leave_one_out": leave_one_out,
    "zip": zipped,
}
"""What derives arms beside those that the design names."""

BASELINES: Mapping[str, str] = {"one_factor": BASE, "leave_one_out": FULL}
"""The series that arms are compared with where the study does not say."""


def expand(file: StudyFile, checker: Checker) -> dict[str, Arm]:
    """A study's arms, in its order: all series at the first setting of the axes, then at the next.

    Raises:
        ConfigError: anything wrong with the design, with file, key, what was found and what is allowed.
    """
    design = read_design(file)
    baseline = file.config.design.baseline or BASELINES.get(design.kind)
    arms: dict[str, Arm] = {}
    for point in points(design, Draft(file.run, checker, file.where / "run")):
        found = _series(design, point)
        _check_baseline(baseline, found, design, point)
        for series, draft in found.items():
            point.check_kept(draft, f"{design.where}: arm {series!r}")
            name, compared = point.name(series), None if baseline is None else point.name(baseline)
            arms[name] = Arm(name, draft.complete(), series, point.setting, compared)
        if len(arms) > MOST_ARMS:
            raise ConfigError(f"{design.where}: has more than {MOST_ARMS} arms")
    return arms


def _series(design: Design, point: Point) -> dict[str, Draft]:
    """All series at a setting of the axes."""
    found: dict[str, Draft] = {}
    for name, draft in _derived(design, point.draft):
        if name in found:
            raise ConfigError(f"{design.where}: two arms have the name {name!r}; allowed: distinct names")
        found[name] = draft
    return found


def _derived(design: Design, base: Draft) -> Iterator[Series]:
    yield from named_arms(design, base)
    yield from KINDS[design.kind](design, base)


def _check_baseline(baseline: str | None, found: Mapping[str, Draft], design: Design, point: Point) -> None:
    if baseline is not None and baseline not in found:
        place = f" at {point.words}" if point.words else ""
        raise ConfigError(
            f"{design.where}.baseline: found {baseline!r}{nearest(baseline, found)}{place}; "
            f"allowed: {listing(list(found)[:30])}"
        )

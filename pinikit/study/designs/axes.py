"""Axes: every arm of a design is repeated at each of their values, and compared at the same one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pinikit.errors import ConfigError
from pinikit.study.designs.draft import MOST_ARMS, Draft
from pinikit.study.designs.factors import Choice, Design, Factor


@dataclass(frozen=True)
class Point:
    """The base configuration at one setting of the axes."""

    draft: Draft
    chosen: tuple[tuple[Factor, Choice], ...] = ()

    @property
    def setting(self) -> Mapping[str, str]:
        """The values as text, by axis."""
        return {axis.key: choice.text for axis, choice in self.chosen}

    @property
    def words(self) -> str:
        """The values as names of arms say them: ``shots=4``."""
        return ", ".join(f"{axis.name}={choice.text}" for axis, choice in self.chosen)

    def name(self, series: str) -> str:
        """The arm of a series at this setting."""
        return f"{series}, {self.words}" if self.chosen else series

    def check_kept(self, draft: Draft, where: str) -> None:
        """Refuse an arm that sets what an axis sets, as it would stand at another point than it says.

        An arm that has no use for the value, such as a zero-shot arm for a learning rate, is fine.

        Raises:
            ConfigError: it does.
        """
        for axis, choice in self.chosen:
            if not choice.holds(draft, self.draft):
                raise ConfigError(f"{where}: sets what the axis {axis.key!r} sets; allowed: one of them")


def points(design: Design, base: Draft) -> Iterator[Point]:
    """All settings of the axes, the last axis first to change.

    Raises:
        ConfigError: there are too many, or a value does not fit.
    """
    if (size := math.prod(len(axis.choices) for axis in design.axes)) > MOST_ARMS:
        raise ConfigError(f"{design.where}.axes: have {size} settings; allowed: up to {MOST_ARMS}")
    found = [Point(base)]
    for axis in design.axes:
        found = [
            Point(axis.apply(choice, point.draft), (*point.chosen, (axis, choice)))
            for point in found
            for choice in axis.choices
        ]
    return iter(found)

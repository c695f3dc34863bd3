"""Picking arms by patterns."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping

from pinikit.errors import ConfigError, listing, nearest
from pinikit.study.arm import Arm

FEW = 30
"""Arms that a message lists."""


def match_arms(arms: Mapping[str, Arm], patterns: str, option: str) -> list[str]:
    """The arms that any of some patterns means, in the study's order.

    A pattern is a shell pattern of the names of arms or of series. Patterns are separated by commas. As
    names may have commas themselves (``pini, shots=4``), pieces that mean an arm together are one pattern.

    Args:
        arms: the study's arms by name.
        patterns: what the user wrote.
        option: where, for messages.

    Raises:
        ConfigError: there is no pattern, or one that no arm matches.
    """
    pieces = [piece.strip() for piece in patterns.split(",") if piece.strip()]
    if not pieces:
        raise ConfigError(f"{option}: found no pattern; allowed: {few(arms)}")
    wanted: set[str] = set()
    while pieces:
        for length in range(len(pieces), 0, -1):
            if found := meant(arms, ", ".join(pieces[:length])):
                break
        else:
            raise no_such_arm(arms, pieces[0], option)
        wanted |= found
        del pieces[:length]
    return [name for name in arms if name in wanted]


def meant(arms: Mapping[str, Arm], pattern: str) -> set[str]:
    """The arms whose name or series is ``pattern``, or else matches it."""
    exact = {arm.name for arm in arms.values() if pattern in (arm.name, arm.series)}
    if exact:
        return exact
    fits = re.compile(fnmatch.translate(pattern)).match
    return {arm.name for arm in arms.values() if fits(arm.name) or fits(arm.series)}


def no_such_arm(arms: Mapping[str, Arm], pattern: str, where: str) -> ConfigError:
    """The error for a pattern that no arm matches."""
    known = list(dict.fromkeys([*arms, *(arm.series for arm in arms.values())]))
    return ConfigError(f"{where}: no arm matches {pattern!r}{nearest(pattern, known)}; allowed: {few(arms)}")


def few(names: Iterable[str]) -> str:
    """The first names of many, and how many there are besides."""
    names = list(names)
    rest = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return listing(names[:FEW]) + rest

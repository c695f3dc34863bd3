"""A run configuration in the making."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pinikit.config.checking import Checker, Where
from pinikit.config.loading import RUN

if TYPE_CHECKING:
    from pinikit.study.designs.factors import Design

MOST_ARMS = 100_000
"""More arms than this are taken for a mistake."""

GONE = object()
"""What :func:`value_at` finds where there is nothing."""

PARTS = ("injections", "losses")
"""The keys of a method whose labels are parts."""

SEVERAL = object()
"""What :func:`value_at` finds where there is a mapping of keys that is no component."""


@dataclass(frozen=True)
class Draft:
    """What of a run configuration was given so far, before defaults are filled in. Never changed in place."""

    given: Mapping[str, Any]
    checker: Checker
    where: Where
    """Where the last change stands, for messages."""

    def changed(self, patch: Mapping[str, Any], where: Where) -> Draft:
        """With ``patch`` laid over it; as for a study file, another component drops the former's parameters.

        Raises:
            ConfigError: an unknown key or component.
        """
        return Draft(self.checker.merge(self.given, patch, RUN, where), self.checker, where)

    def complete(self) -> Mapping[str, Any]:
        """The whole configuration, with all defaults.

        Raises:
            ConfigError: a value is missing or wrong.
        """
        completed: Mapping[str, Any] = self.checker.complete(self.given, RUN, self.where)
        return completed


Series = tuple[str, Draft]
"""A series' name and its configuration at one setting of the axes."""

Kind = Callable[["Design", Draft], Iterator[Series]]
"""What derives a design's series from the base configuration."""


def value_at(config: Mapping[str, Any], path: str) -> Any:
    """What stands at a key path: a component's name, a plain value, :data:`SEVERAL` or :data:`GONE`."""
    found = content_at(config, path)
    return found.get("name", SEVERAL) if isinstance(found, dict) else found


def content_at(config: Mapping[str, Any], path: str) -> Any:
    """What stands at a key path, a component with its parameters, or :data:`GONE`."""
    found: Any = config
    for key in path.split("."):
        if not isinstance(found, dict) or key not in found:
            return GONE
        found = found[key]
    return found

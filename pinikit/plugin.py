"""The plug-in door: hook specifications and the manager that calls them.

A plug-in is an object or module with functions marked ``@pinikit.hookimpl``. Installed
distributions are found through the entry-point group ``pinikit``; the built-in components enter
through the same hook. Each plug-in is loaded and called on its own: one that raises is reported as
a :class:`Problem` and left out, and everything else keeps working.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

import pluggy

from pinikit.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path

ENTRY_POINT_GROUP = "pinikit"

hookspec = pluggy.HookspecMarker("pinikit")
hookimpl = pluggy.HookimplMarker("pinikit")


class Hooks:
    """Everything that a plug-in can hook into."""

    @hookspec
    def pinikit_register(self, registry: Registry) -> None:
        """Add components, e.g. ``registry.noise("student_t", "my_noise.student_t:StudentT", doc="…")``."""

    @hookspec
    def pinikit_study_started(self, study: str, folder: Path, runs: int) -> None:
        """Called once per command, after the study was resolved; ``runs`` are still to be done."""

    @hookspec
    def pinikit_run_started(self, run_id: str, arm: str, seed: int) -> None:
        """Called before a run is trained."""

    @hookspec
    def pinikit_run_finished(self, run_id: str, arm: str, seed: int, result: Mapping[str, Any]) -> None:
        """Called after a run; ``result`` is what ``result.json`` holds, ``status`` says how it ended."""

    @hookspec
    def pinikit_report(self, study: str, folder: Path) -> None:
        """Called after the study's tables and figures were written to ``folder``."""


@dataclass(frozen=True)
class Problem:
    """A plug-in that was left out, and why."""

    plugin: str
    reason: str


class Plugins:
    """The loaded plug-ins, the registry that they filled, and those that were left out."""

    def __init__(self, points: list[EntryPoint]) -> None:
        self.registry = Registry()
        self.problems: list[Problem] = []
        self._manager = pluggy.PluginManager("pinikit")
        self._manager.add_hookspecs(Hooks)
        from pinikit import components

        self._add("pinikit", "", components)
        for point in sorted(points, key=lambda point: point.name):
            self._add_entry_point(point)

    def notify(self, hook: str, **arguments: Any) -> None:
        """Call a notification hook of every plug-in; one that raises is warned about, never fatal."""
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            accepted = {name: arguments[name] for name in implementation.argnames}
            try:
                implementation.function(**accepted)
            except Exception as error:
                warnings.warn(
                    f"plug-in {implementation.plugin_name!r}: {hook} raised {error!r}", stacklevel=2
                )

    def _add_entry_point(self, point: EntryPoint) -> None:
        version = point.dist.version if point.dist else ""
        try:
            plugin = point.load()
        except (Exception, SystemExit) as error:
            self.problems.append(Problem(point.name, f"import of {point.value!r} failed: {error!r}"))
            return
        self._add(point.name, version, plugin)

    def _add(self, name: str, version: str, plugin: object) -> None:
        """Register one plug-in's hooks and let it add its components, all or none of them."""
        try:
            self._manager.register(plugin, name=name)
            self._manager.check_pending()
            with self.registry.from_plugin(name, version):
                for implementation in self._manager.hook.pinikit_register.get_hookimpls():
                    if implementation.plugin is plugin:
                        implementation.function(self.registry)
        except (Exception, SystemExit) as error:
            self.problems.append(Problem(name, f"{type(error).__name__}: {error}"))
            if self._manager.get_plugin(name) is plugin:  # not another one of the same name
                self._manager.unregister(name=name)


@cache
def plugins() -> Plugins:
    """The plug-ins of this process: built-ins, then the installed ones in the order of their names."""
    return Plugins(list(entry_points(group=ENTRY_POINT_GROUP)))


def registry() -> Registry:
    """The registry that built-ins and installed plug-ins have filled."""
    return plugins().registry

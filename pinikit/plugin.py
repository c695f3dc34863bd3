"""The plug-in door: hook specifications and the manager that calls them.

A plug-in is an object or module with functions marked ``@pinikit.hookimpl``. Installed
distributions are found through the entry-point group ``pinikit``, single files in the folder that
``PINIKIT_PLUGINS_DIR`` names; the built-in components enter through the same hook. Each plug-in is
loaded and called on its own: one that raises is reported as a :class:`Problem` and left out, and
everything else keeps working.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import pluggy

from pinikit.errors import PluginError, listing
from pinikit.plugin_sources import Source, all_sources, disabled, hookimpl
from pinikit.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["HOOKS", "Hooks", "Plugins", "Problem", "hookimpl", "plugins", "registry"]

HOOKS = 1
"""Version of what plug-ins build on: the hooks, the registry's methods, the components' contracts.

Within a version, hooks, arguments and methods are added and none is taken away or changes its meaning.
A plug-in that needs a later one says so (``pinikit_hooks = 2``) and is left out by an older pinikit.
"""

hookspec = pluggy.HookspecMarker("pinikit")


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
    origin: str = ""
    """Its distribution or file; two plug-ins may claim one name."""


class Plugins:
    """The loaded plug-ins, the registry that they filled, and those that were left out.

    Args:
        sources: plug-ins in the order in which they are loaded, behind the built-in components.
        off: names of those that are not to be loaded.
    """

    def __init__(self, sources: Iterable[Source], off: Collection[str] = ()) -> None:
        self.registry = Registry()
        self.problems: list[Problem] = []
        self.sources = list(sources)
        self.disabled = frozenset(off)
        self._manager = pluggy.PluginManager("pinikit")
        self._manager.add_hookspecs(Hooks)
        from pinikit import components

        self._add(Source("pinikit", "", "pinikit", "", lambda: components))
        for source in self.sources:
            if source.name not in self.disabled:
                self._add(source)

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

    def _add(self, source: Source) -> None:
        """Load one plug-in, register its hooks and let it add its components, all or none of them."""
        plugin: object = None
        try:
            plugin = source.load()
            _check_version(plugin)
            self._manager.register(plugin, name=source.name)
            self._manager.check_pending()
            self._check_hooks(plugin)
            with self.registry.from_plugin(source.name, source.version):
                for implementation in self._manager.hook.pinikit_register.get_hookimpls():
                    if implementation.plugin is plugin:
                        implementation.function(self.registry)
        except (Exception, SystemExit) as error:
            self.problems.append(Problem(source.name, _one_line(error), source.origin))
            if plugin is not None and self._manager.get_plugin(source.name) is plugin:  # not another's name
                self._manager.unregister(name=source.name)

    def _check_hooks(self, plugin: object) -> None:
        """Refuse a plug-in whose functions would never be called."""
        for name in HOOK_NAMES:
            function = getattr(plugin, name, None)
            if callable(function) and not hasattr(function, "pinikit_impl"):
                raise PluginError(f"{name} is not marked with @pinikit.hookimpl")
        callers = self._manager.get_hookcallers(plugin) or []
        if not callers:
            raise PluginError(f"it has no hook; there are {listing(HOOK_NAMES)}")
        for implementation in (item for caller in callers for item in caller.get_hookimpls()):
            if implementation.plugin is plugin and (implementation.wrapper or implementation.hookwrapper):
                raise PluginError(f"{implementation.function.__name__}: hooks cannot be wrapped")


HOOK_NAMES = tuple(name for name in vars(Hooks) if name.startswith("pinikit_"))


def _check_version(plugin: object) -> None:
    needed = getattr(plugin, "pinikit_hooks", 1)
    if not isinstance(needed, int) or needed < 1:
        raise PluginError(f"pinikit_hooks: found {needed!r}; allowed: 1 to {HOOKS}")
    if needed > HOOKS:
        raise PluginError(
            f"needs hook specifications {needed}, this pinikit has {HOOKS}: it needs a newer one"
        )


def _one_line(error: BaseException) -> str:
    kind = "" if isinstance(error, PluginError) else f"{type(error).__name__}: "
    return f"{kind}{' '.join(str(error).split())}"


@cache
def plugins() -> Plugins:
    """The plug-ins of this process: built-ins, then the others in the order of their names.

    Raises:
        ConfigError: ``PINIKIT_PLUGINS_DIR`` is no folder, or the list of what is off is damaged.
    """
    return Plugins(all_sources(), disabled())


def registry() -> Registry:
    """The registry that built-ins and plug-ins have filled."""
    return plugins().registry

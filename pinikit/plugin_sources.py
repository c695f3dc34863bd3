"""Where plug-ins come from: installed distributions, single files, and the list of those switched off.

Nothing is imported here before :attr:`Source.load` is called.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import platformdirs
import pluggy

from pinikit.errors import ConfigError, PluginError, listing
from pinikit.registry import Registry
from pinikit.signature import class_attributes, literal_constants

ENTRY_POINT_GROUP = "pinikit"
FOLDER = "PINIKIT_PLUGINS_DIR"
"""Environment variable: a folder of single-file plug-ins; worker processes inherit it."""
PACKAGE = "pinikit_plugins"
"""The package as which the files of that folder are imported, so that they hide no other module."""

BASES = {
    "Site": "site",
    "Noise": "noise",
    "Injector": "injector",
    "Combine": "combine",
    "Loss": "loss",
    "Method": "method",
    "DataSet": "dataset",
}
"""Base class -> kind of component."""

hookimpl = pluggy.HookimplMarker("pinikit")


@dataclass(frozen=True)
class Source:
    """A plug-in before it is imported."""

    name: str
    version: str
    origin: str
    """The distribution (``my-noise 1.2``) or the file."""
    removal: str
    """How to get rid of it for good."""
    load: Callable[[], object] = field(repr=False, compare=False)
    """Imports it; gives what has the hooks, a module as a rule."""
    distribution: Distribution | None = field(default=None, repr=False, compare=False)

    @property
    def label(self) -> str:
        """Name and version, as a run's identity has them."""
        return f"{self.name} {self.version}".strip()


def all_sources() -> list[Source]:
    """Installed distributions, then the files of ``PINIKIT_PLUGINS_DIR``, each by name.

    Raises:
        ConfigError: that is no folder.
    """
    folder = os.environ.get(FOLDER)
    return [*installed(), *(in_folder(Path(folder)) if folder else [])]


# --- installed distributions ------------------------------------------------------------------------------


def installed() -> list[Source]:
    """The plug-ins of the entry-point group ``pinikit``."""
    points = sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name)
    return [_installed(point) for point in points]


def _installed(point: EntryPoint) -> Source:
    found = point.dist
    name, version = (found.name, found.version) if found else (point.module.partition(".")[0], "")

    def load() -> object:
        if found is not None:
            _check_needs(found)
        try:
            return point.load()
        except (Exception, SystemExit) as error:
            raise PluginError(f"import of {point.value!r} failed: {error!r}") from error

    origin = f"{name} {version}".strip()
    return Source(point.name, version, origin, f"pip uninstall {name}", load, found)


def _check_needs(distribution: Distribution) -> None:
    """Refuse a distribution that says it needs another version of pinikit.

    Raises:
        PluginError: with both versions.
    """
    from pinikit import __version__

    for text in distribution.requires or ():
        if not re.match(r"pinikit\s*([<>=!~(\[;@]|$)", text, re.IGNORECASE):
            continue
        from packaging.requirements import Requirement

        needed = Requirement(text)
        applies = needed.marker is None or needed.marker.evaluate({"extra": ""})
        if applies and not needed.specifier.contains(__version__, prereleases=True):
            raise PluginError(f"needs pinikit {needed.specifier}, this is {__version__}")


# --- single files -----------------------------------------------------------------------------------------


def in_folder(folder: Path) -> list[Source]:
    """The plug-ins of a folder, one a file; tests and files that begin with ``_`` are none.

    Raises:
        ConfigError: it is no folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"{FOLDER} (--plugins-dir): found {str(folder)!r}, which is no folder")
    _open_package(folder.resolve())
    paths = sorted(folder.resolve().glob("*.py"))
    return [_file(path) for path in paths if not re.match(r"[_.]|test_|conftest\.py", path.name)]


def _open_package(folder: Path) -> None:
    """Make the folder's files importable as ``pinikit_plugins.FILE``, whatever was imported so before."""
    for name in [name for name in sys.modules if name.startswith(f"{PACKAGE}.")]:
        del sys.modules[name]
    package = ModuleType(PACKAGE, "The single-file plug-ins of a folder.")
    package.__path__ = [str(folder)]
    sys.modules[PACKAGE] = package
    importlib.invalidate_caches()


def _file(path: Path) -> Source:
    helpers = sorted(path.parent.glob("_*.py"))  # which it may import
    try:
        digest = hashlib.sha256(b"".join(item.read_bytes() for item in (path, *helpers)))
        version = digest.hexdigest()[:8]  # a changed file makes other runs
    except OSError:
        version = ""  # whatever stands in the way is said when it is loaded
    return Source(path.stem, version, str(path), f"remove or rename {path}", lambda: _load_file(path))


class _FilePlugin:
    """The components that a file's classes are, and the hooks that it has besides."""

    def __init__(self, components: Collection[tuple[Any, ...]], hooks: Mapping[str, Any]) -> None:
        self._components = components
        vars(self).update(hooks)

    @hookimpl
    def pinikit_register(self, registry: Registry) -> None:
        for kind, name, target, doc, synonyms in self._components:
            registry.add(kind, name, target, doc=doc, synonyms=synonyms)


def _load_file(path: Path) -> object:
    """What a file registers, read from its text; it is imported now only if it has hooks."""
    module = f"{PACKAGE}.{path.stem}"
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (OSError, SyntaxError, ValueError) as error:
        raise PluginError(f"reading {path.name} failed: {error!r}") from error
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    hooks: dict[str, Any] = {}
    if any(name.startswith("pinikit_") for name in functions):
        try:
            imported = importlib.import_module(module)
        except (Exception, SystemExit) as error:
            raise PluginError(f"import of {path.name} failed: {error!r}") from error
        hooks = {name: value for name, value in vars(imported).items() if name.startswith("pinikit_")}
    components = [] if "pinikit_register" in hooks else list(_components(tree, module))
    if not components and not hooks:
        raise PluginError(
            f"{path.name} has no component, which is a class with a `name` whose base is one of "
            f"{listing(BASES)}, and no hook"
        )
    hooks |= {name: value for name, value in literal_constants(tree).items() if name == "pinikit_hooks"}
    return _FilePlugin(components, hooks)


def _components(tree: ast.Module, module: str) -> Iterator[tuple[Any, ...]]:
    """Kind, name, import path, doc line and synonyms of each class that is a component."""
    for node in tree.body:
        if not isinstance(node, ast.ClassDef) or node.name.startswith("_"):
            continue
        attributes = class_attributes(node)
        bases = [
            base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases
        ]
        kinds = [BASES[base] for base in bases if base in BASES]
        if kinds and "name" in attributes:
            doc = (ast.get_docstring(node) or "").partition("\n")[0]
            target = f"{module}:{node.name}"
            yield kinds[0], attributes["name"], target, doc, attributes.get("synonyms", ())


# --- switched off -----------------------------------------------------------------------------------------


def settings_file() -> Path:
    """Where it is kept which plug-ins are off: in ``PINIKIT_CONFIG``, or the user's configuration folder."""
    folder = os.environ.get("PINIKIT_CONFIG") or platformdirs.user_config_dir("pinikit")
    return Path(folder) / "plugins.json"


def disabled() -> frozenset[str]:
    """Names of the plug-ins that are switched off.

    Raises:
        ConfigError: the file that says so is damaged.
    """
    path = settings_file()
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["disabled"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise TypeError("no list of names")
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({error}); it holds the plug-ins that are switched off, as "
            '{"disabled": ["name"]}: mend or remove it'
        ) from error
    return frozenset(names)


def set_disabled(names: Collection[str]) -> None:
    """Switch off these plug-ins and no others, from the next process on.

    Raises:
        PinikitError: the file cannot be written.
    """
    from pinikit.data.files import write_json

    write_json(settings_file(), {"disabled": sorted(names)})

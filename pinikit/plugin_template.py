"""A plug-in to begin with: an installable distribution with one component that passes its own tests."""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from string import Template

from pinikit import __version__
from pinikit.errors import ConfigError, listing, nearest

TEMPLATES = Path(__file__).parent / "assets" / "plugin"

_BASES = {"noise": "Noise", "injector": "Injector", "loss": "Loss"}
_EXAMPLES = {
    "noise": "injections: {image: {site: image_feature, injector: mlp, noise: $component, share: image}}",
    "injector": "injections: {image: {site: image_feature, injector: $component, share: image}}",
    "loss": "losses: {classify: $component}",
}
"""How a study names it, below ``method``."""


def write_plugin(kind: str, name: str, into: Path) -> Path:
    """Write the distribution ``name`` with a component of that kind into a new folder of ``into``.

    Returns:
        The folder.

    Raises:
        ConfigError: there is no template for the kind, the name is none, or the folder is there already.
        PinikitError: a file cannot be written.
    """
    from pinikit.data.files import write_atomic

    _check(kind, name)
    folder = into / name
    if folder.exists():
        raise ConfigError(f"plugins new: {folder} is there already; nothing was written")
    for path, text in _files(kind, name).items():
        write_atomic(folder / path, text)
    return folder


def _check(kind: str, name: str) -> None:
    if kind not in _BASES:
        raise ConfigError(f"plugins new: no kind {kind!r}{nearest(kind, _BASES)}; allowed: {listing(_BASES)}")
    package = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9_-]*[a-z0-9]", name) or keyword.iskeyword(package):
        raise ConfigError(f"plugins new: found the name {name!r}; allowed: a-z, 0-9, - and _, e.g. my-{kind}")
    if holder := _holder(kind, package):
        raise ConfigError(f"plugins new: the name {name!r} is {holder}; allowed: any other, e.g. my-{kind}")


def _holder(kind: str, package: str) -> str:
    """Whose a name is already; empty if it is free."""
    from pinikit.plugin import registry

    entries = registry().entries(kind)
    if package in {text for entry in entries for text in (entry.name, *entry.synonyms)}:
        return f"a {kind}'s"
    distributions = {re.sub(r"[-_.]+", "_", item.name).lower() for item in metadata.distributions()}
    if package in sys.stdlib_module_names or package in distributions or find_spec(package) is not None:
        return "that of something installed"
    return "taken" if package in (kind, "plugin", "none", "true", "false") else ""


def _files(kind: str, name: str) -> dict[str, str]:
    """The text of each file by its path in the distribution."""
    words = _words(kind, name)
    package = words["package"]
    sources = {
        "pyproject.toml": "pyproject.toml.txt",
        "README.md": "README.md.txt",
        f"src/{package}/plugin.py": "plugin.py.txt",
        f"src/{package}/{kind}.py": f"{kind}/component.py.txt",
        f"tests/test_{package}.py": "test.py.txt",
    }
    files = {path: _filled(TEMPLATES / source, words) for path, source in sources.items()}
    return {**files, f"src/{package}/__init__.py": f'"""{words["title"]} for pinikit."""\n'}


def _words(kind: str, name: str) -> dict[str, str]:
    """What stands for the templates' placeholders."""
    package = name.replace("-", "_")
    parts = [part for part in package.split("_") if part]
    words = {
        "kind": kind,
        "distribution": name,
        "package": package,
        "component": package,
        "module": kind,
        "class_name": "".join(part.capitalize() for part in parts),
        "base": f"{_BASES[kind]}Conformance",
        "title": f"The {kind} {package}",
        "pinikit": __version__,
    }
    more = TEMPLATES / kind / "more.txt"
    component = _filled(TEMPLATES / kind / "component.py.txt", words)
    doc = component.split('    """', 1)[1].partition("\n")[0].rstrip(".")
    example = Template(_EXAMPLES[kind]).substitute(words)
    return {
        **words,
        "more": more.read_text(encoding="utf-8") if more.is_file() else "",
        "doc": doc,
        "example": f"run:\n  method:\n    name: pini\n    {example}",
    }


def _filled(path: Path, words: Mapping[str, str]) -> str:
    return Template(path.read_text(encoding="utf-8")).substitute(words)

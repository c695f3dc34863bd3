"""The built-in components: one concept a folder, one component a file.

They enter the registry through the same hook as any plug-in's. Registration is derived from the
files: a public class with a ``name`` in one of the folders below is a component, and the first
line of its docstring is its doc line. Nothing is imported for that.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pinikit.plugin import hookimpl
from pinikit.registry import Registry
from pinikit.signature import class_attributes, parse_module

FOLDERS = {
    "sites": "site",
    "noise": "noise",
    "injectors": "injector",
    "combine": "combine",
    "losses": "loss",
    "methods": "method",
    "datasets": "dataset",
}
"""Folder -> kind of component."""


@hookimpl
def pinikit_register(registry: Registry) -> None:
    """Add every built-in component."""
    for folder, kind in FOLDERS.items():
        for target, node, attributes in _components(folder):
            doc = (ast.get_docstring(node) or "").partition("\n")[0]
            synonyms = attributes.get("synonyms", ())
            registry.add(kind, attributes["name"], target, doc=doc, synonyms=synonyms)


def _components(folder: str) -> Iterator[tuple[str, ast.ClassDef, dict[str, Any]]]:
    """Import path, class and literal attributes of every component of a folder."""
    for path in sorted((Path(__file__).parent / folder).glob("[!_]*.py")):
        for node in parse_module(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                attributes = class_attributes(node)
                if "name" in attributes:
                    yield f"{__name__}.{folder}.{path.stem}:{node.name}", node, attributes

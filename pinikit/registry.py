"""Kind x name -> component. Listing, validating and hashing need no import of a component."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pinikit.errors import ConfigError, PluginError, listing, nearest
from pinikit.signature import Signature, read_signature

KINDS: Mapping[str, str] = {
    "site": "where noise enters: a stage of the backbone and positions in it",
    "noise": "a distribution family: parameters and base randomness to a sample",
    "injector": "a network or free parameters that yields the noise's parameters",
    "combine": "how a sample meets the clean tensor",
    "loss": "a scalar of logits, features and labels that training minimises",
    "method": "turns a few-shot task into a predictor",
    "dataset": "pictures, labels, splits and prompt templates",
}

BUILT_IN = "pinikit"
"""Source of the components that come with pinikit."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
"""No dots, which separate a name from an index (``image_block.3``) and keys from each other."""


@dataclass(frozen=True)
class Entry:
    """One registered component."""

    kind: str
    name: str
    target: str
    """Import path ``package.module:Class``."""
    doc: str
    synonyms: tuple[str, ...] = ()
    source: str = BUILT_IN
    """The plug-in that registered it, with its version."""
    replaces: bool = False
    """Whether it took the place of a built-in component."""
    _loaded: dict[str, Any] = field(default_factory=dict, repr=False, compare=False, hash=False)

    @cached_property
    def signature(self) -> Signature:
        """Constructor parameters and version, read without importing the component where possible."""
        return read_signature(self.target)

    def load(self) -> type[Any]:
        """Import the component's class.

        Raises:
            PluginError: the import path leads nowhere or the import raised.
        """
        if "class" not in self._loaded:
            module, _, attribute = self.target.partition(":")
            try:
                self._loaded["class"] = getattr(importlib.import_module(module), attribute)
            except Exception as error:
                raise PluginError(
                    f"{self.kind} {self.name!r} of plug-in {self.source!r} cannot be imported from "
                    f"{self.target!r}: {error!r}"
                ) from error
        loaded: type[Any] = self._loaded["class"]
        return loaded


class Registry:
    """All components of a process, filled by plug-ins through ``pinikit_register``."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
        self._source = BUILT_IN

    def add(
        self,
        kind: str,
        name: str,
        target: str,
        *,
        doc: str,
        synonyms: Sequence[str] = (),
        replace: bool = False,
    ) -> None:
        """Register a component by import path.

        Args:
            kind: one of :data:`KINDS`.
            name: what studies call it.
            target: ``package.module:Class``, imported when the component is used.
            doc: one line for ``pinikit list``.
            synonyms: other names that studies may use.
            replace: take the place, and the synonyms, of the built-in component of that name.

        Raises:
            PluginError: unknown kind, a name that is taken or no name, a target that is no ``module:Class``,
                or no built-in component to replace.
        """
        if kind not in KINDS:
            raise PluginError(f"unknown kind {kind!r}{nearest(kind, KINDS)}; kinds: {listing(KINDS)}")
        _check_texts(kind, name, target, synonyms, doc)
        old = self._replaced(kind, name) if replace else None
        for taken in (name, *synonyms):
            if (holder := self._find(kind, taken)) not in (None, old):
                assert holder is not None
                raise PluginError(
                    f"{kind} {taken!r} is already registered by {holder.source}"
                    + ("; replace=True takes its place" if holder.source == BUILT_IN else "")
                )
        names = dict.fromkeys([*synonyms, *(old.synonyms if old else ())])
        self._entries[kind][name] = Entry(kind, name, target, doc, tuple(names), self._source, replace)

    def site(
        self, name: str, target: str, *, doc: str, synonyms: Sequence[str] = (), replace: bool = False
    ) -> None:
        """Register a :class:`pinikit.Site`; see :meth:`add`."""
        self.add("site", name, target, doc=doc, synonyms=synonyms, replace=replace)

    def noise(
        self, name: str, target: str, *, doc: str, synonyms: Sequence[str] = (), replace: bool = False
    ) -> None:
        """Register a :class:`pinikit.Noise`; see :meth:`add`."""
        self.add("noise", name, target, doc=doc, synonyms=synonyms, replace=replace)

    def injector(
        self, name: str, target: str, *, doc: str, synonyms: Sequence[str] = (), replace: bool = False
    ) -> None:
        """Register a :class:`pinikit.Injector`; see :meth:`add`."""
        self.add("injector", name, target, doc=doc, synonyms=synonyms, replace=replace)

    def combine(
        self, name: str, target: str, *, doc: str, synonyms: Sequence[str] = (), replace: bool = False
    ) -> None:
        """Register a :class:`pinikit.Combine`; see :meth:`add`."""
        self.add("combine", name, target, doc=doc, synonyms=synonyms, replace=replace)

    def loss(
        self, name: str, target: str, *, doc: str, synonyms: Sequence[str] = (), replace: bool = False
    ) -> None:
        """Register a :class:`pinikit.Loss`; see :meth:`add`."""
        self.add("loss", name, target, doc=doc, synonyms=synonyms, replace=replace)

    def method(
        self, name: str, target: str, *, doc: str, synonyms: Sequence[str] = (), replace: bool = False
    ) -> None:
        """Register a :class:`pinikit.Method`; see :meth:`add`."""
        self.add("method", name, target, doc=doc, synonyms=synonyms, replace=replace)

    def dataset(
        self, name: str, target: str, *, doc: str, synonyms: Sequence[str] = (), replace: bool = False
    ) -> None:
        """Register a :class:`pinikit.DataSet`; see :meth:`add`."""
        self.add("dataset", name, target, doc=doc, synonyms=synonyms, replace=replace)

    def entries(self, kind: str) -> list[Entry]:
        """All components of a kind, by name.

        Raises:
            ConfigError: unknown kind.
        """
        if kind not in KINDS:
            raise ConfigError(f"unknown kind {kind!r}{nearest(kind, KINDS)}; kinds: {listing(KINDS)}")
        return sorted(self._entries[kind].values(), key=lambda entry: entry.name)

    def find(self, kind: str, name: str, where: str = "") -> Entry:
        """The component of that name or synonym.

        Raises:
            ConfigError: no such component; the message names the nearest and all allowed ones.
        """
        entry = self._find(kind, name)
        if entry is None:
            names = [entry.name for entry in self.entries(kind)]
            place = f"{where}: " if where else ""
            known = [*names, *(word for entry in self.entries(kind) for word in entry.synonyms)]
            raise ConfigError(
                f"{place}unknown {kind} {name!r}{nearest(name, known)}; allowed: {listing(names)}"
            )
        return entry

    @contextmanager
    def from_plugin(self, name: str, version: str) -> Iterator[None]:
        """While a plug-in registers: note it as the source, and undo everything if it raises."""
        before = {kind: dict(entries) for kind, entries in self._entries.items()}
        self._source = f"{name} {version}".strip()
        try:
            yield
        except BaseException:
            self._entries = before
            raise
        finally:
            self._source = BUILT_IN

    def _replaced(self, kind: str, name: str) -> Entry:
        """The built-in component that a plug-in's takes the place of."""
        old = self._entries[kind].get(name)
        if old is None or old.source != BUILT_IN:
            found = f"that of {old.source}" if old else "none"
            built_in = [entry.name for entry in self.entries(kind) if entry.source == BUILT_IN]
            raise PluginError(
                f"{kind} {name!r}: replace=True is for a built-in {kind}, found {found}"
                f"{nearest(name, built_in)}; allowed: {listing(built_in)}"
            )
        return old

    def _find(self, kind: str, name: str) -> Entry | None:
        entries = self._entries[kind]
        if name in entries:
            return entries[name]
        return next((entry for entry in entries.values() if name in entry.synonyms), None)


def _check_texts(kind: str, name: str, target: str, synonyms: Sequence[str], doc: str) -> None:
    """Refuse what is no name or import path."""
    if not isinstance(doc, str):
        raise PluginError(f"{kind} {name!r}: doc: found {doc!r}; allowed: one line of text")
    if isinstance(synonyms, str):
        raise PluginError(f"{kind} {name!r}: synonyms: found {synonyms!r}; allowed: a list of names")
    for text in (name, *synonyms):
        if not isinstance(text, str) or not _NAME.fullmatch(text):
            raise PluginError(f"{kind} {text!r}: allowed: a letter, then letters, digits, _ and -")
    if not isinstance(target, str) or target.count(":") != 1:
        raise PluginError(f"{kind} {name!r}: target {target!r} must read 'package.module:Class'")

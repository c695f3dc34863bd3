"""Merging and checking of configuration against the schema and the components' signatures.

``merge`` lays one mapping over another: it expands shorthand (``noise: gaussian``), refuses keys
that do not exist, removes what ``null`` removes, and drops the parameters of a component that is
replaced by another one. ``complete`` fills in defaults and checks every value's type. Both only
know names and signatures, so no component is imported.

Mappings are never changed in place, so arms of a study share what they do not change, and what is
shared is merged and completed once.
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pinikit.config import schema
from pinikit.errors import ConfigError, listing, nearest
from pinikit.registry import Registry
from pinikit.signature import REQUIRED, Range, describe


@dataclass(frozen=True)
class Where:
    """A file or command line and a key path in it, for messages."""

    source: str
    path: str = ""

    def __truediv__(self, key: str) -> Where:
        return Where(self.source, f"{self.path}.{key}" if self.path else str(key))

    def __str__(self) -> str:
        return f"{self.source}: {printable(self.path)}" if self.path else self.source


def printable(text: str) -> str:
    """``text`` with control characters and broken Unicode escaped, so that it fits in one line."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def shown(value: Any) -> str:
    """A value as a message shows it: Python's way to write it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


LONGEST_VALUE = 120
"""Characters of a wrong value that a message shows."""


@dataclass(frozen=True)
class Slot:
    """What may stand at a key: a type, or a component of a kind, with bounds and a default."""

    type: Any
    default: Any = REQUIRED
    component: str | None = None
    extras: type | None = None
    choices: tuple[Any, ...] = ()
    minimum: float | None = None
    positive: bool = False
    search: Range | None = None


@cache
def slots_of(kind: type) -> Mapping[str, Slot]:
    """The keys of a schema dataclass."""
    hints = typing.get_type_hints(kind)
    slots = {}
    for item in dataclasses.fields(kind):
        default = item.default if item.default is not dataclasses.MISSING else REQUIRED
        if item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        if default is schema.MISSING or (default == {} and "component" in item.metadata):
            default = REQUIRED
        notes = {key: value for key, value in item.metadata.items() if key != "default"}
        slots[item.name] = Slot(hints[item.name], default, **notes)
    return slots


def unwrapped(slot: Slot) -> Slot:
    """The slot, or that of the component that stands alone for its schema."""
    key = schema.ALONE.get(slot.type) if isinstance(slot.type, type) else None
    return slot if key is None else slots_of(slot.type)[key]


@cache
def item_slot(kind: Any) -> Slot:
    """What may stand in a mapping, or in a list, of this type."""
    return Slot(get_args(kind)[0 if get_origin(kind) in (list, tuple) else 1])


class Checker:
    """Merges and completes configuration with the components of one registry."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        # By the identities of what went in, which is kept beside the result so that none is given away anew.
        self._merged: dict[tuple[int, int, int], tuple[Any, ...]] = {}
        self._completed: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        self._defaults: dict[int, tuple[Any, Slot]] = {}
        self._slots: dict[tuple[str, str, type | None], Mapping[str, Slot]] = {}

    # --- merging ----------------------------------------------------------------------------

    def merge(self, base: Any, patch: Any, slot: Slot, where: Where) -> Any:
        """``patch`` laid over ``base``; shorthand expanded, unknown keys refused."""
        slot = unwrapped(slot)
        if slot.component is not None:
            key = (id(base), id(patch), id(slot))
            if key not in self._merged:
                merged = self._merge_component(base, patch, slot, where)
                self._merged[key] = (merged, base, patch, slot)
            return self._merged[key][0]
        if dataclasses.is_dataclass(slot.type):
            return self._merge_keys(base or {}, patch, slots_of(typing.cast(type, slot.type)), where)
        if get_origin(slot.type) in (dict, Mapping):
            if base is None and isinstance(patch, Mapping) and any(item is None for item in patch.values()):
                base = self.default_labels(slot, where)  # of which null takes one away, not all
            return self._merge_mapping(base or {}, patch, item_slot(slot.type), where)
        return patch

    def default_labels(self, slot: Slot, where: Where) -> Mapping[str, Any]:
        """What a mapping has by default, e.g. a method's injections; empty where it has nothing."""
        if not isinstance(slot.default, Mapping):
            return {}
        return typing.cast(Mapping[str, Any], self.merge({}, slot.default, slot, where))

    def _merge_keys(
        self, base: Mapping[str, Any], patch: Any, slots: Mapping[str, Slot], where: Where
    ) -> Any:
        self._need_mapping(patch, where)
        merged = dict(base)
        for key, value in patch.items():
            if key not in slots:
                raise ConfigError(
                    f"{where / str(key)}: unknown key {key!r}{nearest(str(key), slots)}; "
                    f"allowed: {listing(slots)}"
                )
            merged[key] = self.merge(base.get(key), value, slots[key], where / key)
        return merged

    def _merge_mapping(self, base: Mapping[str, Any], patch: Any, slot: Slot, where: Where) -> Any:
        self._need_mapping(patch, where)
        merged = dict(base)
        for label, value in ((str(key), value) for key, value in patch.items()):
            if dataclasses.is_dataclass(slot.type) and not _is_label(label):
                raise ConfigError(f"{where}: found the label {label!r}; allowed: a text without dots")
            if value is None and slot.type is not Any:
                merged.pop(label, None)
            else:
                merged[label] = self.merge(base.get(label), value, slot, where / label)
        return merged

    def _merge_component(self, base: Any, patch: Any, slot: Slot, where: Where) -> Any:
        kind = typing.cast(str, slot.component)
        patch = {"name": patch} if isinstance(patch, str) else patch
        self._need_mapping(patch, where)
        base = base or {}
        default = slot.default if isinstance(slot.default, Mapping) else {}
        name = patch.get("name", base.get("name", default.get("name")))
        if not isinstance(name, str):
            names = listing(entry.name for entry in self.registry.entries(kind))
            raise ConfigError(f"{where}: needs the name of a {kind}; allowed: {names}")
        name, positional = self._split_name(kind, name, where)
        slots = self.component_slots(kind, name, slot.extras)
        kept = slots if name == base.get("name") else slots_of(slot.extras) if slot.extras else {}
        base = {key: value for key, value in base.items() if key in kept}
        rest = {key: value for key, value in patch.items() if key != "name"}
        merged = self._merge_keys(base, {**positional, **rest}, slots, where)
        return {"name": name, **{key: value for key, value in merged.items() if key != "name"}}

    def _split_name(self, kind: str, name: str, where: Where) -> tuple[str, dict[str, Any]]:
        """``image_block.3`` means the component ``image_block`` with its first parameter at 3."""
        head, dot, tail = name.partition(".")
        try:
            entry = self.registry.find(kind, head if dot and kind == "site" else name)
        except ConfigError as error:
            raise ConfigError(f"{where / 'name'}: {error}") from error
        first = next(iter(entry.signature.parameters), None)
        if not dot or kind != "site":
            return entry.name, {}
        if first is None:
            raise ConfigError(f"{where / 'name'}: {entry.name!r} takes no index, found {name!r}")
        return entry.name, {first: int(tail) if re.fullmatch("-?[0-9]{1,9}", tail) else tail}

    def component_slots(self, kind: str, name: str, extras: type | None) -> Mapping[str, Slot]:
        """The keys of a component: ``name``, its constructor's arguments, and our extras."""
        key = (kind, name, extras)
        if key not in self._slots:
            parameters = self.registry.find(kind, name).signature.parameters
            slots = {"name": Slot(str)}
            slots |= {
                key: Slot(parameter.type, parameter.default, search=parameter.search)
                for key, parameter in parameters.items()
            }
            self._slots[key] = slots | dict(slots_of(extras) if extras else {})
        return self._slots[key]

    def inside(self, value: Mapping[str, Any], slot: Slot) -> tuple[str | None, Mapping[str, Slot]]:
        """The kind of component that a complete mapping is, if any, and what stands at its keys."""
        slot = unwrapped(slot)
        if slot.component is not None:
            return slot.component, self.component_slots(slot.component, value["name"], slot.extras)
        if dataclasses.is_dataclass(slot.type):
            return None, slots_of(typing.cast(type, slot.type))
        return None, dict.fromkeys(value, item_slot(slot.type)) if get_args(slot.type) else {}

    @staticmethod
    def _need_mapping(value: Any, where: Where) -> None:
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{where}: found {shown(value)} ({type(value).__name__}); allowed: a mapping of keys"
            )

    # --- completing -------------------------------------------------------------------------

    def complete(self, value: Any, slot: Slot, where: Where) -> Any:
        """``value`` with all defaults filled in and every type checked, as plain containers."""
        key = _memo_key(value, slot)
        if key not in self._completed:
            self._completed[key] = (self._complete(value, slot, where), value, slot)
        return self._completed[key][0]

    def _complete(self, value: Any, slot: Slot, where: Where) -> Any:
        slot = unwrapped(slot)
        if slot.component is not None:
            name = value["name"]
            slots = self.component_slots(slot.component, name, slot.extras)
            return {"name": name, **self._complete_keys(value, slots, where, skip="name")}
        if dataclasses.is_dataclass(slot.type):
            self._need_mapping(value, where)
            return self._complete_keys(value, slots_of(typing.cast(type, slot.type)), where)
        return self._complete_value(value, slot, where)

    def _complete_keys(self, value: Any, slots: Mapping[str, Slot], where: Where, skip: str = "") -> Any:
        completed = {}
        for key, slot in slots.items():
            if key == skip:
                continue
            given = value[key] if key in value else self._default(slot, where, key)
            known = self._completed.get(_memo_key(given, slot))
            completed[key] = known[0] if known else self.complete(given, slot, where / key)
        return completed

    def _default(self, slot: Slot, where: Where, key: str) -> Any:
        if id(slot) not in self._defaults:
            self._defaults[id(slot)] = (self._new_default(slot, where / key), slot)
        return self._defaults[id(slot)][0]

    def _new_default(self, slot: Slot, where: Where) -> Any:
        if slot.default is REQUIRED and not dataclasses.is_dataclass(slot.type):
            raise ConfigError(f"{where}: missing; it has no default and must be given")
        if dataclasses.is_dataclass(slot.type) and slot.component is None:
            return {}
        if slot.component is not None or get_origin(slot.type) in (dict, Mapping):
            return self.merge(None, slot.default or {}, slot, where)
        return slot.default

    def _complete_value(self, value: Any, slot: Slot, where: Where) -> Any:
        origin, arguments = get_origin(slot.type), get_args(slot.type)
        if origin in (dict, Mapping):
            self._need_mapping(value, where)
            slot = item_slot(slot.type)
            return {key: self.complete(item, slot, where / key) for key, item in value.items()}
        if origin in (list, tuple):
            if not isinstance(value, list | tuple):
                raise ConfigError(f"{where}: found {shown(value)} ({type(value).__name__}); allowed: a list")
            slot = item_slot(slot.type)
            return [self.complete(item, slot, where / str(index)) for index, item in enumerate(value)]
        coerced = _coerce(value, slot.type)
        if coerced is _WRONG:
            found = "null" if value is None else f"{shown(value)} ({type(value).__name__})"
            hint = nearest(value, [str(a) for a in arguments]) if isinstance(value, str) else ""
            raise ConfigError(f"{where}: found {found}{hint}; allowed: {describe(slot.type)}")
        _check_bounds(coerced, slot, where)
        return coerced


def _is_label(label: str) -> bool:
    """Whether injections and losses may be called so: key paths must be able to name them."""
    return bool(label.strip()) and label.isprintable() and not set(label) & set(".=")


def _memo_key(value: Any, slot: Slot) -> tuple[Any, ...]:
    """Equal for equal scalars, and for the same mapping or list, in the same slot."""
    kind = value.__class__
    return (id(slot), kind, value) if kind in _SCALARS else (id(slot), id(value))


_SCALARS = frozenset({int, float, bool, str, type(None)})

_WRONG = object()


def _coerce(value: Any, kind: Any) -> Any:
    """``value`` as ``kind``, or ``_WRONG``; only an int may stand for a float."""
    if kind is Any:
        return value
    if get_origin(kind) is Literal:
        return value if value in get_args(kind) and not isinstance(value, bool) ^ _has_bool(kind) else _WRONG
    if get_origin(kind) in (Union, UnionType):
        options = (_coerce(value, option) for option in get_args(kind))
        return next((option for option in options if option is not _WRONG), _WRONG)
    if kind in (None, NoneType):
        return None if value is None else _WRONG
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return _WRONG
    if isinstance(value, bool):
        return value if kind is bool else _WRONG
    return value if isinstance(value, kind) else _WRONG


def _has_bool(kind: Any) -> bool:
    return any(isinstance(option, bool) for option in get_args(kind))


def _check_bounds(value: Any, slot: Slot, where: Where) -> None:
    if slot.choices and value not in slot.choices:
        hint = nearest(str(value), slot.choices)
        raise ConfigError(f"{where}: found {shown(value)}{hint}; allowed: {listing(slot.choices)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: found {value}; allowed: a finite number")
    if value is not None and slot.minimum is not None and value < slot.minimum:
        raise ConfigError(f"{where}: found {shown(value)}; allowed: {slot.minimum:g} or more")
    if value is not None and slot.positive and value <= 0:
        raise ConfigError(f"{where}: found {shown(value)}; allowed: a number above 0")

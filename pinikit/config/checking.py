"""Merging and checking of configuration against the schema and the components' signatures.

``merge`` lays one mapping over another: it expands shorthand (``noise: gaussian``), refuses keys
that do not exist, removes what ``null`` removes, and drops the parameters of a component that is
replaced by another one. ``complete`` fills in defaults and checks every value's type. Both only
know names and signatures, so no component is imported.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pinikit.config import schema
from pinikit.errors import ConfigError, listing, nearest
from pinikit.registry import Registry
from pinikit.signature import REQUIRED, describe


@dataclass(frozen=True)
class Where:
    """A file or command line and a key path in it, for messages."""

    source: str
    path: str = ""

    def __truediv__(self, key: str) -> Where:
        return Where(self.source, f"{self.path}.{key}" if self.path else str(key))

    def __str__(self) -> str:
        return f"{self.source}: {self.path}" if self.path else self.source


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


def slots_of(kind: type) -> dict[str, Slot]:
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


class Checker:
    """Merges and completes configuration with the components of one registry."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    # --- merging ----------------------------------------------------------------------------

    def merge(self, base: Any, patch: Any, slot: Slot, where: Where) -> Any:
        """``patch`` laid over ``base``; shorthand expanded, unknown keys refused."""
        if slot.type is schema.LossConfig:
            slot = slots_of(schema.LossConfig)["loss"]
        if slot.component is not None:
            return self._merge_component(base, patch, slot, where)
        if dataclasses.is_dataclass(slot.type):
            return self._merge_keys(base or {}, patch, slots_of(typing.cast(type, slot.type)), where)
        if get_origin(slot.type) in (dict, Mapping):
            return self._merge_mapping(base or {}, patch, Slot(get_args(slot.type)[1]), where)
        return patch

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
        for label, value in patch.items():
            if value is None and slot.type is not Any:
                merged.pop(label, None)
            else:
                merged[str(label)] = self.merge(base.get(label), value, slot, where / str(label))
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
        entry = self.registry.find(kind, head if dot and kind == "site" else name, str(where / "name"))
        first = next(iter(entry.signature.parameters), None)
        if not dot or kind != "site":
            return entry.name, {}
        if first is None:
            raise ConfigError(f"{where / 'name'}: {entry.name!r} takes no index, found {name!r}")
        return entry.name, {first: int(tail) if tail.lstrip("-").isdigit() else tail}

    def component_slots(self, kind: str, name: str, extras: type | None) -> dict[str, Slot]:
        """The keys of a component: ``name``, its constructor's arguments, and our extras."""
        parameters = self.registry.find(kind, name).signature.parameters
        slots = {"name": Slot(str)}
        slots |= {key: Slot(parameter.type, parameter.default) for key, parameter in parameters.items()}
        return slots | (slots_of(extras) if extras else {})

    @staticmethod
    def _need_mapping(value: Any, where: Where) -> None:
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{where}: found {value!r} ({type(value).__name__}); allowed: a mapping of keys"
            )

    # --- completing -------------------------------------------------------------------------

    def complete(self, value: Any, slot: Slot, where: Where) -> Any:
        """``value`` with all defaults filled in and every type checked, as plain containers."""
        if slot.type is schema.LossConfig:
            slot = slots_of(schema.LossConfig)["loss"]
        if slot.component is not None:
            name = value["name"]
            slots = self.component_slots(slot.component, name, slot.extras)
            return {"name": name, **self._complete_keys(value, slots, where, skip="name")}
        if dataclasses.is_dataclass(slot.type):
            return self._complete_keys(value, slots_of(typing.cast(type, slot.type)), where)
        return self._complete_value(value, slot, where)

    def _complete_keys(self, value: Any, slots: Mapping[str, Slot], where: Where, skip: str = "") -> Any:
        completed = {}
        for key, slot in slots.items():
            if key == skip:
                continue
            if key not in value and slot.default is REQUIRED and not dataclasses.is_dataclass(slot.type):
                raise ConfigError(f"{where / key}: missing; it has no default and must be given")
            given = value[key] if key in value else self._default(slot, where / key)
            completed[key] = self.complete(given, slot, where / key)
        return completed

    def _default(self, slot: Slot, where: Where) -> Any:
        if dataclasses.is_dataclass(slot.type) and slot.component is None:
            return {}
        if slot.component is not None or get_origin(slot.type) in (dict, Mapping):
            return self.merge(None, slot.default or {}, slot, where)
        return slot.default

    def _complete_value(self, value: Any, slot: Slot, where: Where) -> Any:
        origin, arguments = get_origin(slot.type), get_args(slot.type)
        if origin in (dict, Mapping):
            self._need_mapping(value, where)
            return {key: self.complete(item, Slot(arguments[1]), where / key) for key, item in value.items()}
        if origin in (list, tuple):
            if not isinstance(value, list | tuple):
                raise ConfigError(f"{where}: found {value!r} ({type(value).__name__}); allowed: a list")
            return [self.complete(item, Slot(arguments[0]), where / str(i)) for i, item in enumerate(value)]
        coerced = _coerce(value, slot.type)
        if coerced is _WRONG:
            found = "null" if value is None else f"{value!r} ({type(value).__name__})"
            hint = nearest(value, [str(a) for a in arguments]) if isinstance(value, str) else ""
            raise ConfigError(f"{where}: found {found}{hint}; allowed: {describe(slot.type)}")
        _check_bounds(coerced, slot, where)
        return coerced


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
        return float(value)
    if isinstance(value, bool):
        return value if kind is bool else _WRONG
    return value if isinstance(value, kind) else _WRONG


def _has_bool(kind: Any) -> bool:
    return any(isinstance(option, bool) for option in get_args(kind))


def _check_bounds(value: Any, slot: Slot, where: Where) -> None:
    if slot.choices and value not in slot.choices:
        raise ConfigError(
            f"{where}: found {value!r}{nearest(str(value), slot.choices)}; allowed: {listing(slot.choices)}"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: found {value}; allowed: a finite number")
    if value is not None and slot.minimum is not None and value < slot.minimum:
        raise ConfigError(f"{where}: found {value}; allowed: {slot.minimum:g} or more")
    if value is not None and slot.positive and value <= 0:
        raise ConfigError(f"{where}: found {value}; allowed: a number above 0")

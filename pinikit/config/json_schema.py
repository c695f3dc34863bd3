"""JSON Schema of a study file, for editors: built from the schema dataclasses and the registry."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pinikit.config import schema
from pinikit.config.checking import Checker, Slot, slots_of, unwrapped
from pinikit.registry import Entry, Registry
from pinikit.signature import REQUIRED, Range

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_SIMPLE = {int: "integer", float: "number", bool: "boolean", str: "string", NoneType: "null"}


def study_schema(registry: Registry) -> Schema:
    """The JSON Schema (draft 2020-12) of a study file, with the components of a registry.

    It is somewhat wider than what a study may say: what a changed component may be combined with is not
    in it.
    """
    return _Builder(registry).study()


class _Builder:
    """Collects the definitions that the schema refers to."""

    def __init__(self, registry: Registry) -> None:
        self._registry, self._checker = registry, Checker(registry)
        self._definitions: Schema = {}
        self._extras: dict[str, type | None] = {}
        """What components of a kind have beside their parameters, where the kind is met first."""
        self._names: dict[str, str] = {}

    def study(self) -> Schema:
        """The whole schema."""
        body = self._dataclass(schema.StudyConfig)
        body["properties"]["design"] = self._design()
        body["properties"]["expect"] = self._expect()
        body["properties"]["search"] = self._search()
        return {
            "$schema": DIALECT,
            "title": "A pinikit study",
            **body,
            "required": ["name"],
            "$defs": dict(sorted(self._definitions.items())),
        }

    # --- keys and values --------------------------------------------------------------------

    def _slot(self, slot: Slot) -> Schema:
        """What may stand at a key."""
        if slot.component is not None:
            return self._component(slot)
        found = self._type(slot.type)
        if slot.choices:
            found = {"enum": list(slot.choices)}
        if slot.minimum is not None:
            found["minimum"] = slot.minimum
        if slot.positive:
            found["exclusiveMinimum"] = 0
        if slot.default is not REQUIRED and _is_plain(slot.default):
            found["default"] = slot.default
        return found

    def _type(self, kind: Any) -> Schema:
        origin, arguments = get_origin(kind), get_args(kind)
        alone = unwrapped(Slot(kind))
        if alone.component is not None:
            return self._component(alone)
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            return self._refer(kind.__name__, lambda: self._dataclass(kind))
        if origin in (dict, Mapping):
            return {"type": "object", "additionalProperties": self._label(arguments[1])}
        if origin in (list, tuple):
            return {"type": "array", "items": self._type(arguments[0])}
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin in (Union, UnionType):
            return _any_of([self._type(option) for option in arguments])
        return {"type": _SIMPLE[kind]} if kind in _SIMPLE else {}

    def _label(self, kind: Any) -> Schema:
        """What may stand under a label; ``null`` takes an injection or a loss away."""
        found = self._type(kind)
        return _any_of([found, {"type": "null"}]) if dataclasses.is_dataclass(kind) else found

    def _dataclass(self, kind: type) -> Schema:
        docs, slots = _field_docs(kind), slots_of(kind)
        properties = {key: self._slot(slot) for key, slot in slots.items()}
        for key, slot in slots.items():
            if note := _note(docs.get(key, ""), slot.search):
                properties[key] = {**properties[key], "description": note}
        return {
            "description": (kind.__doc__ or "").partition("\n")[0],
            "type": "object",
            "properties": properties,
            "additionalProperties": False,
        }

    def _refer(self, name: str, build: Any) -> Schema:
        if name not in self._definitions:
            self._definitions[name] = {}  # so that it may refer to itself
            self._definitions[name] = build()
        return {"$ref": f"#/$defs/{name}"}

    # --- components -------------------------------------------------------------------------

    def _component(self, slot: Slot) -> Schema:
        """A component's name, or a mapping with its name and parameters."""
        kind = str(slot.component)
        usual = self._extras.setdefault(kind, slot.extras) is slot.extras
        return self._refer(kind if usual else f"{kind}-alone", lambda: self._kind(kind, slot.extras))

    def _kind(self, kind: str, extras: type | None) -> Schema:
        entries = self._registry.entries(kind)
        names = [{"const": name, "description": entry.doc} for entry in entries for name in _names(entry)]
        indexed = [_indexed(entry) for entry in entries] if kind == "site" else []
        name = {"anyOf": [*names, *(pattern for pattern in indexed if pattern)]}
        mappings = [self._mapping(entry, extras) for entry in entries]
        union: dict[str, list[Schema]] = {}
        for mapping in mappings:
            for key, value in mapping["properties"].items():
                if key != "name" and value not in union.setdefault(key, []):
                    union[key].append(value)
        nameless = {
            "description": f"Parameters of the {kind} that stands here already",
            "type": "object",
            "properties": {key: _any_of(values) for key, values in union.items()},
            "additionalProperties": False,
        }
        return {"anyOf": [{"type": "string", **name}, *mappings, nameless]}

    def _mapping(self, entry: Entry, extras: type | None) -> Schema:
        docs = _argument_docs(entry.signature.doc)
        parameters = entry.signature.parameters
        properties: Schema = {"name": {"enum": list(_names(entry))}}
        for key, parameter in parameters.items():
            found = self._slot(Slot(parameter.type, parameter.default))
            note = _note(docs.get(key, ""), parameter.search)
            properties[key] = {**found, "description": note} if note else found
        if extras is not None:
            properties |= self._dataclass(extras)["properties"]
        return {
            "title": entry.name,
            "description": entry.doc,
            "type": "object",
            "properties": properties,
            "required": ["name"],
            "additionalProperties": False,
        }

    # --- designs ----------------------------------------------------------------------------

    def _design(self) -> Schema:
        body = self._dataclass(schema.DesignConfig)
        changes = self._refer("changes", self._changes)
        named = {"type": "object", "additionalProperties": changes}
        docs = {key: value.get("description", "") for key, value in body["properties"].items()}
        body["properties"] |= {
            "arms": {**named, "description": docs["arms"]},
            "factors": {**self._refer("factors", self._factors), "description": docs["factors"]},
            "axes": {**self._refer("factors", self._factors), "description": docs["axes"]},
            "parts": {
                **_any_of([{"type": "array", "items": {"type": "string"}, "minItems": 1}, named]),
                "description": docs["parts"],
            },
        }
        return body

    def _changes(self) -> Schema:
        """Changes to ``run``: its keys, or key paths."""
        return {
            "description": "Changes to run, by key or key path",
            "type": ["object", "null"],
            "properties": {key: self._slot(slot) for key, slot in slots_of(schema.RunConfig).items()},
            "patternProperties": {
                path: self._shared(_any_of(found)) for path, found in self._paths().items()
            },
            "additionalProperties": False,
        }

    def _factors(self) -> Schema:
        runs = {key: self._slot(slot) for key, slot in slots_of(schema.RunConfig).items()}
        paths = {path: _any_of(found) for path, found in self._paths().items()}
        named = {"type": "object", "additionalProperties": {"$ref": "#/$defs/changes"}, "minProperties": 1}
        return {
            "type": "object",
            "properties": {key: self._values(value) for key, value in runs.items()},
            "patternProperties": {path: self._values(value) for path, value in paths.items()},
            "additionalProperties": _any_of([_conditional(named), named, {"type": "null"}]),
        }

    def _values(self, value: Schema) -> Schema:
        """A factor's values: a list, a mapping of label to value, or either with a condition."""
        value = self._shared(value)
        labelled = {"type": "object", "additionalProperties": value, "minProperties": 1}
        several = [
            {"type": "array", "items": value, "minItems": 1},
            {**labelled, "not": {"required": ["values"]}},
        ]
        return self._shared(_any_of([_conditional(_any_of(several)), *several, {"type": "null"}]))

    def _shared(self, value: Schema) -> Schema:
        """A definition that all places with the same values refer to."""
        if "$ref" in value:
            return value
        text = json.dumps(value, sort_keys=True)
        name = self._names.setdefault(text, f"values-{len(self._names) + 1}")
        return self._refer(name, lambda: value)

    def _paths(self) -> dict[str, list[Schema]]:
        """What may stand at key paths of two keys or more, by a pattern of the path."""
        found: dict[str, list[Schema]] = {}
        for key, slot in slots_of(schema.RunConfig).items():
            for path, value in self._below(slot, key):
                if value not in found.setdefault(f"^{path}$", []):
                    found[f"^{path}$"].append(value)
        return found

    def _below(self, slot: Slot, path: str) -> Iterator[tuple[str, Schema]]:
        slot = unwrapped(slot)
        if slot.component is not None:
            for entry in self._registry.entries(slot.component):
                yield f"{path}\\.name", {"enum": list(_names(entry))}
                slots = self._checker.component_slots(slot.component, entry.name, slot.extras)
                inner = {key: value for key, value in slots.items() if key != "name"}
                yield from self._inside(inner, path)
        elif dataclasses.is_dataclass(slot.type) and isinstance(slot.type, type):
            yield from self._inside(slots_of(slot.type), path)
        elif get_origin(slot.type) in (dict, Mapping) and dataclasses.is_dataclass(get_args(slot.type)[1]):
            item = get_args(slot.type)[1]
            yield f"{path}\\.[^.]+", self._label(item)
            yield from self._below(Slot(item), f"{path}\\.[^.]+")

    def _inside(self, slots: Mapping[str, Slot], path: str) -> Iterator[tuple[str, Schema]]:
        for key, slot in slots.items():
            yield f"{path}\\.{re.escape(key)}", self._slot(slot)
            yield from self._below(slot, f"{path}\\.{re.escape(key)}")

    def _expect(self) -> Schema:
        number = self._refer("ExpectConfig", lambda: self._dataclass(schema.ExpectConfig))
        slots = slots_of(schema.ExpectConfig)
        self._definitions["ExpectConfig"]["required"] = [
            key for key, slot in slots.items() if slot.default is REQUIRED
        ]
        several = _any_of([number, {"type": "array", "items": number}, {"type": "null"}])
        doc = _field_docs(schema.StudyConfig)["expect"]
        return {"description": doc, "type": "object", "additionalProperties": several}

    def _search(self) -> Schema:
        """What is open: values by key path, whose steps may be ``*``."""
        number, docs = {"type": "number"}, _field_docs(schema.StudyConfig)
        ends = {"low": number, "high": number, "step": {"type": "number", "exclusiveMinimum": 0}}
        closed = {"type": "object", "additionalProperties": False}
        forms: list[Schema] = [
            {"enum": ["auto", "all", "optional", None]},
            {"type": "array", "minItems": 1},
            {**closed, "properties": {**ends, "log": {"type": "boolean"}}, "required": ["low", "high"]},
            {**closed, "properties": {"optional": {}}, "required": ["optional"]},
        ]
        value = self._refer("search", lambda: _any_of(forms))
        return {"description": docs["search"], "type": "object", "additionalProperties": value}


def _conditional(values: Schema) -> Schema:
    """The long form of a factor."""
    properties = {"values": values, "when": {"type": "object", "description": "Values by key path or label"}}
    return {"type": "object", "properties": properties, "required": ["values"], "additionalProperties": False}


def _any_of(options: list[Schema]) -> Schema:
    return dict(options[0]) if len(options) == 1 else {"anyOf": options}


def _names(entry: Entry) -> tuple[str, ...]:
    return (entry.name, *entry.synonyms)


def _indexed(entry: Entry) -> Schema | None:
    """The short form ``image_block.3`` of a site with an index."""
    first = next(iter(entry.signature.parameters.values()), None)
    if first is None:
        return None
    options = get_args(first.type) if get_origin(first.type) in (Union, UnionType) else (first.type,)
    words = ["-?[0-9]+"] if int in options else []
    words += [
        re.escape(word) for option in options if get_origin(option) is Literal for word in get_args(option)
    ]
    return {"pattern": f"^{re.escape(entry.name)}\\.({'|'.join(words)})$", "description": entry.doc}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | bool)


def _note(doc: str, search: Range | None) -> str:
    return "; ".join(part for part in (doc, f"search range {search}" if search else "") if part)


def _field_docs(kind: type) -> dict[str, str]:
    """The texts that stand below the fields of a dataclass, in one line each."""
    (body,) = ast.parse(inspect.cleandoc(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = after.value if isinstance(after, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                docs[field.target.id] = " ".join(text.value.split())
    return docs


def _argument_docs(doc: str) -> dict[str, str]:
    """What the ``Args:`` of a docstring say of each argument."""
    _, _, section = doc.partition("Args:\n")
    lines = section.split("\n\n")[0]
    pairs = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", lines, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in pairs}

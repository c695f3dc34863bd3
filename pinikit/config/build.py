"""From a resolved mapping to a component: the one place where configuration becomes objects."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from pinikit.config.checking import Checker, Slot, Where
from pinikit.config.schema import ALONE
from pinikit.errors import ConfigError, PinikitError
from pinikit.plugin import registry


def create(kind: str, spec: Mapping[str, Any], where: str) -> Any:
    """Construct a component from its resolved mapping: ``name`` and all parameters.

    Nested schemas, such as a method's injections, arrive at the constructor as their dataclasses.

    Raises:
        ConfigError: the constructor refuses a value; the message begins with ``where``.
        PluginError: the component cannot be imported.
    """
    entry = registry().find(kind, spec["name"], where)
    parameters = entry.signature.parameters
    arguments = {key: typed(value, parameters[key].type) for key, value in spec.items() if key in parameters}
    try:
        return entry.load()(**arguments)
    except PinikitError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}.{error}") from error


def typed(value: Any, kind: Any) -> Any:
    """Plain containers as the schema dataclasses that ``kind`` names."""
    if kind in ALONE:
        return kind(value)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return kind(**value)
    if get_origin(kind) in (dict, Mapping) and isinstance(value, Mapping):
        return {key: typed(item, get_args(kind)[1]) for key, item in value.items()}
    return value


def completed(value: Any, kind: Any, where: str) -> Any:
    """What Python code wrote as a study file would, in shorthand, as the schema dataclasses of ``kind``.

    What is typed already stays as it is.

    Raises:
        ConfigError: as for the same text in a study file.
    """
    parts = list(value.values()) if isinstance(value, Mapping) and get_origin(kind) is dict else [value]
    if all(dataclasses.is_dataclass(part) for part in parts):
        return value
    checker, slot, place = Checker(registry()), Slot(kind), Where(where)
    return typed(checker.complete(checker.merge({}, value, slot, place), slot, place), kind)

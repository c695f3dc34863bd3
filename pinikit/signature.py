"""What a component's constructor takes, read from its source so that nothing heavy is imported.

A study is validated and its runs are recognised before torch is imported. That needs every
component's parameters, defaults and version. They are read from the source text with ``ast``;
a class that cannot be read so (a computed default, a constructor inherited from elsewhere) is
imported and inspected instead. A test holds the two readings against each other.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import inspect
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pinikit.config.text import value_text
from pinikit.errors import PluginError

REQUIRED: Any = inspect.Parameter.empty
"""Default of a parameter that has none."""


@dataclass(frozen=True)
class Range:
    """A search range as annotated: the name of Optuna's distribution and its arguments by name."""

    distribution: str
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        if self.distribution == "CategoricalDistribution":
            return " | ".join(map(value_text, self.arguments["choices"]))
        scale = " (log)" if self.arguments.get("log") else ""
        if self.arguments.get("step") not in (None, 1):
            scale = f" (step {self.arguments['step']:g})"
        return f"{self.arguments['low']:g} … {self.arguments['high']:g}{scale}"


@dataclass(frozen=True)
class Parameter:
    """One typed keyword argument of a component's constructor."""

    name: str
    type: Any
    default: Any
    search: Range | None = None

    @property
    def type_name(self) -> str:
        """The type as a reader knows it: ``float``, ``'abs' | 'exp'``, ``list[int]``."""
        return describe(self.type)


@dataclass(frozen=True)
class Signature:
    """A component's parameters by name, its version and its docstring."""

    parameters: Mapping[str, Parameter]
    version: int
    doc: str


def describe(kind: Any) -> str:
    """A type as a reader knows it."""
    if kind is type(None):
        return "null"
    if get_origin(kind) is Literal:
        return " | ".join(repr(value) for value in get_args(kind))
    if get_args(kind) and "Union" in str(get_origin(kind)) + type(kind).__name__:
        return " | ".join(describe(option) for option in get_args(kind))
    return (
        kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")
    )


@cache
def read_signature(target: str) -> Signature:
    """The signature of the class at ``package.module:Class``.

    Raises:
        PluginError: the class can neither be read nor imported.
    """
    found = _read_source(target)
    return found if found is not None else inspect_signature(target)


def inspect_signature(target: str) -> Signature:
    """The same by importing the class: the slow twin of the reading from source."""
    module, _, attribute = target.partition(":")
    try:
        component = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise PluginError(f"{target!r} cannot be imported: {error!r}") from error
    hints = typing.get_type_hints(component.__init__, include_extras=True)
    parameters = {}
    for name, parameter in list(inspect.signature(component.__init__).parameters.items())[1:]:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        kind, search = _split_annotated(hints.get(name, Any))
        parameters[name] = Parameter(name, kind, parameter.default, search)
    return Signature(parameters, int(component.version), inspect.cleandoc(component.__doc__ or ""))


# --- reading the source -------------------------------------------------------------------------


@cache
def parse_module(path: Path) -> ast.Module:
    """The syntax tree of a source file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def class_attributes(node: ast.ClassDef) -> dict[str, Any]:
    """Literal class attributes, e.g. ``name``, ``synonyms``, ``version``."""
    found = {}
    for statement in node.body:
        target = (
            statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        )
        value = getattr(statement, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.expr):
            try:
                found[target.id] = ast.literal_eval(value)
            except ValueError:
                continue
    return found


def _read_source(target: str) -> Signature | None:
    module, _, attribute = target.partition(":")
    try:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            return None
        tree = parse_module(Path(spec.origin))
        node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == attribute)
        init = next(n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
        constants = literal_constants(tree)
        parameters = _read_parameters(init, constants)
    except Exception:  # whatever stands in the way here is said by the import that follows
        return None
    version = class_attributes(node).get("version")
    if not isinstance(version, int):  # inherited or computed
        return None
    return Signature(parameters, version, ast.get_docstring(node) or "")


def literal_constants(tree: ast.Module) -> dict[str, Any]:
    """Module-level ``NAME = literal``, which a default may refer to."""
    found = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            with contextlib.suppress(ValueError):
                found[statement.targets[0].id] = ast.literal_eval(statement.value)
    return found


def _read_parameters(init: ast.FunctionDef, constants: Mapping[str, Any]) -> dict[str, Parameter]:
    arguments = init.args
    positional = (arguments.posonlyargs + arguments.args)[1:]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    defaults += arguments.defaults
    pairs = [
        *zip(positional, defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    return {argument.arg: _read_parameter(argument, default, constants) for argument, default in pairs}


def _read_parameter(argument: ast.arg, default: ast.expr | None, constants: Mapping[str, Any]) -> Parameter:
    if argument.annotation is None:
        raise ValueError(f"{argument.arg} has no type")
    if default is None:
        value = REQUIRED
    elif isinstance(default, ast.Name) and default.id in constants:
        value = constants[default.id]
    else:
        value = ast.literal_eval(default)
    kind, search = _split_annotated(_evaluate(argument.annotation))
    return Parameter(argument.arg, kind, value, search)


class _RangeReader:
    """Stands for an Optuna distribution in an annotation; calling it keeps the arguments."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *arguments: Any, **options: Any) -> Range:
        names = ("choices",) if self.name == "CategoricalDistribution" else ("low", "high")
        return Range(self.name, {**dict(zip(names, arguments, strict=False)), **options})


def _namespace() -> dict[str, Any]:
    from pinikit.config import schema

    plain: dict[str, Any] = {kind.__name__: kind for kind in (int, float, bool, str, list, tuple, dict)}
    ranges = {name: _RangeReader(name) for name in ("FloatDistribution", "IntDistribution")}
    nested = {name: getattr(schema, name) for name in schema.NESTED}
    return {
        **plain,
        **ranges,
        **nested,
        "CategoricalDistribution": _RangeReader("CategoricalDistribution"),
        "Annotated": Annotated,
        "Literal": Literal,
        "Any": Any,
        "Mapping": Mapping,
        "__builtins__": {},
    }


def _evaluate(annotation: ast.expr) -> Any:
    """The type that an annotation names, from the few names that parameters may use."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        raise ValueError("a quoted annotation")
    code = compile(ast.Expression(annotation), "<annotation>", "eval")
    return eval(code, _namespace())


def _split_annotated(kind: Any) -> tuple[Any, Range | None]:
    if get_origin(kind) is not Annotated:
        return kind, None
    inner, *notes = get_args(kind)
    return inner, next((_as_range(note) for note in notes if _as_range(note)), None)


def _as_range(note: Any) -> Range | None:
    if isinstance(note, Range):
        return note
    if type(note).__name__ == "CategoricalDistribution":
        return Range("CategoricalDistribution", {"choices": note.choices})
    if type(note).__name__ in ("FloatDistribution", "IntDistribution"):
        numbers = {"low": note.low, "high": note.high, "log": note.log, "step": note.step}
        return Range(type(note).__name__, numbers)
    return None

"""``pinikit list`` and ``pinikit show``: what the registry knows, without importing a component."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

import yaml
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pinikit.cli.consoles import output, report_problems
from pinikit.config.checking import Slot, slots_of
from pinikit.config.schema import LossConfig
from pinikit.config.text import value_text
from pinikit.errors import ConfigError, listing, nearest
from pinikit.plugin import registry
from pinikit.registry import KINDS, Entry
from pinikit.signature import REQUIRED, Parameter, describe

EXAMPLES: Mapping[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "site": (("method", "injections", "my_label", "site"), {"name": "pini"}),
    "noise": (("method", "injections", "my_label", "noise"), {"name": "pini"}),
    "injector": (("method", "injections", "my_label", "injector"), {"name": "pini"}),
    "combine": (("method", "injections", "my_label", "combine"), {"name": "pini"}),
    "loss": (("method", "losses", "my_label"), {"name": "pini"}),
    "method": (("method",), {}),
    "dataset": (("data",), {}),
}
"""Where in ``run`` a component of each kind stands, and what stands beside its first key."""


def show_list(kind: str | None) -> None:
    """Tables of components by kind, then the plug-ins that were left out.

    Raises:
        ConfigError: there is no such kind.
    """
    console = output()
    for name in [kind] if kind else KINDS:
        entries = registry().entries(name)
        console.print(Text.assemble((name, "bold"), f"  {KINDS[name]}"))
        console.print(_listing(entries))
    report_problems()


def show_component(kind: str, name: str) -> None:
    """Everything that a study needs to know of a component.

    Raises:
        ConfigError: there is no such kind or component.
        PluginError: its parameters cannot be read.
    """
    if kind not in KINDS:
        raise ConfigError(f"unknown kind {kind!r}{nearest(kind, KINDS)}; kinds: {listing(KINDS)}")
    entry = registry().find(kind, name)
    signature = entry.signature
    console = output()
    console.print(_title(entry))
    console.print(_indented(_plain(signature.doc)))
    if signature.parameters:
        console.print(_parameters(signature.parameters.values()))
        for parameter in signature.parameters.values():
            _show_nested(console, parameter)
    else:
        console.print("It has no parameters.\n")
    console.print(Text("In a study file", style="bold"))
    console.print(_indented(_yaml(example(entry))))
    if "injections" in EXAMPLES[kind][0]:
        console.print(
            "my_label is any name. Site, injector and noise must suit each other, as their pages say."
        )


def example(entry: Entry) -> dict[str, Any]:
    """The component in its place in a study, with its parameters at their defaults."""
    path, beside = EXAMPLES[entry.kind]
    parameters = [item for item in entry.signature.parameters.values() if _schema(item.type)[0] is None]
    given = {item.name: _example_value(item) for item in parameters}
    spec: Any = {"name": entry.name, **given} if given else entry.name
    if entry.kind == "site" and len(given) == 1:
        spec = f"{entry.name}.{next(iter(given.values()))}"
    if path == ("method",) or path == ("data",):
        spec = {"name": entry.name, **given}
    if "injections" in path and entry.kind != "site":
        path, spec = path[:-1], {"site": "image_feature", path[-1]: spec}
    for key in reversed(path[1:]):
        spec = {key: spec}
    return {"run": {path[0]: {**beside, **spec}}}


def _listing(entries: list[Entry]) -> Table:
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=True, padding=(0, 1))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold", ratio=1)
    table.add_column(no_wrap=True, style="dim")
    for entry in entries:
        names = f"also {', '.join(entry.synonyms)}" if entry.synonyms else ""
        doc = " ".join(part for part in (_plain(entry.doc), f"({names})" if names else "") if part)
        table.add_row(Text(entry.name), Text(doc), Text(entry.source))
    return table


def _title(entry: Entry) -> Text:
    rest = [f"version {entry.signature.version}", f"from {entry.source} ({entry.target})"]
    if entry.synonyms:
        rest.insert(0, f"also {', '.join(entry.synonyms)}")
    return Text.assemble(f"{entry.kind} ", (entry.name, "bold"), f"  ·  {'  ·  '.join(rest)}")


def _parameters(parameters: Any) -> Table:
    table = _key_table("parameter")
    for item in parameters:
        texts = (item.name, _type_text(item), _default_text(item.default), str(item.search or ""))
        table.add_row(*map(Text, texts))
    return table


def _show_nested(console: Console, parameter: Parameter) -> None:
    """The keys of a parameter that is a mapping, and its default if that says something."""
    schema, labelled = _schema(parameter.type)
    if schema is None:
        return
    prefix = f"{parameter.name}.LABEL" if labelled else parameter.name
    if schema is LossConfig:
        console.print(f"{prefix}: a loss, and a weight (default 1)\n")
    else:
        table = _key_table("key", last="allowed")
        for key, slot in slots_of(schema).items():
            kind = f"a {slot.component}" if slot.component else describe(slot.type)
            table.add_row(Text(f"{prefix}.{key}"), kind, Text(_slot_default(slot)), Text(_allowed(slot)))
        console.print(table)
    if parameter.default and parameter.default is not REQUIRED:
        console.print(f"Default of {parameter.name}:")
        console.print(_indented(_yaml({parameter.name: parameter.default})))


def _key_table(first: str, last: str = "search range") -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=True)
    for title in (first, "type", "default", last):
        table.add_column(title, overflow="fold")
    return table


def _type_text(parameter: Parameter) -> str:
    schema, labelled = _schema(parameter.type)
    if schema is None:
        return parameter.type_name
    return "mapping of labels, see below" if labelled else "mapping, see below"


def _default_text(value: Any) -> str:
    if value is REQUIRED:
        return "required"
    if isinstance(value, Mapping):
        return "see below" if value else "{}"
    return value_text(value)


def _slot_default(slot: Slot) -> str:
    if slot.component:
        return str(slot.default["name"]) if isinstance(slot.default, Mapping) and slot.default else "required"
    return _default_text(slot.default)


def _allowed(slot: Slot) -> str:
    if slot.choices:
        return " | ".join(map(str, slot.choices))
    found = ["above 0"] if slot.positive else []
    found += [f"{slot.minimum:g} or more"] if slot.minimum is not None else []
    return "; ".join([*found, *([f"searched in {slot.search}"] if slot.search else [])])


def _schema(kind: Any) -> tuple[type | None, bool]:
    """The schema that a parameter's mapping follows, and whether its keys are labels of the user's choice."""
    if get_origin(kind) in (dict, Mapping) and len(get_args(kind)) == 2:
        inner = get_args(kind)[1]
        return (inner, True) if dataclasses.is_dataclass(inner) and isinstance(inner, type) else (None, False)
    return (kind, False) if dataclasses.is_dataclass(kind) and isinstance(kind, type) else (None, False)


def _example_value(parameter: Parameter) -> Any:
    """The default; for a required parameter something of its type."""
    if parameter.default is not REQUIRED:
        return parameter.default
    return next(_samples(parameter.type), "…")


def _samples(kind: Any) -> Iterator[Any]:
    plain = {int: 1, float: 0.1, bool: True, str: "…"}
    if kind in plain:
        yield plain[kind]
    if get_origin(kind) in (dict, Mapping):
        yield {"NAME": next(_samples(get_args(kind)[1]), "…")}
    if get_origin(kind) in (list, tuple):
        yield list(_samples(get_args(kind)[0]))[:1]
    for option in get_args(kind):
        yield from _samples(option) if isinstance(option, type) or get_args(option) else [option]


def _yaml(value: Any) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False, default_flow_style=False, allow_unicode=True)
    return text.rstrip()


def _indented(text: str) -> Padding:
    return Padding(Text(text), (1, 0, 1, 2), expand=False)


def _plain(doc: str) -> str:
    """A docstring without its markup."""
    return doc.replace("``", "").strip()

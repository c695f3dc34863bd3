"""What a tune study leaves open, read from its ``search`` and the components' own ranges.

The result is a tree. A choice between components has the parameters of each below that option, so a
parameter exists only where its component is chosen. Imports neither torch nor optuna.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pinikit.config import schema
from pinikit.config.checking import Checker, Slot, Where, item_slot, shown, slots_of
from pinikit.config.text import value_text
from pinikit.errors import ConfigError, listing, nearest
from pinikit.registry import Entry
from pinikit.signature import REQUIRED, Range, describe

FIXED = ("backbone", "data", "evaluate", "device", "precision", "threads")
"""Keys of a run that no search changes: trials are compared on them."""

BUT = (("data", "views"),)
"""What may be open below :data:`FIXED`."""

ABSENT, PRESENT = "absent", "present"
"""What trials say of an injection or a loss that need not be there."""

NOTHING = object()
"""The value of an injection or a loss that is not there."""

Steps = tuple[str, ...]


@dataclass(frozen=True)
class Number:
    """A parameter between two bounds, both allowed."""

    name: str
    """What Optuna calls it: unique in the tree."""
    steps: Steps
    """Its keys in a run configuration."""
    start: float
    """The base's value; elsewhere its default, or what of the range is nearest to it."""
    low: float
    high: float
    log: bool
    step: float | None
    """Between allowed values: 1 unless given for whole numbers, None for all others."""
    whole: bool
    key: str
    """The key of ``search`` that opened it."""
    component: tuple[str, Steps]
    """Kind and keys of the component whose parameter it is."""

    @property
    def count(self) -> float:
        """How many values it has."""
        if self.low == self.high:
            return 1
        return math.inf if self.step is None else round((self.high - self.low) / self.step) + 1

    @property
    def range(self) -> Range:
        """As a range of the signatures, to be shown."""
        numbers = {"low": self.low, "high": self.high, "log": self.log, "step": self.step}
        return Range("IntDistribution" if self.whole else "FloatDistribution", numbers)

    def holds(self, value: Any) -> bool:
        """Whether a value is one of its own."""
        if _number_type(type(value)) is None or not self.low <= value <= self.high:
            return False
        return (
            self.step is None
            or abs((value - self.low) / self.step - round((value - self.low) / self.step)) < 1e-8
        )

    def nearest(self, value: Any) -> float:
        """The value itself, or the nearest that it has; its lowest for what is no number."""
        if self.holds(value):
            return float(value) if not self.whole else int(value)
        if _number_type(type(value)) is None:
            return self.low
        inside = min(max(value, self.low), self.high)
        if self.step is not None:
            inside = self.low + round((inside - self.low) / self.step) * self.step
        return int(inside) if self.whole else float(inside)


@dataclass(frozen=True)
class Option:
    """One of a choice's values."""

    label: Any
    """What Optuna calls it: a text, number, truth value or None."""
    value: Any
    """What stands at the choice's keys, complete; :data:`NOTHING` where nothing does."""
    inner: tuple[Opening, ...] = ()
    """What is open below it."""


@dataclass(frozen=True)
class Choice:
    """A component, an injection that may be absent, or a parameter with a list of values."""

    name: str
    steps: Steps
    options: tuple[Option, ...]
    start: int
    """The option of the base; elsewhere the default one, or the first."""
    slot: bool
    """Whether a component is chosen, or whether one is there, rather than a parameter."""

    def labelled(self, label: Any) -> int:
        """The index of the option of that label."""
        return [option.label for option in self.options].index(label)


Opening = Number | Choice


def unit_of(steps: Steps) -> Steps:
    """The injection or loss in which a place lies; empty for what concerns them all."""
    return steps[:3] if steps[:1] == ("method",) and steps[1:2] in (("injections",), ("losses",)) else ()


@dataclass(frozen=True)
class _Rule:
    """One entry of ``search``."""

    key: str
    steps: Steps
    value: Any
    where: Where

    @property
    def sweeping(self) -> bool:
        """Whether it takes every range that it finds at the end of its path."""
        return self.value == "auto" and self.steps[-1] == "*"

    def covers(self, steps: Sequence[str]) -> bool:
        return len(self.steps) == len(steps) and all(
            mine in ("*", other) for mine, other in zip(self.steps, steps, strict=True)
        )


def read_openings(
    base: Mapping[str, Any], search: Mapping[str, Any], where: Where, checker: Checker
) -> tuple[Opening, ...]:
    """The tree of what ``search`` opens in a complete run configuration.

    Args:
        base: the configuration that the search starts from.
        search: values by key path.
        where: of ``search``, for messages.
        checker: knows the components.

    Raises:
        ConfigError: an unknown key path, a range that is empty, of the wrong type or without the base's
            value, a word that does not fit its place, a wildcard without effect, two keys for one parameter,
            or a space of one point.
    """
    reader = _Reader(search, where, checker)
    found = tuple(reader.keys(base, slots_of(schema.RunConfig), _Place((), "", True)))
    reader.check_used()
    if not _is_free(found):
        raise ConfigError(
            f"{where}: the space has one point; allowed: at least one parameter with two values"
        )
    return found


def walk(openings: Sequence[Opening]) -> Iterator[Opening]:
    """All openings of a tree, those above first."""
    for opening in openings:
        yield opening
        if isinstance(opening, Choice):
            for option in opening.options:
                yield from walk(option.inner)


def _is_free(openings: Sequence[Opening]) -> bool:
    return any(
        opening.count > 1 if isinstance(opening, Number) else len(opening.options) > 1
        for opening in walk(openings)
    )


@dataclass(frozen=True)
class _Place:
    """A place in the configuration that is being walked through."""

    steps: Steps
    name: str
    """What Optuna calls what is there."""
    of_base: bool
    """Whether the base has it: its value is then to be among the choices."""
    component: tuple[str, Steps] = ("", ())
    """Kind and keys of the component whose parameters are walked through."""

    def __truediv__(self, key: str) -> _Place:
        steps = (*self.steps, key)
        name = "" if steps == ("method",) else f"{self.name}.{key}" if self.name else key
        return dataclasses.replace(self, steps=steps, name=name)

    @property
    def path(self) -> str:
        """As in ``search``."""
        return short_path(self.steps)


def short_path(steps: Sequence[str]) -> str:
    """A key path as ``search`` may have it: relative to the method where it lies in it."""
    return ".".join(steps[1:] if steps[0] == "method" and len(steps) > 1 else steps)


class _Reader:
    """Walks through a configuration and opens what the rules say."""

    def __init__(self, search: Mapping[str, Any], where: Where, checker: Checker) -> None:
        self._where, self._checker = where, checker
        self._rules = [self._rule(str(key), value) for key, value in search.items()]
        self._used: set[str] = set()
        self._seen: dict[str, None] = {}

    def _rule(self, key: str, value: Any) -> _Rule:
        where = self._where / key
        steps = tuple(key.split("."))
        if not all(steps):
            raise ConfigError(f"{self._where}: found the key {key!r}; allowed: a key path of 'run'")
        steps = steps if steps[0] in slots_of(schema.RunConfig) else ("method", *steps)
        if steps[0] in FIXED and steps[:2] not in BUT:
            raise ConfigError(
                f"{where}: {steps[0]!r} cannot be open, as trials are compared on it; "
                "allowed: method, prompt, data.views"
            )
        return _Rule(key, steps, value, where)

    def check_used(self) -> None:
        """Refuse keys that open nothing.

        Raises:
            ConfigError: names the nearest path that there is.
        """
        for rule in self._rules:
            if rule.key in self._used:
                continue
            if any(rule.covers(path.split(".")) for path in self._full_paths()):
                raise ConfigError(
                    f"{rule.where}: nothing there has a search range of its own; allowed: keys of "
                    "parameters, with a list of choices or {low: …, high: …}"
                )
            hint = nearest(rule.key, self._seen)
            if "*" in rule.steps:
                raise ConfigError(f"{rule.where}: matches nothing of the run configuration{hint}")
            alike = [path for path in self._seen if path.count(".") == rule.key.count(".")]
            raise ConfigError(
                f"{rule.where}: unknown key path {rule.key!r}{hint}; allowed: {listing(alike[:30])}, …"
            )

    def _full_paths(self) -> Iterator[str]:
        for path in self._seen:
            yield path
            yield f"method.{path}"

    def _of(self, place: _Place, has_range: bool) -> _Rule | None:
        """The rule for a place: of several, the one that is more specific than all others."""
        self._seen.setdefault(place.path)
        found = [rule for rule in self._rules if rule.covers(place.steps)]
        found = [rule for rule in found if has_range or not rule.sweeping]
        self._used |= {rule.key for rule in found}
        best = [rule for rule in found if all(other.covers(rule.steps) for other in found)]
        if len(found) > 1 and len(best) != 1:
            one, two = (best or found)[:2]
            raise ConfigError(
                f"{one.where}: opens {place.path!r}, and so does {two.key!r}; allowed: one key for it, or "
                "one that is more specific than all others"
            )
        return best[0] if best else None

    # --- walking ----------------------------------------------------------------------------

    def keys(self, value: Mapping[str, Any], slots: Mapping[str, Slot], place: _Place) -> Iterator[Opening]:
        """What is open below a mapping with these keys."""
        for key, slot in slots.items():
            if key in value and not (key in FIXED and not place.steps and not self._has(key)):
                yield from self._at(value[key], slot, place / key)

    def _has(self, key: str) -> bool:
        return any(rule.steps[0] == key for rule in self._rules)

    def _at(self, value: Any, slot: Slot, place: _Place) -> Iterator[Opening]:
        if slot.type is schema.LossConfig:
            slot = slots_of(schema.LossConfig)["loss"]
        if slot.component is not None:
            rule = self._of(place, has_range=False)
            if rule is None:
                yield from self._parameters(value, slot, place)
            else:
                yield self._component(rule, value, slot, place)
        elif dataclasses.is_dataclass(slot.type):
            self._refuse(self._of(place, has_range=False), place, "keys below it")
            yield from self.keys(value, slots_of(slot.type), place)  # type: ignore[arg-type]  # it is a class
        elif isinstance(value, Mapping) and get_args(slot.type):
            self._refuse(self._of(place, has_range=False), place, "labels below it")
            yield from self._labels(value, item_slot(slot.type), place)
        else:
            rule = self._of(place, has_range=slot.search is not None)
            if rule is not None:
                yield self._parameter(rule, value, slot, place)

    @staticmethod
    def _refuse(rule: _Rule | None, place: _Place, allowed: str) -> None:
        if rule is not None:
            raise ConfigError(
                f"{rule.where}: found {shown(rule.value)} for {place.path!r}, which is a mapping; "
                f"allowed: {allowed}"
            )

    def _parameters(
        self, value: Mapping[str, Any], slot: Slot, place: _Place, written: Sequence[str] = ()
    ) -> Iterator[Opening]:
        """What is open of a component's parameters, but for those that are ``written`` in a choice."""
        kind = str(slot.component)
        slots = self._checker.component_slots(kind, value["name"], slot.extras)
        slots = {key: slot for key, slot in slots.items() if key not in ("name", *written)}
        found = self.keys(value, slots, dataclasses.replace(place, component=(kind, place.steps)))
        yield from sorted(found, key=lambda opening: bool(unit_of(opening.steps)))

    # --- injections and losses --------------------------------------------------------------

    def _labels(self, value: Mapping[str, Any], slot: Slot, place: _Place) -> Iterator[Opening]:
        for label, item in value.items():
            yield from self._label(item, slot, place / label)
        for label in dict.fromkeys(self._added(value, slot, place)):
            yield from self._label(NOTHING, slot, place / label)

    def _added(self, value: Mapping[str, Any], slot: Slot, place: _Place) -> Iterator[str]:
        """Labels that ``search`` adds to those of the configuration."""
        for rule in self._rules:
            *above, label = rule.steps
            parts = dataclasses.is_dataclass(slot.type)
            here = tuple(above) == place.steps and label not in ("*", *value)
            if here and parts and _may_be_absent(rule.value):
                yield label

    def _label(self, value: Any, slot: Slot, place: _Place) -> Iterator[Opening]:
        """What is open of an injection, a loss, or an item of another mapping."""
        if slot.type is not schema.InjectionConfig:
            yield from self._at(value, slot, place)
            return
        rule = self._of(place, has_range=False)
        if rule is None:
            yield from self.keys(value, slots_of(schema.InjectionConfig), place)
            return
        spec = _spec(rule.value)
        if (spec is None) if value is NOTHING else (rule.value != "optional"):
            allowed = "{optional: SPEC}" if value is NOTHING else "optional, or keys below it"
            raise ConfigError(f"{rule.where}: found {shown(rule.value)} for an injection; allowed: {allowed}")
        there = self._laid(None, spec, slot, rule.where / "optional") if value is NOTHING else value
        inside = dataclasses.replace(place, of_base=place.of_base and value is not NOTHING)
        inner = tuple(self.keys(there, slots_of(schema.InjectionConfig), inside))
        options = (Option(PRESENT, there, inner), Option(ABSENT, NOTHING))
        yield Choice(place.name, place.steps, options, int(value is NOTHING), slot=True)

    # --- components -------------------------------------------------------------------------

    def _component(self, rule: _Rule, value: Any, slot: Slot, place: _Place) -> Choice:
        """A choice between components, the one that is there anyway among them."""
        options = [
            self._option(label, spec, rule, value, slot, place)
            for label, spec in self._specs(rule, value, slot).items()
        ]
        start = next(i for i, option in enumerate(options) if option.value is value or option.value == value)
        return Choice(place.name or place.path, place.steps, tuple(options), start, slot=True)

    def _option(self, label: str, spec: Any, rule: _Rule, value: Any, slot: Slot, place: _Place) -> Option:
        if spec is None:
            return Option(ABSENT, NOTHING)
        there = self._laid(value, spec, slot, rule.where)
        inside = dataclasses.replace(
            place, name=f"{place.name or place.path}={label}", of_base=place.of_base and there == value
        )
        written = list(spec) if isinstance(spec, Mapping) else []
        return Option(label, there, tuple(self._parameters(there, slot, inside, written)))

    def _specs(self, rule: _Rule, value: Any, slot: Slot) -> dict[str, Any]:
        """What may be chosen, by label, as written; None for nothing."""
        labelled: dict[str, Any] = {}
        for item in self._items(rule, value, slot):
            label = ABSENT if item is None else self._label_of(item, slot, rule)
            if label in labelled:
                raise ConfigError(f"{rule.where}: {label!r} stands more than once; allowed: each once")
            labelled[label] = item
        there = [self._laid(value, item, slot, rule.where) for item in labelled.values() if item is not None]
        if value is NOTHING or value in there:
            return labelled
        return {value["name"]: value["name"], **labelled}

    def _items(self, rule: _Rule, value: Any, slot: Slot) -> list[Any]:
        """The choices as written, in a list; None where the component may be absent."""
        kind, found = str(slot.component), rule.value
        optional = slot is slots_of(schema.LossConfig)["loss"]  # of all components, losses have labels
        if found == "all":
            return [entry.name for entry in self._checker.registry.entries(kind) if _stands_alone(entry)]
        if isinstance(found, list) and found and (optional or None not in found):
            return found
        if optional and found == "optional" and value is not NOTHING:
            return [value["name"], None]
        if optional and value is NOTHING and (spec := _spec(found)) is not None:
            return [None, spec]
        also = ", optional" if optional else ""
        raise ConfigError(
            f"{rule.where}: found {shown(found)} for a {kind}; allowed: all, a list of them{also}"
        )

    def _label_of(self, item: Any, slot: Slot, rule: _Rule) -> str:
        """A component's name, with the parameters that are written beside it."""
        name = self._laid(None, item, slot, rule.where)["name"]
        given = (
            {key: value for key, value in item.items() if key != "name"} if isinstance(item, Mapping) else {}
        )
        if isinstance(item, str) and "." in item:  # image_block.3
            return item
        text = ", ".join(f"{key}: {value_text(value)}" for key, value in given.items())
        return f"{name}({text})" if text else str(name)

    def _laid(self, value: Any, spec: Any, slot: Slot, where: Where) -> Any:
        """A component, or an injection, laid over what is there, complete."""
        merged = self._checker.merge(None if value is NOTHING else value, spec, slot, where)
        return self._checker.complete(merged, slot, where)

    # --- parameters -------------------------------------------------------------------------

    def _parameter(self, rule: _Rule, value: Any, slot: Slot, place: _Place) -> Opening:
        found = rule.value
        if found == "auto":
            if slot.search is None:
                raise ConfigError(
                    f"{rule.where}: {place.path!r} has no search range of its own; "
                    "allowed: a list of choices, or {low: …, high: …}"
                )
            if slot.search.distribution != "CategoricalDistribution":
                return self._number(rule, slot.search.arguments, value, slot, place)
            found = list(slot.search.arguments["choices"])
        if isinstance(found, list):
            return self._values(rule, found, value, slot, place)
        if isinstance(found, Mapping) and {"low", "high"} & set(found):
            return self._number(rule, found, value, slot, place)
        raise ConfigError(
            f"{rule.where}: found {shown(found)} for a parameter; allowed: auto, a list of choices, or "
            "{low: …, high: …} with log or step"
        )

    def _values(self, rule: _Rule, items: list[Any], value: Any, slot: Slot, place: _Place) -> Choice:
        """A choice between values, that which is there anyway among them."""
        if not items:
            raise ConfigError(f"{rule.where}: found no choice; allowed: at least one")
        values = [self._checker.complete(item, slot, rule.where) for item in items]
        for index, item in enumerate(values):
            if item in values[:index]:
                raise ConfigError(f"{rule.where}: {shown(item)} stands more than once; allowed: each once")
        if value not in values:
            values.insert(0, value)
        options = tuple(Option(_plain(item), item) for item in values)
        return Choice(place.name, place.steps, options, values.index(value), slot=False)

    def _number(self, rule: _Rule, given: Mapping[str, Any], value: Any, slot: Slot, place: _Place) -> Number:
        kind = _number_type(slot.type)
        if kind is None:
            raise ConfigError(
                f"{rule.where}: found a range of numbers for {place.path!r}, which is "
                f"{describe(slot.type)}; allowed: a list of choices"
            )
        bounds = self._bounds(rule, given, slot, kind)
        number = Number(
            name=place.name,
            steps=place.steps,
            start=0,
            whole=kind is int,
            key=rule.key,
            component=place.component,
            **bounds,
        )
        if place.of_base and not number.holds(value):
            raise ConfigError(
                f"{rule.where}: the base's {place.path} is {value_text(value)}, which is not in "
                f"{number.range}; allowed: a range that holds it, as the base is the first trial"
            )
        return dataclasses.replace(number, start=number.nearest(value))

    def _bounds(self, rule: _Rule, given: Mapping[str, Any], slot: Slot, kind: type) -> dict[str, Any]:
        """The arguments of a range, checked."""
        known = ("low", "high", "log", "step")
        for key in given:
            if key not in known:
                raise ConfigError(
                    f"{rule.where}: unknown key {key!r}{nearest(str(key), known)}; allowed: {listing(known)}"
                )
        low, high = (self._end(key, rule, given, slot, kind) for key in ("low", "high"))
        log, step = given.get("log") or False, given.get("step")
        if not isinstance(log, bool):
            raise ConfigError(f"{rule.where / 'log'}: found {shown(log)}; allowed: true, false")
        if low > high:
            raise ConfigError(
                f"{rule.where}: found low {low:g} above high {high:g}; allowed: a range that is not empty"
            )
        if log and low <= 0:
            raise ConfigError(f"{rule.where}: found low {low:g} with log; allowed: a number above 0")
        if log and step not in (None, 1 if kind is int else None):
            raise ConfigError(f"{rule.where}: found log and step; allowed: one of them")
        if step is None:
            return {"low": low, "high": high, "log": log, "step": 1 if kind is int else None}
        if (
            isinstance(step, bool)
            or not isinstance(step, int if kind is int else int | float)
            or not step > 0
        ):
            raise ConfigError(f"{rule.where / 'step'}: found {shown(step)}; allowed: {kind.__name__} above 0")
        last = low + math.floor((high - low) / step + 1e-9) * step
        return {"low": low, "high": last, "log": log, "step": step}

    def _end(self, key: str, rule: _Rule, given: Mapping[str, Any], slot: Slot, kind: type) -> Any:
        if key not in given:
            raise ConfigError(f"{rule.where}: has no {key!r}; allowed: low and high")
        end = self._checker.complete(given[key], slot, rule.where / key)
        if _number_type(type(end)) is None:
            raise ConfigError(f"{rule.where / key}: found {shown(end)}; allowed: {kind.__name__}")
        return end


def _may_be_absent(value: Any) -> bool:
    return (isinstance(value, list) and None in value) or _spec(value) is not None


def _spec(value: Any) -> Any:
    """What ``{optional: SPEC}`` adds; None for anything else."""
    return value["optional"] if isinstance(value, Mapping) and set(value) == {"optional"} else None


def _stands_alone(entry: Entry) -> bool:
    """Whether a component needs no parameter to be written."""
    return all(parameter.default is not REQUIRED for parameter in entry.signature.parameters.values())


def _plain(value: Any) -> Any:
    """A value as Optuna keeps it: lists and mappings as text."""
    return value if value is None or isinstance(value, str | int | float) else value_text(value)


def _number_type(kind: Any) -> type | None:
    """``int`` or ``float`` where a type is one of them, be it beside None."""
    options = [option for option in (get_args(kind) or (kind,)) if option in (int, float)]
    return options[0] if len(options) == 1 else None

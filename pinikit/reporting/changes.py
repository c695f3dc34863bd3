"""What an arm is: its settings as short texts, and those in which it differs. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, get_args, get_origin

from pinikit.config.checking import Checker, Slot, item_slot, slots_of, unwrapped
from pinikit.config.schema import ALONE, InjectionConfig, RunConfig
from pinikit.config.text import value_text
from pinikit.plugin import registry

if TYPE_CHECKING:
    from pinikit.study.arm import Arm

LEFT_OUT = frozenset({"seed", "threads", "device"})
"""Keys of a run that a seed or the machine decides."""

_INJECTION = slots_of(InjectionConfig)


@dataclass(frozen=True)
class Setting:
    """A key's value as text, and whether it is the default."""

    text: str
    default: bool


Settings = Mapping[str, Setting]
"""By key path, relative to ``run``."""


class WithArms(Protocol):
    """A study, or a search whose trials are its arms."""

    @property
    def arms(self) -> Mapping[str, Arm]:
        """By name."""


class ArmSettings:
    """The settings of a study's arms, parted into those that arms share and those that make them differ."""

    def __init__(self, study: WithArms) -> None:
        self._baselines = {name: arm.baseline for name, arm in study.arms.items()}
        reader = _Reader(Checker(registry()))
        self._arms = {name: reader.settings(arm.config) for name, arm in study.arms.items()}
        self._methods = {name: str(arm.config["method"]["name"]) for name, arm in study.arms.items()}
        self._members: Counter[str | None] = Counter(self._methods.values())
        self._members[None] = len(self._arms)
        self._texts: defaultdict[tuple[str | None, str], Counter[str]] = defaultdict(Counter)
        for name, own in self._arms.items():
            for key, item in own.items():
                self._texts[self._group(key, name), key][item.text] += 1

    def changes(self, arm: str) -> dict[str, str]:
        """Where an arm differs from the baseline; for the baseline or without one, from what arms share."""
        own, baseline = self._arms[arm], self._baselines[arm]
        reference = self._arms.get(baseline or "", {}) if arm != baseline else {}
        changed = {key: item.text for key, item in own.items() if self._tells(key, item, arm, reference)}
        if arm == baseline:
            changed = {"method": self._methods[arm], **changed}
        elif self._methods[arm] == self._methods.get(baseline or ""):
            gone = {key: "none" for key, item in reference.items() if key not in own and not item.default}
            changed |= gone
        return changed

    @cached_property
    def shared(self) -> dict[str, str]:
        """Settings that are equal in all arms, or in all arms of the method that has them."""
        found = {}
        for arm, own in self._arms.items():
            for key, item in own.items():
                if self._is_shared(key, item, arm):
                    name = key if not key.startswith("method.") else f"{self._methods[arm]}: {key}"
                    found[name] = item.text
        said = {key: text for key, text in found.items() if text != "null"}
        return dict(sorted(said.items(), key=lambda pair: ": " in pair[0]))

    def _tells(self, key: str, item: Setting, arm: str, reference: Settings) -> bool:
        if key in reference:
            return reference[key].text != item.text
        return not self._is_shared(key, item, arm)

    def _is_shared(self, key: str, item: Setting, arm: str) -> bool:
        """Whether all comparable arms agree; one arm alone shares no more than its defaults."""
        group = self._group(key, arm)
        agree = self._texts[group, key][item.text] == self._members[group]
        return agree and (item.default or self._members[group] > 1)

    def _group(self, key: str, arm: str) -> str | None:
        """Arms that are comparable: of the same method for a method's own setting, else all (None)."""
        return self._methods[arm] if key.startswith("method.") else None


def change_text(changes: Mapping[str, str]) -> str:
    """Changes as one line; keys of the method lose the ``method.`` in front."""
    return "; ".join(f"{key.removeprefix('method.')}: {text}" for key, text in changes.items())


class _Reader:
    """Reads configurations; what several arms share is read once."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        # By the identity of a part, which is kept beside the result so that none is given away anew.
        self._known: dict[tuple[int, str], tuple[dict[str, Setting], Any]] = {}

    def settings(self, config: Mapping[str, Any]) -> dict[str, Setting]:
        """The leaves of a complete configuration by key path, the method's first."""
        slots = slots_of(RunConfig)
        found: dict[str, Setting] = {}
        for key in sorted(slots, key=lambda key: key != "method"):
            if key in config and key not in LEFT_OUT:
                found |= self._read(config[key], slots[key], key)
        return found

    def _read(self, value: Any, slot: Slot, path: str) -> dict[str, Setting]:
        if not isinstance(value, Mapping):
            return {path: Setting(value_text(value), value == slot.default)}
        key = (id(value), path)
        if key not in self._known:
            self._known[key] = (dict(self._walk(value, slot, path)), value)
        return self._known[key][0]

    def _walk(self, value: Any, slot: Slot, path: str) -> Iterator[tuple[str, Setting]]:
        """Leaves of a configuration: plain values, injections and losses."""
        kind, checker = slot.type, self._checker
        if kind is InjectionConfig:
            yield path, Setting(injection_text(value, checker), False)
        elif kind in ALONE:
            alone = unwrapped(slot)
            yield path, Setting(component_text(value, str(alone.component), checker, alone.extras), False)
        elif slot.component is not None:
            yield path, Setting(value["name"], False)
            inner = checker.component_slots(slot.component, value["name"], slot.extras)
            for key, item in value.items():
                if key != "name":
                    yield from self._read(item, inner[key], f"{path}.{key}").items()
        elif dataclasses.is_dataclass(kind) and isinstance(kind, type):
            for key, inner_slot in slots_of(kind).items():
                if key in value:  # an earlier version may not have known the key
                    yield from self._read(value[key], inner_slot, f"{path}.{key}").items()
        elif get_origin(kind) in (dict, Mapping) and get_args(kind)[1] in (InjectionConfig, *ALONE):
            for label, item in value.items():
                yield from self._read(item, item_slot(kind), f"{path}.{label}").items()
        else:
            yield path, Setting(value_text(value), value == slot.default)


def injection_text(config: Mapping[str, Any], checker: Checker) -> str:
    """``gaussian(std=sign_free) from free at prompt_template``, and what else is no default."""
    kinds = ("site", "injector", "noise", "combine")
    parts = {kind: component_text(config[kind], kind, checker) for kind in kinds}
    text = f"{parts['noise']} from {parts['injector']} at {parts['site']}"
    if config["combine"]["name"] != _INJECTION["combine"].default.get("name"):
        text += f", {parts['combine']}"
    if config["share"] != _INJECTION["share"].default:
        text += f", one draw per {config['share']}"
    return text


def component_text(config: Mapping[str, Any], kind: str, checker: Checker, extras: type | None = None) -> str:
    """``name``, or ``name(parameter=value)`` with what is no default; ``image_block.3`` for a site."""
    slots = checker.component_slots(kind, config["name"], extras)
    own = {key: value for key, value in config.items() if key != "name"}
    given = {key: value_text(value) for key, value in own.items() if value != slots[key].default}
    if kind == "site" and len(given) == 1:
        return f"{config['name']}.{next(iter(given.values()))}"
    words = ", ".join(f"{key}={value}" for key, value in given.items())
    return f"{config['name']}({words})" if words else str(config["name"])

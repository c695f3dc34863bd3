"""What designs vary: factors with their values, and readable names for both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pinikit.config.checking import Where, shown, slots_of
from pinikit.config.loading import StudyFile, nest, nest_patch
from pinikit.config.schema import RunConfig
from pinikit.config.text import value_text
from pinikit.errors import ConfigError, listing, nearest
from pinikit.study.designs.draft import GONE, Draft, content_at, value_at


@dataclass(frozen=True)
class Choice:
    """One value of a factor."""

    text: str
    patch: Mapping[str, Any]
    """The changes to ``run`` that it makes."""
    leaves: tuple[str, ...]
    """The key paths that it sets."""

    def trace(self, draft: Draft) -> tuple[Any, ...]:
        """What stands at the paths that it sets."""
        return tuple(value_at(draft.given, path) for path in self.leaves)

    def holds(self, draft: Draft, before: Draft) -> bool:
        """Whether an arm derived from ``before`` still has what this set, as far as it has a use for it.

        Beside what was set, a component may have other parameters.
        """
        return all(
            _same(content_at(before.given, path), content_at(draft.given, path))
            or _holds(self.patch, path, draft)
            for path in self.leaves
        )


@dataclass(frozen=True)
class Factor:
    """Something with several values, each a change to ``run``."""

    key: str
    """As written: a key path, or a label for several."""
    name: str
    """What arms call it."""
    choices: tuple[Choice, ...]
    when: Mapping[str, Sequence[Any]]
    """Allowed values by key path, or by another factor's label; empty for a factor without condition."""
    where: Where

    @property
    def depth(self) -> int:
        """Keys in the shortest path that it sets: components come before their parameters."""
        return min(path.count(".") for choice in self.choices for path in choice.leaves)

    def applies(self, draft: Draft, chosen: Mapping[str, str]) -> bool:
        """Whether its condition holds.

        Args:
            draft: the arm so far.
            chosen: the values so far as text, by factor.
        """
        return all(self._found(key, draft, chosen) in allowed for key, allowed in self.when.items())

    @staticmethod
    def _found(key: str, draft: Draft, chosen: Mapping[str, str]) -> Any:
        if is_path(key):
            found = value_at(draft.complete(), key)
            return None if found is GONE else found
        return chosen.get(key)

    def apply(self, choice: Choice, draft: Draft) -> Draft:
        """The arm with one of the values."""
        return draft.changed(choice.patch, self.where)


@dataclass(frozen=True)
class Design:
    """A study's design with its factors read."""

    kind: str
    where: Where
    named: Mapping[str, Mapping[str, Any]]
    """Changes of the arms that it names."""
    overrides: Mapping[str, Mapping[str, Any]]
    """Changes to these by the command line."""
    factors: tuple[Factor, ...]
    axes: tuple[Factor, ...]
    parts: Any


def _same(one: Any, other: Any) -> bool:
    """Whether these are equal values, or a component that nothing touched."""
    return one is other or (not isinstance(one, Mapping) and bool(one == other))


def _holds(patch: Mapping[str, Any], path: str, draft: Draft) -> bool:
    """Whether setting it again would leave the complete arm as it is, or there is no such place."""
    config, value = draft.complete(), patch
    if value_at(config, path) is GONE:
        return True
    *parents, last = path.split(".")
    for key in parents:
        value = value[key]
    changes: Any = {last: value[last]}
    for key in reversed(parents):
        changes = {key: changes}
    try:
        return draft.changed(changes, draft.where).complete() == config
    except ConfigError:
        return False


def read_design(file: StudyFile) -> Design:
    """The design of a study file.

    Raises:
        ConfigError: a factor or axis is wrong, or the kind has no use for what is given.
    """
    config, where = file.config.design, file.where / "design"
    _check_use(config.kind, config.factors, config.parts, where)
    names = short_names([*config.factors, *config.axes])
    factors = [_factor(*item, names, where / "factors", config.factors) for item in config.factors.items()]
    axes = [_factor(*item, names, where / "axes", {}) for item in config.axes.items()]
    if repeated := [key for key in config.axes if key in config.factors]:
        raise ConfigError(f"{where}.axes: {repeated[0]!r} is a factor, too; allowed: one of them")
    named = config.arms
    if config.kind == "arms" and not named:
        named = {file.config.name: {}}
    for name in file.arm_overrides:
        if name not in named:
            raise ConfigError(
                f"command line: design.arms.{name}: the study names no such arm{nearest(name, named)}; "
                f"allowed: {listing(list(named)[:30])}"
            )
    return Design(config.kind, where, named, file.arm_overrides, tuple(factors), tuple(axes), config.parts)


def _check_use(kind: str, factors: Mapping[str, Any], parts: Any, where: Where) -> None:
    varies = kind in ("grid", "one_factor", "zip")
    if varies and not factors:
        raise ConfigError(f"{where}.factors: found none; a design of kind {kind!r} needs at least one")
    if factors and not varies:
        raise ConfigError(
            f"{where}.factors: a design of kind {kind!r} has none; allowed: grid, one_factor, zip"
        )
    if parts is not None and kind != "leave_one_out":
        raise ConfigError(f"{where}.parts: a design of kind {kind!r} has none; allowed: leave_one_out")


def is_path(key: str) -> bool:
    """Whether a factor's key is a key path of ``run``, rather than a label of its own."""
    return key.split(".")[0] in slots_of(RunConfig) and all(key.split("."))


def _factor(
    key: str, content: Any, names: Mapping[str, str], where: Where, factors: Mapping[str, Any]
) -> Factor:
    place = where / key
    if not key.strip() or not key.isprintable():
        raise ConfigError(f"{where}: found the key {key!r}; allowed: a key path of 'run', or a label")
    values: Any = content
    when: Mapping[str, Sequence[Any]] = {}
    if isinstance(content, Mapping) and "values" in content:
        if unknown := [word for word in content if word not in ("values", "when")]:
            raise ConfigError(f"{place}: unknown key {unknown[0]!r} beside 'values'; allowed: when")
        values, when = content["values"], _conditions(content.get("when", {}), key, place / "when", factors)
    if when and not factors:
        raise ConfigError(
            f"{place}.when: an axis has no condition; every arm is repeated at each of its values"
        )
    return Factor(key, names[key], _choices(key, values, place), when, Where(str(where)))


def _conditions(
    content: Any, key: str, where: Where, factors: Mapping[str, Any]
) -> Mapping[str, Sequence[Any]]:
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where}: found {shown(content)}; allowed: a mapping of key paths to values")
    for word in map(str, content):
        if word == key or not (is_path(word) or word in factors):
            known = [*slots_of(RunConfig), *factors]
            raise ConfigError(
                f"{where}: found {word!r}{nearest(word, known)}; "
                "allowed: a key path of 'run', or another factor"
            )
    return {str(word): value if isinstance(value, list) else [value] for word, value in content.items()}


def _choices(key: str, values: Any, where: Where) -> tuple[Choice, ...]:
    if isinstance(values, Mapping):
        labelled = {str(label): value for label, value in values.items()}
    elif isinstance(values, list) and is_path(key):
        labelled = dict(zip(_texts(values, where), values, strict=True))
    elif is_path(key):
        raise ConfigError(
            f"{where}: found {shown(values)}; allowed: a list of values, or a mapping of label to value"
        )
    else:
        hint = nearest(key.split(".")[0], slots_of(RunConfig))
        raise ConfigError(
            f"{where}: {key!r} is no key path of 'run'{hint}, so it is a label; "
            "allowed for a label: a mapping of names to changes of 'run'"
        )
    if not labelled:
        raise ConfigError(f"{where}: found no value; allowed: at least one")
    return tuple(_choice(key, label, value, where) for label, value in labelled.items())


def _choice(key: str, label: str, value: Any, where: Where) -> Choice:
    if not label.strip() or not label.isprintable():
        raise ConfigError(f"{where}: found the label {label!r}; allowed: printable text")
    patch = nest({key: value}, where) if is_path(key) else nest_patch(value, where / label)
    if not patch:
        raise ConfigError(
            f"{where / label}: changes nothing; allowed: a mapping of key paths of 'run' to values"
        )
    return Choice(label, patch, tuple(_leaves(patch)))


def _leaves(patch: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in patch.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"


def _texts(values: Sequence[Any], where: Where) -> list[str]:
    """Values as texts that tell them apart, as short as may be."""
    for text in (_brief, value_text, repr):
        texts = list(map(text, values))
        if len(set(texts)) == len(texts):
            return texts
    twice = next(text for text, count in Counter(texts).items() if count > 1)
    raise ConfigError(f"{where}: {twice} stands more than once; allowed: distinct values")


def _brief(value: Any) -> str:
    """A component as its name, other values as YAML says them."""
    return str(value["name"]) if isinstance(value, Mapping) and "name" in value else value_text(value)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """For each key its shortest ending that is no other key's: ``lr``, ``text.noise``.

    A last ``name`` is left out where something stands before it, so ``data.name`` is ``data``.
    """
    parts = {key: _without_name(key.split(".")) if is_path(key) else [key] for key in keys}
    endings = Counter(ending for words in parts.values() for ending in _endings(words))
    return {key: next((e for e in _endings(words) if endings[e] == 1), key) for key, words in parts.items()}


def _without_name(words: list[str]) -> list[str]:
    return words[:-1] if len(words) > 1 and words[-1] == "name" else words


def _endings(words: Sequence[str]) -> list[str]:
    """Shortest first."""
    return [".".join(words[first:]) for first in reversed(range(len(words)))]

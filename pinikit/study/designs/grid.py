"""``grid``: all combinations of the factors' values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pinikit.errors import ConfigError
from pinikit.study.designs.draft import MOST_ARMS, Draft, Series
from pinikit.study.designs.factors import Choice, Design, Factor


@dataclass(frozen=True)
class _Partial:
    """A combination of the factors that were looked at so far."""

    draft: Draft
    chosen: Mapping[str, tuple[int, Choice, tuple[Any, ...]]] = field(default_factory=dict)
    """By factor: which value, and what stood at its paths."""

    @property
    def texts(self) -> Mapping[str, str]:
        return {key: choice.text for key, (_, choice, _) in self.chosen.items()}

    def with_each(self, factor: Factor) -> Iterator[_Partial]:
        for index, choice in enumerate(factor.choices):
            draft = factor.apply(choice, self.draft)
            yield _Partial(draft, {**self.chosen, factor.key: (index, choice, choice.trace(draft))})

    def place(self, factors: tuple[Factor, ...]) -> list[int]:
        """Sorts combinations as the factors are written, the last factor first to change."""
        return [self.chosen[factor.key][0] if factor.key in self.chosen else -1 for factor in factors]


def grid(design: Design, base: Draft) -> Iterator[Series]:
    """All combinations; a factor with a condition adds its values only to those in which it holds.

    Raises:
        ConfigError: there are too many, a condition holds nowhere, or a factor undoes another one.
    """
    size = math.prod(len(factor.choices) for factor in design.factors if not factor.when)
    if size > MOST_ARMS:
        raise ConfigError(f"{design.where}: has {size} arms; allowed: up to {MOST_ARMS}")
    found = [_Partial(base)]
    for factor in sorted(design.factors, key=lambda factor: (bool(factor.when), factor.depth)):
        found = list(_crossed(found, factor))
        if len(found) > MOST_ARMS:
            raise ConfigError(f"{design.where}: has more than {MOST_ARMS} arms")
    for partial in sorted(found, key=lambda partial: partial.place(design.factors)):
        yield _name(partial, design), partial.draft


def _crossed(found: list[_Partial], factor: Factor) -> Iterator[_Partial]:
    holds = not factor.when
    for partial in found:
        if not factor.when or factor.applies(partial.draft, partial.texts):
            holds = True
            yield from partial.with_each(factor)
        else:
            yield partial
    if not holds:
        raise ConfigError(f"{factor.where}: {factor.key}: its 'when' holds in no arm")


def _name(partial: _Partial, design: Design) -> str:
    words = []
    for factor in design.factors:
        if factor.key in partial.chosen:
            _, choice, trace = partial.chosen[factor.key]
            if choice.trace(partial.draft) != trace:
                raise ConfigError(
                    f"{factor.where}: {factor.key}: its value {choice.text!r} is undone by another factor"
                )
            words.append(f"{factor.name}={choice.text}")
    return ", ".join(words)

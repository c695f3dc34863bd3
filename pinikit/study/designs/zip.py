"""``zip``: factors of equal length go together, value by value."""

from __future__ import annotations

from collections.abc import Iterator

from pinikit.errors import ConfigError
from pinikit.study.designs.draft import Draft, Series
from pinikit.study.designs.factors import Design


def zipped(design: Design, base: Draft) -> Iterator[Series]:
    """One arm for the factors' first values, one for their second values, and so on.

    Raises:
        ConfigError: the factors differ in length, one has a condition, or one undoes another.
    """
    _check(design)
    ordered = sorted(design.factors, key=lambda factor: factor.depth)
    for index in range(len(design.factors[0].choices)):
        draft, traces = base, []
        for factor in ordered:
            draft = factor.apply(factor.choices[index], draft)
            traces.append(factor.choices[index].trace(draft))
        for factor, trace in zip(ordered, traces, strict=True):
            if factor.choices[index].trace(draft) != trace:
                raise ConfigError(f"{factor.where}: {factor.key}: is undone by another factor")
        words = [f"{factor.name}={factor.choices[index].text}" for factor in design.factors]
        yield ", ".join(words), draft


def _check(design: Design) -> None:
    first = design.factors[0]
    for factor in design.factors:
        if factor.when:
            raise ConfigError(f"{factor.where}: {factor.key}.when: factors of kind 'zip' have no condition")
        if len(factor.choices) != len(first.choices):
            raise ConfigError(
                f"{factor.where}: {factor.key} has {len(factor.choices)} values, {first.key} has "
                f"{len(first.choices)}; allowed for kind 'zip': equal numbers"
            )

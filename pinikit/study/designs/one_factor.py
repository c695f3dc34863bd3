"""``one_factor``: the base configuration, and each factor's other values alone."""

from __future__ import annotations

from collections.abc import Iterator

from pinikit.errors import ConfigError
from pinikit.study.designs.draft import Draft, Series
from pinikit.study.designs.factors import Design

BASE = "base"
"""The name of the base configuration's arm."""


def one_factor(design: Design, base: Draft) -> Iterator[Series]:
    """The unchanged ``run``, then one arm for each value of a factor that differs from it.

    Raises:
        ConfigError: a factor has no value but that of the base configuration, or its condition does not hold.
    """
    yield BASE, base
    unchanged = base.complete()
    for factor in design.factors:
        if not factor.applies(base, {}):
            raise ConfigError(
                f"{factor.where}: {factor.key}: its 'when' does not hold in the base configuration"
            )
        drafts = [(choice, factor.apply(choice, base)) for choice in factor.choices]
        others = [(choice, draft) for choice, draft in drafts if draft.complete() != unchanged]
        if not others:
            raise ConfigError(f"{factor.where}: {factor.key}: has no value but that of 'run'")
        for choice, draft in others:
            yield f"{factor.name}={choice.text}", draft

"""Changes that take away injections and losses, which must be there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pinikit.config.checking import Where
from pinikit.errors import ConfigError, listing, nearest
from pinikit.study.designs.draft import PARTS, Draft
from pinikit.study.designs.factors import Design


def changed_by(draft: Draft, patch: Mapping[str, Any], design: Design, where: Where) -> Draft:
    """An arm with changes laid over it; ``null`` for an injection or a loss needs one of that label.

    Raises:
        ConfigError: an unknown key, component or label.
    """
    changed = draft.changed(patch, where)
    if _method(changed.given).get("name") == _method(draft.given).get("name"):
        for key, label in _removed(patch):
            _check_label(key, label, draft, design, where)
    return changed


def _removed(patch: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys of :data:`PARTS` and the labels that are ``null`` below them."""
    for key in PARTS:
        for label, value in (_method(patch).get(key) or {}).items():
            if value is None:
                yield key, str(label)


def _check_label(key: str, label: str, draft: Draft, design: Design, where: Where) -> None:
    known = [*dict.fromkeys([*_labels(draft, key), *_of_axes(design, key)])]
    if label not in known:
        allowed = listing(known) if known else "none"
        raise ConfigError(
            f"{where / f'method.{key}.{label}'}: found null for a label that is not there"
            f"{nearest(label, known)}; allowed: {allowed}"
        )


def _labels(draft: Draft, key: str) -> Iterator[str]:
    """Of what is given, and of the method's defaults."""
    yield from _method(draft.given).get(key) or {}
    try:
        yield from _method(draft.complete()).get(key) or {}
    except ConfigError:
        return  # what is missing may be in a later change


def _of_axes(design: Design, key: str) -> Iterator[str]:
    """Labels that an axis sets or takes away: they are not there at each of its values."""
    for axis in design.axes:
        for path in (path.split(".") for choice in axis.choices for path in choice.leaves):
            if path[:2] == ["method", key] and len(path) > 2:
                yield path[2]


def _method(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The method of a configuration, or of changes to it, which may be its name alone."""
    found = config.get("method")
    return found if isinstance(found, Mapping) else {}

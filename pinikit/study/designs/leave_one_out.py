"""``leave_one_out``: the full method, and the full method without each of its parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pinikit.config.checking import shown
from pinikit.config.loading import nest_patch
from pinikit.errors import ConfigError, listing, nearest
from pinikit.study.designs.draft import PARTS, Draft, Series
from pinikit.study.designs.factors import Design, short_names
from pinikit.study.designs.removing import changed_by

FULL = "full"
"""The name of the full method's arm."""


def leave_one_out(design: Design, base: Draft) -> Iterator[Series]:
    """The unchanged ``run``, then one arm without each part; or with each of the changes that are named.

    Without ``parts`` these are all injections, and the losses where there are several.

    Raises:
        ConfigError: the method has no such part.
    """
    full = _spelt_out(base, design)
    yield FULL, full
    for name, patch in _changes(design, full).items():
        draft = changed_by(full, patch, design, design.where / "parts" / name)
        if draft.complete() == full.complete():
            raise ConfigError(
                f"{design.where}.parts: {name!r} changes nothing of the full method; "
                "allowed: what is another value than in 'run'"
            )
        yield f"without {name}", draft


def _spelt_out(base: Draft, design: Design) -> Draft:
    """With the parts that the method has by default as if they were given, so that one can be taken out."""
    method = base.complete()["method"]
    given = {key: method[key] for key in PARTS if key in method}
    return base.changed({"method": given}, design.where) if given else base


def _changes(design: Design, full: Draft) -> dict[str, Mapping[str, Any]]:
    """What to change, by what the arm is then without."""
    parts, where = design.parts, design.where / "parts"
    if isinstance(parts, Mapping):
        changes: dict[str, Mapping[str, Any]] = {
            str(name): nest_patch(patch, where / str(name)) for name, patch in parts.items()
        }
        if empty := [name for name, patch in changes.items() if not patch or not name.strip()]:
            raise ConfigError(f"{where}: {empty[0]!r} changes nothing; allowed: key paths of 'run' to values")
        return changes
    known = _known_parts(full)
    if parts is None:
        chosen = [path for path in known if path.startswith("method.injections.") or _several_losses(known)]
    else:
        chosen = [_part(part, known, where) for part in _listed(parts, where)]
    if not chosen:
        raise ConfigError(f"{where}: the method has no part to leave out; allowed: {listing(known)}")
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"{where}: found {shown(parts)}; allowed: each part once")
    return {known[path]: nest_patch({path: None}, where) for path in chosen}


def _known_parts(full: Draft) -> dict[str, str]:
    """Short names of all parts, by key path."""
    method = full.complete()["method"]
    return short_names([f"method.{key}.{label}" for key in PARTS for label in method.get(key, {})])


def _several_losses(known: Mapping[str, str]) -> bool:
    return sum(path.startswith("method.losses.") for path in known) > 1


def _listed(parts: Any, where: Any) -> list[str]:
    if not isinstance(parts, list) or not parts or not all(isinstance(part, str) for part in parts):
        raise ConfigError(
            f"{where}: found {shown(parts)}; allowed: a list of labels, or a mapping of names to changes"
        )
    return parts


def _part(part: str, known: Mapping[str, str], where: Any) -> str:
    """The key path of a part that is named by its label or any longer end of the path."""
    found = [path for path in known if path == part or path.endswith(f".{part}")]
    if len(found) != 1:
        names = list(known.values())
        what = "is ambiguous" if found else f"is no part of the method{nearest(part, names)}"
        raise ConfigError(f"{where}: {part!r} {what}; allowed: {listing(names)}")
    return found[0]

"""``arms``: every arm is written down. They may stand beside any other kind, too."""

from __future__ import annotations

from collections.abc import Iterator

from pinikit.config.checking import Where
from pinikit.study.designs.draft import Draft, Series
from pinikit.study.designs.factors import Design
from pinikit.study.designs.removing import changed_by


def named_arms(design: Design, base: Draft) -> Iterator[Series]:
    """The arms that the design names, with what the command line changes of them."""
    for name, patch in design.named.items():
        draft = changed_by(base, patch or {}, design, design.where / "arms" / name)
        if override := design.overrides.get(name):
            changed = changed_by(draft, override, design, Where("command line", f"design.arms.{name}"))
            draft = Draft(changed.given, changed.checker, draft.where)
        yield name, draft

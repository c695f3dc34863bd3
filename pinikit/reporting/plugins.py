"""Which plug-ins had a part in a study, as the runs' identities say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pinikit.registry import BUILT_IN

if TYPE_CHECKING:
    from pinikit.study.study import Run


def plugins_sentence(runs: Iterable[Run]) -> str:
    """The components that came from plug-ins, with versions; empty where all came with pinikit."""
    found: dict[str, set[str]] = {}
    for run in runs:
        for component, (version, source) in run.identity["components"].items():
            if source != BUILT_IN:
                kind, _, name = component.partition(":")
                found.setdefault(source, set()).add(f"{kind} {name} (version {version})")
    parts = [f"{', '.join(sorted(components))} of {source}" for source, components in sorted(found.items())]
    return f"From plug-ins: {'; '.join(parts)}." if parts else ""

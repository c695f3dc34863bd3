"""The identity of a run: a hash of everything that decides its result. Imports no torch.

Paths, output folders, thread and worker counts are left out. Weights, split manifest, prompt text,
precision, component versions and plug-ins go in, as resolved.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, get_args

from pinikit.config.checking import Checker, Slot, slots_of
from pinikit.config.schema import LossConfig, RunConfig
from pinikit.data.files import canonical_json

SEMANTICS = 2
"""Raised when the same configuration gives other results because pinikit itself computes differently."""

ID_DIGITS = 16


def run_id(identity: Mapping[str, Any]) -> str:
    """The first 16 hex digits of the SHA-256 of the canonical identity."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:ID_DIGITS]


def identity_of(
    config: Mapping[str, Any],
    *,
    template: str,
    weights: str,
    manifest: str,
    content: str,
    precision: str,
    checker: Checker,
    without: Collection[str],
) -> dict[str, Any]:
    """Everything that decides a run's result.

    Args:
        config: the run's complete configuration.
        template: the prompt template as text.
        weights: hash of the backbone's weights.
        manifest: hash of the split manifest.
        content: what the data set says of its pictures' content.
        precision: as resolved.
        checker: knows the components that the configuration names.
        without: keys of ``data`` that are paths of this machine or that the manifest stands for.
    """
    components = sorted(_components(config, Slot(RunConfig), checker))
    entries = {f"{kind}:{name}": checker.registry.find(kind, name) for kind, name in components}
    return {
        "semantics": SEMANTICS,
        "components": {key: [entry.signature.version, entry.source] for key, entry in entries.items()},
        "weights": weights,
        "quick_gelu": config["backbone"]["quick_gelu"],
        "data": {key: value for key, value in config["data"].items() if key not in without},
        "manifest": manifest,
        "content": content,
        "template": template,
        "method": config["method"],
        "evaluate": config["evaluate"],
        "precision": precision,
        "device": config["device"].partition(":")[0],  # its generators draw other numbers
        "seed": config["seed"],
    }


def _components(value: Any, slot: Slot, checker: Checker) -> Iterator[tuple[str, str]]:
    """Kind and name of every component in a complete configuration."""
    if slot.type is LossConfig:
        slot = slots_of(LossConfig)["loss"]
    if slot.component is not None:
        yield slot.component, value["name"]
        inner = checker.component_slots(slot.component, value["name"], slot.extras)
    elif dataclasses.is_dataclass(slot.type) and isinstance(slot.type, type):
        inner = slots_of(slot.type)
    elif isinstance(value, Mapping):
        inner = {key: Slot(get_args(slot.type)[1]) for key in value} if get_args(slot.type) else {}
    else:
        return
    for key, item in value.items():
        if key in inner:
            yield from _components(item, inner[key], checker)

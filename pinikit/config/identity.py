"""The identity of a run: a hash of everything that decides its result. Imports no torch.

Paths, output folders, thread and worker counts are left out. Weights, split manifest, prompt text,
precision, component versions and plug-ins go in, as resolved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from pinikit.config.checking import Checker, Slot, slots_of
from pinikit.config.schema import RunConfig
from pinikit.data.files import canonical_json

SEMANTICS = 2
"""Raised when the same configuration gives other results because pinikit itself computes differently."""

ID_DIGITS = 16


def run_id(identity: Mapping[str, Any]) -> str:
    """The first 16 hex digits of the SHA-256 of the canonical identity."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:ID_DIGITS]


class ComponentVersions:
    """Versions and sources of the components that configurations name; shared parts are looked at once."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        # By the identity of a part, which is kept beside the result so that none is given away anew.
        self._known: dict[tuple[int, int], tuple[dict[str, list[Any]], Any, Slot]] = {}

    def of(self, config: Mapping[str, Any]) -> dict[str, list[Any]]:
        """By ``kind:name``, for a run's complete configuration."""
        return dict(sorted(self._inside(config, slots_of(RunConfig)).items()))

    def _inside(self, value: Mapping[str, Any], slots: Mapping[str, Slot]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for key, item in value.items():
            if item.__class__ is dict and key in slots:
                found |= self._of(item, slots[key])
        return found

    def _of(self, value: Mapping[str, Any], slot: Slot) -> dict[str, list[Any]]:
        key = (id(value), id(slot))
        if key not in self._known:
            self._known[key] = (self._look(value, slot), value, slot)
        return self._known[key][0]

    def _look(self, value: Mapping[str, Any], slot: Slot) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        kind, slots = self._checker.inside(value, slot)
        if kind is not None:
            entry = self._checker.registry.find(kind, value["name"])
            found[f"{kind}:{entry.name}"] = [entry.signature.version, entry.source]
        return found | self._inside(value, slots)


def identity_of(
    config: Mapping[str, Any],
    *,
    components: Mapping[str, list[Any]],
    template: str,
    weights: str,
    manifest: str,
    content: str,
    without: Collection[str],
    other_data: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Everything that decides a run's result.

    Args:
        config: the run's complete configuration, device and precision as resolved.
        components: versions and sources of the components that it names.
        template: the prompt template as text.
        weights: hash of the backbone's weights.
        manifest: hash of the split manifest.
        content: what the data set says of its pictures' content.
        without: keys of ``data`` that are paths of this machine or that the manifest stands for.
        other_data: what the run is tested on besides, as resolved; no part of it where there is none.
    """
    evaluate = {key: value for key, value in config["evaluate"].items() if key != "other_data"}
    return {
        "semantics": SEMANTICS,
        "components": components,
        "weights": weights,
        "quick_gelu": config["backbone"]["quick_gelu"],
        "data": {key: value for key, value in config["data"].items() if key not in without},
        "manifest": manifest,
        "content": content,
        "template": template,
        "method": config["method"],
        "evaluate": evaluate,
        "precision": config["precision"],
        "device": config["device"].partition(":")[0],  # its generators draw other numbers
        "seed": config["seed"],
        **({"other_data": dict(other_data)} if other_data else {}),
    }

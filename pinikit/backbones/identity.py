"""Which weights a backbone has, as a hash that enters a run's identity. Imports no torch unless it must.

Files on disk are hashed directly. For the hub and for pretrained tags, what a name led to the last
time is remembered; only if that file has gone or changed, open_clip is asked (and downloads).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pinikit.backbones.sources import WeightSource, check_architecture, find_source
from pinikit.backbones.spec import RANDOM, BackboneSpec
from pinikit.backbones.weight_files import file_hash, recall, remember

RANDOM_SEED = 0
"""Seed of the weights of ``pretrained: random``."""


def weights_hash(spec: BackboneSpec) -> str:
    """SHA-256 (hex) over the content of the weight files and whatever else decides the features.

    Paths and time stamps do not enter: the same files elsewhere give the same hash.

    Raises:
        ConfigError: there is no such architecture or tag.
        WeightsError: a file is missing, unreadable, or cannot be downloaded.
    """
    if spec.pretrained == RANDOM:
        check_architecture(spec.name)
        return _digest({"random": spec.name, "seed": RANDOM_SEED, "quick_gelu": spec.quick_gelu})
    return source_hash(spec, _remembered_source(spec) or _found_source(spec))


def source_hash(spec: BackboneSpec, source: WeightSource) -> str:
    """The same for a source that was found already."""
    files = [source.weights, *source.extra, *([source.config] if source.config else [])]
    return _digest(
        {
            "files": [file_hash(path) for path in files],
            "architecture": spec.name if spec.kind == "architecture" else None,
            "tag": _tag(spec),
            "quick_gelu": spec.quick_gelu,
        }
    )


def _tag(spec: BackboneSpec) -> str | None:
    """The pretrained tag: it decides on the activation, which a checkpoint of the same content does not."""
    if spec.kind != "architecture" or spec.pretrained is None or spec.checkpoint is not None:
        return None
    return spec.pretrained.lower().replace("-", "_")  # open_clip takes either spelling


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _is_remote(spec: BackboneSpec) -> bool:
    return spec.kind == "hf-hub" or (spec.kind == "architecture" and spec.checkpoint is None)


def _memo_key(spec: BackboneSpec) -> str:
    return f"source:{spec.name}:{spec.pretrained or ''}"


def _remembered_source(spec: BackboneSpec) -> WeightSource | None:
    memo = recall(_memo_key(spec)) if _is_remote(spec) else None
    if memo is None or not isinstance(memo.get("weights"), str):
        return None
    source = WeightSource(Path(memo["weights"]), Path(memo["config"]) if memo.get("config") else None)
    files = [source.weights] if source.config is None else [source.weights, source.config]
    return source if all(path.is_file() for path in files) else None


def _found_source(spec: BackboneSpec) -> WeightSource:
    source = find_source(spec)
    if _is_remote(spec):
        config = None if source.config is None else str(source.config)
        remember(_memo_key(spec), {"weights": str(source.weights), "config": config})
    return source

"""Weight files on disk: which one a folder holds, and their checksums, remembered. Imports no torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from pinikit.backbones.spec import WEIGHT_SUFFIXES
from pinikit.data.files import cache_folder
from pinikit.errors import WeightsError

CONFIG_NAME = "open_clip_config.json"
PREFERRED = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
SETTLED_SECONDS = 2.0
"""A file younger than this may change again within the resolution of its time stamp: not remembered."""


def find_weights(folder: Path) -> Path:
    """The weight file of a folder, safetensors first.

    Raises:
        WeightsError: the folder is missing or holds no weights.
    """
    if not folder.is_dir():
        raise WeightsError(f"The backbone's folder {folder} does not exist.")
    found = sorted(path for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES)
    if not found:
        raise WeightsError(
            f"The backbone's folder {folder} holds no weights (*{', *'.join(WEIGHT_SUFFIXES)})."
        )
    return min(found, key=_rank)


def _rank(path: Path) -> tuple[int, int, str]:
    preference = PREFERRED.index(path.name) if path.name in PREFERRED else len(PREFERRED)
    return preference, WEIGHT_SUFFIXES.index(path.suffix), path.name


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, remembered for its path, size and time of change.

    Raises:
        WeightsError: the file is missing or cannot be read.
    """
    try:
        facts = _facts(path)
        remembered = recall(f"file:{facts['path']}")
        if remembered is not None and {key: remembered.get(key) for key in facts} == facts:
            return str(remembered["sha256"])
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"The weight file {path} cannot be read: {error.strerror or error}.") from error
    if time.time() - facts["mtime_ns"] / 1e9 > SETTLED_SECONDS:
        remember(f"file:{facts['path']}", {**facts, "sha256": digest})
    return digest


def _facts(path: Path) -> dict[str, Any]:
    status = path.stat()
    return {"path": str(path.resolve()), "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def recall(key: str) -> dict[str, Any] | None:
    """What :func:`remember` stored under ``key``; None if nothing, or nothing readable, is there."""
    try:
        entry = json.loads(_memo_path(key).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_ours = isinstance(entry, dict) and entry.get("key") == key and isinstance(entry.get("value"), dict)
    return entry["value"] if is_ours else None


def remember(key: str, value: dict[str, Any]) -> None:
    """Store ``value`` under ``key``, whole or not at all. A cache that cannot be written is no error."""
    with contextlib.suppress(OSError):
        path = _memo_path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".memo-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump({"key": key, "value": value}, stream)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _memo_path(key: str) -> Path:
    return cache_folder() / "weights" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"

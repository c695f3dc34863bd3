"""Files that are whole or absent, and errors that say which file and why. Imports no torch."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

from pinikit.errors import DataError, PinikitError


def cache_folder() -> Path:
    """Where pinikit keeps what it can always compute again: ``PINIKIT_CACHE`` or the user's cache folder."""
    return Path(os.environ.get("PINIKIT_CACHE") or platformdirs.user_cache_dir("pinikit"))


def canonical_json(value: Any) -> str:
    """``value`` as JSON with sorted keys, no spaces and ASCII only: equal content, equal text.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot say.
        TypeError: something in ``value`` is not JSON.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object but for its own ``checksum``, 64 hex digits."""
    rest = {key: value for key, value in content.items() if key != "checksum"}
    return hashlib.sha256(canonical_json(rest).encode()).hexdigest()


def write_atomic(path: str | Path, content: bytes | str) -> None:
    """Write a file so that other processes see the old content or all of the new one, never a part.

    The content goes to a hidden file in the same folder, is flushed to the disk and renamed. Missing
    parent folders are made; text is written as UTF-8.

    Raises:
        PinikitError: the file cannot be written, e.g. as the disk is full; nothing is left behind.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    # Not named after the target: a name of the longest allowed length must still work.
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_and_sync(temporary, data)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise PinikitError(f"Cannot write {path}: {_reason(error)}.") from error


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON by :func:`write_atomic`; keys keep their order.

    Raises:
        PinikitError: the file cannot be written.
        ValueError: a number is NaN or infinite, which JSON cannot say.
    """
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path, what: str = "JSON file") -> Any:
    """The content of a JSON file; ``what`` names it in errors, e.g. ``"split file"``.

    Raises:
        DataError: the file is missing, unreadable, not UTF-8 or not JSON (with line and column).
    """
    path = Path(path)
    try:
        return json.loads(read_text(path, what))
    except json.JSONDecodeError as error:
        raise DataError(
            f"The {what} {path} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from error
    except RecursionError as error:
        raise DataError(f"The {what} {path} is not usable: its brackets are nested too deeply.") from error


def read_text(path: str | Path, what: str = "text file") -> str:
    """The content of a UTF-8 text file, without a byte order mark.

    Raises:
        DataError: the file is missing, unreadable or not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"The {what} {path} is not UTF-8 text (byte {error.start}).") from error
    except OSError as error:
        raise DataError(f"Cannot read the {what} {path}: {_reason(error)}.") from error


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits.

    Raises:
        DataError: the file is missing or unreadable.
    """
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"Cannot read the file {path}: {_reason(error)}.") from error


def _write_and_sync(path: Path, data: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut; not every file system and platform offers it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):  # EDQUOT: not on Windows
        return "the disk is full"
    if error.errno == errno.ENOENT:
        return "it does not exist"
    return (error.strerror or str(error)).lower()

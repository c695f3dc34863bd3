"""Errors that a user can cause, each with the exit code that the command line returns for it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PinikitError(Exception):
    """A mistake that the user can mend; the message is one clear sentence or a short list of them."""

    exit_code = 1


class ConfigError(PinikitError):
    """Something in a study file, an override or on the command line is wrong."""

    exit_code = 2


class DataError(PinikitError):
    """A data set, split manifest or picture is missing, damaged or does not fit."""

    exit_code = 3


class WeightsError(PinikitError):
    """Weights or a checkpoint are missing, damaged or do not fit the architecture."""

    exit_code = 3


class PluginError(PinikitError):
    """A plug-in could not be loaded or registered something that is not allowed."""

    exit_code = 4


def nearest(found: str, allowed: Iterable[str]) -> str:
    """A hint such as ``" (did you mean 'gaussian'?)"``, or an empty string when nothing is close."""
    close = difflib.get_close_matches(found, list(allowed), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def listing(allowed: Iterable[str]) -> str:
    """The allowed values as one readable, comma-separated string."""
    return ", ".join(allowed) or "none"

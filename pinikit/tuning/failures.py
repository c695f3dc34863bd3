"""How trials fail, and how often their places are tried again. torch is imported late."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

from pinikit.errors import ConfigError, DataError, PinikitError, PluginError, WeightsError
from pinikit.study.executors import CRASH, ERROR, MEMORY

REFUSAL = "refusal"
"""The configuration cannot be built; another try would be refused in the same words."""

FAILURE = "failure"
"""Data, weights, the disk, or an exception that nobody foresaw."""

DEVICE = "device"
"""The GPU reported an error after which its process can compute nothing more on it."""

RETRIES: Mapping[str, int] = {REFUSAL: 0, ERROR: 1, FAILURE: 1, MEMORY: 1, DEVICE: 1, CRASH: 3}
"""How often a place is tried again after failures of a kind; each kind is counted by itself. A crash may well
be the machine's, or somebody's who ended the process."""

_OF_THE_MACHINE = (DataError, WeightsError, PluginError, OSError)


def kind_of_error(error: Exception) -> str:
    """Whose failure an exception is: the configuration's (``refusal``, ``error``) or another kind."""
    from pinikit.study.memory import lacks_memory

    if isinstance(error, ConfigError):
        return REFUSAL
    if any(map(_breaks_the_device, _chain(error))):
        return DEVICE
    if any(map(lacks_memory, _chain(error))):
        return MEMORY
    if isinstance(error, PinikitError) and not any(isinstance(e, _OF_THE_MACHINE) for e in _chain(error)):
        return ERROR
    return FAILURE


def words_of_error(error: Exception) -> str:
    """An exception in a line; where it was raised if nobody foresaw it."""
    if isinstance(error, PinikitError):
        return str(error)
    words = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return f"{words} ({_place_of(error)})" if kind_of_error(error) == FAILURE else words


def _breaks_the_device(error: BaseException) -> bool:
    """Whether every later call to the GPU fails, too, as after all errors of CUDA but lack of memory."""
    from pinikit.study.memory import lacks_memory

    if not isinstance(error, RuntimeError) or lacks_memory(error):
        return False
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)  # torch 2.6: RuntimeError


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, and those that it was raised from or while handling."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _place_of(error: Exception) -> str:
    """File and line where an exception was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else "unknown place"

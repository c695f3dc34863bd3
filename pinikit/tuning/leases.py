"""Who evaluates a trial, and whether it still does.

Optuna's heartbeat is for databases alone; this serves its journal, too. A worker leaves its machine and
process with the trial, and a count that it raises now and then (``beat``). On the same machine others look
whether the process is there. Elsewhere they give up a trial whose count has stood still for a while by their
own clock, so that clocks need not agree.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pinikit.errors import PinikitError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

BEAT_SECONDS = 15.0
"""From one beat to the next."""

GRACE_SECONDS = 90.0
"""How long a worker of another machine may be silent before its trial is given up."""

LONGEST_GAP = 30.0
"""Of the time between two looks no more counts: the storage, or the one who looks, may have been away."""

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_PROCESSES = Path("/proc/self/ns/pid")


@cache
def machine() -> str:
    """This machine, or container with process numbers of its own; empty where that cannot be told apart."""
    try:
        return f"{_BOOT.read_text().strip()} {_PROCESSES.readlink()}"
    except OSError:
        return ""


def lease() -> dict[str, Any]:
    """Machine and process, to be left with a trial."""
    return {"machine": machine(), "pid": os.getpid(), "began": _began(os.getpid())}


def worker_name() -> str:
    """This process for people."""
    return f"{socket.gethostname()}:{os.getpid()}"


def is_gone(found: Any) -> bool:
    """Whether the process of a lease is known to have ended; False where that cannot be known from here."""
    if not isinstance(found, dict) or not machine() or found.get("machine") != machine():
        return False
    return found.get("began") != _began(found.get("pid"))


def _began(pid: Any) -> str | None:
    """When a process of this machine began, in its own unit; None if there is none, or it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *rest = text.rpartition(")")[2].split()  # the name before may hold anything
    return None if state in "ZX" else rest[18]


class Patrol:
    """Looks for trials whose workers have ended without a word."""

    def __init__(self) -> None:
        self._looked = time.monotonic()
        self._silent: dict[int, tuple[Any, float]] = {}
        """By trial: its last beat, and for how many seconds it has been looked at since."""

    def lost(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Those of the running ``trials`` that nobody evaluates any more."""
        now = time.monotonic()
        gap, self._looked = min(now - self._looked, LONGEST_GAP), now
        before, self._silent = self._silent, {}
        for trial in trials:
            beat = (trial.user_attrs.get("worker"), trial.user_attrs.get("beat"))
            earlier, silent = before.get(trial.number, (None, 0.0))
            self._silent[trial.number] = (beat, silent + gap if beat == earlier else 0.0)
        return [
            trial
            for trial in trials
            if is_gone(trial.user_attrs.get("lease")) or self._silent[trial.number][1] > GRACE_SECONDS
        ]


@contextmanager
def beating(storage: BaseStorage, trial_id: int) -> Iterator[None]:
    """Raise the trial's count within the block, from a thread beside it."""
    end = threading.Event()
    thread = threading.Thread(target=_beat, args=(storage, trial_id, end), daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()


def _beat(storage: BaseStorage, trial_id: int, end: threading.Event) -> None:
    from optuna.exceptions import OptunaError

    count = 0
    while not end.wait(BEAT_SECONDS):
        count += 1
        with suppress(OptunaError, PinikitError, RuntimeError, OSError):  # the worker itself will notice
            storage.set_trial_user_attr(trial_id, "beat", count)
    storage.remove_session()

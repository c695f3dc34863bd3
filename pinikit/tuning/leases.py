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
from collections.abc import Iterator, Mapping, Sequence
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

LEASE, WORKER, BEAT = "lease", "worker", "beat"
"""User attributes of a trial: where its worker is, the worker's name for people, and its count."""

NOBODY: Mapping[str, Any] = {LEASE: None, WORKER: "", BEAT: None}
"""What they are of a trial that nobody evaluates."""

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


def sign(storage: BaseStorage, trial_id: int) -> None:
    """Leave machine and process with a trial; until then only long silence can make it count as lost."""
    storage.set_trial_user_attr(trial_id, LEASE, lease())
    storage.set_trial_user_attr(trial_id, WORKER, f"{socket.gethostname()}:{os.getpid()}")


def lease() -> dict[str, Any]:
    """Machine and process, to be left with a trial; no machine where others could not look at the process."""
    try:
        return {"machine": machine(), "pid": os.getpid(), "began": _began(os.getpid())}
    except OSError:
        return {"machine": "", "pid": os.getpid(), "began": None}


def is_gone(found: Any) -> bool:
    """Whether the process of a lease is known to have ended; False where that cannot be known from here."""
    if not isinstance(found, dict) or not machine() or found.get("machine") != machine():
        return False
    try:
        return found.get("began") != _began(found.get("pid"))
    except OSError:
        return False


def _began(pid: Any) -> str | None:
    """When a process of this machine began, in its own unit; None if there is none, or it has ended.

    Raises:
        OSError: it cannot be looked at: it is another user's, or this process may open no more files.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        _check_not_hidden(pid)
        return None
    state, *rest = text.rpartition(")")[2].split()  # the name before may hold anything
    return None if state in "ZX" else rest[18]


def _check_not_hidden(pid: Any) -> None:
    """Notice a process of another user that /proc does not show, as it may be told to.

    Raises:
        PermissionError: it is there.
    """
    if isinstance(pid, int):
        with suppress(ProcessLookupError):
            os.kill(pid, 0)


def same_hold(one: FrozenTrial, other: FrozenTrial) -> bool:
    """Whether a trial was held by the same worker at two moments, without a word of it in between."""
    return one.state == other.state and all(
        one.user_attrs.get(key) == other.user_attrs.get(key) for key in NOBODY
    )


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
            beat = (trial.user_attrs.get(WORKER), trial.user_attrs.get(BEAT))
            earlier, silent = before.get(trial.number, (None, 0.0))
            self._silent[trial.number] = (beat, silent + gap if beat == earlier else 0.0)
        return [
            trial
            for trial in trials
            if is_gone(trial.user_attrs.get(LEASE)) or self._silent[trial.number][1] > GRACE_SECONDS
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
            storage.set_trial_user_attr(trial_id, BEAT, count)
    storage.remove_session()

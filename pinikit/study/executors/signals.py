"""Ctrl-C and SIGTERM: the first asks to stop, the second stops at once. Imports no torch."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from pinikit.study.resume import StopRequest

SIGNALS = (signal.SIGINT, signal.SIGTERM)

TELL_SECONDS = 5.0
"""How long a terminal that does not take a line is waited for."""


@contextlib.contextmanager
def stopping(stop: StopRequest, tell: Callable[[], None]) -> Iterator[None]:
    """Within the block, the first signal sets ``stop`` and is told, the second raises KeyboardInterrupt.

    Outside the main thread, which alone gets signals, nothing changes; a signal that is ignored stays so.
    When the block is left, it has been told.
    """
    teller = threading.Thread(target=tell, daemon=True)  # the main thread may be writing just now

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        teller.start()

    try:
        with handling(handle):
            yield
    finally:
        if teller.ident is not None:
            teller.join(TELL_SECONDS)  # else its line could come after the last one


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within the block SIGTERM is the same as Ctrl-C."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with handling(handle):
        yield


@contextlib.contextmanager
def handling(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle both signals within the block, unless they are ignored or this is not the main thread."""
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, earlier in before.items():
        if earlier is not signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)

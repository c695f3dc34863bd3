"""Making many lasting objects without paying for looking at them again and again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collecting_later() -> Iterator[None]:
    """Let Python's cyclic garbage collector rest; it would go through all of a large study many times.

    Measured with 10,000 arms: planning takes 4.3 s instead of 7.0 s of the processor.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

"""How fast the text path is, measured against a plain matrix product on the same device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

_SIZES = {"cpu": 1024, "cuda": 4096}
"""Rows of the square matrices of a plain product: large enough to reach the device's rate."""

_REPEATS = 5
_PATIENCE = 0.1
"""Seconds after which a measurement is not repeated."""


@dataclass(frozen=True)
class TextRate:
    """Speed of the text path."""

    flops_per_second: float
    matmul_share: float
    """The same as a fraction of :func:`matmul_rate`."""


def text_rate(step: Callable[[], None], device: torch.device, dtype: torch.dtype) -> TextRate:
    """Measure ``step``, one pass through the text tower as training makes it.

    Floating-point operations are those of its matrix products and attentions, forward and backward,
    as ``torch.utils.flop_counter`` counts them; what is recomputed counts too.
    """
    with FlopCounterMode(display=False) as counter:
        step()
    rate = counter.get_total_flops() / _seconds(step, device)
    return TextRate(rate, rate / matmul_rate(device, dtype, torch.get_num_threads()))


@cache
def matmul_rate(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """FLOP/s of a plain product of square matrices, 2·n³ operations; measured once per process."""
    size = _SIZES.get(device.type, min(_SIZES.values()))
    matrix = torch.linspace(-1, 1, size * size, device=device).reshape(size, size).to(dtype)
    product = torch.empty_like(matrix)

    def multiply() -> None:
        torch.mm(matrix, matrix, out=product)

    multiply()  # the first call prepares kernels
    return 2 * size**3 / _seconds(multiply, device)


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    """Median seconds of a few repetitions; of one where it takes long."""
    taken: list[float] = []
    while len(taken) < _REPEATS and sum(taken) < _PATIENCE:
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

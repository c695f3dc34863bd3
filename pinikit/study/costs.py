"""What runs cost: seconds by phase, work done, and the speed of the text path."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from pinikit.components.contracts import Method, Predictor
from pinikit.study.memory import PeakMemory
from pinikit.training.bank import Bank
from pinikit.training.text_rate import text_rate

log = logging.getLogger("pinikit.costs")

PEAK = "peak_memory_mb"


class Meter:
    """Measures a phase from its making on.

    ``seconds_<phase>`` are without those of the bank (``seconds_bank``): runs share the bank, so encoding
    falls on whichever comes first, and the rest is a run's own.
    """

    def __init__(self, phase: str, bank: Bank) -> None:
        self._phase, self._bank, self._memory = phase, bank, PeakMemory(bank.device)
        self._start, self._before = time.perf_counter(), _counts(bank)

    def costs(self) -> dict[str, float]:
        """What the phase has cost so far."""
        used = {name: value - self._before[name] for name, value in _counts(self._bank).items()}
        own = time.perf_counter() - self._start - used["seconds_bank"]
        tokens = used.pop("tokens")
        phase = {f"seconds_{self._phase}": own, "seconds_total": own, f"tokens_{self._phase}": tokens}
        return {**used, **phase, PEAK: self._memory.megabytes()}


def share(costs: Mapping[str, float], runs: int) -> dict[str, float]:
    """What each of ``runs`` bears of what they cost together; memory is not divided."""
    return {name: value if name == PEAK or runs == 1 else value / runs for name, value in costs.items()}


def add_costs(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """The costs of two phases of a run: sums, and the higher peak of memory."""
    total = dict(one)
    for name, value in other.items():
        total[name] = max(total.get(name, 0), value) if name == PEAK else total.get(name, 0) + value
    return total


def _counts(bank: Bank) -> dict[str, float]:
    return {
        "seconds_bank": bank.seconds,
        "images_encoded": bank.images_encoded,
        "rows_cached": bank.rows_cached,
        "tokens": bank.backbone.text.tokens_encoded,
    }


def text_costs(method: Method, predictors: Sequence[Predictor], bank: Bank) -> dict[str, float | None]:
    """FLOP/s of the text path in a training step of these arms, and its share of a matrix product's rate.

    None where training steps do not cross the text tower.
    """
    unknown: dict[str, float | None] = {"text_flops_per_second": None, "matmul_share": None}
    step = type(method).text_step(predictors) if predictors else None
    if step is None:
        return unknown
    try:
        rate = text_rate(step, bank.device, bank.backbone.dtype)
    except Exception as error:  # a measurement must not cost what was trained
        log.warning("the speed of the text path was not measured: %s: %s", type(error).__name__, error)
        return unknown
    return {"text_flops_per_second": rate.flops_per_second, "matmul_share": rate.matmul_share}

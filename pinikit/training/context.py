"""What a run hands to its method besides the task."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch


class Progress(Protocol):
    """Told after each epoch how far the run is, with values worth showing (``loss``, ``accuracy``)."""

    def __call__(self, epoch: int, epochs: int, **values: float) -> None:
        """Called after each epoch."""


def _silent(epoch: int, epochs: int, **values: float) -> None:
    """No progress is shown."""


@dataclass
class RunContext:
    """Seed, device, number format and the places where a method reports to."""

    seed: int
    device: torch.device
    precision: str = "fp32"
    progress: Progress = _silent
    history: list[dict[str, Any]] = field(default_factory=list)
    """One row per epoch; becomes the run's ``history.csv``."""
    images: int = 0
    """Training pictures seen, all epochs together; for the rate in the cost columns."""

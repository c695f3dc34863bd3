"""What a run hands to its method besides the task. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from pinikit.components.contracts import Predictor


class Progress(Protocol):
    """Told after each epoch how far the run is, with values worth showing (``loss``, ``accuracy``)."""

    def __call__(self, epoch: int, epochs: int, **values: float) -> None:
        """Called after each epoch."""


def _silent(epoch: int, epochs: int, **values: float) -> None:
    """No progress is shown."""


class Watch(Protocol):
    """Shown after each epoch what has been learned so far, as a predictor that is not to be kept."""

    def __call__(self, epoch: int, predictor: Predictor) -> None:
        """Called after each epoch; ``epoch`` counts from 1."""


class Checkpoints:
    """Lets training go on after an interruption; this one keeps nothing.

    A method that takes long calls :meth:`load` before it trains and :meth:`offer` after each epoch, and
    must then come out with the same bits whether it was interrupted or not. A method that calls neither
    starts again. Arms that are fitted together share one: they are kept, and go on, together.
    """

    def load(self) -> Any | None:
        """What an interrupted training of the same runs offered last; None if there is nothing."""
        return None

    def offer(self, epoch: int, epochs: int, state: Callable[[], Any]) -> None:
        """Keep ``state()`` if it is time to, and end here if that was asked for.

        Args:
            epoch: epochs done.
            epochs: epochs in all.
            state: called only when it is kept; yields dictionaries, lists and tuples of numbers, texts,
                None and tensors, which ``load`` gives back as they were, tensors on the CPU.

        Raises:
            KeyboardInterrupt: training was asked to stop; the state is kept.
        """


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
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    """Where training may keep how far it is."""
    watch: Watch | None = None
    """Who looks at the run while it is trained (the tuner); must not change what comes out."""

    def state(self) -> dict[str, Any]:
        """What was reported so far, to be kept with a checkpoint."""
        return {"history": self.history, "images": self.images}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self.history[:], self.images = state["history"], state["images"]

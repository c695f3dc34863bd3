"""How a search is shown. Imports neither torch nor optuna."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from pinikit.tuning.study import TuneStudy


class TuneReporter:
    """How a search is shown. This one shows nothing; the command line has one for each kind of output.

    All is called in the process that was asked for the search. Trials of other processes and machines that
    work on the same search are told like its own, a little later.
    """

    def started(self, study: TuneStudy, total: int, done: int, earlier: Sequence[FrozenTrial] = ()) -> None:
        """The search begins, or goes on: ``done`` of ``total`` trials are over; ``earlier`` are those."""

    def trial_started(self, number: int) -> None:
        """A trial is being evaluated."""

    def trial_finished(self, trial: FrozenTrial) -> None:
        """A trial is over: complete, pruned or failed."""

    def message(self, text: str) -> None:
        """A note worth a line."""

    def finished(self) -> None:
        """Nothing is evaluated any more."""

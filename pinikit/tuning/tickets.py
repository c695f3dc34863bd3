"""The exact total: which trial is next, with any number of workers.

A search that is asked for N trials has N *places*. A ticket is Optuna's trial that stands for an attempt at a
place: it is put in as WAITING, and taken by setting it to RUNNING, which a storage lets only one worker do. A
place whose attempt failed may get another one. Which tickets lack is worked out from those that there are, by
every worker for itself; where two make the same one at the same moment, the one with the lower number counts
and the other is left alone. So nobody needs a lock, and nothing is lost with whoever dies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import Study as OptunaStudy
from optuna.trial import FrozenTrial, TrialState

from pinikit.study.executors import CRASH
from pinikit.tuning.failures import RETRIES
from pinikit.tuning.leases import NOBODY

PLACE, ATTEMPT, LABEL, RETRY_OF, FAILURES, KIND, FAILURE_TEXT, WAITS = (
    "place",
    "attempt",
    "label",
    "retry_of",
    "failures",
    "failure_kind",
    "failure",
    "waits",
)
"""User attributes of a ticket. ``failures`` is how often its place has failed before, by kind; ``waits``
whether it lets an equal trial go first (``turns.py``)."""

FIRST = 8
"""Tickets that there are from the beginning. Few: storages read waiting trials again and again."""

OVER = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Ticket:
    """A ticket that is to be made."""

    place: int
    attempt: int = 0
    failed: FrozenTrial | None = None
    """The attempt before it."""


class Board:
    """The places of a search at one moment.

    Args:
        trials: all of Optuna's study.
        total: how many places there are.
    """

    def __init__(self, trials: Iterable[FrozenTrial], total: int) -> None:
        self.total = total
        tickets: dict[int, dict[int, FrozenTrial]] = {}
        for trial in sorted(trials, key=lambda trial: trial.number):
            place = trial.user_attrs.get(PLACE)
            if isinstance(place, int) and place < total:
                tickets.setdefault(place, {}).setdefault(trial.user_attrs.get(ATTEMPT, 0), trial)
        self.last = {place: tickets[place][max(tickets[place])] for place in sorted(tickets)}
        """The latest attempt at each place."""

    @property
    def waiting(self) -> list[FrozenTrial]:
        """Tickets that nobody has taken, in the order of their places."""
        return self._in(TrialState.WAITING)

    @property
    def running(self) -> list[FrozenTrial]:
        """Trials that are being evaluated, or whose worker has died."""
        return self._in(TrialState.RUNNING)

    @property
    def final(self) -> dict[int, FrozenTrial]:
        """What the places came to that are done with."""
        return {place: trial for place, trial in self.last.items() if is_final(trial)}

    @property
    def done(self) -> int:
        """How many places are done with."""
        return len(self.final)

    @property
    def finished(self) -> bool:
        """Whether all are."""
        return self.done == self.total

    @property
    def lacking(self) -> list[Ticket]:
        """Tickets to be made: further attempts, then the places that nobody has tried, in their order."""
        again = [
            Ticket(place, trial.user_attrs.get(ATTEMPT, 0) + 1, trial)
            for place, trial in self.last.items()
            if trial.state == TrialState.FAIL and not is_final(trial)
        ]
        return again + [Ticket(place) for place in range(self.total) if place not in self.last]

    def _in(self, state: TrialState) -> list[FrozenTrial]:
        return [trial for trial in self.last.values() if trial.state == state]


def is_final(trial: FrozenTrial) -> bool:
    """Whether nothing more comes of the trial's place."""
    if trial.state == TrialState.FAIL:
        kind = kind_of(trial)
        return failures_before(trial).get(kind, 0) >= RETRIES[kind]
    return trial.state in OVER


def failures_before(trial: FrozenTrial) -> Mapping[str, int]:
    """How often the trial's place had failed before it, by kind."""
    return trial.user_attrs.get(FAILURES) or {}


def kind_of(trial: FrozenTrial) -> str:
    """How a failed trial failed; who says nothing has crashed."""
    kind = trial.user_attrs.get(KIND)
    return kind if kind in RETRIES else CRASH


def superseded(trials: Sequence[FrozenTrial]) -> set[int]:
    """Numbers of the trials of which another attempt, or an equal ticket, took the place."""
    placed = {trial.number for trial in trials if PLACE in trial.user_attrs}
    most = max((trial.user_attrs[PLACE] + 1 for trial in trials if trial.number in placed), default=0)
    return placed - {trial.number for trial in Board(trials, most).last.values()}


def take(
    study: OptunaStudy, storage: BaseStorage, total: int, points: Sequence[tuple[str, Mapping[str, Any]]]
) -> FrozenTrial | None:
    """Take the next ticket, which is now RUNNING and the caller's; it is made if need be.

    Args:
        study: Optuna's study.
        storage: of the study.
        total: how many places there are.
        points: what the first places are: label and parameters.

    Returns:
        The ticket; None if there is nothing to take: all is done, or being done by others.
    """
    while True:
        board = Board(study.get_trials(deepcopy=False), total)
        lacking = min(board.lacking, key=lambda ticket: ticket.place, default=None)
        for trial in board.waiting:
            later = lacking is not None and trial.user_attrs[PLACE] > lacking.place
            if not later and _claim(storage, trial):
                return storage.get_trial(trial._trial_id)
        if lacking is None and not board.waiting:
            return None
        if lacking is not None:
            _make(study, lacking, points)


def make_first(study: OptunaStudy, total: int, points: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Make the first tickets of a search, so that workers who begin together do not all make the same one."""
    board = Board(study.get_trials(deepcopy=False), min(total, FIRST))
    for ticket in board.lacking:
        _make(study, ticket, points)


def _make(study: OptunaStudy, ticket: Ticket, points: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    attributes: dict[str, Any] = {PLACE: ticket.place, ATTEMPT: ticket.attempt}
    params: Mapping[str, Any] = {}
    if ticket.place < len(points):
        attributes[LABEL], params = points[ticket.place]
    if ticket.failed is not None:
        failures = Counter(failures_before(ticket.failed)) + Counter([kind_of(ticket.failed)])
        attributes |= {RETRY_OF: ticket.failed.number, FAILURES: dict(failures)}
        if "config" in ticket.failed.user_attrs:  # else it did not get all its parameters
            params = ticket.failed.params
    study.enqueue_trial(dict(params), user_attrs=attributes)


def _claim(storage: BaseStorage, trial: FrozenTrial) -> bool:
    """Whether the waiting trial is now ours."""
    try:
        return bool(storage.set_trial_state_values(trial._trial_id, state=TrialState.RUNNING))
    except UpdateFinishedTrialError:
        return False


def give_back(storage: BaseStorage, trial: FrozenTrial) -> None:
    """Let a trial that was begun wait again, as nobody's, with the parameters that it has.

    Whoever takes it next needs a moment to sign it, and must not be taken for the one who gave it back.
    """
    with suppress(UpdateFinishedTrialError):  # others took us for dead
        for key, value in {**NOBODY, WAITS: None}.items():
            storage.set_trial_user_attr(trial._trial_id, key, value)
        storage.set_trial_state_values(trial._trial_id, state=TrialState.WAITING)


def give_up(storage: BaseStorage, trial: FrozenTrial, kind: str, reason: str) -> bool:
    """Let a trial have failed; False if it is over already."""
    try:
        storage.set_trial_user_attr(trial._trial_id, FAILURE_TEXT, reason)
        storage.set_trial_user_attr(trial._trial_id, KIND, kind)
        storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
    except UpdateFinishedTrialError:
        return False
    return True

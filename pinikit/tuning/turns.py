"""Equal trials that are begun at the same time: one goes first, the others take its outcome over.

Each notes its hash before it looks for others, so of two at least one sees the other. Who sees another one
that does not wait cannot go first: that one is under way already, or it sees this one, too. Of two that see
each other the one with the higher number says that it waits. So two never go first, and not all wait: when
all others wait, the lowest begins anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from optuna.trial import FrozenTrial, TrialState

from pinikit.study.executors import ERROR
from pinikit.tuning.results import ANCHORS
from pinikit.tuning.tickets import LABEL, OVER, WAITS, is_final, kind_of

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.study import Study as OptunaStudy

HASH, SAME_AS = "hash", "same_as"
"""User attributes: equal where trials would come out the same; the trial whose outcome was taken over."""


def await_turn(
    study: OptunaStudy, storage: BaseStorage, ticket: FrozenTrial, digest: str, idle: Callable[[], None]
) -> FrozenTrial | None:
    """Wait while an equal trial is evaluated.

    Args:
        study: Optuna's study.
        storage: of the study.
        ticket: the trial that is to be evaluated; it has noted its hash.
        digest: the hash.
        idle: called while another one goes first; buries dead workers' trials, and may raise.

    Returns:
        The trial whose outcome it has; None if it is to be evaluated.
    """
    waits = False

    def say(value: bool) -> bool:
        storage.set_trial_user_attr(ticket._trial_id, WAITS, value)
        return value

    while True:
        equal = [trial for trial in study.get_trials(deepcopy=False) if _equals(trial, ticket, digest)]
        if found := next((trial for trial in equal if _came_out(trial, ticket)), None):
            return found
        running = [trial for trial in equal if trial.state == TrialState.RUNNING]
        lower_waits = any(trial.number < ticket.number for trial in running)
        free = [trial for trial in running if not trial.user_attrs.get(WAITS)]
        if not free and not waits:
            return None
        if not free and not lower_waits:
            waits = say(False)
            continue  # it counts as free from now on, and looks again
        if not waits and any(trial.number < ticket.number for trial in free):
            waits = say(True)
        idle()


def _equals(trial: FrozenTrial, ticket: FrozenTrial, digest: str) -> bool:
    """Whether it is another trial of the same hash that goes its own way."""
    attributes = trial.user_attrs
    return attributes.get(HASH) == digest and SAME_AS not in attributes and trial.number != ticket.number


def _came_out(trial: FrozenTrial, ticket: FrozenTrial) -> bool:
    """Whether the ticket would come out the same: other failures than its own may not come again."""
    if trial.state == TrialState.PRUNED:
        return ticket.user_attrs.get(LABEL) not in ANCHORS  # which are evaluated to their end
    failed = trial.state == TrialState.FAIL and kind_of(trial) == ERROR and is_final(trial)
    return failed or trial.state in OVER

"""Equal trials at the same time: one of them is evaluated, whoever comes first, and whoever dies."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.study import Study
from optuna.trial import TrialState

from pinikit.study.executors import CRASH
from pinikit.tuning.tickets import WAITS, give_up
from pinikit.tuning.turns import HASH, await_turn


class Slow(InMemoryStorage):
    """What is asked takes its time, so that threads come in between."""

    def get_all_trials(self, *values: Any, **named: Any) -> Any:
        time.sleep(random.random() * 1e-3)
        return super().get_all_trials(*values, **named)

    def set_trial_user_attr(self, *values: Any, **named: Any) -> None:
        time.sleep(random.random() * 1e-3)
        super().set_trial_user_attr(*values, **named)


def test_an_anchor_is_not_pruned_by_an_equal_trial_that_was() -> None:
    study = optuna.create_study()
    equal, anchor, other = (study.ask() for _ in range(3))
    for trial in (equal, anchor, other):
        trial.set_user_attr(HASH, "same")
    anchor.set_user_attr("label", "base")
    study.tell(equal, state=TrialState.PRUNED)
    study.tell(other, state=TrialState.FAIL)
    turns = [await_turn(study, study._storage, study.trials[n], "same", pytest.fail) for n in (1, 2)]
    assert turns[0] is None
    assert turns[1] is not None
    assert turns[1].number == 0


class Round:
    """Equal trials, each with a worker in a thread of its own."""

    def __init__(self, workers: int, dying: int) -> None:
        self.storage = Slow()
        optuna.create_study(storage=self.storage, study_name="s")
        study = optuna.load_study(storage=self.storage, study_name="s")
        self.numbers = [study.ask().number for _ in range(workers)]
        self.dying, self.lock = dying, threading.Lock()
        self.at_work, self.together, self.evaluated, self.copied = 0, 0, list[int](), list[int]()
        threads = [threading.Thread(target=self._work, args=(number,)) for number in self.numbers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)

    def _work(self, number: int) -> None:
        study = optuna.load_study(storage=self.storage, study_name="s")
        ticket = study.trials[number]
        time.sleep(random.random() * 5e-3)
        self.storage.set_trial_user_attr(ticket._trial_id, HASH, "same")
        found = await_turn(study, self.storage, ticket, "same", lambda: time.sleep(1e-4))
        if found is None:
            self._evaluate(study, ticket)
        else:
            self.copied.append(number)
            self.storage.set_trial_user_attr(ticket._trial_id, "same_as", found.number)
            study.tell(number, found.values)

    def _evaluate(self, study: Study, ticket: Any) -> None:
        with self.lock:
            self.at_work += 1
            self.together = max(self.together, self.at_work)
            self.evaluated.append(ticket.number)
        time.sleep(2e-3)
        with self.lock:
            self.at_work -= 1
        if len(self.evaluated) <= self.dying:
            give_up(self.storage, ticket, CRASH, "died")
        else:
            study.tell(ticket.number, 1.0)


@pytest.mark.parametrize("dying", [0, 1, 2])
def test_of_trials_at_the_same_time_one_is_evaluated_and_another_where_it_dies(dying: int) -> None:
    for _ in range(10):
        done = Round(4, dying)
        assert done.together == 1
        assert len(done.evaluated) == dying + 1
        assert sorted(done.evaluated + done.copied) == done.numbers


def test_a_lower_number_waits_for_one_that_is_under_way_already() -> None:
    """And once that has died, it goes first of those that wait."""
    storage = InMemoryStorage()
    study = optuna.create_study(storage=storage)
    first, second, third = (study.ask() for _ in range(3))
    for trial in (second, third):
        trial.set_user_attr(HASH, "same")
    third.set_user_attr(WAITS, True)
    first.set_user_attr(HASH, "same")
    seen = list[Any]()

    def idle() -> None:
        seen.append(study.trials[0].user_attrs.get(WAITS))
        study.tell(second, state=TrialState.FAIL)

    assert await_turn(study, storage, study.trials[0], "same", idle) is None
    assert seen == [None]  # the one under way does not wait for it: it need not give way


def test_who_has_waited_looks_again_before_it_begins() -> None:
    """Somebody new may have begun while it was still seen waiting."""

    class Busy(InMemoryStorage):
        def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
            if key == WAITS and value is False:
                new.set_user_attr(HASH, "same")
            super().set_trial_user_attr(trial_id, key, value)

    storage = Busy()
    study = optuna.create_study(storage=storage)
    under_way, new, asking = (study.ask() for _ in range(3))
    for trial in (under_way, asking):
        trial.set_user_attr(HASH, "same")
    ends = [lambda: study.tell(under_way, state=TrialState.FAIL), lambda: study.tell(new, 1.0)]
    found = await_turn(study, storage, study.trials[2], "same", lambda: ends.pop(0)())
    assert found is not None
    assert found.number == new.number

"""The exact total: tickets, further attempts, and workers that die."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from pinikit.study.executors import CRASH, ERROR, MEMORY
from pinikit.tuning import leases
from pinikit.tuning.failures import DEVICE, FAILURE, REFUSAL
from pinikit.tuning.leases import GRACE_SECONDS, LONGEST_GAP, Patrol, is_gone, lease
from pinikit.tuning.storage import open_storage
from pinikit.tuning.tickets import Board, give_back, give_up, kind_of, make_first, superseded, take

POINTS = [("base", {"x": 0.5}), ("zero_shot", {})]


def silent(text: str) -> None:
    """Nobody is told."""


class Search:
    """A search of a name in a storage of its own, as each worker has one."""

    def __init__(self, where: str | None, folder: Path) -> None:
        self.storage = open_storage(where, folder, silent)
        try:
            self.study = optuna.create_study(storage=self.storage, study_name="s", direction="maximize")
        except optuna.exceptions.DuplicatedStudyError:
            self.study = optuna.load_study(storage=self.storage, study_name="s")

    def take(self, total: int) -> Any:
        return take(self.study, self.storage, total, POINTS)

    def complete(self, ticket: Any, value: float = 1.0) -> None:
        self.study.tell(ticket.number, value)

    def board(self, total: int) -> Board:
        return Board(self.study.get_trials(deepcopy=False), total)


@pytest.fixture
def journal(tmp_path: Path) -> Search:
    return Search(f"journal:{tmp_path / 'search.log'}", tmp_path)


@pytest.fixture(params=["database", "journal"])
def open_search(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    where = f"journal:{tmp_path / 'search.log'}" if request.param == "journal" else None
    return lambda: Search(where, tmp_path)


def test_places_are_taken_once_each_and_the_total_is_that_of_all_calls(open_search: Any) -> None:
    search = open_search()
    tickets = [search.take(3) for _ in range(3)]
    assert [ticket.user_attrs["place"] for ticket in tickets] == [0, 1, 2]
    assert [ticket.user_attrs.get("label") for ticket in tickets] == ["base", "zero_shot", None]
    assert search.take(3) is None
    assert not search.board(3).finished
    for ticket in tickets:
        search.complete(ticket)
    assert search.board(3).finished
    assert search.take(3) is None
    assert open_search().take(5).user_attrs["place"] == 3
    assert open_search().board(2).done == 2


def test_a_point_has_its_parameters(open_search: Any) -> None:
    search = open_search()
    ticket = search.take(2)
    trial = optuna.trial.Trial(search.study, ticket._trial_id)
    assert trial.suggest_float("x", 0.0, 1.0) == 0.5


def test_workers_side_by_side_evaluate_exactly_what_was_asked_for(open_search: Any) -> None:
    total, taken, lock = 15, list[int](), threading.Lock()
    open_search()

    def work() -> None:
        search = open_search()  # a connection of its own, as in a process of its own
        while (ticket := search.take(total)) is not None:
            with lock:
                taken.append(ticket.user_attrs["place"])
            search.complete(ticket)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(total))
    board = open_search().board(total)
    assert board.finished
    assert all(trial.state == TrialState.COMPLETE for trial in board.last.values())


def test_workers_that_begin_together_find_tickets(open_search: Any) -> None:
    search = open_search()
    make_first(search.study, 3, POINTS)
    make_first(search.study, 3, POINTS)
    assert [trial.user_attrs["place"] for trial in search.study.trials] == [0, 1, 2]
    assert {search.take(3).number, open_search().take(3).number} == {0, 1}


def test_a_further_attempt_goes_before_later_places(open_search: Any) -> None:
    search = open_search()
    make_first(search.study, 3, POINTS)
    give_up(search.storage, search.take(3), CRASH, "gone")
    assert search.take(3).user_attrs["retry_of"] == 0


def test_of_equal_tickets_the_first_counts(open_search: Any) -> None:
    search = open_search()
    for _ in range(2):
        search.study.enqueue_trial({}, user_attrs={"place": 0, "attempt": 0})
    first = search.take(1)
    assert first.number == 0
    assert search.take(1) is None
    search.complete(first)
    assert search.board(1).finished
    assert superseded(search.study.get_trials()) == {1}


@pytest.mark.parametrize(
    ("kind", "attempts"), [(REFUSAL, 1), (ERROR, 2), (FAILURE, 2), (MEMORY, 2), (DEVICE, 2), (CRASH, 4)]
)
def test_what_failed_is_tried_again_as_often_as_its_kind_allows(
    kind: str, attempts: int, journal: Search
) -> None:
    search = journal
    taken = []
    while (ticket := search.take(1)) is not None:
        taken.append(ticket)
        assert give_up(search.storage, ticket, kind, f"try {len(taken)}")
    assert len(taken) == attempts
    assert [ticket.user_attrs.get("retry_of") for ticket in taken] == [None, *range(attempts - 1)]
    board = search.board(1)
    assert board.finished
    assert board.final[0].user_attrs["failure"] == f"try {attempts}"
    assert superseded(search.study.get_trials()) == set(range(attempts - 1))


def test_another_attempt_has_the_same_parameters(journal: Search) -> None:
    search = journal
    for ticket in (search.take(3), search.take(3)):
        search.complete(ticket)
    ticket = search.take(3)
    value = optuna.trial.Trial(search.study, ticket._trial_id).suggest_float("x", 0.0, 1.0)
    search.storage.set_trial_user_attr(ticket._trial_id, "config", "{}")
    give_up(search.storage, ticket, FAILURE, "broken")
    again = search.take(3)
    assert again.user_attrs["place"] == 2
    assert optuna.trial.Trial(search.study, again._trial_id).suggest_float("x", 0.0, 1.0) == value


def test_what_is_given_back_is_taken_next_with_its_parameters(open_search: Any) -> None:
    search = open_search()
    search.take(4), search.take(4)
    ticket = search.take(4)
    value = optuna.trial.Trial(search.study, ticket._trial_id).suggest_float("x", 0.0, 1.0)
    leases.sign(search.storage, ticket._trial_id)
    search.storage.set_trial_user_attr(ticket._trial_id, "beat", 3)
    give_back(search.storage, ticket)
    left = search.study.trials[2].user_attrs
    assert [left[key] for key in ("lease", "worker", "beat")] == [None, "", None]  # whose it was is not said
    again = open_search()
    taken = again.take(4)
    assert taken.number == ticket.number
    assert optuna.trial.Trial(again.study, taken._trial_id).suggest_float("x", 0.0, 1.0) == value


def test_who_is_over_is_left_as_it_is(open_search: Any) -> None:
    search = open_search()
    ticket = search.take(1)
    search.complete(ticket)
    assert not give_up(search.storage, ticket, CRASH, "taken for dead")
    give_back(search.storage, ticket)
    assert search.study.trials[0].state == TrialState.COMPLETE


def test_a_trial_that_failed_without_a_word_has_crashed(journal: Search) -> None:
    search = journal
    ticket = search.take(1)
    search.study.tell(ticket.number, state=TrialState.FAIL)
    assert kind_of(search.study.trials[0]) == CRASH
    assert len(search.board(1).lacking) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_on_the_same_machine_a_process_that_has_ended_is_known_at_once() -> None:
    process = subprocess.Popen(["sleep", "60"])
    began = leases._began(process.pid)
    assert began is not None
    left = {**lease(), "pid": process.pid, "began": began}
    assert not is_gone(left)
    process.kill()
    process.poll()
    while process.poll() is None and leases._began(process.pid) is not None:
        pass
    assert is_gone(left)  # even while nobody has asked for its exit code
    process.wait()
    assert is_gone({**lease(), "began": "1"})  # its number has gone to another process
    assert not is_gone({**left, "machine": "elsewhere"})
    assert not is_gone(None)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    ("unreadable", "kill"),
    [
        (OSError(errno.EMFILE, "Too many open files"), None),
        (PermissionError(errno.EACCES, "hidepid=1"), None),
        (FileNotFoundError(errno.ENOENT, "hidepid=2"), PermissionError(errno.EPERM, "another user's")),
    ],
    ids=["no more files", "unreadable", "hidden"],
)
def test_a_process_that_cannot_be_looked_at_is_not_taken_for_dead(
    unreadable: OSError, kill: OSError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: OSError | None) -> Any:
        def failing(*words: Any) -> None:
            if error is not None:
                raise error

        return failing

    left = {**lease(), "began": "1"}
    assert is_gone(left)
    monkeypatch.setattr(leases.Path, "read_text", fail(unreadable))
    monkeypatch.setattr(leases.os, "kill", fail(kill))
    assert not is_gone(left)
    assert lease()["machine"] == ""  # others could not tell, either


def test_elsewhere_a_trial_is_given_up_after_long_silence(
    journal: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, search = [0.0], journal
    monkeypatch.setattr(leases, "time", SimpleNamespace(monotonic=lambda: now[0]))
    ticket = search.take(1)
    search.storage.set_trial_user_attr(ticket._trial_id, "lease", {"machine": "elsewhere", "pid": 1})
    patrol = Patrol()

    def lost_after(seconds: float) -> list[int]:
        now[0] += seconds
        return [trial.number for trial in patrol.lost(search.board(1).running)]

    assert lost_after(1e6) == []  # it is seen for the first time
    assert lost_after(1e6) == []  # the one who looks was away
    search.storage.set_trial_user_attr(ticket._trial_id, "beat", 1)
    looks = int(GRACE_SECONDS / LONGEST_GAP)
    assert [lost_after(LONGEST_GAP) for _ in range(looks + 1)] == [[]] * (looks + 1)
    assert lost_after(LONGEST_GAP) == [0]


def test_a_worker_that_is_at_work_beats(journal: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.02)
    search = journal
    ticket = search.take(1)
    with leases.beating(search.storage, ticket._trial_id):
        for _ in range(500):
            if search.study.trials[0].user_attrs.get("beat", 0) >= 2:
                break
            time.sleep(0.01)
    assert search.study.trials[0].user_attrs["beat"] >= 2

"""Failures, deaths and equal trials at the same time: what they cost, and that the search goes on."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import FrozenTrial, TrialState
from small_search import STUDY, Rig, Told, engine_of, memory, one_backbone, rig, search

from pinikit.errors import ConfigError, DataError, PinikitError
from pinikit.study.executors import CRASH, ERROR
from pinikit.tuning import engine as engine_module
from pinikit.tuning import leases, worker
from pinikit.tuning.engine import DEATHS, Engine
from pinikit.tuning.failures import DEVICE, FAILURE
from pinikit.tuning.leases import Patrol
from pinikit.tuning.storage import open_storage
from pinikit.tuning.tickets import Board, give_back, give_up
from pinikit.tuning.worker import Search, Worker

__all__ = ["memory", "one_backbone", "rig"]  # fixtures


def failing(noise: str, error: BaseException, times: int = 99) -> Any:
    """Raises when that noise is trained."""
    left = [times]

    def fail(trained: str) -> None:
        if trained == noise and left[0]:
            left[0] -= 1
            raise error

    return fail


def failed_of(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in trials if trial.state == TrialState.FAIL]


def full_disk() -> PinikitError:
    error = PinikitError("Cannot write rows: no space left.")
    error.__cause__ = OSError(28, "no space left")
    return error


@pytest.mark.parametrize(
    ("error", "attempts", "kind", "said"),
    [
        (
            RuntimeError("it broke\nfor good"),
            2,
            FAILURE,
            "RuntimeError: it broke (test_engine_failures.py, line",
        ),
        (torch.OutOfMemoryError("no room"), 2, "memory", "OutOfMemoryError: no room"),
        (RuntimeError("CUDA error: out of memory"), 2, "memory", "RuntimeError: CUDA error"),
        (PinikitError("the loss became nan"), 2, ERROR, "the loss became nan"),
        (DataError("the picture is gone"), 2, FAILURE, "the picture is gone"),
        (full_disk(), 2, FAILURE, "Cannot write rows"),
        (ConfigError("it cannot be"), 1, "refusal", "it cannot be"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value)[:12],
)
def test_a_failed_trial_is_recorded_and_tried_again_once(
    error: Exception, attempts: int, kind: str, said: str, rig: Rig, tmp_path: Path
) -> None:
    rig.before = failing("laplace", error)
    trials = search(tmp_path, 4)
    failed = failed_of(trials)
    assert len(failed) == attempts
    for trial in failed:
        assert trial.user_attrs["failure"].startswith(said)
        assert trial.user_attrs["failure_kind"] == kind
        assert "seconds" in trial.user_attrs
    assert Board(trials, 4).finished
    apart = [apart for noise, apart in rig.calls if noise == "laplace"]
    assert apart == ([False, True] if kind == "memory" else [False] * attempts)  # with less memory at a time


def test_a_diverging_trial_says_which_seed_and_why(memory: None, tmp_path: Path) -> None:
    text = STUDY.replace("high: 0.1", "high: 1.0e+30").replace("lr: 0.01", "lr: 1.0e+30")
    trials = search(tmp_path, 2, text=text)
    assert trials[0].user_attrs["failure_kind"] == ERROR
    assert "seed 1: the loss became" in trials[0].user_attrs["failure"]
    assert trials[1].state == TrialState.COMPLETE
    assert trials[2].user_attrs["retry_of"] == 0


@pytest.mark.parametrize(
    ("error", "trainings"),
    [(PinikitError("the loss became nan"), 2), (DataError("the share is not there"), 4)],
    ids=["its own", "of the machine"],
)
def test_an_equal_trial_takes_over_only_a_failure_of_its_own(
    error: Exception, trainings: int, rig: Rig, tmp_path: Path
) -> None:
    rig.before = failing("laplace", error)
    text = STUDY.replace("optim.lr: {low: 1.0e-3, high: 0.1, log: true}", "optim.epochs: [3, 4]")
    with engine_of(tmp_path, 4, text=text) as engine:
        engine.work()
        found = engine.found
        params = next(trial.params for trial in found.get_trials() if trial.state == TrialState.FAIL)
        found.enqueue_trial(params, user_attrs={"place": 4, "attempt": 0})
        trials = _go_on(engine, 5)
    assert sum(noise == "laplace" for noise, _ in rig.calls) == trainings
    assert Board(trials, 5).finished
    assert Board(trials, 5).final[4].user_attrs["failure"] == str(error)


def _go_on(engine: Engine, total: int) -> list[FrozenTrial]:
    """The same search with more places."""
    wanted = Search(engine._search.study, None, engine._search.folder, total, None)
    Worker(wanted, engine._storage, engine._bench, engine._stop, lambda text: None).work()
    return list(engine.found.get_trials())


# --- a GPU that is lost ---------------------------------------------------------------------------------


class AcceleratorError(RuntimeError):
    """As torch calls it."""


LOST = (
    AcceleratorError("HIP error: the operation cannot be performed"),
    RuntimeError(
        "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later"
    ),
)


@pytest.mark.parametrize("error", LOST, ids=["by its kind", "by its words"])
def test_a_process_that_has_lost_its_gpu_ends_and_another_goes_on(
    error: Exception, rig: Rig, tmp_path: Path
) -> None:
    rig.before = failing("laplace", error, times=1)
    with pytest.raises(PinikitError, match=r"trial \d: .* error: .*nothing more on the GPU; .*same command"):
        search(tmp_path, 4)
    assert rig.calls.pop() == ("laplace", False)  # nothing was tried after it
    trials = search(tmp_path, 4)
    assert rig.calls[-1] == ("laplace", False)
    (lost,) = failed_of(trials)
    assert lost.user_attrs["failure_kind"] == DEVICE
    board = Board(trials, 4)
    assert board.finished
    assert board.final[lost.user_attrs["place"]].state == TrialState.COMPLETE


def test_a_worker_process_that_has_lost_its_gpu_is_replaced(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said, ends = [], []

    class Pipe:
        send = staticmethod(said.append)

        def recv(self) -> Any:
            raise OSError

    rig.before = failing("laplace", LOST[1])
    monkeypatch.setattr(worker, "open_storage", lambda *words: engine._storage)
    monkeypatch.setattr(worker, "_listen", lambda *words: None)
    monkeypatch.setattr(worker.signal, "signal", lambda *words: None)
    monkeypatch.setattr(worker.os, "_exit", ends.append)
    with engine_of(tmp_path, 4) as engine:
        worker.main(Pipe(), engine._search, 0)  # type: ignore[arg-type]
    assert said[0] == ("ready",)
    assert said[-1][0] == "message"
    assert "illegal memory access" in said[-1][1]
    assert ends == [1]
    assert ("done",) not in said


# --- workers that die -----------------------------------------------------------------------------------


class Mortal:
    """Stands for a process of a crew: works within this one, and may die."""

    engine: Engine

    def __init__(self, number: int, count: int, search: Search) -> None:
        self.name, self.done, self.working, self.sources = f"worker {number + 1}", False, False, [self]

    def start(self) -> None:
        self.working = True

    def read(self) -> Any:
        engine = Mortal.engine
        try:
            Worker(engine._search, engine._storage, engine._bench, engine._stop, lambda text: None).work()
        except SystemExit:
            return None
        self.done = True
        return None

    def bury(self) -> str:
        self.working = False
        return f"{self.name} was ended by signal SIGKILL (9)"

    def end(self) -> None:
        self.working = False


@pytest.fixture
def mortals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers die at once and for good, though their process, which is this one, is there."""
    monkeypatch.setattr(engine_module, "_Member", Mortal)
    monkeypatch.setattr(engine_module, "wait", lambda sources, seconds: sources)
    monkeypatch.setattr(
        leases, "lease", lambda: {"machine": leases.machine(), "pid": os.getpid(), "began": "-1"}
    )


@pytest.mark.usefixtures("mortals")
def test_a_trial_that_kills_its_workers_is_given_up_and_the_search_goes_on(rig: Rig, tmp_path: Path) -> None:
    rig.before = failing("laplace", SystemExit())
    search(tmp_path, 3)  # nothing comes to an end between the deaths
    told = Told()
    with engine_of(tmp_path, 5, told, jobs=2) as engine:
        Mortal.engine = engine
        engine.work()
        trials = list(engine.found.get_trials())
    board = Board(trials, 5)
    assert board.finished
    states = Counter(trial.state.name for trial in board.final.values())
    assert states == {"COMPLETE": 4, "FAIL": 1}
    assert [trial.user_attrs["failure_kind"] for trial in failed_of(trials)] == [CRASH] * DEATHS
    assert [apart for noise, apart in rig.calls if noise == "laplace"] == [False, False, True, True]
    assert any("another one takes its place" in text for text in told.messages)


@pytest.mark.usefixtures("mortals")
def test_workers_that_die_whatever_they_do_end_the_search(rig: Rig, tmp_path: Path) -> None:
    def die(noise: str) -> None:
        raise SystemExit

    rig.before = die
    with engine_of(tmp_path, 40, jobs=2) as engine:
        Mortal.engine = engine
        with pytest.raises(PinikitError, match=f"SIGKILL .*as {2 * DEATHS} workers before it did"):
            engine.work()
    assert len(rig.calls) == 2 * DEATHS + 1


def test_a_broken_machine_costs_three_places_and_not_the_search(rig: Rig, tmp_path: Path) -> None:
    def fail(trained: str) -> None:
        raise DataError("the share is not there")

    rig.before = fail
    with (
        engine_of(tmp_path, 6) as engine,
        pytest.raises(PinikitError, match="6 trials in a row failed"),
    ):
        engine.work()
    assert len(rig.calls) == 6
    rig.before = lambda noise: None
    trials = search(tmp_path, 6)
    assert [trial.state for trial in trials if trial.state.is_finished()].count(TrialState.COMPLETE) == 3
    assert Board(trials, 6).finished


def test_failures_are_counted_by_kind(rig: Rig, tmp_path: Path) -> None:
    """Somebody who ends a worker does not take a trial's second chance after a lack of memory."""
    with engine_of(tmp_path, 1) as engine:
        for kind in (CRASH, "memory", CRASH):
            (running,) = _begun(engine)
            assert give_up(engine._storage, running, kind, "gone")
        engine.work()
        trials = engine.found.get_trials()
    assert [trial.state.name for trial in trials] == ["FAIL", "FAIL", "FAIL", "COMPLETE"]
    assert trials[3].user_attrs["failures"] == {CRASH: 2, "memory": 1}


def _begun(engine: Engine) -> list[FrozenTrial]:
    """The next ticket, taken."""
    from pinikit.tuning.tickets import take

    ticket = take(engine.found, engine._storage, engine._search.total, engine._bench.points)
    assert ticket is not None
    return [ticket]


def test_who_takes_a_trial_that_a_dead_process_gave_back_is_not_taken_for_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Between taking and signing it there is a moment; who looks had seen it with the dead one."""
    monkeypatch.setattr(engine_module, "open_storage", open_storage)  # whose trials are no live objects
    with engine_of(tmp_path, 2) as engine:
        dead = {"machine": leases.machine(), "pid": os.getpid(), "began": "-1"}
        (ticket,) = _begun(engine)
        monkeypatch.setattr(leases, "lease", lambda: dead)
        leases.sign(engine._storage, ticket._trial_id)
        monkeypatch.undo()
        (seen,) = Board(engine.found.get_trials(), 2).running
        assert Patrol().lost([seen])
        give_back(engine._storage, ticket)
        (again,) = _begun(engine)
        assert again.number == ticket.number
        assert not Patrol().lost(Board(engine.found.get_trials(), 2).running)
        looker = Worker(engine._search, engine._storage, engine._bench, engine._stop, lambda text: None)
        monkeypatch.setattr(Patrol, "lost", lambda self, trials: [seen])  # it looked before, and acts now
        looker._bury_dead()
        assert engine.found.get_trials()[0].state == TrialState.RUNNING


def test_a_worker_that_cannot_sign_its_trial_goes_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Others have taken it for dead in between."""
    sign, told = worker.sign, Told()

    def late(storage: Any, trial_id: int) -> None:
        monkeypatch.setattr(worker, "sign", sign)
        storage.set_trial_state_values(trial_id, TrialState.FAIL)
        sign(storage, trial_id)

    monkeypatch.setattr(worker, "sign", late)
    trials = search(tmp_path, 2, told)
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert any("others took its worker for dead" in text for text in told.messages)


# --- equal trials at the same time ----------------------------------------------------------------------


@pytest.mark.parametrize("end", [TrialState.COMPLETE, TrialState.FAIL])
def test_a_trial_waits_for_an_equal_one_that_another_worker_evaluates(
    end: TrialState, rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It takes that one's values, or is evaluated itself if that one's worker has died."""
    with engine_of(tmp_path, 1) as engine:
        other = _of_another_worker(engine)

        def finish(seconds: float) -> None:
            assert rig.calls == []
            engine._storage.set_trial_state_values(other, end, [1.5] if end == TrialState.COMPLETE else None)

        monkeypatch.setattr(worker, "POLL_SECONDS", 0.0)
        monkeypatch.setattr(worker.time, "sleep", finish)
        engine.work()
        base = engine.found.get_trials()[0]
    assert base.state == TrialState.COMPLETE
    copied = end == TrialState.COMPLETE
    assert (base.value == 1.5, "same_as" in base.user_attrs, len(rig.calls)) == (copied, copied, not copied)


def test_who_waits_for_an_equal_trial_can_be_stopped(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with engine_of(tmp_path, 1) as engine:
        _of_another_worker(engine)
        monkeypatch.setattr(worker, "POLL_SECONDS", 0.0)
        monkeypatch.setattr(worker.time, "sleep", lambda seconds: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            engine.work()
        assert engine.found.get_trials()[0].state == TrialState.WAITING


def _of_another_worker(engine: Engine) -> int:
    """A trial that is being evaluated elsewhere, and is equal to the base; its identity."""
    objective = engine._bench.objective
    digest = objective.hash_of(objective.runs(engine._search.study.base))
    trial = optuna.create_trial(
        state=TrialState.RUNNING, user_attrs={"place": 99, "hash": digest, "by_seed": {}}, value=None
    )
    return int(engine._storage.create_new_trial(engine.found._study_id, trial))

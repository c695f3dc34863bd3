"""A worker of a search: takes tickets until there are none, in this process or in one of its own."""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.storages import BaseStorage
from optuna.study import Study as OptunaStudy
from optuna.trial import FrozenTrial, Trial, TrialState

from pinikit.config.checking import Checker
from pinikit.errors import PinikitError
from pinikit.plugin import registry
from pinikit.study.executors import CRASH, MEMORY
from pinikit.study.executors.trainer import take_turns
from pinikit.study.resume import Interrupted, StopRequest
from pinikit.study.run import Workshop
from pinikit.study.study import Run
from pinikit.tuning.anchors import fixed_anchors
from pinikit.tuning.failures import DEVICE, FAILURE, kind_of_error, words_of_error
from pinikit.tuning.feasibility import Fits
from pinikit.tuning.leases import WORKER, Patrol, beating, same_hold, sign
from pinikit.tuning.objective import CLASSIFICATION, PHASES, Measured, Objective, Report
from pinikit.tuning.results import ANCHORS
from pinikit.tuning.space import Space
from pinikit.tuning.storage import StorageLostError, open_storage
from pinikit.tuning.strategy import make_pruner, make_sampler, quiet
from pinikit.tuning.study import TuneStudy
from pinikit.tuning.tickets import (
    FAILURE_TEXT,
    FAILURES,
    LABEL,
    PLACE,
    Board,
    failures_before,
    give_back,
    give_up,
    take,
)
from pinikit.tuning.turns import HASH, SAME_AS, await_turn

SNAPSHOT_SECONDS = 5.0
"""How long a pruner is content with what it has seen of other trials."""

BREAKDOWNS = 6
"""Attempts in a row that may fail for no reason of their own, such as a disk that is full: three places."""

POLL_SECONDS = 1.0
"""How often it is looked whether others have finished, or died."""

CRASHES_TOGETHER = 2
"""After so many crashes a trial's seeds are trained one by one, as after a lack of memory. Not after one:
somebody may have ended the process, and the values shall keep their last digits."""


@dataclass(frozen=True)
class Search:
    """What is to be searched; travels to worker processes."""

    study: TuneStudy
    where: str | None
    """The storage, as the command line says it."""
    folder: Path
    """The study's."""
    total: int
    deadline: float | None
    """When nothing begins any more, in seconds since 1970."""

    @property
    def over(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.time() >= self.deadline


class DeviceLostError(PinikitError):
    """The GPU reported an error after which this process can compute nothing more on it."""


class BreakdownError(PinikitError):
    """Trials fail one after the other, whatever they are: others would only be lost, too."""


class Bench:
    """Space and objective of a search: what needs the backbone.

    Args:
        study: the tune study.
        stop: ends a trial between two steps.
        say: told of notes worth a line.
    """

    def __init__(self, study: TuneStudy, stop: StopRequest, say: Callable[[str], None]) -> None:
        from pinikit.data.view_bank import user_bank

        self.study = study
        self.workshop = Workshop(disk=user_bank(say))
        fits = Fits(study, self.workshop)
        self.space = Space(study, fits)
        self.objective = Objective(study, self.workshop, fits, stop)
        self._anchors, self.notes = fixed_anchors(study.base, fits, Checker(registry()))

    @cached_property
    def points(self) -> list[tuple[str, Mapping[str, Any]]]:
        """What the first places are: the anchors, then every choice at its defaults."""
        (base, params), *rest = self.space.defaults().items()
        return [(base, params), *((label, {}) for label in self._anchors), *rest]

    def config(self, ticket: FrozenTrial, study: OptunaStudy) -> Mapping[str, Any]:
        """The run configuration of a ticket: suggested, unless it is that of an anchor."""
        anchor = self._anchors.get(ticket.user_attrs.get(LABEL, ""))
        return self.space.suggest(Trial(study, ticket._trial_id)) if anchor is None else anchor


class Worker:
    """Takes tickets and evaluates them.

    Args:
        search: what is searched.
        storage: where.
        bench: space and objective.
        stop: ends the work after the epoch under way; the trial waits for the next call.
        say: told of notes worth a line.
    """

    def __init__(
        self,
        search: Search,
        storage: BaseStorage,
        bench: Bench,
        stop: StopRequest,
        say: Callable[[str], None],
    ) -> None:
        self._search, self._storage, self._bench = search, storage, bench
        self._stop, self._say = stop, say
        self._tune = search.study.tune
        self._patrol, self._told = Patrol(), False
        self._optuna = optuna.load_study(storage=storage, study_name=search.study.name)
        self._accounted = time.perf_counter()
        """Up to when this process's time stands with a trial, or was spent waiting."""
        self._breakdowns = 0
        """Trials in a row that failed for no reason of their own."""

    def work(self, look: Callable[[], None] = lambda: None) -> None:
        """Evaluate until every place is done, the deadline passes, or a stop is requested.

        Args:
            look: called after every trial, and now and then while others are waited for.

        Raises:
            StorageLostError: the storage does not answer.
            DeviceLostError: nothing can be evaluated in this process any more; its trial has failed.
            BreakdownError: :data:`BREAKDOWNS` trials in a row have failed for no reason of their own.
        """
        self._accounted = time.perf_counter()
        while not (self._stop.is_set() or self._search.over):
            self._bury_dead()
            ticket = take(self._optuna, self._storage, self._search.total, self._bench.points)
            if ticket is not None:
                look()
                try:
                    self._try(ticket)
                except Interrupted:  # a stop was requested
                    break
                look()
            elif (board := self._board()).finished:
                break
            elif board.running:
                self._wait(len(board.running))
                look()

    def _board(self) -> Board:
        return Board(self._optuna.get_trials(deepcopy=False), self._search.total)

    def _wait(self, count: int) -> None:
        if not self._told:
            self._told = True
            self._say(f"waiting for {count} trial{'s' * (count > 1)} that other processes evaluate")
        self._sleep()

    def _sleep(self) -> None:
        time.sleep(POLL_SECONDS)
        self._accounted += POLL_SECONDS

    def _idle(self) -> None:
        """Wait a moment for an equal trial that another process evaluates.

        Raises:
            Interrupted: a stop was requested, or the deadline has passed.
        """
        if self._stop.is_set() or self._search.over:
            raise Interrupted("stopped while it waited for an equal trial")
        self._bury_dead()
        self._sleep()

    def _bury_dead(self) -> None:
        """Give up trials whose workers have ended without a word, so that they are tried again."""
        for trial in self._patrol.lost(self._board().running):
            if not same_hold(trial, self._storage.get_trial(trial._trial_id)):
                continue  # it was given back and taken, or buried, since it was looked at
            reason = f"its worker ({trial.user_attrs.get(WORKER) or 'unknown'}) ended without a word"
            if give_up(self._storage, trial, CRASH, reason):
                self._say(f"trial {trial.number}: {reason}")

    def _try(self, ticket: FrozenTrial) -> None:
        """Evaluate a ticket that is ours, and tell how it came out.

        Raises:
            KeyboardInterrupt, StorageLostError: it waits again, or is given up by others.
            DeviceLostError: it has failed, and others would fail here, too.
        """
        with beating(self._storage, ticket._trial_id):
            try:
                sign(self._storage, ticket._trial_id)
                self._attempt(ticket)
            except KeyboardInterrupt:
                give_back(self._storage, ticket)
                raise
            except StorageLostError:
                raise
            except Exception as error:
                self._fail(ticket, error)
        self._bench.objective.release()

    def _attempt(self, ticket: FrozenTrial) -> None:
        attempt = _Attempt(self._search, self._storage, self._bench, ticket)

        def turn(digest: str) -> FrozenTrial | None:
            return await_turn(self._optuna, self._storage, ticket, digest, self._idle)

        try:
            state, values = attempt.outcome(turn)
        except StorageLostError:
            raise
        except Exception:
            self._account(attempt)
            raise
        self._account(attempt)
        attempt.tell(state, values)
        self._breakdowns = 0

    def _account(self, attempt: _Attempt) -> None:
        """Note the seconds since the last trial noted its own; so what it told after that counts, too."""
        now = time.perf_counter()
        attempt.account(now - self._accounted)
        self._accounted = now

    def _fail(self, ticket: FrozenTrial, error: Exception) -> None:
        kind, words = kind_of_error(error), words_of_error(error)
        if kind != DEVICE and torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not give_up(self._storage, ticket, kind, words):
            self._say(f"trial {ticket.number}: others took its worker for dead and have tried it again")
        if kind == DEVICE:
            text = f"trial {ticket.number}: {words}; this process can compute nothing more on the GPU"
            raise DeviceLostError(text) from error
        self._breakdowns = self._breakdowns + 1 if kind == FAILURE else 0
        if self._breakdowns == BREAKDOWNS:
            raise BreakdownError(
                f"{BREAKDOWNS} trials in a row failed for no reason of their own, the last one: {words}. "
                "The same command goes on with the others when that is mended."
            ) from error


class _Snapshot(OptunaStudy):  # type: ignore[misc]  # Optuna is not looked into
    """Optuna's study as one trial sees it: the others are looked at now and then only.

    A pruner asks for them after every epoch, which would take longer than the epoch.
    """

    _trials: Sequence[FrozenTrial] = ()
    _looked = float("-inf")

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """All trials, or those in some states; they are not to be changed."""
        now = time.monotonic()
        if now - self._looked > SNAPSHOT_SECONDS:
            self._trials, self._looked = super().get_trials(deepcopy=False), now
        return [trial for trial in self._trials if states is None or trial.state in states]


class _Attempt:
    """One attempt at a place, from its parameters to its values."""

    def __init__(self, search: Search, storage: BaseStorage, bench: Bench, ticket: FrozenTrial) -> None:
        self._storage, self._bench, self._ticket = storage, bench, ticket
        self._tune = search.study.tune
        failures = failures_before(ticket)
        self._retried_apart = MEMORY in failures or failures.get(CRASH, 0) >= CRASHES_TOGETHER
        self._spent: Mapping[str, float] = dict.fromkeys(PHASES, 0.0)
        self._optuna = _Snapshot(
            storage=storage,
            study_name=search.study.name,
            sampler=make_sampler(self._tune, ticket.user_attrs[PLACE]),
            pruner=make_pruner(self._tune),
        )

    def outcome(self, turn: Callable[[str], FrozenTrial | None]) -> tuple[TrialState, Sequence[float] | None]:
        """Find a configuration, and evaluate it unless an equal one is or was.

        Args:
            turn: waits while an equal trial is evaluated, by its hash; the trial to take the outcome from.

        Raises:
            PinikitError: the configuration cannot be evaluated.
            Interrupted: a stop was requested.
        """
        config = self._bench.config(self._ticket, self._optuna)
        runs = self._bench.objective.runs(config)
        self._note("config", json.dumps(config))
        self._note(HASH, digest := self._bench.objective.hash_of(runs))
        if (twin := turn(digest)) is not None:
            return self._copied(twin)
        try:
            measured = self._measured(runs)
        except optuna.TrialPruned:
            return TrialState.PRUNED, None
        self._note("by_seed", {str(seed): dict(row) for seed, row in measured.by_seed.items()})
        if measured.notes:
            self._note("notes", list(measured.notes))
        return TrialState.COMPLETE, measured.means(self._tune.metrics)

    def account(self, whole: float) -> None:
        """Note the seconds by phase; what is left of the whole is the overhead."""
        self._note("seconds", {**self._spent, "overhead": whole - sum(self._spent.values())})

    def tell(self, state: TrialState, values: Sequence[float] | None) -> None:
        """Tell the storage how it came out."""
        self._optuna.tell(self._ticket.number, values, state=state)

    def _measured(self, runs: Sequence[Run]) -> Measured:
        objective = self._bench.objective
        apart = self._tune.pruner == "wilcoxon" or self._retried_apart
        try:
            return objective.measure(runs, self._report(), apart=apart)
        finally:
            self._spent = objective.spent

    def _report(self) -> Report | None:
        """What is told the metric as training goes on, if anything is to be pruned by it."""
        metric, label = self._tune.metrics[0], self._ticket.user_attrs.get(LABEL)
        by_epoch = self._tune.pruner != "wilcoxon"
        if self._tune.pruner == "none" or metric not in CLASSIFICATION or (by_epoch and self._retried_apart):
            return None
        trial_id, values, seeds = self._ticket._trial_id, dict[int, float](), len(self._bench.study.seeds)

        def report(step: int, value: float) -> None:
            values[step] = value
            self._storage.set_trial_intermediate_value(trial_id, step, value)
            if label in ANCHORS:  # others are compared with them
                return
            if not by_epoch and len(values) == seeds:  # nothing is left to be saved
                return
            seen = copy.copy(self._ticket)
            seen.intermediate_values = dict(values)  # none that an interrupted call left
            if self._tune.pruner == "hyperband":  # which keeps there how far it is
                seen.system_attrs = self._storage.get_trial_system_attrs(trial_id)
            if self._optuna.pruner.prune(self._optuna, seen):
                raise optuna.TrialPruned

        return report

    def _copied(self, twin: FrozenTrial) -> tuple[TrialState, Sequence[float] | None]:
        """Come out as the equal trial did.

        Raises:
            PinikitError: that has failed for good.
        """
        self._note(SAME_AS, twin.number)
        if twin.state == TrialState.FAIL:
            self._note(FAILURES, dict(failures_before(twin)))  # it is not tried again either
            raise PinikitError(twin.user_attrs[FAILURE_TEXT])
        for step, value in sorted(twin.intermediate_values.items()):
            self._storage.set_trial_intermediate_value(self._ticket._trial_id, step, value)
        if twin.state == TrialState.PRUNED:
            return TrialState.PRUNED, None
        self._note("by_seed", twin.user_attrs["by_seed"])
        return TrialState.COMPLETE, twin.values

    def _note(self, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(self._ticket._trial_id, key, value)


# --- a process of its own -------------------------------------------------------------------------------


def main(connection: Connection, search: Search, number: int) -> None:
    """Work until everything is done, or the parent at the other end of ``connection`` says ``stop`` or ends.

    Says ``("ready",)``, ``("message", text)``, and at the end ``("done",)``, ``("refused", error)``, or
    ``("message", text)`` again and dies if another process is to take its place.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal: the parent decides
    stop = StopRequest()
    signal.signal(signal.SIGTERM, lambda signum, frame: stop.set())
    threading.Thread(target=_listen, args=(connection, stop), daemon=True).start()

    def say(text: str) -> None:
        connection.send(("message", text))

    try:
        end = _work(connection, search, number, stop, say)
        connection.send(end)
    except (BrokenPipeError, ConnectionResetError):  # the parent has ended
        os._exit(1)
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(int(end[0] == "message"))  # without the second that torch takes to leave


def _work(
    connection: Connection, search: Search, number: int, stop: StopRequest, say: Callable[[str], None]
) -> tuple[Any, ...]:
    take_turns(number)
    try:
        with quiet():
            bench = Bench(search.study, stop, say)
            storage = open_storage(search.where, search.folder, say)
            connection.send(("ready",))
            Worker(search, storage, bench, stop, say).work()
    except DeviceLostError as error:
        return "message", str(error)
    except PinikitError as error:
        return "refused", error
    return ("done",)


def _listen(connection: Connection, stop: StopRequest) -> None:
    while True:
        try:
            connection.recv()  # there is one word only
        except (EOFError, OSError):
            os._exit(1)
        stop.set()

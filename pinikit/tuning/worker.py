"""A worker of a search: takes tickets until there are none, in this process or in one of its own."""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
import threading
import time
import traceback
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

from pinikit.errors import PinikitError
from pinikit.study.executors import CRASH, ERROR, MEMORY
from pinikit.study.executors.trainer import take_turns
from pinikit.study.memory import lacks_memory
from pinikit.study.resume import Interrupted, StopRequest
from pinikit.study.run import Workshop
from pinikit.tuning.feasibility import Fits
from pinikit.tuning.leases import Patrol, beating, lease, worker_name
from pinikit.tuning.objective import CLASSIFICATION, PHASES, Objective, Report
from pinikit.tuning.space import Space
from pinikit.tuning.storage import StorageLostError, open_storage
from pinikit.tuning.strategy import make_pruner, make_sampler, quiet
from pinikit.tuning.study import TuneStudy
from pinikit.tuning.tickets import FAILURE, KIND, LABEL, PLACE, Board, give_back, give_up, take

BASE, ZERO_SHOT = "base", "zero_shot"
"""Labels of the anchors: the first two places of every search."""

SNAPSHOT_SECONDS = 5.0
"""How long a pruner is content with what it has seen of other trials."""

POLL_SECONDS = 1.0
"""How often it is looked whether others have finished, or died."""


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

    @cached_property
    def points(self) -> list[tuple[str, Mapping[str, Any]]]:
        """What the first places are: the anchors, then every choice at its defaults."""
        (base, params), *rest = self.space.defaults().items()
        return [(base, params), (ZERO_SHOT, {}), *rest]

    def config(self, ticket: FrozenTrial, study: OptunaStudy) -> Mapping[str, Any]:
        """The run configuration of a ticket: suggested, unless it is zero-shot classification."""
        if ticket.user_attrs.get(LABEL) != ZERO_SHOT:
            return self.space.suggest(Trial(study, ticket._trial_id))
        base = self.study.base
        return {
            **base,
            "method": {"name": "zero_shot"},
            "prompt": {**base["prompt"], "template": "plain"},
        }


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

    def work(self, look: Callable[[], None] = lambda: None) -> None:
        """Evaluate until every place is done, the deadline passes, or a stop is requested.

        Args:
            look: called after every trial, and now and then while others are waited for.

        Raises:
            StorageLostError: the storage does not answer.
        """
        free_since = time.perf_counter()
        while not (self._stop.is_set() or self._search.over):
            self._bury_dead()
            ticket = take(self._optuna, self._storage, self._search.total, self._bench.points)
            if ticket is not None:
                look()
                try:
                    self._try(ticket, free_since)
                except Interrupted:  # a stop was requested
                    break
                free_since = time.perf_counter()
                look()
            elif (board := self._board()).finished:
                break
            elif board.running:
                self._wait(len(board.running))
                look()
                free_since = time.perf_counter()

    def _board(self) -> Board:
        return Board(self._optuna.get_trials(deepcopy=False), self._search.total)

    def _wait(self, count: int) -> None:
        if not self._told:
            self._told = True
            self._say(f"waiting for {count} trial{'s' * (count > 1)} that other processes evaluate")
        time.sleep(POLL_SECONDS)

    def _bury_dead(self) -> None:
        """Give up trials whose workers have ended without a word, so that they are tried again."""
        for trial in self._patrol.lost(self._board().running):
            reason = f"its worker ({trial.user_attrs.get('worker', 'unknown')}) ended without a word"
            if give_up(self._storage, trial, CRASH, reason):
                self._say(f"trial {trial.number}: {reason}")

    def _try(self, ticket: FrozenTrial, since: float) -> None:
        """Evaluate a ticket that is ours, and tell how it came out.

        Args:
            ticket: the trial.
            since: when the worker had nothing else to do any more.

        Raises:
            KeyboardInterrupt, StorageLostError: it waits again, or is given up by others.
        """
        trial_id = ticket._trial_id
        self._storage.set_trial_user_attr(trial_id, "lease", lease())
        self._storage.set_trial_user_attr(trial_id, "worker", worker_name())
        with beating(self._storage, trial_id):
            try:
                _Attempt(self._search, self._storage, self._bench, ticket, since).make()
            except KeyboardInterrupt:
                give_back(self._storage, ticket)
                raise
            except StorageLostError:
                raise
            except PinikitError as error:
                self._fail(ticket, ERROR, str(error))
            except Exception as error:
                reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
                kind = MEMORY if lacks_memory(error) else FAILURE
                if kind == FAILURE:
                    reason += f" ({_place_of(error)})"
                self._fail(ticket, kind, reason)
        self._bench.objective.release()

    def _fail(self, ticket: FrozenTrial, kind: str, reason: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not give_up(self._storage, ticket, kind, reason):
            self._say(f"trial {ticket.number}: others took its worker for dead and have tried it again")


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

    def __init__(
        self, search: Search, storage: BaseStorage, bench: Bench, ticket: FrozenTrial, since: float
    ) -> None:
        self._start = since
        self._storage, self._bench, self._ticket = storage, bench, ticket
        self._tune, self._name = search.study.tune, search.study.name
        self._optuna = _Snapshot(
            storage=storage,
            study_name=search.study.name,
            sampler=make_sampler(self._tune, ticket.user_attrs[PLACE]),
            pruner=make_pruner(self._tune),
        )

    def make(self) -> None:
        """Find a configuration, evaluate it unless an equal one was, and tell how it came out.

        Raises:
            PinikitError: the configuration cannot be evaluated.
            Interrupted: a stop was requested.
        """
        objective = self._bench.objective
        config = self._bench.config(self._ticket, self._optuna)
        runs = objective.runs(config)
        self._note("config", json.dumps(config))
        self._note("hash", digest := objective.hash_of(runs))
        if (twin := self._twin(digest)) is not None:
            self._copy(twin)
            return
        alone = self._tune.pruner == "wilcoxon" or self._ticket.user_attrs.get("after") == MEMORY
        try:
            measured = objective.measure(runs, self._report(), apart=alone)
        except StorageLostError:
            raise
        except Exception as error:
            self._note_seconds(objective.spent)
            if not isinstance(error, optuna.TrialPruned):
                raise
            self._tell(TrialState.PRUNED)
            return
        self._note("by_seed", {str(seed): dict(row) for seed, row in measured.by_seed.items()})
        if measured.notes:
            self._note("notes", list(measured.notes))
        self._note_seconds(measured.seconds)
        self._tell(TrialState.COMPLETE, measured.means(self._tune.metrics))

    def _report(self) -> Report | None:
        """What is told the metric as training goes on, if anything is to be pruned by it."""
        metric, label = self._tune.metrics[0], self._ticket.user_attrs.get(LABEL)
        retried_apart = self._ticket.user_attrs.get("after") == MEMORY and self._tune.pruner != "wilcoxon"
        if self._tune.pruner == "none" or metric not in CLASSIFICATION or retried_apart:
            return None
        trial_id, values = self._ticket._trial_id, dict[int, float]()

        def report(step: int, value: float) -> None:
            values[step] = value
            self._storage.set_trial_intermediate_value(trial_id, step, value)
            if label in (BASE, ZERO_SHOT):  # others are compared with them
                return
            seen = copy.copy(self._ticket)
            seen.intermediate_values = dict(values)  # none that an interrupted call left
            if self._tune.pruner == "hyperband":  # which keeps there how far it is
                seen.system_attrs = self._storage.get_trial_system_attrs(trial_id)
            if self._optuna.pruner.prune(self._optuna, seen):
                raise optuna.TrialPruned

        return report

    def _twin(self, digest: str) -> FrozenTrial | None:
        """A trial that came out already, and would come out the same."""
        for trial in self._optuna.get_trials(deepcopy=False):
            equal = trial.user_attrs.get("hash") == digest and "same_as" not in trial.user_attrs
            failed = trial.state == TrialState.FAIL and trial.user_attrs.get(KIND) == ERROR
            if equal and (failed or trial.state in (TrialState.COMPLETE, TrialState.PRUNED)):
                return trial
        return None

    def _copy(self, twin: FrozenTrial) -> None:
        """Come out as the equal trial did.

        Raises:
            PinikitError: that had failed.
        """
        self._note("same_as", twin.number)
        if twin.state == TrialState.FAIL:
            raise PinikitError(twin.user_attrs["failure"])
        if twin.state == TrialState.PRUNED:
            for step, value in sorted(twin.intermediate_values.items()):
                self._storage.set_trial_intermediate_value(self._ticket._trial_id, step, value)
        else:
            self._note("by_seed", twin.user_attrs["by_seed"])
        self._note_seconds(dict.fromkeys(PHASES, 0.0))
        self._tell(twin.state, twin.values if twin.state == TrialState.COMPLETE else None)

    def _note_seconds(self, spent: Mapping[str, float]) -> None:
        overhead = time.perf_counter() - self._start - sum(spent.values())
        self._note("seconds", {**spent, "overhead": overhead})

    def _note(self, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(self._ticket._trial_id, key, value)

    def _tell(self, state: TrialState, values: list[float] | None = None) -> None:
        self._optuna.tell(self._ticket.number, values, state=state)


def _place_of(error: Exception) -> str:
    """File and line where an exception was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else "unknown place"


# --- a process of its own -------------------------------------------------------------------------------


def main(connection: Connection, search: Search, number: int) -> None:
    """Work until everything is done, or the parent at the other end of ``connection`` says ``stop`` or ends.

    Says ``("ready",)``, ``("message", text)``, and at the end ``("done",)`` or ``("refused", error)``.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal: the parent decides
    stop = StopRequest()
    signal.signal(signal.SIGTERM, lambda signum, frame: stop.set())
    threading.Thread(target=_listen, args=(connection, stop), daemon=True).start()

    def say(text: str) -> None:
        connection.send(("message", text))

    try:
        connection.send(_work(connection, search, number, stop, say))
    except (BrokenPipeError, ConnectionResetError):  # the parent has ended
        os._exit(1)
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(0)  # without the second that torch takes to leave


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

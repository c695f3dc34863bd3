"""A search from its study to its last trial: checks, storage, workers."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

from optuna.study import Study as OptunaStudy
from optuna.trial import FrozenTrial, TrialState

from pinikit import __version__
from pinikit.errors import PinikitError
from pinikit.study.executors import CRASH
from pinikit.study.executors.processes import (
    await_end,
    check_begun,
    environment_of_worker,
    how_it_ended,
    kernel_kills,
)
from pinikit.study.executors.signals import stopping
from pinikit.study.resume import Interrupted, StopRequest
from pinikit.study.store import Store
from pinikit.tuning.failures import DEVICE, RETRIES
from pinikit.tuning.reporting import TuneReporter
from pinikit.tuning.request import Request
from pinikit.tuning.storage import close_storage, open_search, open_storage
from pinikit.tuning.strategy import quiet
from pinikit.tuning.study import TuneStudy
from pinikit.tuning.tickets import PLACE, Board, kind_of, make_first
from pinikit.tuning.worker import Bench, DeviceLostError, Search, Worker, main

GO_ON = "everything is kept, and the same command goes on in another one"

STOPPING = "stopping after the epoch under way; Ctrl-C again stops at once"

DEATHS = 1 + RETRIES[CRASH]
"""Deaths by which a trial that kills its workers is given up. When there are more for each job, and no trial
ended in another way in between, it is not the trial that kills them."""


class Engine:
    """A search that was found to be sound, and its storage.

    Args:
        study: the tune study.
        request: how much of it is wanted, where it is kept.
        store: where the study's folder is.
        reporter: how it is shown.

    Raises:
        ConfigError, DataError, WeightsError: the study, its space or the storage is wrong, or the storage
            holds another search of this name.
    """

    def __init__(self, study: TuneStudy, request: Request, store: Store, reporter: TuneReporter) -> None:
        self._reporter, self._jobs, self._stop = reporter, request.jobs, StopRequest()
        folder = store.study_folder(study.name)
        with quiet():
            self._storage = open_storage(request.storage, folder, reporter.message)
            self._bench = Bench(study, self._stop, reporter.message)
            runs = self._bench.objective.runs(study.base)
            self._bench.objective.check(runs)
            pictures = (note for run in runs for note in run.manifest.notes)
            self.notes = tuple(
                dict.fromkeys([*pictures, *self._bench.notes, *self._bench.workshop.messages()])
            )
            points = self._bench.points  # before the search is there: others wait for its first tickets
            self.found = open_search(
                self._storage,
                study,
                _facts(study, self._bench, runs, self.notes),
                lambda found: make_first(found, request.trials, points),
            )
        folder.mkdir(parents=True, exist_ok=True)
        request.save(folder)
        deadline = None if request.timeout is None else time.time() + request.timeout
        self._search = Search(study, request.storage, folder, request.trials, deadline)

    def work(self) -> None:
        """Evaluate what is left to do.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the epoch under way was finished, and its trial waits.
            KeyboardInterrupt: a second one.
            StorageLostError: the storage does not answer any more.
            PinikitError: no process of this machine can evaluate any trial, or this one none any more.
        """
        follower = _Follower(self.found, self._search, self._reporter)
        follower.start(self.notes)
        if follower.finished:
            return
        with quiet(), stopping(self._stop, lambda: self._reporter.message(STOPPING)):
            if self._jobs == 1:
                say = self._reporter.message
                worker = Worker(self._search, self._storage, self._bench, self._stop, say)
                try:
                    worker.work(follower.look)
                except DeviceLostError as error:
                    raise PinikitError(f"{error}; {GO_ON}") from error
            else:
                self._bench.workshop.backbones.clear()  # the workers have their own
                _Crew(self._search, self._jobs, self._stop, self._reporter.message).work(follower)
        follower.look()
        if self._stop.is_set():
            raise Interrupted("the search was stopped")

    def close(self) -> None:
        """Let go of the storage."""
        close_storage(self._storage)


def _facts(study: TuneStudy, bench: Bench, runs: list[Any], notes: tuple[str, ...]) -> dict[str, Any]:
    """What the search's attributes say, in Optuna's study."""
    left_out = ("seed", "manifest", "device", "evaluate")  # stand elsewhere, are the machine's, are not used
    return {
        "pinikit": __version__,
        "question": study.question,
        "space": bench.space.describe(),
        "base": study.base,
        "identity": {key: value for key, value in runs[0].identity.items() if key not in left_out},
        "seeds": list(study.seeds),
        "metrics": list(study.tune.metrics),
        "noise": study.tune.noise,
        "step": study.step,
        "data": {str(run.seed): run.manifest.hash for run in runs},
        "notes": list(notes),
    }


class _Follower:
    """Tells the reporter of trials as the storage has them, whoever evaluates them."""

    def __init__(self, found: OptunaStudy, search: Search, reporter: TuneReporter) -> None:
        self._found, self._search, self._reporter = found, search, reporter
        self._known: dict[int, TrialState] = {}
        self.finished = False
        """Whether every place was done when it looked last."""
        self.done = 0
        self.survived = 0
        """Trials that did not end with their worker."""

    def start(self, notes: tuple[str, ...]) -> None:
        trials = self._found.get_trials(deepcopy=False)
        self._count(Board(trials, self._search.total))
        earlier = [trial for trial in trials if PLACE in trial.user_attrs and trial.state.is_finished()]
        self._known = {trial.number: trial.state for trial in earlier}
        self.survived = sum(not _killed_its_worker(trial) for trial in earlier)
        self._reporter.started(self._search.study, self._search.total, self.done, earlier)
        for note in notes:
            self._reporter.message(note)

    def look(self) -> None:
        trials = self._found.get_trials(deepcopy=False)
        for trial in trials:
            if PLACE not in trial.user_attrs or self._known.get(trial.number) == trial.state:
                continue
            self._known[trial.number] = trial.state
            if trial.state == TrialState.RUNNING:
                self._reporter.trial_started(trial.number)
            elif trial.state.is_finished():
                self.survived += not _killed_its_worker(trial)
                self._reporter.trial_finished(trial)
        self._count(Board(trials, self._search.total))

    def _count(self, board: Board) -> None:
        self.done, self.finished = board.done, board.finished


def _killed_its_worker(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and kind_of(trial) in (CRASH, DEVICE)


class _Crew:
    """Worker processes of this machine; one that ends without a word is replaced."""

    def __init__(self, search: Search, count: int, stop: StopRequest, say: Callable[[str], None]) -> None:
        self._search, self._stop, self._say = search, stop, say
        self._members = [_Member(number, count, search) for number in range(count)]
        self._said: set[str] = set()
        self._deaths, self._survived, self._asked = 0, 0, False

    def work(self, follower: _Follower) -> None:
        """Let them work until all is done.

        Raises:
            PinikitError: workers cannot begin, or die whatever they do, or the storage is lost.
        """
        try:
            for member in self._members:
                member.start()
            while working := [member for member in self._members if member.working]:
                self._pass_on_stop(working)
                sources = [source for member in working for source in member.sources]
                ready = wait(sources, 1.0)
                follower.look()
                for member in working:
                    if any(source in ready for source in member.sources):
                        self._listen(member, follower)
        finally:
            for member in self._members:
                member.end()

    def _pass_on_stop(self, working: list[_Member]) -> None:
        if self._stop.is_set() and not self._asked:
            self._asked = True
            for member in working:
                member.stop()

    def _listen(self, member: _Member, follower: _Follower) -> None:
        message = member.read()
        if message is None:
            self._mourn(member, follower)
        elif message[0] == "refused":
            raise message[1]
        elif message[0] == "message" and message[1] not in self._said:
            self._said.add(message[1])  # workers may have the same
            self._say(message[1])

    def _mourn(self, member: _Member, follower: _Follower) -> None:
        """A process has ended; if it was not done, another one takes its place."""
        text = member.bury()
        if member.done or self._stop.is_set():
            return
        self._deaths = self._deaths + 1 if follower.survived == self._survived else 1
        self._survived = follower.survived
        if self._deaths > DEATHS * len(self._members):
            raise PinikitError(
                f"{text}, as {self._deaths - 1} workers before it did without ending any trial."
            )
        self._say(f"{text}; another one takes its place")
        member.start()


class _Member:
    """One process of a crew."""

    def __init__(self, number: int, count: int, search: Search) -> None:
        self.name = f"worker {number + 1}"
        self.done = False
        """Whether it has said that there is nothing left to do."""
        self._number, self._count, self._search = number, count, search
        self._process: Any = None
        self._connection: Connection | None = None
        self._ready = False
        self._kills = 0

    @property
    def working(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    @property
    def sources(self) -> list[Any]:
        """What to wait for: messages, and the end of the process."""
        return [self._connection, self._process.sentinel]

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._ready, self._kills = False, kernel_kills()
        self._process = context.Process(target=main, args=(other, self._search, self._number), name=self.name)
        with environment_of_worker(self._count):
            self._process.start()
        other.close()

    def read(self) -> Any | None:
        """The next message; None if the process has ended and said everything."""
        assert self._connection is not None
        try:
            if not self._connection.poll():
                return None if not self._process.is_alive() and not self._connection.poll() else ("",)
            message = self._connection.recv()
        except (EOFError, OSError):
            return None
        self._ready = self._ready or message == ("ready",)
        self.done = self.done or message == ("done",)
        return message

    def stop(self) -> None:
        """Ask it to stop after the epoch under way; one that has not begun is ended."""
        if not self._ready:
            self._process.kill()
            return
        assert self._connection is not None
        try:
            self._connection.send(("stop",))
        except OSError:  # it has ended
            return

    def bury(self) -> str:
        """Wait for the end of the process and forget it.

        Returns:
            How it ended.

        Raises:
            PinikitError: it ended by itself before it could do anything, as the next one would.
        """
        assert self._connection is not None
        code = await_end(self._process, self._connection)
        self._process, self._connection = None, None
        if not self._ready:
            check_begun(code, "tune with jobs")
        return f"{self.name} {how_it_ended(code, kernel_kills() > self._kills)}"

    def end(self) -> None:
        """End it at once, if it is there."""
        if self._process is not None:
            self._process.kill()
            self.bury()

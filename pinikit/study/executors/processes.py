"""Several worker processes, each of which trains one group at a time. Imports no torch.

The workers are spawned, so they share nothing with this process but a pipe each. They start when there is
something for them to do; one that dies is replaced, and what it trained is tried again or failed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from pickle import PicklingError
from typing import Any

from pinikit.errors import PinikitError
from pinikit.study.executors import CRASH, TIME, Job, Limits, Planned, Try, Watch
from pinikit.study.executors.agenda import Agenda
from pinikit.study.executors.trainer import StudyTrainer, Work
from pinikit.study.executors.worker import MakeTrainer, main
from pinikit.study.resume import Interrupted, StopRequest
from pinikit.study.store import StoredResult

POLL_SECONDS = 0.2
"""How often time limits and stop requests are looked at."""

GRACE_SECONDS = 10.0
"""How long a worker without work may take to end."""

START_SECONDS = 120.0
"""What a time limit allows a worker, beyond the limit itself, before its job begins."""

SHORT = "memory was short (--fuse or --jobs with a smaller number needs less)"

OOM_COUNTERS = (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events"))
"""Files of Linux with a line ``oom_kill N``: of the machine, and of this container."""

STEPS = ("encoding", "training", "evaluating")


class Processes:
    """Trains in worker processes; see :class:`~pinikit.study.executors.Executor`.

    Args:
        work: what is to be done.
        count: how many workers.
        limits: what to do about crashes and runs that take too long.
        watch: shown what happens.
        stop: ends everything at the next good occasion.
        make: makes the trainer of a worker.
    """

    def __init__(
        self,
        work: Work,
        count: int,
        limits: Limits,
        watch: Watch,
        stop: StopRequest,
        make: MakeTrainer = StudyTrainer,
    ) -> None:
        self._work, self._limits, self._watch, self._stop = work, limits, watch, stop
        self._workers = [Worker(number, count, work, make) for number in range(count)]
        self._planned: Planned | None = None
        self._said: set[str] = set()

    def plan(self) -> Planned:
        """Check everything in a worker, which then trains; a worker that dies is replaced."""
        worker, *others = self._workers[: len(self._work.todo)]
        for other in others:
            other.ask("warm")
        for further in reversed(range(self._limits.retries + 1)):
            worker.ask("plan")
            while (message := worker.read()) is not None:
                if message[0] == "planned":
                    planned: Planned = message[1]
                    self._planned = planned
                    return planned
                self._note(message)
            self._say(worker.bury() + (" while it checked the study; again" if further else ""))
        raise PinikitError("The worker process that checks the study ended each time; see above.")

    def map(self, jobs: Iterable[Job]) -> Iterator[Mapping[str, StoredResult]]:
        """Train all jobs, as many at a time as there are workers."""
        work = self._work
        agenda = Agenda(jobs, work.runs, work.store, work.study.name, self._limits, self._say)
        while True:
            if self._stop.is_set():
                agenda.close()
                self._ask_to_stop()
            self._hand_out(agenda)
            working = [worker for worker in self._workers if worker.job is not None]
            if not working and not agenda:
                break
            for worker in _with_news(working):
                yield from self._take(worker, agenda)
            for worker in working:
                if worker.job is not None and self._overdue(worker):
                    yield agenda.lost(worker.job, self._end_overdue(worker))
        if self._stop.is_set():
            raise Interrupted("all workers have stopped")

    def close(self) -> None:
        """End all workers, those that train at once."""
        for worker in self._workers:
            worker.end()
        for worker in self._workers:
            worker.bury()

    def _hand_out(self, agenda: Agenda) -> None:
        """Give idle workers something to do."""
        for worker in self._workers:
            if worker.job is None and (job := agenda.next()) is not None:
                if worker.fresh and self._planned is not None:
                    worker.ask("adopt", self._planned)
                worker.train(job)

    def _take(self, worker: Worker, agenda: Agenda) -> Iterator[Mapping[str, StoredResult]]:
        """One message of a worker, or its end."""
        job = worker.job
        assert job is not None
        message = worker.read()
        if message is None:
            reason = f"{worker.bury()} {worker.where}".strip()
            yield from self._lost(job, Try(CRASH, reason), agenda)
        elif message[0] == "done":
            worker.job = None
            yield agenda.done(job, message[1])
        elif message[0] == "busy":
            worker.job = None
            agenda.busy(job)
        elif message[0] == "stopped":
            worker.end()
            worker.bury()
            reason = f"{worker.name} was asked to end by SIGTERM {worker.where}".strip()
            yield from self._lost(job, Try(CRASH, reason), agenda)
        elif message[0] == "began":
            worker.steps = self._watch.began([self._work.runs[key] for key in job.wanted])
            worker.since = time.monotonic()
        else:
            self._note(message, worker)

    def _lost(self, job: Job, failed: Try, agenda: Agenda) -> Iterator[Mapping[str, StoredResult]]:
        """A worker has left its job; when all are to stop that is no failure."""
        if not self._stop.is_set():
            yield agenda.lost(job, failed)

    def _note(self, message: Any, worker: Worker | None = None) -> None:
        """What needs no decision."""
        if message[0] == "refused":
            raise message[1]
        if message[0] == "message":
            self._say(message[1])
        elif message[0] == "step" and worker is not None:
            worker.step(*message[1:])

    def _say(self, text: str) -> None:
        """A note; workers may have the same."""
        if text not in self._said:
            self._said.add(text)
            self._watch.message(text)

    def _ask_to_stop(self) -> None:
        for worker in self._workers:
            if worker.job is not None and worker.since is None:
                worker.kill()  # it has not begun: nothing is lost
            elif worker.job is not None:
                worker.stop()

    def _overdue(self, worker: Worker) -> bool:
        """Whether it took too long since its job began, or does not come to begin it."""
        limit = self._limits.time_limit
        if limit is None or worker.job is None:
            return False
        allowed = limit * len(worker.job.group)
        if worker.since is None:
            return time.monotonic() - worker.given > allowed + START_SECONDS
        return time.monotonic() - worker.since > allowed

    def _end_overdue(self, worker: Worker) -> Try:
        assert worker.job is not None
        assert self._limits.time_limit is not None
        size = len(worker.job.group)
        many = f" for each of {size} runs that are trained together" if size > 1 else ""
        text = f"it took longer than --time-limit ({self._limits.time_limit:g} s{many}) and was ended"
        reason = f"{text} {worker.where}".strip()
        worker.kill()
        worker.bury()
        return Try(TIME, reason)


class Worker:
    """A process that takes one job at a time; it starts when it is first asked for something."""

    def __init__(self, number: int, count: int, work: Work, make: MakeTrainer) -> None:
        self.name = f"worker {number + 1}"
        self.job: Job | None = None
        self.steps: Any = None
        self.since: float | None = None
        """When the training of the job began."""
        self.given = 0.0
        """When the job was given to it."""
        self.where = ""
        """How far it is, for a message."""
        self.fresh = True
        """Whether it knows nothing of the plan."""
        self._number, self._count, self._work, self._make = number, count, work, make
        self._process: Any = None
        self._connection: Connection | None = None
        self._ready = self._stopping = False
        self._kills = 0

    @property
    def sources(self) -> list[Any]:
        """What to wait for: messages, and the end of the process."""
        return [self._connection, self._process.sentinel]

    def ask(self, word: str, *values: Any) -> None:
        """Send a message; starts the process if there is none."""
        if self._process is None:
            self._start()
        self._send((word, *values))
        self.fresh = self.fresh and word not in ("plan", "adopt")

    def _send(self, message: Any) -> None:
        assert self._connection is not None
        try:
            self._connection.send(message)
        except OSError:  # it has died, which is noticed when its answer is read
            pass
        except (PicklingError, TypeError, AttributeError) as error:
            raise PinikitError(f"The study cannot be handed to a worker process: {error}") from error

    def train(self, job: Job) -> None:
        """Give it a job."""
        self.job, self.steps, self.since, self.where = job, None, None, ""
        self.given = time.monotonic()
        self.ask("train", job)

    def stop(self) -> None:
        """Ask it to stop after the epoch under way."""
        if not self._stopping:
            self._stopping = True
            self.ask("stop")

    def step(self, phase: str, done: int, total: int, values: Mapping[str, float]) -> None:
        """It says how far it is."""
        if phase not in STEPS or self.steps is None:
            return
        self.where = f"while {phase}, {done} of {total}"
        getattr(self.steps, phase)(done, total, **values)

    def read(self) -> Any | None:
        """The next message, waited for; None if the process has ended and said everything."""
        assert self._connection is not None
        try:
            if not self._connection.poll() and self._connection not in wait(self.sources):
                return None
            message = self._connection.recv()
        except (EOFError, OSError):
            return None
        if message == ("ready",):
            self._ready = True
        return message

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()

    def end(self) -> None:
        """Let it go if it has nothing to do, else end it at once."""
        if self._process is None:
            return
        if self.job is None and self._ready:
            self.ask("end")
        else:
            self.kill()

    def bury(self) -> str:
        """Wait for the end of the process and forget it; another one starts when one is needed.

        Returns:
            How it ended.

        Raises:
            PinikitError: it ended by itself before it could do anything, as the next one would.
        """
        if self._process is None:
            return ""
        assert self._connection is not None
        code = await_end(self._process, self._connection)
        started = self._ready
        self._process, self._connection, self.job = None, None, None
        self._ready, self._stopping, self.fresh = False, False, True
        if not started:
            check_begun(code, "run_study with jobs or a time limit")
        return f"{self.name} {how_it_ended(code, kernel_kills() > self._kills)}"

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=main, args=(other, self._make), name=self.name)
        self._kills = kernel_kills()
        with environment_of_worker(self._count):
            self._process.start()
        other.close()
        self._send((self._work, self._number))


def _with_news(workers: list[Worker]) -> list[Worker]:
    """Those that have said something or have ended; waits a moment for it."""
    if not workers:
        time.sleep(POLL_SECONDS)
        return []
    ready = wait([source for worker in workers for source in worker.sources], POLL_SECONDS)
    return [worker for worker in workers if any(source in ready for source in worker.sources)]


def await_end(process: Any, connection: Connection) -> int | None:
    """Wait for the end of a process, which is ended if it takes too long, and close what belongs to it.

    Returns:
        Its exit code.
    """
    process.join(GRACE_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    code: int | None = process.exitcode
    connection.close()
    process.close()
    return code


def check_begun(code: int | None, call: str) -> None:
    """Refuse to go on after a worker that ended by itself before it could do anything, as the next one would.

    Args:
        code: its exit code.
        call: what a script does that started it.

    Raises:
        PinikitError: it ended with an error, not by a signal.
    """
    if code and code > 0:
        raise PinikitError(
            f"A worker process ended with exit code {code} before it was ready; see above. A script that "
            f"calls {call} does so under `if __name__ == '__main__':`."
        )


def how_it_ended(code: int | None, short: bool) -> str:
    """The end of a process in words; ``short``: the kernel has ended one since for lack of memory."""
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    try:
        name = f"{signal.Signals(-code).name} ({-code})"
    except ValueError:
        name = str(-code)
    if short and -code == signal.SIGKILL:
        name += f"; {SHORT}"
    return f"was ended by signal {name}"


def kernel_kills() -> int:
    """How many processes the Linux kernel has ended for lack of memory, here or in this container."""
    count = 0
    for path in OOM_COUNTERS:
        with contextlib.suppress(OSError, ValueError):
            for line in path.read_text().splitlines():
                name, _, value = line.partition(" ")
                count += int(value) if name == "oom_kill" else 0
    return count


def threads_of_worker(count: int) -> int | None:
    """How many threads a worker has whose runs ask for none; None if that stays as it is."""
    if count == 1 or "OMP_NUM_THREADS" in os.environ:
        return None
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(cores // count, 1)


def environment_of_worker(count: int) -> contextlib.AbstractContextManager[None]:
    """Within it a process that starts is one of ``count`` workers; torch's OpenMP reads it when it loads."""
    return _environment(_threads(count))


def _threads(count: int) -> dict[str, str]:
    threads = threads_of_worker(count)
    waiting = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
    return waiting if threads is None else {**waiting, "OMP_NUM_THREADS": str(threads)}


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """These variables for a process that starts within the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

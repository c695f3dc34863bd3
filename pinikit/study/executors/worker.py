"""A worker process: takes jobs from a pipe, trains them, and says what happens. Imports torch when it trains.

Messages are tuples that begin with a word. The parent says ``warm``, ``plan``, ``adopt``, ``train``, ``stop``
and ``end``; the worker answers ``ready``, ``planned``, ``began``, ``step``, ``message``, ``done``, ``busy``,
``stopped`` or ``refused``. When the pipe ends, so did the parent, and the worker ends at once.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from pinikit.errors import PinikitError
from pinikit.study.executors import Trainer
from pinikit.study.resume import Interrupted, StopRequest

STEP_SECONDS = 0.1
"""The parent is told how far a group is at most once in this time."""

MakeTrainer = Callable[[Any, Callable[[str], None], int], Trainer]
"""Makes the trainer of a worker from the work, a place for notes, and the worker's number."""


def main(connection: Connection, make: MakeTrainer) -> None:
    """Serve the parent at the other end of ``connection`` until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal: the parent decides
    stop, tasks = StopRequest(), queue.SimpleQueue[Any]()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    threading.Thread(target=_listen, args=(connection, stop, tasks), daemon=True).start()
    try:
        _serve(connection, make, tasks, stop)
    except (BrokenPipeError, ConnectionResetError):  # the parent has ended
        os._exit(1)
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(0)  # without the second that torch takes to leave


def _listen(connection: Connection, stop: StopRequest, tasks: queue.SimpleQueue[Any]) -> None:
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            os._exit(1)
        except Exception:  # something in it cannot be imported here
            traceback.print_exc()
            os._exit(1)
        if message[0] == "stop":
            stop.set()
        else:
            tasks.put(message)


def _serve(
    connection: Connection, make: MakeTrainer, tasks: queue.SimpleQueue[Any], stop: StopRequest
) -> None:
    work, number = tasks.get()
    trainer = make(work, lambda text: connection.send(("message", text)), number)
    connection.send(("ready",))
    while (task := tasks.get())[0] != "end":
        try:
            connection.send(_answer(task, trainer, connection, stop))
        except Interrupted as interruption:
            connection.send(("stopped", str(interruption)))
        except PinikitError as error:
            connection.send(("refused", error))


def _answer(task: Any, trainer: Trainer, connection: Connection, stop: StopRequest) -> Any:
    if task[0] == "plan":
        return "planned", trainer.plan()
    if task[0] == "warm":
        trainer.warm()
        return ("warm",)
    if task[0] == "adopt":
        trainer.adopt(task[1])
        return ("adopted",)
    if stop.is_set():
        raise Interrupted("stopped before it began")

    def begin() -> PipeSteps:
        connection.send(("began",))
        return PipeSteps(connection)

    results = trainer.train(task[1], begin, stop)
    return ("busy",) if results is None else ("done", dict(results))


class PipeSteps:
    """Tells the parent how far a group is, now and then."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._phase, self._last = "", 0.0

    def message(self, text: str) -> None:
        """A note worth a line."""
        self._connection.send(("message", text))

    def encoding(self, done: int, total: int) -> None:
        """Pictures that went through the frozen tower."""
        self._step("encoding", done, total)

    def training(self, epoch: int, epochs: int, **values: float) -> None:
        """Epochs done, with loss and accuracy."""
        self._step("training", epoch, epochs, **values)

    def evaluating(self, done: int, total: int) -> None:
        """Draws evaluated."""
        self._step("evaluating", done, total)

    def _step(self, phase: str, done: int, total: int, **values: float) -> None:
        now = time.monotonic()
        if phase != self._phase or now - self._last >= STEP_SECONDS:
            self._phase, self._last = phase, now
            self._connection.send(("step", phase, done, total, values))

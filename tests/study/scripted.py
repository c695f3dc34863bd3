"""A trainer that does what a script says instead of training: crash, hang, run out of memory."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pinikit.errors import PinikitError
from pinikit.study.executors import ERROR, MEMORY, Job, Planned
from pinikit.study.executors.trainer import Work
from pinikit.study.results import new_results, result_head, try_locks
from pinikit.study.resume import Interrupted, StopRequest
from pinikit.study.store import CHECKED_FILES, Store, StoredResult

SCRIPT = "script.json"
LOG = "log.txt"
"""What happened: a line for each."""


def write_script(folder: Path, **arms: Sequence[str]) -> None:
    """For each arm what happens at its first try, its second one, and so on; after that all goes well."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SCRIPT).write_text(json.dumps(arms))


def write_files(store: Store, run_id: str) -> None:
    """Stand-ins for what a finished run cannot be without."""
    store.run_folder(run_id).mkdir(parents=True, exist_ok=True)
    for name in CHECKED_FILES:
        (store.run_folder(run_id) / name).touch()


class Scripted:
    """Every run is a group; the store's folder has the script."""

    def __init__(self, work: Work, say: Callable[[str], None], number: int | None = None) -> None:
        self._work, self._say = work, say
        self._script = json.loads((work.store.folder / SCRIPT).read_text())

    def plan(self) -> Planned:
        return Planned(tuple((run.id,) for run in self._work.wanted), {}, ())

    def warm(self) -> None:
        pass

    def adopt(self, planned: Planned) -> None:
        pass

    def train(
        self, job: Job, begin: Callable[[], Any], stop: StopRequest
    ) -> Mapping[str, StoredResult] | None:
        (run,) = (self._work.runs[key] for key in job.wanted)
        with try_locks(self._work.store, [run]) as held:
            if not held:
                return None
            if found := new_results(self._work.store, job.wanted, job.known):
                return found
            acts = self._script.get(run.arm, [])
            act = acts[len(job.tries)] if len(job.tries) < len(acts) else "finish"
            if act == "never begin":
                time.sleep(600)
            steps = begin()
            steps.training(1, 10, loss=1.5)
            with (self._work.store.folder / LOG).open("a") as log:
                log.write(f"{os.getpid()} {run.arm} {run.seed}\n")
            content = self._act(act, stop)
            if content["status"] == "finished":
                write_files(self._work.store, run.id)
            head = result_head(run, self._work.study.name, job.tries)
            return {run.id: self._work.store.save(run.id, {**head, **content})}

    def _act(self, what: str, stop: StopRequest) -> dict[str, Any]:
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "exit":
            os._exit(3)
        elif what == "hang":
            while not stop.is_set():
                time.sleep(0.01)
            raise Interrupted("stopped")
        elif what == "hang on":
            time.sleep(600)
        elif what == "refuse":
            raise PinikitError("Cannot write it: the disk is full.")
        elif what in (ERROR, MEMORY):
            return {"status": "failed", "failure": what, "error": f"{what} at last"}
        return {"status": "finished", "metrics": {}, "costs": {}}

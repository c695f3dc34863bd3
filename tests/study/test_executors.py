"""Worker processes that crash, hang, lack memory, are stopped or have to wait. No torch is imported."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

sys.path.insert(0, str(Path(__file__).parents[1] / "reporting"))

from fabricated import make_study
from scripted import LOG, Scripted, write_files, write_script

from pinikit.errors import PinikitError
from pinikit.study.executors import CRASH, Job, Limits, Try, processes
from pinikit.study.executors.agenda import Agenda
from pinikit.study.executors.in_process import InProcess
from pinikit.study.executors.processes import Processes, threads_of_worker
from pinikit.study.executors.signals import interruptible, stopping
from pinikit.study.executors.trainer import Work
from pinikit.study.results import known_results, result_head
from pinikit.study.resume import Interrupted, StopRequest
from pinikit.study.store import Store, StoredResult
from pinikit.study.study import Run


class Watch:
    """Remembers what it is told; stands for the steps, too."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.begun: list[str] = []
        self.on_begin: Callable[[], Any] = lambda: None

    def began(self, runs: Sequence[Run]) -> Any:
        self.begun += [f"{run.arm} {run.seed}" for run in runs]
        self.on_begin()
        return self

    def message(self, text: str) -> None:
        self.messages.append(text)

    def training(self, epoch: int, epochs: int, **values: float) -> None:
        pass


class Scene:
    """A study of eight runs, and what becomes of it."""

    def __init__(self, folder: Path) -> None:
        self.study = make_study(folder, overrides=["seeds=[1,2]"])
        self.store = Store(folder / "runs")
        self.store.prepare()
        self.work = Work(self.study, frozenset(run.id for run in self.study.runs), "auto", self.store)
        self.watch, self.stop = Watch(), StopRequest()
        self.results: dict[str, StoredResult] = {}

    def jobs(self) -> list[Job]:
        known = known_results(self.store, self.work.todo)
        return [Job((run.id,), (run.id,), known) for run in self.study.runs]

    def run(self, count: int, limits: Limits) -> dict[str, StoredResult]:
        """Train everything in ``count`` workers, in none for 0; results by arm and seed."""
        executor: Any
        if count:
            executor = Processes(self.work, count, limits, self.watch, self.stop, Scripted)
        else:
            trainer = Scripted(self.work, self.watch.message)
            executor = InProcess(self.work, trainer, limits, self.watch, self.stop)
        with closing(executor):
            for results in executor.map(self.jobs()):
                self.results |= results
        return {f"{self.work.runs[key].arm} {self.work.runs[key].seed}": r for key, r in self.results.items()}

    def log(self) -> list[str]:
        path = self.store.folder / LOG
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def outcome(result: StoredResult) -> tuple[str, str, list[str]]:
    content = result.content
    return content["status"], content.get("failure", ""), [item["failure"] for item in content["tries"]]


def test_crashes_hangs_and_lack_of_memory_are_the_run_s_own(scene: Scene) -> None:
    """Each arm has another trouble; what another try heals is healed, and the rest is recorded."""
    write_script(
        scene.store.folder,
        zero_shot=["kill"],
        text_side=["exit", "kill"],
        image_side=["memory", "memory"],
        both=["hang on", "error"],
    )
    results = scene.run(3, Limits(retries=1, time_limit=3.0))
    assert {key: outcome(result) for key, result in results.items()} == {
        **{f"zero_shot {seed}": ("finished", "", ["crash"]) for seed in (1, 2)},
        **{f"text_side {seed}": ("failed", "crash", ["crash"]) for seed in (1, 2)},
        **{f"image_side {seed}": ("failed", "memory", ["memory"]) for seed in (1, 2)},
        **{f"both {seed}": ("failed", "error", ["time"]) for seed in (1, 2)},
    }
    assert "was ended by signal SIGKILL (9) while training, 1 of 10" in results["text_side 1"].error
    (first,) = results["text_side 1"].content["tries"]
    assert "ended with exit code 3 while training, 1 of 10" in first["reason"]
    (slow,) = results["both 1"].content["tries"]
    assert slow["reason"].startswith("it took longer than --time-limit (3 s) and was ended")
    for run in scene.study.runs:
        stored = scene.store.load(run.id)
        assert stored is not None, "what is reported is in the store"
        assert stored.content == results[f"{run.arm} {run.seed}"].content
    assert sum("is tried again (retry 1 of 1)" in text for text in scene.watch.messages) == 8
    assert len(scene.log()) == 16, "every run twice"


def test_a_worker_that_never_begins_its_job_is_ended(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "START_SECONDS", 4.0)
    write_script(scene.store.folder, zero_shot=["never begin"])
    results = scene.run(2, Limits(retries=0, time_limit=1.0))
    assert outcome(results["zero_shot 1"]) == ("failed", "time", [])
    assert len(results) == 8


def test_a_closed_agenda_takes_nothing_back(scene: Scene) -> None:
    jobs = scene.jobs()
    agenda = Agenda(jobs, scene.work.runs, scene.store, "sites", Limits(fail_fast=True), lambda text: None)
    agenda.next()
    agenda.close()
    agenda.busy(jobs[0])
    assert not agenda


def test_a_worker_that_dies_while_it_tests_elsewhere_costs_no_result(scene: Scene) -> None:
    run = scene.study.runs[0]
    write_files(scene.store, run.id)
    head = {**result_head(run, "sites", ()), "status": "finished", "metrics": {"test": {}}, "costs": {}}
    scene.store.save(run.id, {**head, "untested": {"sketch": "the test was interrupted"}})
    job = replace(scene.jobs()[0], retest=True)
    agenda = Agenda([], scene.work.runs, scene.store, "sites", Limits(retries=1), lambda text: None)
    assert agenda.lost(job, Try(CRASH, "it was killed")) == {}
    again = agenda.next()
    assert again is not None
    assert again.retest
    (result,) = agenda.lost(again, Try(CRASH, "and again")).values()
    assert result == scene.store.load(run.id)
    assert result.finished
    assert result.untested == {"sketch": "and again"}


@pytest.mark.parametrize("count", [0, 1])
def test_fail_fast_starts_nothing_new(scene: Scene, count: int) -> None:
    write_script(scene.store.folder, text_side=["error"])
    results = scene.run(count, Limits(fail_fast=True))
    assert list(results) == ["zero_shot 1", "zero_shot 2", "text_side 1"]
    assert not results["text_side 1"].finished
    assert len(scene.log()) == 3


def test_no_retries(scene: Scene) -> None:
    write_script(scene.store.folder, both=["memory"])
    results = scene.run(0, Limits(retries=0))
    assert outcome(results["both 1"]) == ("failed", "memory", [])
    assert scene.watch.messages == []


def test_a_stop_request_reaches_the_workers(scene: Scene) -> None:
    write_script(scene.store.folder, **{arm: ["hang"] for arm in scene.study.arms})
    scene.watch.on_begin = lambda: len(scene.watch.begun) < 2 or scene.stop.set()
    with pytest.raises(Interrupted):
        scene.run(2, Limits())
    assert len(scene.log()) == 2
    assert scene.results == {}
    assert known_results(scene.store, scene.work.todo) == {}, "a run that was stopped has not failed"


def test_an_error_of_the_disk_ends_the_study(scene: Scene) -> None:
    write_script(scene.store.folder, text_side=["refuse"], image_side=["hang on"])
    with pytest.raises(PinikitError, match="the disk is full"):
        scene.run(1, Limits())
    assert len(scene.results) == 2


@pytest.mark.parametrize("count", [0, 2])
def test_what_another_process_trains_is_left_to_it(scene: Scene, count: int) -> None:
    """Its result is taken, a failed one too; where it dies without one, the run is trained here."""
    write_script(scene.store.folder)
    theirs, left = scene.study.run("text_side", 1), scene.study.run("both", 2)
    paths = [scene.store.lock(run.id).lock_file for run in (theirs, left)]
    locks = [FileLock(path, thread_local=False) for path in paths]
    for lock in locks:
        lock.acquire()

    def work_elsewhere() -> None:
        while not any("waiting" in text for text in scene.watch.messages):
            time.sleep(0.01)
        head = result_head(theirs, "sites", ())
        scene.store.save(theirs.id, {**head, "status": "failed", "failure": "error", "error": "theirs"})
        for lock in locks:
            lock.release()

    thread = threading.Thread(target=work_elsewhere)
    thread.start()
    results = scene.run(count, Limits())
    thread.join()
    assert len(results) == 8
    assert results["text_side 1"].error == "theirs"
    assert results["both 2"].finished
    told = {f"waiting for {runs} that another process trains" for runs in ("2 runs", "1 run")[: 1 + count]}
    assert told & set(scene.watch.messages), "a worker may be idle while another looks at the second run"
    assert sorted(line.split(" ", 1)[1] for line in scene.log()) == sorted(
        key for key in results if key != "text_side 1"
    )


def test_a_worker_that_cannot_start_is_one_error(scene: Scene) -> None:
    """As of a script without ``if __name__ == "__main__":``."""
    scene.store.folder.mkdir(exist_ok=True)  # without a script, so the trainer cannot be made
    with pytest.raises(PinikitError, match="exit code 1 before it was ready"):
        scene.run(1, Limits())


@pytest.fixture
def orphans(scene: Scene) -> list[int]:
    """Workers of a parent that was killed."""
    write_script(scene.store.folder, zero_shot=["hang on"])
    pid = os.fork()
    if pid == 0:
        scene.watch.on_begin = lambda: len(scene.watch.begun) == 2 and os.kill(os.getpid(), signal.SIGKILL)
        scene.run(2, Limits())
        os._exit(0)
    os.waitpid(pid, 0)
    return [int(line.split()[0]) for line in scene.log()]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_end_with_their_parent(orphans: list[int]) -> None:
    assert len(orphans) == 2
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in orphans) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in orphans)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_the_first_signal_asks_and_the_second_ends() -> None:
    stop, told = StopRequest(), threading.Event()
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stopping(stop, told.set):
        os.kill(os.getpid(), signal.SIGTERM)
        assert told.wait(10)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), signal.SIGTERM)


def test_what_a_signal_tells_comes_before_what_is_said_at_the_end() -> None:
    lines = []

    def tell() -> None:
        time.sleep(0.2)  # a busy machine
        lines.append("stopping")

    with stopping(StopRequest(), tell):
        os.kill(os.getpid(), signal.SIGINT)
    assert lines == ["stopping"]


def test_workers_share_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert [threads_of_worker(count) for count in (1, 2, 3, 16)] == [None, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_of_worker(2) is None, "somebody has decided"

"""What the drills of searches share: a study, the command in processes of its own, what a storage holds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from pinikit.tuning.storage import close_storage, open_storage
from pinikit.tuning.tickets import Board

STUDY = """\
name: drill
run:
  data: {name: digits, shots: 4, views: 1}
  method:
    name: pini
    injections:
      text: {site: prompt_template, injector: free, noise: gaussian}
      image: {site: image_feature, injector: mlp, share: image}
    optim: {lr: 0.01, epochs: 10, batch_size: 8}
  device: cpu
  threads: 1
seeds: [1, 2]
search:
  injections.image.noise: [gaussian, laplace, uniform]
  optim.lr: {low: 1.0e-3, high: 0.1, log: true}
"""
"""A trial takes about a second, so that it can be hit."""

FIRST = """\
import sys
sys.modules["transformers"] = None
import pinikit.tuning.publishing as publishing
publishing._write_page = lambda result, store: ""
"""
"""What each process executes first: what takes long and is not looked at here is left out."""

OVER = (TrialState.COMPLETE, TrialState.PRUNED)


class Drill:
    """A search in a folder, and the processes that were begun for it."""

    def __init__(self, folder: Path, storage: str | None, trials: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.storage, self.trials = folder, storage, trials
        (folder / "drill.yaml").write_text(STUDY, encoding="utf-8")
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(FIRST, encoding="utf-8")
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *words: str, runs: str = "runs") -> subprocess.Popen[str]:
        """The command; output goes to a file."""
        command = [sys.executable, "-m", "pinikit", "tune", "drill.yaml", "--trials", str(self.trials)]
        command += ["--storage", self.storage] if self.storage else []
        log = (self.folder / f"log{len(self._started)}.txt").open("w", encoding="utf-8")
        process = subprocess.Popen(
            [*command, "--runs", runs, *words],
            cwd=self.folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.folder / "site")},
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def output(self) -> str:
        """All that the commands have said."""
        return "\n".join(path.read_text(encoding="utf-8") for path in sorted(self.folder.glob("log*.txt")))

    def stop(self) -> None:
        """End whatever still works; the sessions are our own."""
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def board(self, runs: str = "runs") -> Board:
        """The search's places now; empty before it has begun."""
        folder = self.folder / runs / "studies" / "drill"
        if self.storage is None and not (folder / "search.db").is_file():
            return Board([], self.trials)
        storage = open_storage(self.storage, folder, lambda text: None)
        try:
            if "drill" not in optuna.get_all_study_names(storage):
                return Board([], self.trials)
            study = optuna.load_study(storage=storage, study_name="drill")
            return Board(study.get_trials(deepcopy=False), self.trials)
        finally:
            close_storage(storage)

    def wait_for(self, what: Callable[[Board], Any], seconds: float = 200) -> Any:
        """Look until there is something; tells what was said if there is nothing."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := what(self.board()):
                return found
            time.sleep(0.1)
        raise AssertionError(f"waited in vain:\n{self.output()}")

    def kill_a_worker(self, replace: Callable[[], Any] = lambda: None) -> int:
        """``kill -9`` a process in the middle of a trial; returns its number.

        Args:
            replace: called where the trial was over before the kill came, which is seen in one of ten;
                another process is killed then.
        """

        def training(board: Board) -> Any:
            for trial in board.running:
                pid = int(str(trial.user_attrs.get("worker") or ":0").rpartition(":")[2])
                if trial.intermediate_values and pid not in missed:
                    return pid, trial.number
            return None

        missed = {0}
        while True:
            pid, number = self.wait_for(training)
            os.kill(pid, signal.SIGKILL)
            if all(trial.number != number for trial in self.board().final.values()):
                return int(pid)
            missed.add(pid)
            replace()

    def check_total(self) -> None:
        """Exactly the trials that were asked for are over, each once."""
        board = self.board()
        assert board.finished, self.output()
        assert sorted(board.final) == list(range(self.trials))
        assert all(trial.state in OVER for trial in board.final.values()), self.output()
        storage = open_storage(self.storage, self.folder / "runs" / "studies" / "drill", lambda text: None)
        trials = optuna.load_study(storage=storage, study_name="drill").get_trials()
        close_storage(storage)
        over = Counter(trial.user_attrs["place"] for trial in trials if trial.state in OVER)
        assert over == dict.fromkeys(range(self.trials), 1)
        assert not [trial for trial in trials if trial.state == TrialState.RUNNING]

"""A small search for the engine's tests: really trained, or with a metric made of the configuration."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial

from pinikit.study import run as run_module
from pinikit.study.store import Store
from pinikit.tuning import engine as engine_module
from pinikit.tuning.engine import Engine
from pinikit.tuning.objective import PHASES, Measured, Objective, Report, is_reported
from pinikit.tuning.reporting import TuneReporter
from pinikit.tuning.request import Request
from pinikit.tuning.study import TuneStudy, resolve_tune

STUDY = """\
name: tiny
question: Which noise?
run:
  data: {name: digits, shots: 2, views: 1}
  method:
    name: pini
    injections:
      image: {site: image_feature, injector: mlp, noise: gaussian, share: image}
    optim: {lr: 0.01, epochs: 3, batch_size: 8}
  device: cpu
  threads: 1
seeds: [1, 2]
search:
  injections.image.noise: [gaussian, laplace, uniform]
  optim.lr: {low: 1.0e-3, high: 0.1, log: true}
tune: {seed: 7}
"""


@dataclass
class Told(TuneReporter):
    """Keeps what it is told; sends this process a signal when a trial with a number begins."""

    stop_at: int | None = None
    began: list[int] = field(default_factory=list)
    over: list[FrozenTrial] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    done: int = -1

    def started(self, study: TuneStudy, total: int, done: int, earlier: Any = ()) -> None:
        self.done = done
        assert len(earlier) >= done

    def trial_started(self, number: int) -> None:
        self.began.append(number)
        if number == self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    def trial_finished(self, trial: FrozenTrial) -> None:
        self.over.append(trial)

    def message(self, text: str) -> None:
        self.messages.append(text)


@contextmanager
def engine_of(
    folder: Path,
    trials: int,
    told: TuneReporter | None = None,
    text: str = STUDY,
    jobs: int = 1,
    **changes: Any,
) -> Iterator[Engine]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.yaml").write_text(text)
    store = Store(folder / "runs")
    store.prepare()
    study = resolve_tune(folder / "tiny.yaml", changes)
    request = Request(str(study.file), trials=trials, jobs=jobs)
    with closing(Engine(study, request, store, told or TuneReporter())) as engine:
        yield engine


def search(folder: Path, trials: int, told: TuneReporter | None = None, **more: Any) -> list[FrozenTrial]:
    """All trials of a search after a call."""
    with engine_of(folder, trials, told, **more) as engine:
        engine.work()
        return list(engine.found.get_trials())


def sequence(trials: list[FrozenTrial]) -> list[Any]:
    """What must come out again: parameters, values, what the pruner was told."""
    over = sorted(
        (trial for trial in trials if trial.state.is_finished()), key=lambda trial: trial.user_attrs["place"]
    )
    return [
        (trial.params, trial.values, trial.state, trial.user_attrs.get("hash"), trial.intermediate_values)
        for trial in over
    ]


@pytest.fixture(autouse=True, scope="module")
def one_backbone() -> Iterator[None]:
    """Loaded once for all searches: nothing changes it. Reports are not looked at here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pinikit.reporting.write_report", lambda result: None)
        patch.setattr(run_module, "load_backbone", cache(run_module.load_backbone))
        yield


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches of a folder are kept in this process, where no database has to be created."""
    kept: dict[Path, Any] = {}

    def opened(where: str | None, folder: Path, say: Callable[[str], None]) -> Any:
        return kept.setdefault(folder, optuna.storages.InMemoryStorage())

    monkeypatch.setattr(engine_module, "open_storage", opened)


@dataclass
class Rig:
    """Stands for training: accuracy is made of learning rate and noise, and grows with the epochs."""

    calls: list[tuple[str, bool]] = field(default_factory=list)
    """Noise (or method), and whether seeds were trained apart, of each training."""
    before: Callable[[str], None] = lambda noise: None
    """Called with the noise when a training begins; may raise."""

    def measure(self, runs: Sequence[Any], report: Report | None = None, *, apart: bool = False) -> Measured:
        method = runs[0].config["method"]
        noise = method["injections"]["image"]["noise"]["name"] if "injections" in method else method["name"]
        self.calls.append((noise, apart))
        self.before(noise)
        optim = method.get("optim", {"lr": 1e-2, "epochs": 0})
        worth = 80.0 - 10 * abs(math.log10(optim["lr"]) + 1.5) + 2 * (noise == "laplace")
        rows = {run.seed: worth + 0.1 * run.seed for run in runs}
        for done, value in enumerate(rows.values()) if report and apart else ():
            report(done, value)
        for epoch in range(1, optim["epochs"] + 1) if report and not apart else ():
            if is_reported(epoch):
                report(epoch, sum(rows.values()) / len(rows) * epoch / optim["epochs"])
        by_seed = {
            seed: {"accuracy": value, "macro_accuracy": value, "nll": 100 - value, "ece": 1.0, "seconds": 0.0}
            for seed, value in rows.items()
        }
        return Measured(by_seed, dict.fromkeys(PHASES, 0.0), ())


@pytest.fixture
def rig(memory: None, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """Nothing is trained."""
    rig = Rig()
    monkeypatch.setattr(Objective, "measure", lambda self, *values, **named: rig.measure(*values, **named))
    return rig

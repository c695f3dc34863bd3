"""What a trial is worth: a configuration trained with every seed and evaluated on validation data alone."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from pinikit.components.contracts import Footprint, Predictor
from pinikit.data.files import canonical_json
from pinikit.errors import PinikitError
from pinikit.study.groups import group_runs, shapes_of
from pinikit.study.resume import Interrupted, StopRequest
from pinikit.study.run import THREADS, Workshop, method_of
from pinikit.study.study import Run
from pinikit.training.bank import Bank
from pinikit.training.context import Checkpoints, RunContext, Watch
from pinikit.training.evaluation import evaluate
from pinikit.training.precision import exact_convolutions
from pinikit.training.task import Task, make_task
from pinikit.tuning.feasibility import Fits
from pinikit.tuning.study import TuneStudy

CLASSIFICATION = ("accuracy", "macro_accuracy", "nll", "ece")
"""What is kept of each seed's evaluation."""

PHASES = ("bank", "train", "evaluate")
"""What a measurement's seconds are told apart by."""

EVERY = 10
"""Epochs that are all reported; then strides double."""

Report = Callable[[int, float], None]
"""Told a step (epochs done, or seeds done) and the metric's mean; may raise to end the trial."""


@dataclass(frozen=True)
class Measured:
    """What a configuration came to."""

    by_seed: Mapping[int, Mapping[str, float]]
    """By seed: :data:`CLASSIFICATION`, and ``seconds``, an equal share of training and evaluation."""
    seconds: Mapping[str, float]
    """By :data:`PHASES`."""
    notes: tuple[str, ...]

    def means(self, metrics: Sequence[str]) -> list[float]:
        """Means over the seeds."""
        return [sum(row[key] for row in self.by_seed.values()) / len(self.by_seed) for key in metrics]


class Objective:
    """Trains configurations with the study's seeds and evaluates them on the val split.

    The test split is not there: ``fits`` resolves runs with manifests that have none.

    Args:
        study: the tune study.
        workshop: backbones and banks.
        fits: has looked at the configurations before, and knows what they cost.
        stop: looked at between two steps.
    """

    def __init__(self, study: TuneStudy, workshop: Workshop, fits: Fits, stop: StopRequest) -> None:
        self._study, self._workshop, self._stop = study, workshop, stop
        self.runs, self._look = fits.runs, fits.look
        self._clock = _Clock()

    def check(self, runs: Sequence[Run]) -> None:
        """Look whether the pictures are there.

        Raises:
            DataError: some are not.
        """
        for error in self._look.pictures(runs).values():
            raise error

    def hash_of(self, runs: Sequence[Run]) -> str:
        """Equal where a trial would come out the same: configuration, seeds, pictures, noise treatment."""
        content = canonical_json({"runs": [run.id for run in runs], "noise": self._study.tune.noise})
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def measure(self, runs: Sequence[Run], report: Report | None = None, *, apart: bool = False) -> Measured:
        """Train and evaluate all runs.

        Args:
            runs: of one configuration.
            report: told the first metric after epochs (:func:`is_reported`), if all seeds are trained
                together; with ``apart`` after each seed.
            apart: train one seed after the other.

        Raises:
            PinikitError: the configuration cannot be trained.
            Interrupted: a stop was requested.
        """
        self._clock = clock = _Clock()
        footprint, notes = self._footprint(runs[0]), list[str]()
        groups = [(run,) for run in runs] if apart else group_runs(runs, {runs[0].arm: footprint})
        each_epoch = report if len(groups) == 1 and not apart else None
        if report is not None and not apart and len(groups) > 1 and footprint.epochs:
            notes.append("not pruned: its seeds take too much memory to be trained together")
        rows: dict[int, dict[str, float]] = {}
        for done, group in enumerate(groups):
            rows |= self._measure_group(group, clock, each_epoch)
            if report is not None and apart:
                with clock.phase("report"):
                    report(done, rows[group[0].seed][self._study.tune.metrics[0]])
        seconds = self.spent
        share = (seconds["train"] + seconds["evaluate"]) / len(runs)
        by_seed = {run.seed: {**rows[run.seed], "seconds": share} for run in runs}
        return Measured(by_seed, seconds, tuple(notes))

    @property
    def spent(self) -> dict[str, float]:
        """Seconds by phase of the measurement that began last."""
        return {phase: self._clock.seconds.get(phase, 0.0) for phase in PHASES}

    def release(self) -> None:
        """Let go of banked rows that nothing uses."""
        for bank in self._workshop.banks.values():
            bank.release()

    def _footprint(self, run: Run) -> Footprint:
        found = self._look.footprint(run, shapes_of([run])[0])
        if isinstance(found, PinikitError):
            raise found
        return found

    def _measure_group(
        self, group: Sequence[Run], clock: _Clock, report: Report | None
    ) -> dict[int, dict[str, float]]:
        """Metrics by seed of runs that are trained as one computation."""
        config = group[0].config
        torch.set_num_threads(config["threads"] or THREADS)
        bank, prompts = self._workshop.bank(group[0]), self._workshop.prompts_of(group[0])
        views = config["data"]["views"]
        tasks = [make_task(bank, prompts, run.manifest, views, self._look_for_stop) for run in group]
        examiner = _Examiner(self._study, bank, clock, self._look_for_stop)
        pulse = _Pulse(len(group), examiner, self._look_for_stop, report)
        contexts = [
            RunContext(
                run.seed,
                bank.device,
                config["precision"],
                checkpoints=pulse,
                watch=pulse.watching(run, task) if report else None,
            )
            for run, task in zip(group, tasks, strict=True)
        ]
        with exact_convolutions():
            with clock.phase("train", bank):
                predictors = _fit(group, tasks, contexts)
            return {
                run.seed: examiner.metrics(run, task, predictor)
                for run, task, predictor in zip(group, tasks, predictors, strict=True)
            }

    def _look_for_stop(self, done: int = 0, total: int = 0) -> None:
        if self._stop.is_set():
            raise Interrupted("stopped between two steps")


def _fit(group: Sequence[Run], tasks: Sequence[Task], contexts: Sequence[RunContext]) -> list[Predictor]:
    methods = [method_of(run) for run in group]
    if len(group) == 1:
        return [methods[0].fit(tasks[0], contexts[0])]
    fitted = []
    for run, outcome in zip(group, type(methods[0]).fit_together(methods, tasks, contexts), strict=True):
        if isinstance(outcome, PinikitError):
            raise type(outcome)(f"seed {run.seed}: {outcome}") from outcome
        fitted.append(outcome)
    return fitted


class _Examiner:
    """Evaluates predictors on their task's val split, as the study says."""

    def __init__(self, study: TuneStudy, bank: Bank, clock: _Clock, progress: Callable[..., None]) -> None:
        self.clock = clock
        self.metric = study.tune.metrics[0]
        self._mode, self._bank, self._progress = study.tune.noise, bank, progress

    def metrics(self, run: Run, task: Task, predictor: Predictor) -> dict[str, float]:
        assert task.val is not None  # manifests of the tuner have one
        with self.clock.phase("evaluate", self._bank):
            found = evaluate(
                predictor,
                task.val,
                [self._mode],
                seed=run.seed,
                batch_size=run.config["evaluate"]["batch_size"],
                progress=self._progress,
            )[self._mode]
        return {key: found[key] for key in CLASSIFICATION}


class _Pulse(Checkpoints):
    """What training calls after each epoch: reports the mean over a group's runs, and looks for a stop."""

    def __init__(
        self, count: int, examiner: _Examiner, look: Callable[[], None], report: Report | None
    ) -> None:
        self._count, self._examiner, self._look, self._report = count, examiner, look, report
        self._seen: list[float] = []

    def watching(self, run: Run, task: Task) -> Watch:
        """What looks at a run of the group."""

        def watch(epoch: int, predictor: Predictor) -> None:
            if is_reported(epoch):
                self._seen.append(self._examiner.metrics(run, task, predictor)[self._examiner.metric])

        return watch

    def offer(self, epoch: int, epochs: int, state: Callable[[], Any]) -> None:
        """Report what was seen; nothing is kept, as trials are short.

        Raises:
            Interrupted: a stop was requested.
        """
        self._look()
        seen, self._seen = self._seen, []
        if self._report is not None and len(seen) == self._count:  # else one of them has failed
            with self._examiner.clock.phase("report"):
                self._report(epoch, sum(seen) / len(seen))


def is_reported(epoch: int) -> bool:
    """Whether an epoch is reported: each up to the 10th, every 2nd up to the 20th, every 4th up to the 40th.

    And so on: the same for all trials, so that they can be compared; and long ones are not slowed down.
    """
    stride = 1
    while epoch > EVERY * stride:
        stride *= 2
    return epoch % stride == 0


@dataclass
class _Clock:
    """Seconds by phase; phases may lie inside each other, and the bank's seconds are a phase of their own."""

    seconds: dict[str, float] = field(default_factory=dict)
    _inner: list[list[float]] = field(default_factory=lambda: [[0.0, 0.0]])
    """For each phase under way: seconds of the phases inside it, and those of the bank among them."""

    @contextmanager
    def phase(self, name: str, bank: Bank | None = None) -> Iterator[None]:
        """Count the block's seconds, without those of phases inside it and of the bank."""
        start, before = time.perf_counter(), bank.seconds if bank else 0.0
        self._inner.append([0.0, 0.0])
        try:
            yield
        finally:
            inside, banked_inside = self._inner.pop()
            whole, banked = time.perf_counter() - start, (bank.seconds if bank else 0.0) - before
            own_bank = banked - banked_inside
            self._add("bank", own_bank)
            self._add(name, whole - inside - own_bank)
            self._inner[-1][0] += whole
            self._inner[-1][1] += banked

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

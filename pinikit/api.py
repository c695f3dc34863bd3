"""The Python API; the command line is a thin skin on it. Imports torch only to train or predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pinikit.data.files import write_json
from pinikit.data.view_bank import user_bank
from pinikit.errors import ConfigError, PinikitError
from pinikit.plugin import plugins
from pinikit.study.groups import group_runs, largest_group, related_runs
from pinikit.study.store import Store, StoredResult
from pinikit.study.study import Run, Study, resolve_study

if TYPE_CHECKING:
    import pandas as pd

    from pinikit.components.contracts import Footprint
    from pinikit.study.bank_plan import BankPlan
    from pinikit.study.predictor import LoadedPredictor
    from pinikit.study.run import Workshop


class Reporter:
    """How long work is shown. This one shows nothing; the command line has one for each kind of output."""

    def study_started(self, study: Study, todo: int, finished: int) -> None:
        """The study is resolved; ``todo`` runs will be trained, ``finished`` ones are there already."""

    def message(self, text: str) -> None:
        """A note worth a line."""

    def group_started(self, runs: Sequence[Run], index: int, total: int) -> None:
        """Runs that are trained together begin; the first of them is run ``index`` (from 1) of ``total``."""

    def encoding(self, done: int, total: int) -> None:
        """Pictures that went through the frozen tower."""

    def training(self, epoch: int, epochs: int, **values: float) -> None:
        """Epochs done, with ``loss`` and training ``accuracy`` in percent."""

    def evaluating(self, done: int, total: int) -> None:
        """Draws evaluated."""

    def run_finished(self, run: Run, result: StoredResult) -> None:
        """The run ended, well or not."""

    def study_finished(self) -> None:
        """No run is left."""


@dataclass(frozen=True)
class Plan:
    """A study that was resolved and validated, and what it would cost."""

    study: Study
    footprints: Mapping[str, Footprint]
    """By arm."""
    finished: frozenset[str]
    """Identities of the runs that are there already."""
    groups: tuple[tuple[Run, ...], ...]
    """Runs that are trained together."""
    bank: BankPlan
    """What the runs to do take of the view bank."""
    messages: tuple[str, ...]


@dataclass(frozen=True)
class StudyResult:
    """A study with the results of its runs, by arm and seed."""

    study: Study
    results: Mapping[tuple[str, int], StoredResult]
    folder: Path

    @property
    def failed(self) -> list[StoredResult]:
        """The runs that failed, in the study's order."""
        return [result for result in self.results.values() if not result.finished]

    def table(self) -> pd.DataFrame:
        """One row per arm: accuracy with its interval, paired difference to the baseline, costs."""
        from pinikit.study.statistics import summarise

        return summarise(self.study, self.results)


def plan_study(
    source: str | Path,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    arms: str | None = None,
    runs: str | Path = "runs",
    fuse: str = "auto",
) -> Plan:
    """Resolve and validate a study without training anything; arguments as for :func:`run_study`.

    Raises:
        PinikitError: what ``run_study`` would refuse.
    """
    from pinikit.study.bank_plan import plan_bank
    from pinikit.study.run import Workshop

    study = resolve_study(source, overrides, arms)
    workshop = Workshop()
    footprints = _check(study, list(study.runs), workshop)
    groups = tuple(group_runs(study.runs, footprints, fuse))
    store = Store(runs)
    finished = frozenset(run.id for run in study.runs if _stored(store, run.id))
    todo = [run for group in groups if any(run.id not in finished for run in group) for run in group]
    bank = plan_bank(todo, footprints, workshop)
    return Plan(study, footprints, finished, groups, bank, (*study.notes, *workshop.messages()))


def run_study(
    source: str | Path,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    arms: str | None = None,
    runs: str | Path = "runs",
    fuse: str = "auto",
    reporter: Reporter | None = None,
) -> StudyResult:
    """Run what is not finished yet of a study, and write its tables, figure and report.

    Args:
        source: a study file, or the name of a shipped study such as ``injection_sites``.
        overrides: ``key.path=value`` words or a mapping of key paths.
        arms: comma-separated shell patterns of arms to take; the baseline is always taken.
        runs: the folder of the result store.
        fuse: how many runs are trained as one computation: ``auto``, ``off`` or the most that may be.
        reporter: how progress is shown.

    Raises:
        ConfigError, DataError, WeightsError: before anything is trained, or when the disk or a picture
            fails on the way. A run that fails by itself is in the result instead.
    """
    from pinikit.reporting import write_report

    largest_group(fuse)
    reporter = reporter or Reporter()
    study = resolve_study(source, overrides, arms)
    store = Store(runs)
    store.prepare()
    results = _finished(study, store, reporter)
    todo = [run for run in study.runs if (run.arm, run.seed) not in results]
    plugins().notify(
        "pinikit_study_started", study=study.name, folder=store.study_folder(study.name), runs=len(todo)
    )
    for note in study.notes:
        reporter.message(note)
    if todo:
        results |= _train(study, todo, fuse, store, reporter)
    else:
        reporter.study_started(study, 0, len(results))
    ordered = {(run.arm, run.seed): results[run.arm, run.seed] for run in study.runs}
    result = StudyResult(study, ordered, store.study_folder(study.name))
    _write_index(result)
    write_report(result)
    plugins().notify("pinikit_report", study=study.name, folder=result.folder)
    reporter.study_finished()
    return result


def load_predictor(path: str | Path, device: str = "auto") -> LoadedPredictor:
    """A finished run's predictor, from the run's folder.

    Raises:
        WeightsError: the checkpoint is missing or damaged.
    """
    from pinikit.study.predictor import LoadedPredictor

    return LoadedPredictor(path, device)


def predict(
    run: str | Path, images: Sequence[Path], *, runs: str | Path = "runs", top: int = 5
) -> list[list[tuple[str, float]]]:
    """The ``top`` classes of each picture by a finished run, named by its folder or identity.

    Raises:
        ConfigError: there is no such run.
        DataError: a picture cannot be read.
        WeightsError: the checkpoint is damaged.
    """
    return load_predictor(find_run(run, runs)).classify(list(images), top)


def find_run(run: str | Path, runs: str | Path = "runs") -> Path:
    """A run's folder, from the folder itself or the first digits of its identity.

    Raises:
        ConfigError: no run, or several, begin so.
    """
    if Path(run).is_dir():
        return Path(run)
    folder = Path(runs) / "by-id"
    found = sorted(path for path in folder.glob(f"{run}*") if path.is_dir()) if str(run).isalnum() else []
    if len(found) != 1:
        what = "no run begins so" if not found else f"{len(found)} runs begin so"
        raise ConfigError(f"run {str(run)!r}: {what} in {folder}; allowed: a run's folder, or its identity")
    return found[0]


def _stored(store: Store, run_id: str) -> StoredResult | None:
    """A finished result; failed ones are tried again."""
    result = store.load(run_id)
    return result if result is not None and result.finished else None


def _finished(study: Study, store: Store, reporter: Reporter) -> dict[tuple[str, int], StoredResult]:
    found = {}
    for run in study.runs:
        if damage := store.damage(run.id):
            reporter.message(
                f"run {run.id} (arm {run.arm}, seed {run.seed}) is damaged and will be run again: {damage}"
            )
        elif (result := _stored(store, run.id)) is not None:
            found[run.arm, run.seed] = result
    return found


def _check(study: Study, runs: list[Run], workshop: Workshop) -> dict[str, Footprint]:
    """Validate the arms of ``runs``; all that is wrong is said at once."""
    from pinikit.study.run import check_run

    wrong: list[PinikitError] = []
    lines: list[str] = []
    footprints: dict[str, Footprint] = {}
    for run in {(run.arm, run.manifest.hash): run for run in runs}.values():
        try:
            run.dataset.check(run.manifest.items)
            if run.arm not in footprints:
                footprints[run.arm] = check_run(run, workshop)
        except PinikitError as error:
            wrong.append(error)
            lines.append(f"{study.file}: arm {run.arm!r}: {error}")
    if wrong:
        raise type(wrong[0])("\n".join(dict.fromkeys(lines)))
    return footprints


def _train(
    study: Study, todo: list[Run], fuse: str, store: Store, reporter: Reporter
) -> dict[tuple[str, int], StoredResult]:
    from pinikit.study.bank_plan import expect
    from pinikit.study.run import Workshop

    workshop = Workshop(disk=user_bank(reporter.message))
    related = related_runs(study.runs, todo)
    footprints = _check(study, related, workshop)
    for message in workshop.messages():
        reporter.message(message)
    wanted: dict[str, Run] = {}
    for run in todo:
        wanted.setdefault(run.id, run)
    groups = group_runs(related, footprints, fuse)
    expect(todo, footprints, workshop)
    reporter.study_started(study, len(wanted), len(study.runs) - len(todo))
    stored: dict[str, StoredResult] = {}
    for group in groups:
        members = {run.id for run in group}
        unfinished = [run for run in wanted.values() if run.id in members]
        if unfinished:
            reporter.group_started(unfinished, len(stored) + 1, len(wanted))
            _tell_repeated(reporter, group, unfinished)
            stored |= _train_group(study, group, unfinished, footprints, store, workshop, reporter)
            for bank in workshop.banks.values():
                bank.release()
    return {(run.arm, run.seed): stored[run.id] for run in todo}


def _tell_repeated(reporter: Reporter, group: Sequence[Run], unfinished: Sequence[Run]) -> None:
    """Say it where finished runs are trained once more for the sake of the others."""
    if len(group) > len(unfinished):
        reporter.message(
            f"arm {unfinished[0].arm}: a group of {len(group)} runs is trained whole, with "
            f"{len(group) - len(unfinished)} finished ones, so that numbers do not depend on interruptions; "
            "their results stay"
        )


def _train_group(
    study: Study,
    group: Sequence[Run],
    unfinished: Sequence[Run],
    footprints: Mapping[str, Footprint],
    store: Store,
    workshop: Workshop,
    reporter: Reporter,
) -> dict[str, StoredResult]:
    """Results by identity; runs that another process finishes meanwhile are taken from it."""
    from pinikit.study.run import execute

    for run in unfinished:
        plugins().notify("pinikit_run_started", run_id=run.id, arm=run.arm, seed=run.seed)
    with ExitStack() as locks:
        for run in sorted(unfinished, key=lambda run: run.id):  # in one order, so none waits for the other
            locks.enter_context(store.lock(run.id))
        stored = {run.id: done for run in unfinished if (done := _stored(store, run.id))}
        rest = [run.id for run in unfinished if run.id not in stored]
        if rest:
            footprint = footprints[unfinished[0].arm]
            stored |= execute(group, rest, footprint, store, workshop, reporter, study.name)
    for run in unfinished:
        result = stored[run.id]
        plugins().notify(
            "pinikit_run_finished", run_id=run.id, arm=run.arm, seed=run.seed, result=result.content
        )
        reporter.run_finished(run, result)
    return stored


def _write_index(result: StudyResult) -> None:
    """``study.json``: what the study asked for and which runs answer it."""
    study = result.study
    index = {
        "name": study.name,
        "question": study.question,
        "file": study.file.name,
        "baseline": study.baseline,
        "seeds": study.seeds,
        "arms": {name: arm.config for name, arm in study.arms.items()},
        "runs": {arm: {run.seed: run.id for run in study.runs if run.arm == arm} for arm in study.arms},
    }
    write_json(result.folder / "study.json", index)

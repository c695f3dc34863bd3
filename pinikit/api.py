"""The Python API; the command line is a thin skin on it. Imports torch only to train or predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pinikit.config.loading import override_words
from pinikit.errors import ConfigError
from pinikit.plugin import plugins
from pinikit.study.checks import check_runs, reasons, recall_dropped
from pinikit.study.choice import Choice, choose
from pinikit.study.collecting import collecting_later
from pinikit.study.executors import Job, Limits, Planned
from pinikit.study.executors.in_process import InProcess
from pinikit.study.executors.processes import Processes, threads_of_worker
from pinikit.study.executors.signals import stopping
from pinikit.study.executors.trainer import StudyTrainer, Work
from pinikit.study.groups import group_runs, largest_group
from pinikit.study.index import write_index
from pinikit.study.results import sweep_locks, tidy_replaced, writing_study
from pinikit.study.resume import StopRequest, tidy_checkpoints
from pinikit.study.store import Store, StoredResult
from pinikit.study.study import Run, Study, resolve_study

if TYPE_CHECKING:
    import pandas as pd

    from pinikit.components.contracts import Footprint
    from pinikit.study.bank_plan import BankPlan
    from pinikit.study.expectations import Verdict
    from pinikit.study.predictor import LoadedPredictor
    from pinikit.study.run import Steps
    from pinikit.study.statistics import ArmSummary
    from pinikit.tuning.reporting import TuneReporter
    from pinikit.tuning.results import TuneResult


STOPPING = "stopping after the epoch under way; Ctrl-C again stops at once"


class Reporter:
    """How long work is shown. This one shows nothing; the command line has one for each kind of output."""

    def study_started(self, study: Study, todo: int, finished: int) -> None:
        """The study is resolved; ``todo`` runs will be trained, ``finished`` ones are there already."""

    def message(self, text: str) -> None:
        """A note worth a line."""

    def group_started(self, runs: Sequence[Run], index: int, total: int) -> Steps:
        """Runs that are trained together begin; the first of them is run ``index`` (from 1) of ``total``.

        Returns:
            What is told how far they are: this reporter, unless several groups are to be told apart.
        """
        return self

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
    """Identities of the runs that are there already and stay."""
    groups: tuple[tuple[Run, ...], ...]
    """Runs that are trained together."""
    bank: BankPlan
    """What the runs to do take of the view bank."""
    messages: tuple[str, ...]
    left_out: frozenset[str] = frozenset()
    """Identities of the runs without a result that ``rerun="failed"`` leaves alone."""
    retest: frozenset[str] = frozenset()
    """Identities of the runs that are trained already and only tested on other data."""


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

    @property
    def untested(self) -> list[StoredResult]:
        """The finished runs that were not tested on all their other data, in the study's order."""
        return [result for result in self.results.values() if result.finished and result.untested]

    @property
    def not_run(self) -> list[Run]:
        """The runs that were left out (``fail_fast``, ``rerun="failed"``), in the study's order."""
        return [run for run in self.study.runs if (run.arm, run.seed) not in self.results]

    @cached_property
    def summaries(self) -> list[ArmSummary]:
        """One row per arm, in the study's order."""
        from pinikit.study.statistics import arm_summaries

        return arm_summaries(self.study, self.results)

    @property
    def verdicts(self) -> list[Verdict]:
        """The published numbers that the study expects, each beside its arm's result."""
        from pinikit.study.expectations import verdicts

        return verdicts(self.study, self.results)

    def table(self) -> pd.DataFrame:
        """:attr:`summaries` as a table: accuracies with intervals, differences to the baseline, costs."""
        from pinikit.study.statistics import as_table

        return as_table(self.summaries)


@collecting_later()
def plan_study(
    source: str | Path,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    arms: str | None = None,
    runs: str | Path = "runs",
    fuse: str | int = "auto",
    rerun: str | None = None,
    check: bool = False,
) -> Plan:
    """Resolve and validate a study without training anything; arguments as for :func:`run_study`.

    Finished runs that ``rerun`` takes are among those to do.

    Raises:
        PinikitError: what ``run_study`` would refuse.
    """
    largest_group(fuse := str(fuse))
    study = _resolved(source, overrides, arms, fuse, check)
    choice = choose(study, Store(runs), rerun)
    from pinikit.study.bank_plan import plan_bank  # imports torch, for which a mistake need not wait
    from pinikit.study.run import Workshop

    workshop = Workshop()
    checked = check_runs(study, study.runs, workshop)
    study, footprints = study.without(checked.dropped), checked.footprints
    groups = tuple(group_runs(study.runs, footprints, fuse))
    wanted = {run.id for run in choice.todo}
    kept = frozenset(study.run(*key).id for key in choice.kept if key[0] in study.arms)
    trained = wanted - choice.retest
    todo = [run for group in groups if any(run.id in trained for run in group) for run in group]
    todo += [run for run in study.runs if run.id in choice.retest]
    bank = plan_bank(todo, footprints, workshop, choice.retest)
    left_out = frozenset(run.id for run in study.runs) - wanted - kept
    messages = (*choice.damaged, *study.notes, *workshop.messages())
    return Plan(study, footprints, kept, groups, bank, messages, left_out, choice.retest)


def run_study(
    source: str | Path,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    arms: str | None = None,
    runs: str | Path = "runs",
    fuse: str | int = "auto",
    jobs: int = 1,
    retries: int = 1,
    time_limit: float | None = None,
    fail_fast: bool = False,
    rerun: str | None = None,
    check: bool = False,
    reporter: Reporter | None = None,
) -> StudyResult:
    """Run what is not finished yet of a study, and write its tables, figure and report.

    Args:
        source: a study file, or the name of a shipped study such as ``injection_sites``.
        overrides: ``key.path=value`` words or a mapping of key paths.
        arms: comma-separated shell patterns of arms to take; the baseline is always taken.
        runs: the folder of the result store.
        fuse: how many runs are trained as one computation: ``auto``, ``off`` or the most that may be.
        jobs: how many groups of runs are trained at a time. 1 trains in this process, more in as many
            worker processes, which take turns with the GPUs; a script then needs
            ``if __name__ == "__main__":`` around the call. What runs give does not depend on it, as long as
            they have as many threads (``run.threads``; by default the workers share the processor's).
        retries: further tries of runs whose process crashed, lacked memory or took too long. A run that
            fails by itself, as its loss is no longer finite, is not tried again in the same call.
        time_limit: seconds that a try may take for each run, loading and encoding included. Runs that are
            trained together have the sum. It implies a worker process.
        fail_fast: after the first failed run nothing new starts.
        rerun: which runs are trained though they have a result: ``all``, or patterns of arms, besides what
            is not finished; ``failed`` takes only what failed, and nothing new. The old result stays until
            the new one is whole.
        check: refuse, before anything is trained, a study that expects nothing of the arms that were taken.
            What it expects is in the result's ``verdicts``.
        reporter: how progress is shown.

    Raises:
        ConfigError, DataError, WeightsError: before anything is trained, or when the disk or a picture
            fails on the way. A run that fails by itself is in the result instead.
        KeyboardInterrupt: after Ctrl-C or SIGTERM. While runs are trained, the first one lets the epoch
            under way end and keeps how far they are, the second one stops at once.
    """
    from pinikit.reporting import write_report
    from pinikit.tuning.publishing import refresh

    largest_group(fuse := str(fuse))
    limits = _limits(retries, time_limit, fail_fast)
    if jobs < 1:
        raise ConfigError(f"--jobs: found {jobs}; allowed: 1 or more")
    reporter = reporter or Reporter()
    study = _resolved(source, overrides, arms, fuse, check)
    store = Store(runs)
    store.prepare()
    tidy_replaced(store)
    tidy_checkpoints(store)
    if rerun is None:
        study = recall_dropped(study, store)
    choice = choose(study, store, rerun)
    for note in (*choice.damaged, *study.notes):
        reporter.message(note)
    folder, count = store.study_folder(study.name), len(choice.todo)
    plugins().notify("pinikit_study_started", study=study.name, folder=folder, runs=count)
    results = {**choice.kept, **choice.untested}
    if choice.todo:
        study, trained = _train(study, choice, fuse, jobs, limits, store, reporter)
        results |= trained
    else:
        reporter.study_started(study, 0, len(results))
    ordered = {key: results[key] for run in study.runs if (key := (run.arm, run.seed)) in results}
    result = StudyResult(study, ordered, folder)
    with writing_study(store, study.name):
        write_index(study, store)
        write_report(result)
    tidy_replaced(store, checkpoints=True)
    sweep_locks(store, [run.id for run in study.runs])
    tidy_checkpoints(store)
    plugins().notify("pinikit_report", study=study.name, folder=result.folder)
    if (answer := refresh(store, study.name)) is not None:
        reporter.message(answer)
    reporter.study_finished()
    return result


def tune(
    source: str | Path = "tune",
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    trials: int = 100,
    timeout: float | None = None,
    jobs: int = 1,
    storage: str | None = None,
    runs: str | Path = "runs",
    reporter: TuneReporter | None = None,
) -> TuneResult:
    """Search a tune study's space on validation data, and write its page and the study of its best arms.

    Calls with the same study, runs folder and storage work on the same search, one after the other or at the
    same time, on this machine or others. The test set is not opened; the study of the best arms does that.

    Args:
        source: a study file with ``search``, or the name of a shipped one.
        overrides: ``key.path=value`` words or a mapping of key paths, such as ``tune.sampler=random``.
        trials: how many trials the search has in all, those of earlier calls among them.
        timeout: seconds after which no trial begins.
        jobs: how many trials are evaluated at a time: 1 in this process, more in as many worker processes;
            a script then needs ``if __name__ == "__main__":`` around the call.
        storage: where the trials are kept: a database's URL, or ``journal:FILE``; unless given, SQLite in the
            study's folder.
        runs: the folder of the result store.
        reporter: how progress is shown.

    Raises:
        ConfigError, DataError, WeightsError: before anything is evaluated; a failed trial is in the result.
        PinikitError: the storage does not answer any more, or the disk refuses.
        KeyboardInterrupt: after Ctrl-C or SIGTERM. The first one lets the epoch under way end, and its trial
            waits for the next call; the second one stops at once. All that was found is kept and published.
    """
    from pinikit.tuning.engine import Engine
    from pinikit.tuning.publishing import publish
    from pinikit.tuning.reporting import TuneReporter
    from pinikit.tuning.request import Request
    from pinikit.tuning.results import collect
    from pinikit.tuning.study import resolve_tune

    _check_search(trials, timeout, jobs)
    request = Request(str(source), override_words(overrides), trials, timeout, jobs, storage, str(runs))
    study, reporter = resolve_tune(source, overrides), reporter or TuneReporter()
    store = Store(runs)
    store.prepare()

    def published() -> TuneResult:
        result = collect(study, engine.found, request, engine.notes)
        publish(result, store)
        return result

    with closing(Engine(study, request, store, reporter)) as engine:
        try:
            engine.work()
        except KeyboardInterrupt:
            published()
            raise
        result = published()
    reporter.finished()
    return result


def _check_search(trials: int, timeout: float | None, jobs: int) -> None:
    for option, value in (("--trials", trials), ("--jobs", jobs)):
        if value < 1:
            raise ConfigError(f"{option}: found {value}; allowed: 1 or more")
    if timeout is not None and not 0 < timeout < float("inf"):
        raise ConfigError(f"--timeout: found {timeout:g} seconds; allowed: more than 0")


def report(
    studies: Sequence[str | Path], *, runs: str | Path = "runs", output: str | Path | None = None
) -> list[Path]:
    """Write reports of what is finished in the result store; nothing is trained.

    Args:
        studies: names or folders of studies in the store, study files, or names of shipped studies.
        runs: the folder of the result store.
        output: where the page goes. Else it lies in the study's folder, beside its other files; several
            studies side by side are written to ``report.html`` here.

    Returns:
        The pages.

    Raises:
        ConfigError: there is no such study, or it has no result yet.
        DataError: what the store knows of it is damaged.
    """
    from pinikit.reporting import PAGE, write_page, write_report
    from pinikit.study.saved import stored_study

    store = Store(runs)
    results = []
    for source in studies:
        study, found = stored_study(store, source)
        results.append(StudyResult(study, found, store.study_folder(study.name)))
    if output is None and len(results) == 1:
        with writing_study(store, results[0].study.name):
            write_report(results[0])
        return [results[0].folder / PAGE]
    path = Path(output or PAGE)
    write_page(results, path)
    return [path]


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
    store = Store(runs)
    return store.run_folder(store.find(str(run)))


def _resolved(
    source: str | Path,
    overrides: Sequence[str] | Mapping[str, Any],
    arms: str | None,
    fuse: str,
    check: bool,
) -> Study:
    """A study as it is asked for, with all that its command says.

    Raises:
        ConfigError, DataError, WeightsError: it is wrong, or ``check`` is set and it expects nothing.
    """
    study = replace(resolve_study(source, overrides, arms), fuse=fuse)
    if check and not any(study.expect.get(arm) for arm in study.arms):
        raise ConfigError(f"--check: {study.file} expects nothing of these arms; allowed with 'expect:'")
    return study


def _limits(retries: int, time_limit: float | None, fail_fast: bool) -> Limits:
    if retries < 0:
        raise ConfigError(f"--retries: found {retries}; allowed: 0 or more")
    if time_limit is not None and not 0 < time_limit < float("inf"):
        raise ConfigError(f"--time-limit: found {time_limit:g} seconds; allowed: more than 0")
    return Limits(retries, time_limit, fail_fast)


def _train(
    study: Study, choice: Choice, fuse: str, jobs: int, limits: Limits, store: Store, reporter: Reporter
) -> tuple[Study, dict[tuple[str, int], StoredResult]]:
    """The study as far as it is possible, and results of the runs to do; runs left out have none."""
    work = Work(study, frozenset(run.id for run in choice.todo), fuse, store, choice.retest)
    stop = StopRequest()
    watch = _Watch(reporter, len(work.todo))
    with closing(_executor(work, jobs, limits, watch, stop)) as executor:
        planned = executor.plan()
        study = study.without(planned.dropped)
        with writing_study(store, study.name):
            write_index(study, store)  # now that it is known to be sound
        for message in (*planned.messages, *reasons(planned.dropped)):
            reporter.message(message)
        todo = [run for run in choice.todo if run.arm not in planned.dropped]
        watch.total = len({run.id for run in todo})
        kept = sum(arm not in planned.dropped for arm, _ in choice.kept)
        reporter.study_started(study, watch.total, kept)
        stored: dict[str, StoredResult] = {}
        with stopping(stop, lambda: reporter.message(STOPPING)):
            for results in executor.map(_jobs(planned, work, choice, reporter)):
                stored |= results
                for key, result in results.items():
                    watch.finished(work.runs[key], result)
    return study, {(run.arm, run.seed): stored[run.id] for run in todo if run.id in stored}


def _executor(
    work: Work, jobs: int, limits: Limits, watch: _Watch, stop: StopRequest
) -> InProcess | Processes:
    if jobs == 1 and limits.time_limit is None:
        return InProcess(work, StudyTrainer(work, watch.message), limits, watch, stop)
    if (threads := threads_of_worker(jobs)) is not None:
        many = f"{threads} thread{'s' * (threads > 1)}"
        watch.message(f"{jobs} worker processes share the processor: runs without `threads` have {many}")
    return Processes(work, jobs, limits, watch, stop)


def _jobs(planned: Planned, work: Work, choice: Choice, reporter: Reporter) -> list[Job]:
    """The groups with something to train or to test; it is said where they train finished runs, too."""
    jobs, to_train = list[Job](), work.todo - work.retest
    for group in planned.groups:
        if trained := tuple(key for key in group if key in to_train):
            jobs.append(Job(group, trained, choice.known))
        if tested := tuple(key for key in group if key in work.retest):
            jobs.append(Job(tested, tested, choice.known, retest=True))
    repeated = [job for job in jobs if len(job.group) > len(job.wanted)]
    if repeated:
        size = len(repeated[0].group)
        others = f", and so are {len(repeated) - 1} other groups" if len(repeated) > 1 else ""
        reporter.message(
            f"arm {work.runs[repeated[0].wanted[0]].arm}: a group of {size} runs is trained whole, with "
            f"{size - len(repeated[0].wanted)} finished ones{others}, so that numbers do not depend on "
            "interruptions; the results that are there stay"
        )
    return jobs


class _Watch:
    """Tells reporter and plug-ins of the runs, which are counted as they begin."""

    def __init__(self, reporter: Reporter, total: int) -> None:
        self._reporter, self.total = reporter, total
        self._numbers: dict[str, int] = {}

    def message(self, text: str) -> None:
        self._reporter.message(text)

    def began(self, runs: Sequence[Run]) -> Steps:
        for run in runs:
            self._numbers.setdefault(run.id, len(self._numbers) + 1)
            plugins().notify("pinikit_run_started", run_id=run.id, arm=run.arm, seed=run.seed)
        return self._reporter.group_started(runs, self._numbers[runs[0].id], self.total)

    def finished(self, run: Run, result: StoredResult) -> None:
        plugins().notify(
            "pinikit_run_finished", run_id=run.id, arm=run.arm, seed=run.seed, result=result.content
        )
        self._reporter.run_finished(run, result)

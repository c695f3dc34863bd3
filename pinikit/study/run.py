"""One run from its configuration to its result: load, fit, evaluate, store."""

from __future__ import annotations

import csv
import io
import logging
import platform
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pinikit.backbones.base import Backbone, Prompts
from pinikit.backbones.loading import load_backbone
from pinikit.backbones.precision import DTYPES
from pinikit.backbones.spec import BackboneSpec
from pinikit.components.contracts import Footprint, Method, Predictor
from pinikit.config.build import create
from pinikit.data.files import write_atomic, write_json
from pinikit.data.view_bank import ViewBank, user_bank
from pinikit.errors import ConfigError, PinikitError
from pinikit.study.checkpoint import load_checkpoint, save_checkpoint
from pinikit.study.costs import Meter, add_costs, share, text_costs
from pinikit.study.executors import ERROR, MEMORY, Try
from pinikit.study.memory import lacks_memory
from pinikit.study.recording import Witness, save_record
from pinikit.study.results import described, result_head
from pinikit.study.resume import GroupCheckpoints, StopRequest
from pinikit.study.store import Store, StoredResult
from pinikit.study.study import Run
from pinikit.training.bank import Bank
from pinikit.training.context import RunContext
from pinikit.training.evaluation import draws_of, evaluate
from pinikit.training.precision import exact_convolutions, torch_device
from pinikit.training.task import Split, Task, make_task

THREADS = torch.get_num_threads()
"""Threads of a run that asks for none: what torch found, which honours OMP_NUM_THREADS."""

DISTRIBUTIONS = ("pinikit", "torch", "torchvision", "timm", "open_clip_torch", "numpy", "transformers")


INTERRUPTED = "the test was interrupted"
"""Why a run was not tested on other data, as long as nothing else is known."""


class Steps(Protocol):
    """Told how far a run is."""

    def message(self, text: str) -> None:
        """A note worth a line."""

    def encoding(self, done: int, total: int) -> None:
        """Pictures that went through the frozen tower."""

    def training(self, epoch: int, epochs: int, **values: float) -> None:
        """Epochs done, with loss and accuracy."""

    def evaluating(self, done: int, total: int) -> None:
        """Draws evaluated."""


@dataclass
class Workshop:
    """Backbones, prompts and banks that several runs of a process share."""

    backbones: dict[Any, Backbone] = field(default_factory=dict)
    prompts: dict[Any, Prompts] = field(default_factory=dict)
    banks: dict[Any, Bank] = field(default_factory=dict)
    disk: ViewBank = field(default_factory=user_bank)
    """Where banks keep their rows between processes."""
    load_seconds: dict[Any, float] = field(default_factory=dict)
    """Of backbones whose loading no run has borne yet."""

    def backbone(self, run: Run) -> Backbone:
        """The run's backbone on its device, its frozen weights in the run's precision.

        Raises:
            ConfigError, WeightsError: it cannot be loaded.
        """
        key = _backbone_key(run)
        if key not in self.backbones:
            start = time.perf_counter()
            device, dtype = torch_device(run.config["device"]), DTYPES[run.config["precision"]]
            self.backbones[key] = load_backbone(run.backbone).to(device, dtype)
            self.load_seconds[key] = time.perf_counter() - start
        return self.backbones[key]

    def take_load_seconds(self, run: Run) -> float:
        """What loading the run's backbone took, for the first run that asks; 0 for those that share it."""
        return self.load_seconds.pop(_backbone_key(run), 0.0)

    def prompts_of(self, run: Run, other: str | None = None) -> Prompts:
        """The run's tokenised prompts, or those of the other data of this label.

        Raises:
            ConfigError: one does not fit the text tower.
        """
        words, where = (run.template, run.manifest.class_names), "run.prompt.template"
        if other is not None:
            words = (run.others[other].template, run.others[other].class_names)
            where = f"run.evaluate.other_data.{other}"
        key = (_backbone_key(run), *words)
        if key not in self.prompts:
            text = self.backbone(run).text
            try:
                self.prompts[key] = text.tokenize(*words)
            except ConfigError as error:
                raise ConfigError(f"{where}: {words[0]!r}: {error}") from error
        return self.prompts[key]

    def bank(self, run: Run, other: str | None = None) -> Bank:
        """The bank of the run's backbone, precision and data set, or of the other data of this label."""
        dataset = run.dataset if other is None else run.others[other].dataset
        key = (_backbone_key(run), id(dataset))
        if key not in self.banks:
            self.banks[key] = Bank(self.backbone(run), dataset, run.config["precision"], self.disk)
        return self.banks[key]

    def messages(self) -> list[str]:
        """What a user should know of the backbones and prompts that were loaded."""
        notes = [note for backbone in self.backbones.values() for note in backbone.notes]
        for (key, *_), prompts in self.prompts.items():
            backbone = self.backbones[key]
            if unknown := backbone.text.unknown_tokens(prompts):
                notes.append(
                    f"backbone {backbone.name!r} never saw the tokens {', '.join(map(repr, unknown[:8]))} in "
                    f"training (prompt {prompts.texts[0]!r} and its like): their embeddings are zero"
                )
        return list(dict.fromkeys(notes))


def _backbone_key(run: Run) -> tuple[BackboneSpec, str, str]:
    """Runs with the same key share a backbone in memory."""
    return run.backbone, run.config["device"], run.config["precision"]


def method_of(run: Run) -> Method:
    """The run's method.

    Raises:
        ConfigError: it refuses a parameter.
    """
    method: Method = create("method", run.config["method"], "run.method")
    return method


def check_evaluation(run: Run) -> None:
    """Look at how noise is treated at test time.

    Raises:
        ConfigError: there is no such treatment, or one stands twice.
    """
    modes = run.config["evaluate"]["noise"]
    if not modes or len(set(modes)) != len(modes):
        raise ConfigError(f"run.evaluate.noise: found {modes}; allowed: at least one, each once")
    for mode in modes:
        draws_of(mode)


def execute(
    group: Sequence[Run],
    unfinished: Collection[str],
    footprint: Footprint,
    store: Store,
    workshop: Workshop,
    steps: Steps,
    study: str,
    stop: StopRequest | None = None,
    tries: Sequence[Try] = (),
) -> dict[str, StoredResult]:
    """Train a group of runs as one computation, then evaluate and store each.

    A group is always trained whole, so that its numbers do not depend on what was finished before. A
    failure is stored as a failed result, not raised. Where training together fails as a whole, the runs
    are trained one by one, so that none suffers from another's fault. Other data are left to :func:`retest`.

    Args:
        group: one run, or several that may be fused.
        unfinished: the identities of those whose results are wanted; the others are left as they are.
        stop: ends the training after the epoch under way.
        tries: earlier ones that came to nothing, for the record.

    Returns:
        The stored results of ``unfinished``.

    Raises:
        PinikitError: the disk refuses.
        Interrupted: ``stop`` was requested.
    """
    wanted = [run for run in group if run.id in unfinished]
    for run in wanted:
        _open_folder(run, store)
    work = (footprint, store, workshop, steps, _Record(study, tuple(tries)), stop or StopRequest())
    return _train_and_store(group, wanted, *work) or {
        run.id: result for run in wanted for result in _train_and_store([run], [run], *work).values()
    }


def _train_and_store(
    group: Sequence[Run],
    wanted: Sequence[Run],
    footprint: Footprint,
    store: Store,
    workshop: Workshop,
    steps: Steps,
    record: _Record,
    stop: StopRequest,
) -> dict[str, StoredResult]:
    """Results by identity; none where several runs could not be trained together, which is told."""
    checkpoints = GroupCheckpoints(
        store,
        [run.id for run in group],
        _conditions(group[0]),
        stop=stop,
        tell=lambda text: _tell(wanted, text, steps),
    )
    with ExitStack() as logs:
        for run in wanted:
            logs.enter_context(_logging_to(run, store.run_folder(run.id) / "run.log"))
            _log(run).info("run %s: arm %s, seed %d", run.id, run.arm, run.seed)
        try:
            fitted: Mapping[str, _Fitted | Exception] = _fit(group, footprint, workshop, steps, checkpoints)
        except Exception as error:
            if len(group) > 1:
                checkpoints.remove()
                _tell_separation(wanted, error, steps)
                return {}  # which lets go of the error, and with it of what the group held in memory
            fitted = {run.id: error for run in wanted}
        results = {run.id: _finish(run, fitted[run.id], store, workshop, steps, record) for run in wanted}
        checkpoints.remove()
        return results


def _tell(runs: Sequence[Run], text: str, steps: Steps) -> None:
    for run in runs:
        _log(run).warning("%s", text)
    steps.message(f"arm {runs[0].arm}: {text}")


def _tell_separation(runs: Sequence[Run], error: Exception, steps: Steps) -> None:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    _tell(runs, f"training {len(runs)} runs together failed ({reason}); each is now trained by itself", steps)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _open_folder(run: Run, store: Store) -> None:
    folder = store.run_folder(run.id)
    store.clear(run.id)
    write_json(folder / "config.json", described(run))
    run.manifest.save(folder / "manifest.json")
    write_json(folder / "environment.json", environment(run))


@dataclass(frozen=True)
class _Record:
    """What a result says besides how the run ended."""

    study: str
    tries: tuple[Try, ...]


@dataclass
class _Fitted:
    """A run whose training ended, well or not."""

    outcome: Predictor | PinikitError
    task: Task
    context: RunContext
    used: dict[str, float]
    """What training cost, of a group an equal share."""
    facts: dict[str, Any]


def _fit(
    group: Sequence[Run],
    footprint: Footprint,
    workshop: Workshop,
    steps: Steps,
    checkpoints: GroupCheckpoints,
) -> dict[str, _Fitted]:
    """Train a group; runs differ in what they are, not in machine, backbone or prompts."""
    config = group[0].config
    torch.set_num_threads(config["threads"] or THREADS)
    bank, prompts = workshop.bank(group[0]), workshop.prompts_of(group[0])
    progress = _Progress(steps)
    tasks = [
        make_task(bank, prompts, run.manifest, run.config["data"]["views"], steps.encoding) for run in group
    ]
    contexts = [
        RunContext(run.seed, bank.device, run.config["precision"], progress.of(run), checkpoints=checkpoints)
        for run in group
    ]
    methods = [method_of(run) for run in group]
    checkpoints.meter = Meter("train", bank)
    with exact_convolutions():
        if len(group) == 1:
            outcomes: Sequence[Predictor | PinikitError] = [methods[0].fit(tasks[0], contexts[0])]
        else:
            outcomes = type(methods[0]).fit_together(methods, tasks, contexts)
    spent = {**checkpoints.spent(), "seconds_load": workshop.take_load_seconds(group[0])}
    used = share(spent, len(group))
    facts = {
        "fused": len(group),
        "images_per_second": max(context.images for context in contexts) / max(used["seconds_train"], 1e-9),
        "cost_class": footprint.cost_class,
        **text_costs(methods[0], [item for item in outcomes if isinstance(item, Predictor)], bank),
    }
    return {
        run.id: _Fitted(outcome, task, context, used, facts)
        for run, outcome, task, context in zip(group, outcomes, tasks, contexts, strict=True)
    }


def _finish(
    run: Run, fitted: _Fitted | Exception, store: Store, workshop: Workshop, steps: Steps, record: _Record
) -> StoredResult:
    """Evaluate and store what was trained, or store why it failed."""
    head = result_head(run, record.study, record.tries)
    try:
        if isinstance(fitted, Exception):
            raise fitted
        if isinstance(fitted.outcome, PinikitError):
            raise fitted.outcome
        outcome = _evaluate_and_save(run, fitted.outcome, fitted, store.run_folder(run.id), workshop, steps)
    except PinikitError as error:
        _log(run).error("failed: %s", error)
        return store.save(run.id, {**head, "status": "failed", "failure": ERROR, "error": str(error)})
    except Exception as error:
        _log(run).error("failed:\n%s", "".join(traceback.format_exception(error)))
        failure = MEMORY if lacks_memory(error) else ERROR
        return store.save(run.id, {**head, "status": "failed", "failure": failure, "error": _reason(error)})
    _log(run).info(
        "finished: %s", {mode: row["accuracy"] for mode, row in outcome["metrics"]["test"].items()}
    )
    return store.save(run.id, {**head, "status": "finished", **outcome})


def _reason(error: Exception) -> str:
    """What is said of an error; one that pinikit did not foresee is named."""
    if isinstance(error, PinikitError):
        return str(error)
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _evaluate_and_save(
    run: Run, predictor: Predictor, fitted: _Fitted, folder: Path, workshop: Workshop, steps: Steps
) -> dict[str, Any]:
    bank = workshop.bank(run)
    save_checkpoint(folder, run, predictor)
    write_atomic(folder / "history.csv", _csv(fitted.context.history))
    metrics: dict[str, Any] = {"val": None}
    meter = Meter("evaluate", bank)
    modes = run.config["evaluate"]["noise"]
    headline = [] if "mean" in modes else [modes[0]]  # so that val can stand beside test
    with exact_convolutions():
        if fitted.task.val is not None:
            metrics["val"] = _evaluate(run, predictor, fitted.task.val, ["mean", *headline], steps)
        test = Split(bank, run.manifest.test, steps.encoding)  # opened here for the first time
        witness = Witness(modes)
        metrics["test"] = _evaluate(run, predictor, test, modes, steps, witness)
    used = add_costs(fitted.used, meter.costs())
    costs = {**used, "trainable_parameters": predictor.trainable_parameters, **fitted.facts}
    save_record(folder, run, predictor, witness, bank, workshop.prompts_of(run))
    elsewhere = {"untested": dict.fromkeys(run.others, INTERRUPTED)} if run.others else {}
    return {"metrics": metrics, "costs": costs, **elsewhere}


def retest(runs: Sequence[Run], store: Store, workshop: Workshop, steps: Steps) -> dict[str, StoredResult]:
    """Test finished runs on the other data that they were not tested on, by what they learned.

    Returns:
        Their results, stored again. One that has vanished meanwhile is a failed one, which is not stored.

    Raises:
        PinikitError: the disk refuses.
        Interrupted: ``steps`` was asked to stop.
    """
    found = {}
    for run in runs:
        torch.set_num_threads(run.config["threads"] or THREADS)
        if (stored := store.load(run.id)) is None:
            gone = {"status": "failed", "failure": ERROR, "error": "its result has vanished or was damaged"}
            found[run.id] = StoredResult(run.id, {**result_head(run, "", ()), **gone})
            continue
        with _logging_to(run, store.run_folder(run.id) / "run.log"):
            found[run.id] = _test_elsewhere(run, stored, store, workshop, steps)
    return found


def _test_elsewhere(
    run: Run, stored: StoredResult, store: Store, workshop: Workshop, steps: Steps
) -> StoredResult:
    """Test a stored run on the other data that it lacks; each result is stored as soon as it is there.

    What was trained must not be lost with a picture of other data: the reason is stored in its place.
    """
    for label in [label for label in run.others if label in stored.untested]:
        tested, untested, spent = dict(stored.other_data), dict(stored.untested), dict[str, float]()
        try:
            tested[label], spent = _evaluate_elsewhere(run, label, store.run_folder(run.id), workshop, steps)
            del untested[label]
        except Exception as error:
            untested[label] = _reason(error)
            _log(run).error("not tested on %s:\n%s", label, "".join(traceback.format_exception(error)))
        ordered = {key: tested[key] for key in run.others if key in tested}  # as if nothing had failed
        content = {key: value for key, value in stored.content.items() if key != "untested"}
        content["metrics"] = {**stored.content["metrics"], "other_data": ordered}
        content["costs"] = add_costs(stored.costs, spent)
        stored = store.save(run.id, {**content, **({"untested": untested} if untested else {})})
    return stored


def _evaluate_elsewhere(
    run: Run, label: str, folder: Path, workshop: Workshop, steps: Steps
) -> tuple[dict[str, Any], dict[str, float]]:
    """Metrics of what is kept in ``folder`` on the test pictures of other data, and what they cost."""
    other, bank, prompts = run.others[label], workshop.bank(run, label), workshop.prompts_of(run, label)
    meter = Meter("other_data", bank)
    with exact_convolutions():
        moved = method_of(run).restore(bank.backbone, prompts, load_checkpoint(folder).state)
        split = Split(bank, other.items, steps.encoding)
        found = _evaluate(run, moved, split, run.config["evaluate"]["noise"], steps)
    facts = {
        "data": other.dataset.name,
        "classes": len(other.class_names),
        "pictures": len(other.items),
        "template": other.template,
    }
    return {**facts, "test": found}, meter.costs()


def _evaluate(
    run: Run,
    predictor: Predictor,
    split: Split,
    modes: list[str],
    steps: Steps,
    witness: Callable[[str, Tensor], None] = lambda mode, log_probs: None,
) -> dict[str, Any]:
    return evaluate(
        predictor,
        split,
        modes,
        seed=run.seed,
        batch_size=run.config["evaluate"]["batch_size"],
        progress=steps.evaluating,
        witness=witness,
    )


class _Progress:
    """Progress of a group: each run's in its own log, the mean of the runs on the screen."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._epoch, self._seen = 0, list[dict[str, float]]()

    def of(self, run: Run) -> Any:
        """What a run is to call after each epoch; every tenth of the epochs is a line of its log."""
        log = _log(run)

        def progress(epoch: int, epochs: int, **values: float) -> None:
            if epoch % max(epochs // 10, 1) == 0 or epoch == epochs:
                rounded = {key: round(value, 4) for key, value in values.items()}
                log.info("epoch %d of %d: %s", epoch, epochs, rounded)
            self._show(epoch, epochs, values)

        return progress

    def _show(self, epoch: int, epochs: int, values: dict[str, float]) -> None:
        if epoch != self._epoch:
            self._epoch, self._seen = epoch, []
        self._seen.append(values)
        means = {key: sum(seen[key] for seen in self._seen) / len(self._seen) for key in values}
        self._steps.training(epoch, epochs, **means)


def _log(run: Run) -> logging.Logger:
    return logging.getLogger(f"pinikit.run.{run.id}")


class _LogFile(logging.FileHandler):
    """A log that a full disk cuts short: it is told where a result cannot be written."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 — logging's name
        """Say nothing."""


@contextmanager
def _logging_to(run: Run, path: Path) -> Iterator[None]:
    try:
        handler = _LogFile(path, mode="a", encoding="utf-8")
    except OSError as error:
        raise PinikitError(f"Cannot write {path}: {error.strerror}.") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = _log(run)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def _conditions(run: Run) -> dict[str, Any]:
    """What decides a run's bits besides its identity."""
    found = environment(run)
    return {name: found[name] for name in ("versions", "device", "threads")}


def environment(run: Run) -> dict[str, Any]:
    """Versions and machine, for the record; no part of the identity."""
    versions = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    device = torch.device(run.config["device"])
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or "cpu",
        "threads": run.config["threads"] or THREADS,
    }

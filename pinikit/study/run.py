"""One run from its configuration to its result: load, fit, evaluate, store."""

from __future__ import annotations

import csv
import io
import logging
import platform
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import torch

from pinikit.backbones.base import Backbone, Prompts
from pinikit.backbones.loading import load_backbone
from pinikit.components.contracts import Footprint, Method, Predictor
from pinikit.config.build import create
from pinikit.data.files import write_atomic, write_json
from pinikit.errors import ConfigError, PinikitError
from pinikit.study.checkpoint import save_checkpoint
from pinikit.study.memory import PeakMemory
from pinikit.study.store import Store, StoredResult
from pinikit.study.study import Run
from pinikit.training.bank import Bank
from pinikit.training.context import RunContext
from pinikit.training.evaluation import draws_of, evaluate
from pinikit.training.precision import torch_device
from pinikit.training.task import Split, make_task

log = logging.getLogger("pinikit.run")

THREADS = torch.get_num_threads()
"""Threads of a run that asks for none: what torch found, which honours OMP_NUM_THREADS."""

DISTRIBUTIONS = ("pinikit", "torch", "torchvision", "timm", "open_clip_torch", "numpy", "transformers")


class Steps(Protocol):
    """Told how far a run is."""

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

    def backbone(self, run: Run) -> Backbone:
        """The run's backbone on its device.

        Raises:
            ConfigError, WeightsError: it cannot be loaded.
        """
        key = (run.backbone, run.config["device"])
        if key not in self.backbones:
            self.backbones[key] = load_backbone(run.backbone).to(torch_device(run.config["device"]))
        return self.backbones[key]

    def prompts_of(self, run: Run) -> Prompts:
        """The run's tokenised prompts.

        Raises:
            ConfigError: one does not fit the text tower.
        """
        key = (run.backbone, run.config["device"], run.template, run.manifest.class_names)
        if key not in self.prompts:
            text = self.backbone(run).text
            try:
                self.prompts[key] = text.tokenize(run.template, run.manifest.class_names)
            except ConfigError as error:
                raise ConfigError(f"run.prompt.template: {run.template!r}: {error}") from error
        return self.prompts[key]

    def bank(self, run: Run) -> Bank:
        """The bank of the run's backbone, data set and precision."""
        key = (run.backbone, run.config["device"], id(run.dataset), run.config["precision"])
        if key not in self.banks:
            self.banks[key] = Bank(self.backbone(run), run.dataset, run.config["precision"])
        return self.banks[key]

    def messages(self) -> list[str]:
        """What a user should know of the backbones and prompts that were loaded."""
        notes = [note for backbone in self.backbones.values() for note in backbone.notes]
        for (spec, device, *_), prompts in self.prompts.items():
            backbone = self.backbones[spec, device]
            if unknown := backbone.text.unknown_tokens(prompts):
                notes.append(
                    f"backbone {backbone.name!r} never saw the tokens {', '.join(map(repr, unknown[:8]))} in "
                    f"training (prompt {prompts.texts[0]!r} and its like): their embeddings are zero"
                )
        return list(dict.fromkeys(notes))


def method_of(run: Run) -> Method:
    """The run's method.

    Raises:
        ConfigError: it refuses a parameter.
    """
    method: Method = create("method", run.config["method"], "run.method")
    return method


def check_run(run: Run, workshop: Workshop) -> Footprint:
    """Refuse whatever can be refused before training: stages, prompts, shapes, devices.

    Raises:
        ConfigError, WeightsError: it would fail.
    """
    modes = run.config["evaluate"]["noise"]
    if not modes or len(set(modes)) != len(modes):
        raise ConfigError(f"run.evaluate.noise: found {modes}; allowed: at least one, each once")
    for mode in modes:
        draws_of(mode)
    return method_of(run).footprint(workshop.backbone(run), workshop.prompts_of(run))


def execute(
    run: Run, footprint: Footprint, store: Store, workshop: Workshop, steps: Steps, study: str
) -> StoredResult:
    """Train, evaluate and store a run. A failure is stored as a failed result, not raised."""
    folder = store.run_folder(run.id)
    store.clear(run.id)
    write_json(folder / "config.json", _described(run))
    run.manifest.save(folder / "manifest.json")
    write_json(folder / "environment.json", environment(run))
    head = {"arm": run.arm, "seed": run.seed, "study": study, "identity": run.identity}
    with _logging_to(folder / "run.log"):
        log.info("run %s: arm %s, seed %d", run.id, run.arm, run.seed)
        try:
            outcome = _train_and_evaluate(run, footprint, folder, workshop, steps)
        except PinikitError as error:
            log.error("failed: %s", error)
            return store.save(run.id, {**head, "status": "failed", "error": str(error)})
        except Exception as error:
            log.error("failed:\n%s", traceback.format_exc())
            message = str(error).splitlines()[0] if str(error) else ""
            return store.save(
                run.id, {**head, "status": "failed", "error": f"{type(error).__name__}: {message}"}
            )
        log.info("finished: %s", {mode: row["accuracy"] for mode, row in outcome["metrics"]["test"].items()})
        return store.save(run.id, {**head, "status": "finished", **outcome})


def _train_and_evaluate(
    run: Run, footprint: Footprint, folder: Path, workshop: Workshop, steps: Steps
) -> dict[str, Any]:
    config = run.config
    torch.set_num_threads(config["threads"] or THREADS)
    memory = PeakMemory(torch_device(config["device"]))
    bank, prompts = workshop.bank(run), workshop.prompts_of(run)
    clock = _Clock(bank)
    task = make_task(bank, prompts, run.manifest, config["data"]["views"], steps.encoding)
    context = RunContext(config["seed"], bank.device, config["precision"], _logged(steps))
    method = method_of(run)
    with clock.part("train"), _exact_convolutions():
        predictor = method.fit(task, context)
    save_checkpoint(folder, run, predictor)
    write_atomic(folder / "history.csv", _csv(context.history))
    metrics: dict[str, Any] = {"val": None}
    with clock.part("evaluate"), _exact_convolutions():
        if task.val is not None:
            metrics["val"] = _evaluate(run, predictor, task.val, ["mean"], steps)
        test = Split(bank, run.manifest.test, steps.encoding)  # opened here for the first time
        metrics["test"] = _evaluate(run, predictor, test, config["evaluate"]["noise"], steps)
    costs = {
        **clock.seconds(),
        "peak_memory_mb": memory.megabytes(),
        "trainable_parameters": predictor.trainable_parameters,
        "images_per_second": context.images / max(clock.parts["train"], 1e-9),
        "cost_class": footprint.cost_class,
    }
    return {"metrics": metrics, "costs": costs}


def _exact_convolutions() -> AbstractContextManager[None]:
    """On CUDA: convolutions in real float32 and with the same result every time."""
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    return flags


def _evaluate(run: Run, predictor: Predictor, split: Split, modes: list[str], steps: Steps) -> dict[str, Any]:
    return evaluate(
        predictor,
        split,
        modes,
        seed=run.seed,
        precision=run.config["precision"],
        batch_size=run.config["evaluate"]["batch_size"],
        progress=steps.evaluating,
    )


class _Clock:
    """Seconds of the parts of a run. What the bank takes to encode pictures is kept apart.

    Runs share the bank, so encoding falls on whichever comes first; the other parts are a run's own.
    """

    def __init__(self, bank: Bank) -> None:
        self._bank, self._banked = bank, bank.seconds
        self.parts: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start, banked = time.perf_counter(), self._bank.seconds
        yield
        self.parts[name] = time.perf_counter() - start - (self._bank.seconds - banked)

    def seconds(self) -> dict[str, float]:
        encode = {"seconds_encode": self._bank.seconds - self._banked}
        parts = {f"seconds_{name}": value for name, value in self.parts.items()}
        return parts | encode | {"seconds_total": sum(self.parts.values())}


def _logged(steps: Steps) -> Any:
    """Progress that also goes to the run's log, a line every tenth of the epochs."""

    def progress(epoch: int, epochs: int, **values: float) -> None:
        if epoch % max(epochs // 10, 1) == 0 or epoch == epochs:
            log.info(
                "epoch %d of %d: %s", epoch, epochs, {key: round(value, 4) for key, value in values.items()}
            )
        steps.training(epoch, epochs, **values)

    return progress


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
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


def _described(run: Run) -> dict[str, Any]:
    return {
        "run_id": run.id,
        "config": run.config,
        "template": run.template,
        "class_names": run.manifest.class_names,
        "identity": run.identity,
    }


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

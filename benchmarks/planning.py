"""How long studies of thousands of arms and runs take to be planned and reported, and how much memory.

Each of the two is a process of its own that does what ``pinikit run --dry-run`` or ``pinikit report`` does;
imports are timed apart. Results to report are copies of one run's that was trained, each with accuracies and
a configuration of its own, written by the store's methods.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the processes that are measured import nothing before they must
    from benchmarks._tools import Row, Table
    from pinikit.study.store import Store, StoredResult
    from pinikit.study.study import Run

PLANNED = """
name: planning
run:
  data: {{name: digits, shots: 2}}
  prompt: {{template: pini}}
  method:
    name: pini
    injections: {{image: {{site: image_feature, share: image}}}}
    optim: {{epochs: 5}}
design:
  kind: grid
  baseline: zero_shot
  arms: {{zero_shot: {{method: zero_shot}}}}
  factors:
    method.injections.image.site: [pixels, image_block.middle, spatial_feature, image_feature]
    method.injections.image.injector: [free, mlp, cross_attention, cross_attention_spatial]
    method.injections.image.noise: [gaussian, mu_only, sigma_only, laplace, zero]
    method.optim.lr: {rates}
    method.optim.weight_decay: [0, 1.0e-5, 2.0e-5, 5.0e-5, 1.0e-4, 2.0e-4, 5.0e-4, 1.0e-3, 2.0e-3, 0.01]
seeds: [1]
"""
PLANNED_PER_RATE = 4 * 4 * 5 * 10

REPORTED = """
name: reporting
run:
  data: {{name: digits, shots: 2, views: 1}}
  prompt: {{template: pini}}
  method:
    name: pini
    injections: {{image: {{site: image_feature, share: image}}}}
    optim: {{epochs: 5}}
design:
  kind: grid
  baseline: zero_shot
  arms: {{zero_shot: {{method: zero_shot}}}}
  factors:
    method.injections.image.injector: [free, mlp, cross_attention]
    method.injections.image.noise: [gaussian, mu_only, sigma_only, laplace, zero]
    method.optim.lr: {rates}
seeds: {seeds}
"""
REPORTED_PER_RATE = 3 * 5

SECONDS = {"plan": 5, "report": 30}
"""Processor seconds that count as done, all steps but the imports together."""

MEGABYTES = {"plan": 500}
"""The same of the most memory, without the imports'."""

IMPORTS = "import "
"""Names of steps that only import begin so."""


def main(arguments: Sequence[str] | None = None) -> Table | None:
    """Measure in child processes and print."""
    options = _parser().parse_args(arguments)
    if options.child:
        what, folder = options.child
        print(json.dumps(_CHILDREN[what](Path(folder))))
        return None
    from benchmarks import _tools

    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_planned(folder, options.arms)
        runs = write_reported(folder, options.runs, options.seeds)
        for what in _CHILDREN:
            flags = ["--child", what, str(folder)]
            steps = _tools.in_child("benchmarks.planning", flags, options.threads)["steps"]
            rows += [_row(what, step) for step in steps] + [total(what, steps)]
    table = _tools.Table("planning", "Planning and reporting large studies", rows, notes(options, runs))
    _tools.publish(table, options, arguments)
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arms", type=int, default=10_000, help="of the study that is planned")
    parser.add_argument("--runs", type=int, default=10_000, help="of the study that is reported")
    parser.add_argument("--seeds", type=int, default=10, help="of the study that is reported")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the results are written for a while")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--write", action="store_true", help="also put the table into benchmarks/RESULTS.md")
    parser.add_argument("--child", nargs=2, metavar=("WHAT", "FOLDER"), help="one measurement, as JSON")
    return parser


def notes(options: argparse.Namespace, runs: int) -> list[str]:
    """What a reader of the table must know."""
    return [
        f"plan: `pinikit run --dry-run` of a grid of {options.arms:,} arms (sites × injectors × noise × two "
        "numbers) on glyph; those that cannot be built are dropped.",
        f"report: `pinikit report` of {runs:,} finished runs, {options.seeds} an arm; the study is read from "
        "the store, with all checksums, and all files of the report are written.",
        "Seconds are of the clock and of the processor. Peak MB (10⁶ bytes) are of the process so far, with "
        "what it has mapped of files; the totals have what came on top of the imports, against the targets.",
    ]


# --- rows -----------------------------------------------------------------------------------------


def _row(what: str, step: Mapping[str, Any]) -> dict[str, Any]:
    targets = {"target s": None, "target MB": None}
    return {"what": what, **{key: step[key] for key in ("step", "s", "cpu s", "peak MB", "found")}, **targets}


def total(what: str, steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All steps but imports, and what they added to the memory's peak."""
    own = added = 0.0
    clock, before = 0.0, 0.0
    for step in steps:
        if not step["step"].startswith(IMPORTS):
            clock, own = clock + step["s"], own + step["cpu s"]
            added += step["peak MB"] - before
        before = step["peak MB"]
    return {
        "what": what,
        "step": "total",
        "s": clock,
        "cpu s": own,
        "peak MB": added,
        "found": "",
        "target s": SECONDS[what],
        "target MB": MEGABYTES.get(what),
    }


class Steps:
    """Seconds of steps, and the process's peak memory after each."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def __call__(self, name: str, work: Callable[[], Any], found: Callable[[Any], str] = lambda _: "") -> Any:
        """Do a step; ``found`` says what came out."""
        start, processor = time.perf_counter(), time.process_time()
        result = work()
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        row = {"step": name, "s": seconds, "cpu s": processor, "peak MB": peak_mb(), "found": found(result)}
        self.rows.append(row)
        return result


def peak_mb() -> float:
    """The most memory that this process has had, in MB."""
    try:  # Linux counts its parent's memory into ru_maxrss
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


# --- planning -------------------------------------------------------------------------------------


def write_planned(folder: Path, arms: int) -> Path:
    """The study that is planned, of about ``arms`` arms."""
    return _write(folder / "planning.yaml", PLANNED, arms, PLANNED_PER_RATE)


def _write(path: Path, text: str, arms: int, per_rate: int, **values: Any) -> Path:
    rates = [round(1e-4 * (1 + index), 6) for index in range(max(-(-arms // per_rate), 2))]
    path.write_text(text.format(rates=rates, **values), encoding="utf-8")
    return path


def plan(folder: Path) -> dict[str, Any]:
    """Plan the study of :func:`write_planned`."""
    step = Steps()
    step(f"{IMPORTS}what reads studies", _import_reading)
    from pinikit import api

    step(f"{IMPORTS}what builds models", _import_models)
    plan = step(
        "plan",
        lambda: api.plan_study(folder / "planning.yaml", runs=folder / "no_runs"),
        lambda plan: (
            f"{len(plan.study.arms)} arms, {len(plan.groups)} groups, {len(plan.study.dropped)} dropped"
        ),
    )
    step("show", lambda: _show(plan), lambda text: f"{len(text.splitlines())} lines")
    return {"steps": step.rows}


def _import_reading() -> None:
    importlib.import_module("pinikit.api")


def _import_models() -> None:
    for name in ("pinikit.study.bank_plan", "pinikit.study.run", "pinikit.training.loop"):
        importlib.import_module(name)


def _show(plan: Any) -> str:
    from rich.console import Console

    from pinikit.cli.tables import print_plan

    text = io.StringIO()
    print_plan(Console(file=text, width=120), plan)
    return text.getvalue()


# --- reporting ------------------------------------------------------------------------------------


def write_reported(folder: Path, runs: int, seeds: int) -> int:
    """A store with a study of about ``runs`` finished runs; returns how many there are."""
    from pinikit.api import run_study
    from pinikit.study.index import write_index
    from pinikit.study.store import Store
    from pinikit.study.study import resolve_study

    words = {"seeds": list(range(1, seeds + 1))}
    path = _write(folder / "reporting.yaml", REPORTED, runs // seeds, REPORTED_PER_RATE, **words)
    study, store = resolve_study(path), Store(folder / "runs")
    arm = list(study.arms)[1]
    trained = run_study(path, ["seeds=[1]"], arms=arm, runs=folder / "trained").results[arm, 1]
    source = Store(folder / "trained").run_folder(trained.run_id)
    stream = random.Random(1)
    for run in study.runs:
        _copy(run, trained, source, store, stream)
    write_index(study, store)
    return len(study.runs)


def _copy(run: Run, trained: StoredResult, source: Path, store: Store, stream: random.Random) -> None:
    """A finished run that differs from ``trained`` in its configuration and its accuracies."""
    from pinikit.data.files import write_json
    from pinikit.study.results import described

    folder = store.run_folder(run.id)
    folder.mkdir(parents=True)
    for path in source.iterdir():
        if path.name not in ("result.json", "config.json", "manifest.json", "run.log"):
            os.link(path, folder / path.name)
    write_json(folder / "config.json", described(run))
    run.manifest.save(folder / "manifest.json")
    moved = stream.gauss(0, 2)
    test = {
        mode: {**row, "accuracy": row["accuracy"] + moved}
        for mode, row in trained.content["metrics"]["test"].items()
    }
    kept = ("status", "study", "tries", "costs")
    content = {**{key: trained.content[key] for key in kept}, "arm": run.arm, "seed": run.seed}
    metrics = {**trained.content["metrics"], "test": test}
    store.save(run.id, {**content, "identity": run.identity, "metrics": metrics})


def report(folder: Path) -> dict[str, Any]:
    """Read the study of :func:`write_reported` and write its report, as ``pinikit report`` does."""
    step = Steps()
    step(f"{IMPORTS}what reads studies", _import_reading)
    step(f"{IMPORTS}what draws", _import_drawing)
    from pinikit import api
    from pinikit.reporting import write_report
    from pinikit.study.saved import stored_study
    from pinikit.study.store import Store

    store = Store(folder / "runs")
    study, results = step(
        "read", lambda: stored_study(store, "reporting"), lambda read: f"{len(read[1])} runs"
    )
    result = api.StudyResult(study, results, store.study_folder(study.name))
    step("write", lambda: write_report(result), _sizes)
    return {"steps": step.rows}


def _import_drawing() -> None:
    for name in ("jinja2", "matplotlib.figure", "scipy.stats"):
        importlib.import_module(name)


def _sizes(paths: Sequence[Path]) -> str:
    page = next(path for path in paths if path.suffix == ".html")
    return f"{len(paths)} files; the page has {page.stat().st_size / 1e6:.1f} MB"


_CHILDREN = {"plan": plan, "report": report}
"""What is measured, each in a process of its own."""


if __name__ == "__main__":
    main()

"""A whole study of 12 arms and 3 seeds beside as many naive runs, and fused arms beside one by one.

pinikit's side is run by ``run_study``, from pictures on the disk to the report. A naive run is measured in
steps and multiplied: its steps, and one pass over the test pictures.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import _tools
from benchmarks._tools import Row, Table
from benchmarks.pini import BATCH, make_dataset, make_task, make_watched
from benchmarks.step import Rival, make_rival
from pinikit.api import StudyResult, run_study
from pinikit.study.store import Store

STUDY = Path(__file__).with_name("study.yaml")
TARGETS = {"cpu": (60, 1), "cuda": (200, 5)}
"""Ratios that count as done, by device: the study, and fused arms against one by one."""
FUSED_ARMS = 16


@dataclass(frozen=True)
class Measured:
    """A study that was really run."""

    result: StudyResult
    runs: Path
    wall: float

    def seconds(self, phase: str) -> float:
        """Seconds that all runs together spent in a phase."""
        return float(sum(each.costs[f"seconds_{phase}"] for each in self.result.results.values()))


def main(arguments: Sequence[str] | None = None) -> Table:
    """Measure and print."""
    parser = _tools.parser(__doc__, classes=(100,), repeat=3)
    parser.add_argument("--epochs", type=int, default=8, help="of the study's runs")
    parser.add_argument("--fused-epochs", type=int, default=2, help="of the 16 arms, fused and one by one")
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    for device in _tools.devices(options.device):
        for count in options.classes:
            with _tools.private_folder() as folder:
                rows += measure(folder, device, _tools.class_names(count), options)
    table = Table("study", "A study against naive runs", rows, notes(options))
    _tools.publish(table, options, arguments)
    return table


def notes(options: argparse.Namespace) -> list[str]:
    """What a reader of the table must know."""
    return [
        f"{options.backbone}, {options.shots} shots, 4 views, {options.epochs} epochs, batch {BATCH}, one "
        "test picture a class; benchmarks/study.yaml. pinikit's seconds are the wall time of `run_study` "
        "with an empty cache: loading, view bank, training, evaluation, report.",
        "naive is extrapolated: the median measured step times the steps of all runs, and one forward pass "
        "of test pictures and prompts a run, in float32. Like the released code it runs both towers at "
        "every step, whatever the arm.",
        f"fused: {FUSED_ARMS} runs of the arm `pini` with other seeds, {options.fused_epochs} epochs, "
        "training only. Δ: largest relative difference of a run's last training loss between the two.",
    ]


def measure(
    folder: Path, device: torch.device, names: Sequence[str], options: argparse.Namespace
) -> list[Row]:
    """The study's row and the fused arms' row."""
    make_pictures(folder / "pictures", names, options.shots)
    overrides = overrides_of(folder / "pictures", device, options)
    study = run(folder / "study", {**overrides, "run.method.optim.epochs": options.epochs})
    seeds = {"seeds": list(range(1, FUSED_ARMS + 1)), "run.method.optim.epochs": options.fused_epochs}
    alone = run(folder / "alone", {**overrides, **seeds}, arms="pini", fuse="off")
    fused = run(folder / "fused", {**overrides, **seeds}, arms="pini", fuse="auto")
    naive = naive_seconds(device, names, options) * len(study.result.results)
    precision = study.result.study.runs[0].config["precision"]
    common = {"device": device.type, "classes": len(names), "precision": precision}
    best = TARGETS[device.type]
    return [
        {
            **common,
            "what": f"{len(study.result.results)} runs",
            "slow": "naive",
            "slow s": naive,
            "pinikit s": study.wall,
            "ratio": naive / study.wall,
            "target": best[0],
            "bank s": study.seconds("bank"),
            "train s": study.seconds("train"),
            "Δ": None,
        },
        {
            **common,
            "what": f"{FUSED_ARMS} fused runs",
            "slow": "one by one",
            "slow s": alone.seconds("train"),
            "pinikit s": fused.seconds("train"),
            "ratio": alone.seconds("train") / fused.seconds("train"),
            "target": best[1],
            "bank s": fused.seconds("bank"),
            "train s": fused.seconds("train"),
            "Δ": largest_difference(alone, fused),
        },
    ]


def overrides_of(pictures: Path, device: torch.device, options: argparse.Namespace) -> dict[str, Any]:
    """What the command line says, as overrides of the study."""
    return {
        "run.backbone.name": options.backbone,
        "run.backbone.pretrained": None if options.backbone == "glyph" else "random",
        "run.data.root": str(pictures),
        "run.data.shots": options.shots,
        "run.precision": options.precision,
        "run.device": device.type,
        "run.threads": options.threads,
    }


def run(runs: Path, overrides: Mapping[str, Any], arms: str | None = None, fuse: str = "auto") -> Measured:
    """Run the study into an empty folder.

    Raises:
        RuntimeError: a run failed; its message.
    """
    start = time.perf_counter()
    result = run_study(STUDY, overrides, arms=arms, runs=runs, fuse=fuse)
    wall = time.perf_counter() - start
    if result.failed:
        raise RuntimeError(f"a run of the study failed: {result.failed[0].error}")
    return Measured(result, runs, wall)


def largest_difference(one: Measured, other: Measured) -> float:
    """Over all runs, the relative difference of the last training loss."""
    pairs = [
        (last_loss(one, one.result.results[key].run_id), last_loss(other, other.result.results[key].run_id))
        for key in one.result.results
    ]
    return max(abs(a - b) / abs(a) for a, b in pairs)


def last_loss(measured: Measured, run_id: str) -> float:
    """The mean training loss of a run's last epoch."""
    path = Store(measured.runs).run_folder(run_id) / "history.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return float(list(csv.DictReader(file))[-1]["loss"])


def naive_seconds(device: torch.device, names: Sequence[str], options: argparse.Namespace) -> float:
    """Seconds of a naive run: its steps, and one pass over the test pictures and the prompts."""
    backbone = _tools.make_backbone(options.backbone, device, "fp32")
    dataset = make_dataset(backbone, names)
    rival = make_rival(backbone, dataset, make_watched(make_task(backbone, "fp32", dataset), "fp32"))
    steps = options.epochs * max(options.shots * len(names) // BATCH, 1)
    rival.seconds(device)  # warms up
    step = _tools.median([rival.seconds(device) for _ in range(options.repeat)])
    pictures = _tools.seconds(lambda: rival.naive.encode_image(rival.pixels), device)
    return steps * step + math.ceil(len(names) / BATCH) * pictures + prompt_seconds(rival, device)


def prompt_seconds(rival: Rival, device: torch.device) -> float:
    """One forward pass of all prompts."""
    size = rival.chunk or len(rival.naive.tokens)
    return _tools.seconds(lambda: rival.naive.text_without_graph(rival.draws.text, size), device)


def make_pictures(folder: Path, names: Sequence[str], shots: int) -> None:
    """``shots`` training pictures and one test picture of each class, of coarse noise."""
    for label, name in enumerate(names):
        for split, count in (("train", shots), ("test", 1)):
            home = folder / split / name.replace("/", " or ")
            home.mkdir(parents=True)
            for index in range(count):
                stream = np.random.default_rng([label, index, split == "test"])
                noise = stream.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(noise).resize((256, 256)).save(home / f"{index}.jpg")


if __name__ == "__main__":
    main()

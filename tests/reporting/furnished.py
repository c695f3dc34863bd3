"""Folders of made-up runs: records, histories and environments as trained runs have them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
from PIL import Image

from pinikit.api import StudyResult
from pinikit.data.catalogue import Item
from pinikit.data.manifest import SplitManifest
from pinikit.study.record import RECORD, NoiseSummary, Predictions, Record, write_record
from pinikit.study.study import Run

SIDE = 4
"""Rows and columns of the maps."""


class Pictures:
    """A data set of grey squares."""

    def open(self, item: Item) -> Image.Image:
        return Image.new("RGB", (12, 12), (40 * item.label + 40,) * 3)


def furnish(result: StudyResult, *, classes: int = 3, pictures: int = 60, epochs: int = 5) -> StudyResult:
    """The same study on a larger made-up test set; its runs have folders."""
    runs = tuple(_run(run, classes, pictures) for run in result.study.runs)
    for run in runs:
        found = result.results.get((run.arm, run.seed))
        if found is not None and found.finished:
            _write(result.folder.parent.parent / "by-id" / run.id, run, epochs)
    return dataclasses.replace(result, study=dataclasses.replace(result.study, runs=runs))


def _run(run: Run, classes: int, pictures: int) -> Run:
    names = tuple(f"class_{index}" for index in range(classes))
    train = tuple(Item(f"train-{index}", index) for index in range(classes))
    test = tuple(Item(f"test-{index}", index % classes) for index in range(pictures))
    manifest = SplitManifest("digits", 4, run.seed, names, train, (), test)
    return dataclasses.replace(run, manifest=manifest, dataset=Pictures())  # type: ignore[arg-type]


def _write(folder: Path, run: Run, epochs: int) -> None:
    folder.mkdir(parents=True)
    stream = np.random.default_rng([run.seed, len(run.arm)])
    injections = run.config["method"].get("injections", {})
    noise = tuple(_noise(label, config["site"]["name"], stream) for label, config in injections.items())
    write_record(folder / RECORD, Record(_predictions(run, stream), noise))
    columns = ["epoch", "lr", "loss", "train_accuracy", *(f"noise_ratio.{label}" for label in injections)]
    rows = [
        [epoch, 0.001, 1 / (epoch + 1), 50 + epoch, *(0.1 * epoch for _ in injections)]
        for epoch in range(epochs)
    ]
    lines = [",".join(map(str, row)) for row in [columns, *rows]] if injections else []
    (folder / "history.csv").write_text("\n".join(lines), encoding="utf-8")
    machine = {
        "python": "3.11.0",
        "platform": "Linux",
        "device": "cpu",
        "threads": 2,
        "versions": {"torch": "2.6"},
    }
    (folder / "environment.json").write_text(json.dumps(machine), encoding="utf-8")


def _predictions(run: Run, stream: np.random.Generator) -> Predictions:
    labels = np.array([item.label for item in run.manifest.test], dtype=np.uint16)
    share = 0.9 if "both" in run.arm else 0.5
    other = stream.integers(0, len(run.manifest.class_names), len(labels))
    predicted = np.where(stream.random(len(labels)) < share, labels, other).astype(np.uint16)
    return Predictions("mean", labels, predicted, stream.uniform(0.2, 1, len(labels)).astype(np.float16))


def _noise(label: str, site: str, stream: np.random.Generator) -> NoiseSummary:
    if site == "prompt_template":
        parts = (stream.random(3).astype(np.float32) for _ in range(3))
        return NoiseSummary(label, "prompt_embedding", "tokens", *parts, tokens=("a", "<b>", "c"))
    if site == "image_feature":
        parts = (stream.random(1).astype(np.float32) for _ in range(3))
        return NoiseSummary(label, "image_feature", "vector", *parts, pictures=8)
    parts = (stream.random((3, SIDE, SIDE)).astype(np.float16) for _ in range(3))
    return NoiseSummary(label, "image_block.3", "grid", *parts, examples=(0, 1), pictures=8)

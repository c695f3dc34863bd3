"""Commands as a user types them, and a study so small that a command takes a second."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from pinikit.cli.app import app

STUDY = """\
name: tiny
question: Does anything work?
run:
  data: {name: digits, shots: 2, views: 1}
  prompt: {template: pini}
  method:
    name: pini
    injections: {}
    optim: {epochs: 2, lr: 0.01, batch_size: 8}
  evaluate: {noise: [mean, sample, mc-2]}
  device: cpu
  threads: 1
design:
  baseline: zero_shot
  arms:
    zero_shot: {method: {name: zero_shot}, prompt: {template: plain}}
    image: {method.injections.image: {site: image_feature, injector: cross_attention, share: image}}
    block: {method.injections.image: {site: image_block.2, injector: mlp, share: image}}
    pini:
      method.injections:
        text: {site: prompt_template, noise: {name: gaussian, std: sign_free}}
        image: {site: image_feature, injector: cross_attention, share: image}
seeds: [1, 2]
"""
RUNS = 8
"""Runs of the study."""

RUN_FILES = {
    "config.json",
    "manifest.json",
    "history.csv",
    "checkpoint.safetensors",
    "checkpoint.json",
    "environment.json",
    "record.safetensors",
    "run.log",
    "result.json",
}
STUDY_FILES = {"study.json", "report.md", "report.html", "results.csv", "summary.csv", "table.tex"} | {
    "accuracy.png",
    "accuracy.svg",
}


def write_study(folder: Path, text: str = STUDY) -> Path:
    """The study as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def call(*words: object) -> Result:
    """Run a command in this process."""
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(word) for word in words])


def read(runs: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """All results of a store, by arm and seed."""
    contents = (json.loads(path.read_text()) for path in runs.glob("by-id/*/result.json"))
    return {(content["arm"], content["seed"]): content for content in contents}


def bits(results: Mapping[tuple[str, int], Mapping[str, Any]]) -> dict[tuple[str, int], Any]:
    """What must not depend on when and how a run was made: metrics, and checksums of its files."""
    keys = ("run_id", "status", "metrics", "files", "identity")
    return {run: {key: content[key] for key in keys} for run, content in results.items()}


def folder_of(runs: Path, arm: str, seed: int = 1) -> Path:
    """A run's folder."""
    folder: Path = runs / "by-id" / read(runs)[arm, seed]["run_id"]
    return folder


def check_message(done: Result, code: int, *fragments: str) -> None:
    """One clear message, the documented exit code and no traceback."""
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    messages = [line for line in done.stderr.splitlines() if line.startswith("pinikit: ")]
    assert len(messages) == 1, done.stderr
    for fragment in fragments:
        assert fragment in done.stderr, done.stderr


def draw_pictures(root: Path, classes: Mapping[str, tuple[int, int, int]], count: int = 8) -> Path:
    """Picture files of several formats, one folder a class, each class with a colour of its own."""
    for label, (name, colour) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for index in range(count):
            noise = np.random.default_rng([label, index]).integers(0, 60, (40, 30 + index, 3))
            pixels = np.clip(noise + np.array(colour), 0, 255).astype(np.uint8)
            ending = ("png", "jpg", "bmp")[index % 3]
            Image.fromarray(pixels).save(root / name / f"{index:02d}.{ending}")
    return root

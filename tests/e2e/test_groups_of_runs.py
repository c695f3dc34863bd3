"""Runs that are trained together, when something goes wrong with one or with all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import STUDY, call, folder_of, read, write_study

from pinikit.components.methods import pini
from pinikit.training.loop import Trainee


def with_arms(folder: Path, **arms: Any) -> Path:
    """The small study with a few arms on the image feature."""
    content = yaml.safe_load(STUDY)
    content["design"] = {
        "arms": {arm: {**content["design"]["arms"]["image"], **more} for arm, more in arms.items()}
    }
    return write_study(folder, yaml.safe_dump(content, sort_keys=False))


def test_one_arm_that_diverges_fails_alone(tmp_path: Path) -> None:
    study = with_arms(tmp_path, good={}, bad={"method.optim.lr": 1e30, "method.optim.epochs": 2})
    done = call("run", study, "--runs", tmp_path / "runs")
    assert done.exit_code == 1
    results = read(tmp_path / "runs")
    assert {run: result["status"] for run, result in results.items()} == {
        ("good", 1): "finished",
        ("good", 2): "finished",
        ("bad", 1): "failed",
        ("bad", 2): "failed",
    }
    assert results["good", 1]["costs"]["fused"] == 4
    assert "lr usually helps" in results["bad", 1]["error"] or "the loss became" in results["bad", 1]["error"]
    again = call("run", study, "--runs", tmp_path / "runs")
    assert "a group of 4 runs is trained whole, with 2 finished ones" in again.stderr
    assert read(tmp_path / "runs")["good", 1] == results["good", 1], "their results stay"


def test_what_fails_together_is_tried_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = pini.train

    def short_of_memory(trainees: Sequence[Trainee], samples: int = 1) -> Any:
        if len(trainees) > 1:
            raise MemoryError("no room for two")
        return train(trainees, samples)

    monkeypatch.setattr(pini, "train", short_of_memory)
    study = with_arms(tmp_path, only={})
    done = call("run", study, "--runs", tmp_path / "runs")
    assert done.exit_code == 0, done.output
    text = "training 2 runs together failed (MemoryError: no room for two); each is now trained by itself"
    assert f"arm only: {text}" in done.stderr
    results = read(tmp_path / "runs")
    assert [result["costs"]["fused"] for result in results.values()] == [1, 1]
    assert text in (folder_of(tmp_path / "runs", "only") / "run.log").read_text()

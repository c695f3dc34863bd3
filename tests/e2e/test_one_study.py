"""One study from the first call to the last: files, tables, recognition, prediction, damage."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from commands import (
    RUN_FILES,
    RUNS,
    STUDY,
    STUDY_FILES,
    bits,
    call,
    check_message,
    folder_of,
    read,
    write_study,
)
from PIL import Image

import pinikit
from pinikit.components.datasets.digits import Digits
from pinikit.data.manifest import SplitManifest
from pinikit.reporting.figure import accuracy_figure
from pinikit.study.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The study after its first call."""
    folder = tmp_path_factory.mktemp("study")
    study = write_study(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pinikit.reporting.figure.accuracy_figure", accuracy_figure)  # drawn this once
        done = call("run", study, "--runs", folder / "runs")
    return SimpleNamespace(done=done, study=study, runs=folder / "runs", results=read(folder / "runs"))


# --- the first call ---------------------------------------------------------------------------------------


def test_the_command_succeeds_and_shows_a_table(ran: Any) -> None:
    assert ran.done.exit_code == 0, ran.done.output
    assert len(ran.results) == RUNS
    for arm in ("zero_shot", "image", "block", "pini"):
        assert any(line.strip().startswith(arm) for line in ran.done.stdout.splitlines())
    assert "baseline" in ran.done.stdout
    assert "[7-8/8] pini, seeds 1, 2: started" in ran.done.stderr


def test_every_run_has_its_files(ran: Any) -> None:
    for (arm, seed), content in ran.results.items():
        folder = ran.runs / "by-id" / content["run_id"]
        assert {path.name for path in folder.iterdir()} == RUN_FILES
        described = json.loads((folder / "config.json").read_text())
        assert described["config"]["seed"] == seed
        assert described["run_id"] == content["run_id"] == folder.name
        assert described["identity"] == content["identity"]
        rows = list(csv.DictReader((folder / "history.csv").read_text().splitlines()))
        assert [row["epoch"] for row in rows] == ([] if arm == "zero_shot" else ["0", "1"])
        environment = json.loads((folder / "environment.json").read_text())
        assert environment["versions"]["torch"] == torch.__version__ or environment["versions"]["torch"]
        assert "finished" in (folder / "run.log").read_text()
        assert content["status"] == "finished"


def test_results_have_metrics_and_costs(ran: Any) -> None:
    for (arm, _), content in ran.results.items():
        test, costs = content["metrics"]["test"], content["costs"]
        assert list(test) == ["mean", "sample", "mc-2"]
        for metrics in test.values():
            assert 50 < metrics["accuracy"] <= 100
            assert {"macro_accuracy", "nll", "ece", "flip_rate", "draw_accuracy_std"} < set(metrics)
            assert set(metrics["noise_ratio"]) == {"zero_shot": set(), "pini": {"text", "image"}}.get(
                arm, {"image"}
            )
        assert list(content["metrics"]["val"]) == ["mean"]
        assert (costs["trainable_parameters"] == 0) == (arm == "zero_shot")
        assert costs["peak_memory_mb"] > 0
        assert costs["seconds_total"] >= costs["seconds_train"] + costs["seconds_evaluate"]
        assert min(costs[f"seconds_{phase}"] for phase in ("load", "bank", "train", "evaluate")) >= 0
        assert costs["images_encoded"] + costs["rows_cached"] > 0
        crosses = "text tower" in costs["cost_class"]
        assert (costs["text_flops_per_second"] is not None) == crosses
        assert (costs["tokens_train"] > 0) >= crosses, "clean text features were computed by another arm"
        assert not crosses or 0 < costs["matmul_share"] < 2
    assert sum(content["costs"]["seconds_load"] > 0 for content in ran.results.values()) >= 1
    assert ran.results["zero_shot", 1]["metrics"]["test"] == ran.results["zero_shot", 2]["metrics"]["test"]


def test_manifests_are_disjoint_and_shared_by_the_arms(ran: Any) -> None:
    for seed in (1, 2):
        manifests = [
            SplitManifest.load(folder_of(ran.runs, arm, seed) / "manifest.json")
            for arm in ("zero_shot", "pini")
        ]
        assert manifests[0] == manifests[1]
        parts = [
            {item.id for item in part} for part in (manifests[0].train, manifests[0].val, manifests[0].test)
        ]
        assert len(set().union(*parts)) == sum(map(len, parts))
        assert len(parts[0]) == 20
    assert ran.results["pini", 1]["identity"]["manifest"] != ran.results["pini", 2]["identity"]["manifest"]


def test_the_study_folder_has_the_report(ran: Any) -> None:
    folder = ran.runs / "studies" / "tiny"
    assert {path.name for path in folder.iterdir()} >= STUDY_FILES
    index = json.loads((folder / "study.json").read_text())
    for (arm, seed), content in ran.results.items():
        assert index["runs"][arm][str(seed)] == content["run_id"]
    rows = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    assert len(rows) == RUNS * 3, "a row for each run and each treatment of noise"
    report = (folder / "report.md").read_text()
    assert all(arm in report for arm in index["arms"])
    assert "accuracy.png" in report or "accuracy.svg" in report
    with Image.open(folder / "accuracy.png") as figure:
        assert min(figure.size) > 300


# --- the second call --------------------------------------------------------------------------------------


def test_a_second_call_trains_nothing_and_imports_no_torch(ran: Any) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in ran.runs.glob("by-id/*/*")}
    code = (
        "import sys; sys.argv = ['pinikit', *sys.argv[1:]]\n"
        "from pinikit.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(*sorted({'torch', 'open_clip', 'timm', 'torchvision'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "run", str(ran.study), "--runs", str(ran.runs)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "160"},
    )
    assert "all 8 runs were finished before; nothing was trained" in done.stdout
    assert done.stderr.splitlines()[-1] == ""
    table = [line for line in ran.done.stdout.splitlines() if "±" in line]
    assert [line for line in done.stdout.splitlines() if "±" in line] == table
    assert {path: path.stat().st_mtime_ns for path in ran.runs.glob("by-id/*/*")} == stamps


def test_another_study_shares_the_runs(ran: Any, tmp_path: Path) -> None:
    study = write_study(
        tmp_path, STUDY.replace("name: tiny", "name: other").replace("seeds: [1, 2]", "seeds: [2]")
    )
    done = call("run", study, "--arms", "pini", "--runs", ran.runs)
    assert done.exit_code == 0
    assert "all 2 runs were finished before" in done.stdout
    index = json.loads((ran.runs / "studies" / "other" / "study.json").read_text())
    assert set(index["runs"]) == {"zero_shot", "pini"}, "the baseline is always there"


def test_what_does_not_matter_does_not_name_a_run(ran: Any) -> None:
    """Neither paths nor thread counts; the number of shots does."""
    done = call("run", ran.study, "--dry-run", "run.threads=2", "--runs", ran.runs)
    assert "8 runs: 8 done, 0 to do" in done.stdout
    done = call("run", ran.study, "--dry-run", "run.data.shots=3", "--runs", ran.runs)
    assert "8 runs: 2 done" not in done.stdout
    assert "0 done, 8 to do" in done.stdout


# --- choosing ---------------------------------------------------------------------------------------------


def test_a_dry_run_writes_nothing(ran: Any, tmp_path: Path) -> None:
    before = sorted(ran.runs.rglob("*"))
    done = call("run", ran.study, "--dry-run", "--runs", tmp_path / "none", "run.data.shots=1")
    assert done.exit_code == 0, done.output
    assert "8 to do" in done.stdout
    assert not (tmp_path / "none").exists()
    assert sorted(ran.runs.rglob("*")) == before


def test_arms_quiet_and_a_manifest_of_one_s_own(ran: Any, tmp_path: Path) -> None:
    """The same manifest for every seed: then seeds differ in noise and initial values alone."""
    manifest = folder_of(ran.runs, "image", 2) / "manifest.json"
    done = call(
        "run",
        ran.study,
        "--arms",
        "im*",
        "--quiet",
        f"run.data.manifest={manifest}",
        "--runs",
        tmp_path / "runs",
    )
    assert (done.exit_code, done.output) == (0, "")
    results = read(tmp_path / "runs")
    assert set(results) == {(arm, seed) for arm in ("zero_shot", "image") for seed in (1, 2)}
    hashes = {content["identity"]["manifest"] for content in results.values()}
    assert hashes == {ran.results["image", 2]["identity"]["manifest"]}
    assert results["image", 2]["run_id"] == ran.results["image", 2]["run_id"], "the file's name plays no part"
    ours, theirs = (found["image", 2] for found in (results, ran.results))
    assert ours["metrics"] == theirs["metrics"]
    for name in ("checkpoint.safetensors", "history.csv", "manifest.json"):
        assert ours["files"][name] == theirs["files"][name]
    assert results["image", 1]["metrics"] != ran.results["image", 1]["metrics"]


# --- prediction -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ["zero_shot", "image", "block", "pini"])
def test_a_predictor_has_the_accuracy_of_its_run(ran: Any, arm: str) -> None:
    predictor = pinikit.load_predictor(folder_of(ran.runs, arm, 2))
    dataset, test = Digits(), SplitManifest.load(folder_of(ran.runs, arm, 2) / "manifest.json").test
    labels = torch.tensor([item.label for item in test])
    probabilities = torch.cat(
        [
            predictor.probabilities([dataset.open(item) for item in test[i : i + 300]])
            for i in range(0, len(test), 300)
        ]
    )
    stored = ran.results[arm, 2]["metrics"]["test"]["mean"]
    accuracy = 100 * (probabilities.argmax(1) == labels).double().mean().item()
    assert accuracy == pytest.approx(stored["accuracy"], abs=1e-9)
    nll = -probabilities[range(len(test)), labels].double().log().mean().item()
    assert nll == pytest.approx(stored["nll"], rel=1e-4)


def test_predictions_are_repeatable_and_noisy_ones_average(ran: Any) -> None:
    predictor = pinikit.load_predictor(folder_of(ran.runs, "pini"))
    pictures = [Digits().open(item) for item in Digits().catalogue().test[:4]]
    assert torch.equal(predictor.probabilities(pictures, "mc-3"), predictor.probabilities(pictures, "mc-3"))
    assert not torch.equal(predictor.probabilities(pictures, "sample"), predictor.probabilities(pictures))
    torch.testing.assert_close(predictor.probabilities(pictures, "mc-2").sum(1), torch.ones(4))
    with pytest.raises(pinikit.errors.ConfigError, match="mean, sample, mc-K"):
        predictor.probabilities(pictures, "median")


def test_predict_prints_the_top_classes(ran: Any, tmp_path: Path) -> None:
    paths = []
    for item in Digits().catalogue().test[:2]:
        paths.append(tmp_path / f"{item.id.replace('/', '_')}.png")
        Digits().open(item).save(paths[-1])
    run = folder_of(ran.runs, "pini")
    done = call("predict", run, *paths, "--top", 3)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[::4] == list(map(str, paths))
    expected = pinikit.load_predictor(run).classify(paths, top=3)
    for block, classes in zip((lines[1:4], lines[5:8]), expected, strict=True):
        assert block == [f"  {100 * value:6.2f} %  {name}" for name, value in classes]
    assert (
        call("predict", run.name[:12], paths[0], paths[1], "--top", 3, "--runs", ran.runs).stdout
        == done.stdout
    )
    assert len(call("predict", run, paths[0], "--top", 99).stdout.splitlines()) == 11


def test_predict_refuses_what_it_cannot_use(ran: Any, tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "black.png")
    Image.effect_noise((30, 30), 50).save(tmp_path / "broken.png")
    truncate(tmp_path / "broken.png")
    (tmp_path / "text.jpg").write_text("no picture")
    run, black = folder_of(ran.runs, "image"), tmp_path / "black.png"
    for picture, message in (
        ("gone.png", "is missing"),
        ("broken.png", "cannot be read"),
        ("text.jpg", "cannot be"),
    ):
        check_message(call("predict", run, black, tmp_path / picture), 3, picture, message)
    check_message(
        call("predict", "0000", black, "--runs", ran.runs), 2, "'0000': no run begins so in", "allowed"
    )
    check_message(call("predict", "12", black, "--runs", tmp_path / "nothing"), 2, "no run begins so")
    check_message(
        call("predict", tmp_path, black), 3, "has no checkpoint.safetensors; the run is not finished"
    )
    check_message(call("predict", run, tmp_path), 3, str(tmp_path))


# --- damage -----------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("checkpoint.safetensors", flip),
        ("checkpoint.json", truncate),
        ("result.json", truncate),
        ("result.json", flip),
        ("history.csv", Path.unlink),
    ],
)
def test_damage_is_said_and_mended(ran: Any, tmp_path: Path, name: str, damage: Any) -> None:
    folder = folder_of(ran.runs, "image", 1)
    damage(folder / name)
    Image.new("RGB", (9, 9)).save(tmp_path / "black.png")
    if name.startswith("checkpoint"):
        check_message(
            call("predict", folder, tmp_path / "black.png"), 3, name, "damaged", "run the study again"
        )
    done = call("run", ran.study, "--runs", ran.runs)
    assert done.exit_code == 0, done.output
    assert f"note: run {folder.name} (arm image, seed 1) is damaged and will be run again" in done.stderr
    assert str(folder) in done.stderr
    assert "1 run to do, 7 finished before" in done.stderr
    assert bits(read(ran.runs)) == bits(ran.results)
    assert load_checkpoint(folder).state


def test_nothing_warned(ran: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pinikit.load_predictor(folder_of(ran.runs, "pini"))

"""A user's own pictures, from files to predictions; and the real ones, where they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from commands import call, draw_pictures, folder_of, read, write_study
from PIL import Image
from shared_material import SHARED

import pinikit
from pinikit.data.manifest import SplitManifest

COLOURS = {"blue_sky": (0, 0, 190), "red": (190, 0, 0), "green": (0, 190, 0)}


def turn(path: Path) -> None:
    """Store a picture sideways with an orientation tag, as phones do."""
    with Image.open(path) as picture:
        picture.load()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.rotate(90, expand=True).save(path, exif=exif)


def test_own_pictures_from_files_to_predictions(tmp_path: Path) -> None:
    root = draw_pictures(tmp_path / "pictures", COLOURS, count=10)
    for path in root.glob("*/*.jpg"):
        turn(path)
    study, runs = write_study(tmp_path), tmp_path / "runs"
    words = [
        "run",
        study,
        "--arms",
        "image",
        "--runs",
        runs,
        "run.data.name=image_folder",
        f"run.data.root={root}",
        "run.method.optim.epochs=8",
    ]
    done = call(*words)
    assert done.exit_code == 0, done.output
    result = read(runs)["image", 1]
    assert result["status"] == "finished"
    folder = folder_of(runs, "image")
    manifest = SplitManifest.load(folder / "manifest.json")
    assert manifest.class_names == ("blue_sky", "green", "red")
    assert len(manifest.test) == 9

    predictor = pinikit.load_predictor(folder)
    probabilities = predictor.probabilities([root / item.id for item in manifest.test])
    labels = torch.tensor([item.label for item in manifest.test])
    stored = result["metrics"]["test"]["mean"]
    nll = -probabilities[range(len(labels)), labels].double().log().mean().item()
    assert nll == pytest.approx(stored["nll"], rel=1e-4), "pictures are opened as in training, tags obeyed"

    done = call("predict", folder, root / manifest.test[0].id, "--top", 1)
    assert done.stdout.splitlines()[0] == str(root / manifest.test[0].id)
    assert "%" in done.stdout.splitlines()[1]

    again = call(*words)
    assert "all 4 runs were finished before" in again.stdout
    moved = tmp_path / "elsewhere"
    root.rename(moved)
    again = call(*words, f"run.data.root={moved}")
    assert "all 4 runs were finished before" in again.stdout, "a path is no part of a run's identity"
    Image.new("RGB", (50, 50)).save(moved / "red" / "00.png")
    again = call(*words, f"run.data.root={moved}")
    assert "all 4 runs were finished before" not in again.stdout, "another picture of the same name"


@pytest.mark.real
@pytest.mark.skipif(
    not (SHARED / "models" / "effl0-causal").is_dir(), reason="the shared models are not here"
)
@pytest.mark.skipif(not (SHARED / "data" / "dtd").is_dir(), reason="the shared pictures are not here")
def test_zero_shot_accuracy_of_a_real_model_on_real_pictures(tmp_path: Path) -> None:
    """The number in the model's README: 15.83 % of 360 test pictures."""
    path = tmp_path / "real.yaml"
    path.write_text(
        f"""
name: real
run:
  backbone: {{name: "local-dir:{SHARED / "models" / "effl0-causal"}"}}
  data: {{name: dtd, root: "{SHARED / "data"}", shots: 1}}
  method: zero_shot
  precision: fp32
  device: cpu
seeds: [1]
"""
    )
    result = pinikit.run_study(path, runs=tmp_path / "runs")
    assert result.failed == []
    (run,) = result.study.runs
    assert len(run.manifest.test) == 360
    accuracy = result.results[run.arm, 1].metrics("test", "mean")["accuracy"]
    assert accuracy == pytest.approx(15.83, abs=0.005)

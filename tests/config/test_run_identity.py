"""A run's identity: what enters it and what does not. Known without torch."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_study_files import STUDY, write

from pinikit.study.study import resolve_study


def ids(path: Path, *overrides: str) -> dict[tuple[str, int], str]:
    return {(run.arm, run.seed): run.id for run in resolve_study(path, overrides).runs}


def test_every_run_has_its_own_id_of_sixteen_digits(tmp_path: Path) -> None:
    found = list(ids(write(tmp_path)).values())
    assert len(set(found)) == len(found) == 6
    assert all(len(run_id) == 16 and int(run_id, 16) >= 0 for run_id in found)


def test_names_order_and_spelling_do_not_matter(tmp_path: Path) -> None:
    before = ids(write(tmp_path))
    renamed = copy.deepcopy(STUDY)
    renamed["name"], renamed["question"] = "other", "Why?"
    renamed["design"]["arms"]["image"] = {
        "method": {
            "injections": {
                "image": {
                    "share": "image",
                    "noise": {"name": "gaussian_diag"},
                    "site": {"name": "image_feature"},
                }
            }
        }
    }
    renamed["design"]["arms"] = dict(reversed(renamed["design"]["arms"].items()))
    after = ids(write(tmp_path, renamed), "run.threads=1")
    assert after == before


@pytest.mark.parametrize(
    "override",
    [
        "run.method.optim.lr=0.5",
        "run.data.shots=3",
        "run.data.views=2",
        "run.data.split_seed=9",
        "run.precision=bf16",
        "run.prompt.template='a drawing of {}.'",
        "run.evaluate.noise=[mean]",
        "run.method.losses.classify={name: cross_entropy, weight: 2.0}",
    ],
)
def test_what_decides_the_result_changes_the_id(override: str, tmp_path: Path) -> None:
    path = write(tmp_path)
    before, after = ids(path), ids(path, override)
    assert all(before[key] != after[key] for key in before if key[0] == "image")


def test_split_seed_fixes_the_split_over_seeds(tmp_path: Path) -> None:
    runs = resolve_study(write(tmp_path), ["run.data.split_seed=5"]).runs
    assert len({run.manifest.hash for run in runs}) == 1
    assert len({run.manifest.hash for run in resolve_study(write(tmp_path)).runs}) == 2


def test_a_manifest_file_replaces_sampling(tmp_path: Path) -> None:
    path = write(tmp_path)
    run = resolve_study(path, ["seeds=[1]"]).runs[0]
    saved = tmp_path / "split.json"
    run.manifest.save(saved)
    again = resolve_study(path, [f"run.data.manifest={saved}", "seeds=[1]", "run.data.shots=16"]).runs[0]
    assert again.manifest == run.manifest
    assert again.config["data"]["shots"] == 2
    assert again.id == run.id


def test_the_place_of_pictures_does_not_matter_but_their_content_does(tmp_path: Path) -> None:
    from PIL import Image

    study: dict[str, Any] = {"name": "s", "run": {"data": {"name": "image_folder", "shots": 1}}}
    for name in ("cat", "dog"):
        for k in range(8):
            (tmp_path / "one" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8 + k, 9)).save(tmp_path / "one" / name / f"{k}.png")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    path = write(tmp_path, study)
    one, two = (ids(path, f"run.data.root={tmp_path / name}") for name in ("one", "two"))
    assert one == two
    for k in range(8):
        Image.new("RGB", (99, 77), "red").save(tmp_path / "two" / "dog" / f"{k}.png")
    assert ids(path, f"run.data.root={tmp_path / 'two'}") != one


def test_resolving_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pinikit.study.study import resolve_study\n"
        f"resolve_study({str(write(tmp_path))!r})\n"
        "print([m for m in ('torch', 'optuna', 'open_clip', 'timm', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

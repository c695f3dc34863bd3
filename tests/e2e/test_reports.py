"""``pinikit report`` after ``pinikit run``; and what is recorded for it changes no number."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from commands import STUDY, call, check_message, folder_of, read, write_study

from pinikit.study.store import Store

SMALL = STUDY.replace("seeds: [1, 2]", "seeds: [1]")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study, whose file is gone when it is reported."""
    folder = tmp_path_factory.mktemp("report")
    path = write_study(folder, SMALL)
    assert call("run", path, "run.method.optim.lr=0.02", "--runs", folder / "runs", "--quiet").exit_code == 0
    path.unlink()
    return folder / "runs"


def test_report_needs_nothing_but_the_store(runs: Path) -> None:
    page = runs / "studies" / "tiny" / "report.html"
    before = page.read_bytes()
    page.unlink()
    done = call("report", "tiny", "--runs", runs)
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == [str(page)]
    assert page.read_bytes() == before
    text = before.decode()
    for words in ("Where the noise goes", "Learning curves", "Pictures whose prediction", "Calibration"):
        assert words in text
    assert "run.method.optim.lr=0.02" in text
    assert "cannot be read" not in text


def test_several_studies_go_where_they_are_asked_to(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "pinikit.reporting.html.page.html_page", lambda results, digest: f"{len(results)} studies {digest}"
    )
    studies = [runs / "studies" / "tiny", "tiny"]
    done = call("report", *studies, "--runs", runs, "-o", tmp_path / "both.html")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "both.html").read_text(encoding="utf-8").startswith("2 studies")


def test_unknown_studies_are_refused(runs: Path) -> None:
    check_message(call("report", "tinny", "--runs", runs), 2, "'tinny'", "did you mean 'tiny'")
    check_message(call("report", "injection_sites", "--runs", runs), 2, "none of its runs has a result")


def test_what_is_recorded_is_checked(runs: Path) -> None:
    folder = folder_of(runs, "pini")
    assert "record.safetensors" in json.loads((folder / "result.json").read_text())["files"]
    assert Store(runs).damage(folder.name) is None


def test_history_has_the_size_of_the_noise(runs: Path) -> None:
    with (folder_of(runs, "pini") / "history.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2
    assert all(float(row[f"noise_ratio.{label}"]) > 0 for row in rows for label in ("text", "image"))


def test_recording_changes_no_number(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pinikit.study.run.save_record", lambda *_: None)
    path = write_study(tmp_path, SMALL)
    done = call("run", path, "run.method.optim.lr=0.02", "--runs", tmp_path / "runs", "--quiet")
    assert done.exit_code == 0
    without, recorded = read(tmp_path / "runs"), read(runs)
    for key, content in without.items():
        assert content["metrics"] == recorded[key]["metrics"]
        assert {**content["files"], "record.safetensors": ""} == {
            **recorded[key]["files"],
            "record.safetensors": "",
        }
    page = (tmp_path / "runs" / "studies" / "tiny" / "report.html").read_text(encoding="utf-8")
    assert "Calibration" not in page  # runs without records are reported all the same

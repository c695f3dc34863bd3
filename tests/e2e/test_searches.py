"""A search as a user runs it: trials, the same command again, the best arms on fresh seeds."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
import yaml
from commands import call, check_message, read
from markupsafe import Markup

STUDY = """\
name: small
question: Is any of these better?
run:
  data: {name: digits, shots: 2, views: 1}
  method:
    name: pini
    injections: {image: {site: image_feature, injector: cross_attention, share: image}}
    optim: {epochs: 3, lr: 0.001, batch_size: 8}
  evaluate: {noise: [mean, sample]}
  device: cpu
  threads: 1
seeds: [1, 2]
search:
  injections.image.noise: [gaussian, laplace]
  optim.lr: {low: 1.0e-3, high: 0.3, log: true}
tune: {best: 1, fresh_seeds: [11, 12]}
"""
FOLDER = Path("runs/studies/small")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pinikit.reporting.html.tuning_figures.inline_svg", lambda *figure: Markup(""))
    path = tmp_path / "small.yaml"
    path.write_text(STUDY, encoding="utf-8")
    return path


def test_a_search_and_its_confirmation(study: Path) -> None:
    done = call("tune", "small.yaml", "--trials", 5)
    assert done.exit_code == 0, done.output
    assert "[5/5]" in done.stderr
    best = yaml.safe_load((FOLDER / "best.yaml").read_text(encoding="utf-8"))
    base, zero_shot, first, pini = best["design"]["arms"]  # the base lacks PiNI's injection of the text
    assert (base, zero_shot, pini) == ("base", "zero_shot", "pini")
    assert first.startswith("trial_")

    again = call("tune", "small", "--resume", "--trials", 6)
    assert "small: 6 trials in all, 5 over before" in again.stderr
    assert "[6/6] trial 5" in again.stderr
    over = call("tune", "small", "--resume")
    assert "all 6 trials were over before; nothing was evaluated" in over.stdout
    table = list(csv.DictReader(io.StringIO(call("tune", "export", "small").stdout)))
    assert [row["state"] in ("complete", "pruned") for row in table] == [True] * 6
    assert [row["label"] for row in table[:2]] == ["base", "zero_shot"]

    page = (FOLDER / "tuning.html").read_text(encoding="utf-8")
    assert "pinikit run runs/studies/small/best.yaml" in page
    confirmed = call("run", FOLDER / "best.yaml")
    assert confirmed.exit_code == 0, confirmed.output
    assert {(arm, seed) for arm, seed in read(Path("runs")) if arm == "base"} == {("base", 11), ("base", 12)}
    page = (FOLDER / "tuning.html").read_text(encoding="utf-8")
    assert "validation, fresh" in page
    assert "of test accuracy on 2 fresh seeds" in confirmed.stderr
    shown = call("tune", "small", "--resume").stdout
    assert "of test accuracy on 2 fresh seeds" in shown
    assert "pinikit run" not in shown


def test_each_command_has_its_studies(study: Path) -> None:
    check_message(call("run", "small.yaml"), 2, "pinikit tune")
    check_message(call("tune", "injection_sites"), 2, "pinikit run injection_sites")
    check_message(call("tune", "small.yaml", "--trials", 0), 2, "--trials")

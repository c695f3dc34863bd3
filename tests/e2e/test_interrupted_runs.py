"""A study whose training is interrupted goes on where it was, and comes out the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import STUDY, bits, call, read, write_study

from pinikit import api
from pinikit.study import resume


class Impatient(api.Reporter):
    """Presses Ctrl-C in an epoch of a training; remembers what it is told."""

    def __init__(self, epoch: int | None = None) -> None:
        self.epoch, self.epochs, self.told = epoch, list[int](), list[str]()

    def training(self, epoch: int, epochs: int, **values: float) -> None:
        self.epochs.append(epoch)
        if epoch == self.epoch:
            raise KeyboardInterrupt

    def message(self, text: str) -> None:
        self.told.append(text)


def test_a_study_goes_on_in_the_middle_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "INTERVAL", 0.0)
    path = write_study(tmp_path, STUDY.replace("epochs: 2", "epochs: 5"))
    disturbed, quiet = tmp_path / "disturbed", tmp_path / "quiet"
    with pytest.raises(KeyboardInterrupt):
        api.run_study(path, arms="pini", runs=disturbed, reporter=Impatient(4))
    (status,) = json.loads(call("status", "tiny", "--json", "--runs", disturbed).stdout)
    assert {arm["arm"]: (arm["epoch"], arm["counts"]["to do"]) for arm in status["arms"]} == {
        "zero_shot": (None, 0),
        "pini": (3, 2),
    }
    assert (
        f"go on: pinikit run {path} --arms pini --runs" in call("status", "tiny", "--runs", disturbed).stdout
    )
    second = Impatient()
    api.run_study(path, arms="pini", runs=disturbed, reporter=second)
    assert set(second.epochs) == {4, 5}
    assert "arm pini: training goes on after epoch 3 of 5" in second.told
    api.run_study(path, arms="pini", runs=quiet)
    results, expected = read(disturbed), read(quiet)
    assert bits(results) == bits(expected)
    for key in expected:
        spent, least = (found[key]["costs"]["tokens_train"] for found in (results, expected))
        assert least <= spent <= 1.3 * least, "what was done before the interruption counts, but not twice"
    assert not (disturbed / "by-group").exists()


def test_a_rerun_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "INTERVAL", 0.0)
    monkeypatch.setattr("pinikit.reporting.write_report", lambda result: [])
    path, runs = write_study(tmp_path, STUDY.replace("epochs: 2", "epochs: 3")), tmp_path / "runs"
    api.run_study(path, arms="pini", runs=runs)
    expected = bits(read(runs))
    with pytest.raises(KeyboardInterrupt):
        api.run_study(path, arms="pini", runs=runs, rerun="pini", reporter=Impatient(3))
    second = Impatient()
    api.run_study(path, arms="pini", runs=runs, rerun="pini", reporter=second)
    assert set(second.epochs) == {3}
    assert bits(read(runs)) == expected
    assert not list(runs.glob(".*"))

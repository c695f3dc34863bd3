"""Same seed, same bits: whatever the order of the arms, and whatever killed the study on its way."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import RUN_FILES, RUNS, STUDY, bits, call, read, write_study
from processes import Shell, once, shell

from pinikit import api
from pinikit.study.store import Store

pytestmark = [pytest.mark.drill, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]

INDEX, BEFORE = 1, 3
"""Files that are written first: of a study, and of a run before it is trained."""
AFTER = len(RUN_FILES - {"run.log"}) - BEFORE
"""Files of a run that are written when it was trained; the last one makes it finished."""


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with shell(tmp_path_factory.mktemp("shell")) as opened:
        yield opened


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def reference(study: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """The study without any disturbance, in this process."""
    runs = tmp_path_factory.mktemp("reference")
    assert call("run", study, "--runs", runs, "--quiet").exit_code == 0
    found = bits(read(runs))
    assert len(found) == RUNS
    return found


@pytest.fixture(scope="module")
def one_by_one(study: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """The same without fused arms."""
    runs = tmp_path_factory.mktemp("one_by_one")
    assert call("run", study, "--runs", runs, "--fuse", "off", "--quiet").exit_code == 0
    return bits(read(runs))


def finished(runs: Path) -> list[Path]:
    return list(runs.glob("by-id/*/result.json"))


def check_nothing_torn(runs: Path) -> None:
    """Every result that is there is whole, and so is everything that it vouches for."""
    for path in finished(runs):
        assert Store(runs).damage(path.parent.name) is None
    for path in runs.rglob("*.json"):
        json.loads(path.read_text())


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study with arms and seeds in another order."""
    content = yaml.safe_load(STUDY)
    content["design"]["arms"] = dict(reversed(content["design"]["arms"].items()))
    content["seeds"] = [2, 1]
    return write_study(tmp_path_factory.mktemp("turned"), yaml.safe_dump(content, sort_keys=False))


def test_another_order_of_arms(
    turned: Path, reference: dict[Any, Any], tmp_path: Path, forked: Shell
) -> None:
    """One arm is run before the others; its seeds are a group either way."""
    runs = tmp_path / "runs"
    assert call("run", turned, "--arms", "pini", "--runs", runs, "--quiet").exit_code == 0
    assert len(read(runs)) == 4
    assert forked("run", turned, "--runs", runs).code == 0
    assert bits(read(runs)) == reference


def test_without_fused_arms_a_run_may_also_be_alone(
    turned: Path, one_by_one: dict[Any, Any], tmp_path: Path, forked: Shell
) -> None:
    runs = tmp_path / "runs"
    words = ("run", turned, "--runs", runs, "--fuse", "off")
    assert call(*words, "--arms", "pini", "--quiet", "seeds=[2]").exit_code == 0
    assert len(read(runs)) == 2
    assert forked(*words).code == 0
    assert bits(read(runs)) == one_by_one


def test_fused_arms_are_the_same_runs(reference: dict[Any, Any], one_by_one: dict[Any, Any]) -> None:
    """Equal identities; accuracies but for rounding."""
    assert reference.keys() == one_by_one.keys()
    for run, fused in reference.items():
        assert fused["run_id"] == one_by_one[run]["run_id"]
        for mode, metrics in fused["metrics"]["test"].items():
            alone = one_by_one[run]["metrics"]["test"][mode]
            assert metrics["accuracy"] == pytest.approx(alone["accuracy"], abs=0.3)
            assert metrics["nll"] == pytest.approx(alone["nll"], rel=1e-3)


def test_a_group_that_was_killed_between_its_results(
    study: Path, reference: dict[Any, Any], tmp_path: Path, forked: Shell
) -> None:
    """Two seeds are one group: it dies before training, in the files of one run, and in those of the other."""
    runs = tmp_path / "runs"
    words = ("run", study, "--arms", "pini", "--runs", runs)
    zero_shot, trained = 2 * (BEFORE + AFTER), INDEX + 2 * BEFORE
    for number, count in ((INDEX + zero_shot + 5, 2), (trained + 3, 2), (trained + AFTER + 1, 3)):
        assert forked(*words, die_at_write=number).code == -signal.SIGKILL
        check_nothing_torn(runs)
        assert len(finished(runs)) == count
    kept = {path: path.stat().st_mtime_ns for path in finished(runs)}
    assert forked(*words).code == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "finished runs are left alone"
    assert bits(read(runs)) == {run: reference[run] for run in reference if run[0] in ("zero_shot", "pini")}


def test_killed_in_the_middle_of_every_kind_of_file(
    study: Path, one_by_one: dict[Any, Any], tmp_path: Path, forked: Shell
) -> None:
    """The process dies half-way through one of a run's files, then again, then at any time."""
    runs = tmp_path / "runs"
    words = ("run", study, "--arms", "image,pini", "--runs", runs, "--fuse", "off")
    last = INDEX + BEFORE + AFTER
    for number in (INDEX + BEFORE + 1, last, last + 2):
        ended = forked(*words, die_at_write=number)
        assert ended.code == -signal.SIGKILL
        check_nothing_torn(runs)
        assert len(finished(runs)) == (number > last)
    count = len(finished(runs))
    ended = forked(*words, meanwhile=once(lambda: len(finished(runs)) > count, signal.SIGKILL))
    assert ended.code == -signal.SIGKILL
    check_nothing_torn(runs)
    assert count < len(finished(runs)) < 6
    kept = {path: path.stat().st_mtime_ns for path in finished(runs)}
    ended = forked(*words)
    assert ended.code == 0, ended.stderr
    assert f"{6 - len(kept)} run{'s' * (len(kept) < 5)} to do, {len(kept)} finished before" in ended.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "finished runs are left alone"
    assert bits(read(runs)) == {run: value for run, value in one_by_one.items() if run[0] != "block"}


def test_killed_in_the_middle_of_the_report(study: Path, tmp_path: Path, forked: Shell) -> None:
    runs = tmp_path / "runs"
    words = ("run", study, "--arms", "zero_shot", "seeds=[1]", "--runs", runs)
    for number in (INDEX + BEFORE + AFTER + 1, 2, 5):  # the first is behind the files of the run
        ended = forked(*words, die_at_write=number)
        assert ended.code in (-signal.SIGKILL, 0)
        check_nothing_torn(runs)
    assert forked(*words).code == 0
    files = {path.name: path.read_bytes() for path in (runs / "studies" / "tiny").glob("[!.]*")}
    other = tmp_path / "other"
    assert forked(*words[:-1], other).code == 0
    for path in (other / "studies" / "tiny").iterdir():
        if path.suffix not in (".md", ".csv", ".html", ".tex"):  # they have times in them
            assert files[path.name] == path.read_bytes(), path.name
    assert set(files) == {path.name for path in (other / "studies" / "tiny").iterdir()}


def test_ctrl_c_is_one_line_and_keeps_what_is_finished(
    study: Path, reference: dict[Any, Any], tmp_path: Path, forked: Shell
) -> None:
    runs = tmp_path / "runs"
    words = ("run", study, "--arms", "image,pini", "--runs", runs)
    ended = forked(*words, meanwhile=once(lambda: bool(finished(runs)), signal.SIGINT))
    assert ended.code == 130, ended.stderr
    assert "Traceback" not in ended.stderr
    line = ended.stderr.splitlines()[-1]
    assert line.startswith("pinikit: interrupted; finished runs")
    assert line.endswith(f"kept in {runs}; type the same command again to go on")
    assert ended.stdout == ""
    kept = bits(read(runs))
    assert 1 <= len(kept) < 6
    assert kept == {run: reference[run] for run in kept}
    check_nothing_torn(runs)


def test_ctrl_c_is_not_lost_in_a_destructor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python drops exceptions there: one that comes from the keyboard must come again."""

    class Late:
        def __del__(self) -> None:
            raise KeyboardInterrupt

    def run_study(*_: Any, **__: Any) -> None:
        Late()
        for _ in range(1000):
            time.sleep(0.01)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        monkeypatch.setattr(api, "run_study", run_study)
        done = call("run", "tiny")
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.exit_code == 130
    assert "Traceback" not in done.stderr


def test_a_full_disk_is_one_message(study: Path, tmp_path: Path, forked: Shell) -> None:
    """No file may grow beyond the limit, as on a disk that fills up."""
    runs = tmp_path / "runs"
    for limit in (2_000, 100_000):  # the manifest, then the checkpoint, does not fit
        ended = forked("run", study, "--arms", "pini", "--runs", runs, file_limit=limit)
        assert ended.code == 1, ended.stderr
        assert "Traceback" not in ended.stderr
        assert "Cannot write" in ended.stderr
        assert not list(runs.rglob(".*.tmp"))
        check_nothing_torn(runs)
    done = call("run", study, "--arms", "zero_shot", "--runs", runs, "seeds=[1]")
    assert done.exit_code == 0, done.output

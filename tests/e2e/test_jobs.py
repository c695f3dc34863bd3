"""Studies in worker processes: the bits of one process, and what the command line says."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from commands import RUNS, bits, call, check_message, folder_of, read, write_study

from pinikit import api
from pinikit.cli.running import parse_time
from pinikit.components.methods import pini
from pinikit.errors import ConfigError
from pinikit.study.store import Store

COMMAND = (
    "import sys; sys.argv = ['pinikit', *sys.argv[1:]]\n"
    "from pinikit.cli import main\n"
    "try:\n    main()\n"
    "finally:\n    print(*sorted({'torch', 'open_clip', 'timm'} & set(sys.modules)), file=sys.stderr)"
)
"""A command that says which heavy packages it has imported."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def finished(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the finished study."""
    runs = tmp_path_factory.mktemp("finished")
    assert call("run", study, "--runs", runs, "--quiet").exit_code == 0
    return runs


@pytest.fixture
def runs(finished: Path, tmp_path: Path) -> Path:
    """A store of one's own with the finished study."""
    return Path(shutil.copytree(finished, tmp_path / "runs"))


@pytest.fixture(scope="module")
def reference(finished: Path) -> dict[Any, Any]:
    return bits(read(finished))


@pytest.mark.drill
def test_two_workers_give_the_bits_of_one_process(
    study: Path, reference: dict[Any, Any], tmp_path: Path
) -> None:
    """The parent imports nothing heavy, and nothing is left of the workers."""
    runs = tmp_path / "runs"
    words = ["run", str(study), "--runs", str(runs), "--jobs", "2"]
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "", "no torch in the parent"
    assert bits(read(runs)) == reference
    assert sum(" %" in line and "seed" in line for line in done.stderr.splitlines()) == RUNS
    assert not [path for path in runs.rglob("*") if path.name.startswith(".") or path.suffix == ".lock"]


def test_rerun_takes_what_it_says(study: Path, reference: dict[Any, Any], runs: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in runs.glob("by-id/*/result.json")}
    done = call("run", study, "--runs", runs, "--rerun", "im*")
    assert done.exit_code == 0, done.output
    again = {path.parent.name for path in before if path.stat().st_mtime_ns != before[path]}
    assert again == {folder_of(runs, "image", seed).name for seed in (1, 2)}
    assert bits(read(runs)) == reference
    assert not list(runs.glob(".*")), "nothing is left of the exchange"
    done = call("run", study, "--runs", runs, "--rerun", "failed", "seeds=[1,2,3]")
    assert done.exit_code == 0, done.output
    assert "4 of 12 runs not run" in done.stderr
    assert len(read(runs)) == RUNS, "nothing new was tried"
    check_message(
        call("run", study, "--runs", runs, "--rerun", "fialed"),
        2,
        "--rerun",
        "'fialed'",
        "did you mean 'failed'?",
    )


def test_a_dry_run_knows_what_is_trained_again(study: Path, runs: Path) -> None:
    plan = api.plan_study(study, runs=runs, rerun="im*", fuse=2)
    assert (len(plan.finished), len(plan.left_out), plan.study.fuse) == (6, 0, "2")
    done = call("run", study, "--runs", runs, "--dry-run", "--rerun", "failed", "seeds=[1,2,3]")
    assert "12 runs: 8 done, 0 to do, 4 left out." in done.stdout
    check_message(call("run", study, "--dry-run", "--check"), 2, "--check", "expects nothing")


@pytest.mark.parametrize("accident", [KeyboardInterrupt, RuntimeError])
def test_the_old_result_stays_until_the_new_one_is_there(
    study: Path,
    reference: dict[Any, Any],
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    accident: type[BaseException],
) -> None:
    """Whether the new run is interrupted or fails."""

    def train(*_: Any) -> None:
        raise accident("no luck")

    monkeypatch.setattr(pini, "train", train)
    done = call("run", study, "--arms", "pini", "--runs", runs, "--rerun", "pini")
    assert done.exit_code == (130 if accident is KeyboardInterrupt else 1)
    assert ("no luck" in done.stderr) == (accident is RuntimeError)
    assert bits(read(runs)) == reference
    monkeypatch.undo()
    done = call("run", study, "--runs", runs)
    assert "nothing was trained" in done.stdout
    assert not list(runs.glob(".*")), "what the accident left is gone"


def test_a_process_that_died_between_two_renames(study: Path, reference: dict[Any, Any], runs: Path) -> None:
    place = folder_of(runs, "pini")
    (runs / ".replaced").mkdir()
    place.rename(runs / ".replaced" / place.name)
    assert "nothing was trained" in call("run", study, "--runs", runs).stdout
    assert bits(read(runs)) == reference
    assert not list(runs.glob(".*"))


def test_fail_fast_says_what_was_not_run(study: Path, tmp_path: Path) -> None:
    words = ("run", study, "--runs", tmp_path, "design.arms.image.method.optim.lr=1e30", "--fail-fast")
    done = call(*words)
    assert done.exit_code == 1
    assert "2 of 8 runs failed" in done.stderr
    assert "4 of 8 runs not run" in done.stderr
    assert {arm for arm, _ in read(tmp_path)} == {"zero_shot", "image"}
    assert (tmp_path / "studies" / "tiny" / "report.md").is_file()
    index = json.loads((tmp_path / "studies" / "tiny" / "study.json").read_text())
    assert set(index["runs"]) == {"zero_shot", "image", "block", "pini"}


@pytest.mark.drill
def test_sigterm_waits_for_the_epoch_and_keeps_it(study: Path, tmp_path: Path) -> None:
    words = ["run", str(study), "--runs", str(tmp_path), "run.method.optim.epochs=200", "--arms", "pini"]
    with subprocess.Popen(
        [sys.executable, "-m", "pinikit", *words], stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not trains(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, text = process.communicate(timeout=60)
    assert process.returncode == 130, text
    assert "Traceback" not in text
    assert "note: stopping after the epoch under way; Ctrl-C again stops at once" in text
    assert re.search(r"finished runs, and 2 runs after \d+ of 200 epochs, are kept in", text.splitlines()[-1])
    assert {arm for arm, _ in read(tmp_path)} == {"zero_shot"}
    assert Store(tmp_path).study_names() == ["tiny"], "`pinikit status` can say what there is"


def trains(runs: Path) -> bool:
    return any("INFO epoch " in path.read_text() for path in runs.glob("by-id/*/run.log"))


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (("--jobs", "0"), ("--jobs", "found 0", "1 or more")),
        (("--retries", "-1"), ("--retries", "found -1", "0 or more")),
        (("--time-limit", "soon"), ("--time-limit", "'soon'", "90s, 10m, 2h")),
        (("--time-limit", "0"), ("--time-limit", "found 0", "more than 0")),
    ],
)
def test_wrong_options(study: Path, tmp_path: Path, words: Any, fragments: Any) -> None:
    check_message(call("run", study, "--runs", tmp_path / "none", *words), 2, *fragments)
    assert not (tmp_path / "none").exists()


def test_times() -> None:
    assert [parse_time(text) for text in ("90", "90s", "1.5m", "2h")] == [90, 90, 90, 7200]
    with pytest.raises(ConfigError, match="allowed: seconds"):
        parse_time("2d")

"""``pinikit status`` and ``pinikit runs`` on stores that are made up, without training anything."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from pinikit.cli import runs as runs_command
from pinikit.cli.app import app
from pinikit.data.files import write_json
from pinikit.data.view_bank import size_text
from pinikit.study import inspection
from pinikit.study.record import RECORD
from pinikit.study.resume import GroupCheckpoints
from pinikit.study.store import CHECKED_FILES, Store

ERROR = "the loss became nan in epoch 3"


def run_id(number: int) -> str:
    return f"{number:02x}" * 8


def add_run(
    store: Store, number: int, arm: str = "pini", status: str = "finished", lr: float = 0.1, **changes: Any
) -> str:
    """A run as training leaves it; ``status`` ``open`` has no result yet."""
    key = run_id(number)
    folder = store.run_folder(key)
    store.clear(key)
    config = {
        "data": {"name": "digits", "shots": 4},
        "method": {"name": "pini", "optim": {"lr": lr}},
        "seed": 1,
    }
    identity = {"weights": "w1", "data": {"name": "digits"}, "method": config["method"]}
    write_json(folder / "config.json", {"config": config, "identity": identity, "template": "a {}."})
    write_json(folder / "environment.json", {"threads": number, "versions": {"torch": "2"}})
    if status != "open":
        accuracy = 70.0 + number
        for name in ("checkpoint.safetensors", "checkpoint.json", "history.csv", "manifest.json"):
            (folder / name).touch()
        outcome: dict[str, Any] = {
            "metrics": {"val": None, "test": {"mean": {"accuracy": accuracy, "per_class": [0.5] * 40}}},
            "costs": {"seconds_total": 1.5},
        }
        if status == "failed":
            outcome = {"error": ERROR, "tries": [{"failure": "crash", "reason": "the process died"}]}
        store.save(key, {"arm": arm, "seed": 1, "status": status, "identity": identity, **outcome, **changes})
    return key


def add_study(store: Store, name: str, runs: Mapping[str, Mapping[int, str]], command: str = "") -> None:
    write_json(
        store.study_folder(name) / "study.json",
        {"name": name, "question": "", "command": command, "runs": runs},
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two studies that share a run, an unused run, a failed one, one to do, one that was begun."""
    store = Store(tmp_path / "runs")
    one, two, failed, begun = (
        add_run(store, 1, "zero_shot"),
        add_run(store, 2, lr=0.2),
        add_run(store, 3, "wide", "failed"),
        add_run(store, 4, "wide", "open"),
    )
    add_run(store, 5, "old")
    arms = {"zero_shot": {1: one}, "pini": {1: two, 2: run_id(9)}, "wide": {1: failed, 2: begun}}
    add_study(store, "sites", arms, "pinikit run sites.yaml run.data.shots=4")
    add_study(store, "small", {"none": {1: one}})
    keep(store, run_id(4), run_id(9))
    return store


def keep(store: Store, *ids: str) -> GroupCheckpoints:
    """How far these runs are: 40 of 100 epochs."""
    checkpoints = GroupCheckpoints(store, ids, {}, interval=0.0)
    checkpoints.offer(40, 100, lambda: {"weights": torch.ones(3)})
    return checkpoints


def call(store: Store, *words: object, **options: Any) -> Result:
    command = [str(word) for word in words] + ["--runs", str(store.folder)]
    return CliRunner(env={"COLUMNS": "150"}).invoke(app, command, **options)


def lines(done: Result) -> list[list[str]]:
    assert done.exit_code == 0, done.output
    return [line.split() for line in done.stdout.splitlines()]


# --- ls -----------------------------------------------------------------------------------------------


def test_ls(store: Store) -> None:
    title, *rows, total = lines(call(store, "runs", "ls"))
    assert title == [
        "id",
        "state",
        "study",
        "arm",
        "seed",
        "data",
        "shots",
        "accuracy",
        "changed",
        "size",
        "error",
    ]
    assert [row[:4] for row in rows] == [
        ["01010101", "finished", "sites,small", "zero_shot"],
        ["02020202", "finished", "sites", "pini"],
        ["03030303", "failed", "sites", "wide"],
        ["04040404", "to", "do", "sites"],
        ["05050505", "finished", "–", "old"],
    ]
    assert rows[1][4:8] == ["1", "digits", "4", "72.00"]
    assert " ".join(rows[2]).endswith(ERROR)
    size = sum(path.stat().st_size for path in store.folder.glob("by-id/*/*"))
    assert " ".join(total).startswith(f"5 runs of {size_text(size)} in ")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--study", "small"], [1]),
        (["--study", "small", "--arm", "n*"], [1]),
        (["--arm", "zero*"], [1]),
        (["--failed"], [3]),
        (["--unused"], [5]),
        (["--study", "sites", "--arm", "wide"], [3, 4]),
        (["--unused", "--failed"], []),
    ],
)
def test_ls_of_some(store: Store, words: list[str], found: list[int]) -> None:
    rows = json.loads(call(store, "runs", "ls", "--json", *words).stdout)
    assert [row["id"] for row in rows] == [run_id(number) for number in found]


def test_ls_as_json(store: Store) -> None:
    row = json.loads(call(store, "runs", "ls", "--json").stdout)[0]
    assert row.pop("changed").startswith(time.strftime("%Y-%m-", time.gmtime()))
    assert row.pop("size") > 100
    assert row == {
        "id": run_id(1),
        "state": "finished",
        "studies": ["sites", "small"],
        "arm": "zero_shot",
        "seed": 1,
        "data": "digits",
        "shots": 4,
        "accuracy": 71.0,
        "error": "",
    }


def test_an_empty_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "none")
    assert call(store, "runs", "ls").stdout.startswith("0 runs of 0 B in")
    assert call(store, "status").stdout.startswith("no study in")
    assert call(store, "runs", "verify").stdout == "0 results, all sound\n"
    assert not store.folder.exists()
    store.folder.write_text("a file")
    assert call(store, "status").stdout.startswith("no study in")


def test_files_that_vanish_meanwhile_are_left_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those that a training replaces."""
    real = os.scandir

    @contextmanager
    def scandir(folder: Path) -> Iterator[list[Any]]:
        def gone(**_: Any) -> None:
            raise FileNotFoundError

        ghost = SimpleNamespace(name="gone", is_file=lambda **_: True, is_dir=lambda: False, stat=gone)
        with real(folder) as entries:
            yield [ghost, *entries]

    monkeypatch.setattr(os, "scandir", scandir)
    assert len(inspection.list_runs(store.folder)) == 5
    assert "gone" not in inspection.describe_run("04", store.folder)["files"]
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # which scans folders, too
    assert inspection.remove_runs([run_id(5)], store.folder).size > 100


# --- show and diff ------------------------------------------------------------------------------------


def test_show(store: Store) -> None:
    text = call(store, "runs", "show", "0202").stdout
    for fragment in ("run 0202020202020202: finished", "studies: sites", "lr: 0.2", "accuracy: 72.0"):
        assert fragment in text
    assert "per_class: 40 values" in text
    assert "result.json:" in text
    failed = call(store, "runs", "show", store.run_folder(run_id(3))).stdout
    assert f"error: {ERROR}" in failed
    assert "try 1: the process died" in failed
    assert "40 of 100 epochs kept" in call(store, "runs", "show", "04").stdout


def test_show_as_json(store: Store) -> None:
    found = json.loads(call(store, "runs", "show", "03", "--json").stdout)
    assert (found["id"], found["state"], found["error"], found["damage"]) == (
        run_id(3),
        "failed",
        ERROR,
        None,
    )
    assert found["config"]["data"]["shots"] == 4
    assert set(found["files"]) == {*CHECKED_FILES, "environment.json", "result.json"} - {RECORD}


def test_diff(store: Store) -> None:
    add_run(store, 6, lr=0.2)
    cells = [" ".join(line) for line in lines(call(store, "runs", "diff", "01", "06")) if line]
    assert cells[0] == "key 01010101 06060606"
    assert cells[2:] == [
        "configuration method.optim.lr 0.1 0.2",
        "environment threads 1 6",
        "metrics test.mean.accuracy 71 76",
    ]
    assert call(store, "runs", "diff", "01", "01").stdout == "no differences\n"
    assert "configuration" not in call(store, "runs", "diff", "02", "06").stdout


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["runs", "show", "0"], "5 runs begin so"),
        (["runs", "show", "ff"], "no run begins so"),
        (["runs", "diff", "01", "."], "no run begins so"),
        (["runs", "rm", "..", "--yes"], "no run begins so"),
        (["runs", "rm"], "allowed: RUN..., or --failed, or --unused"),
        (["runs", "rm", "01", "--failed"], "allowed: RUN..., or --failed, or --unused"),
        (["runs", "rm", "01"], "no terminal to ask in; allowed: --yes"),
        (["runs", "ls", "--study", "site"], "'site' (did you mean 'sites'?)"),
        (["status", "smal"], "no such study in"),
        (["status", "smal"], "(did you mean 'small'?)"),
    ],
)
def test_mistakes(store: Store, words: list[str], fragment: str) -> None:
    done = call(store, *words)
    assert done.exit_code == 2
    assert fragment in done.stderr
    assert done.stderr.count("pinikit: ") == 1
    assert len(store.run_ids()) == 5


# --- rm -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "gone"), [(["01", "0303"], [1, 3]), (["--failed"], [3]), (["--unused"], [5]), (["04"], [4])]
)
def test_rm(store: Store, words: list[str], gone: list[int]) -> None:
    done = call(store, "runs", "rm", "--yes", *words)
    assert done.stdout.startswith(f"removed {len(gone)} run")
    assert store.run_ids() == [run_id(number) for number in range(1, 6) if number not in gone]
    assert not store.locked_ids()
    assert len(store.group_folders()) == (0 if 4 in gone else 1), "how far an unfinished run was goes, too"
    assert call(store, "runs", "rm", "--failed", "--yes").exit_code == 0


def test_a_run_that_is_being_trained_stays(store: Store) -> None:
    with store.lock(run_id(4)), store.lock(run_id(1)):
        done = call(store, "runs", "rm", "--yes", "01", "02", "04")
    assert done.exit_code == 1
    assert done.stdout.startswith("removed 1 run of")
    assert f"stayed: {run_id(1)}, {run_id(4)}" in done.stderr
    assert run_id(2) not in store.run_ids()
    assert store.load(run_id(1)) is not None
    assert len(store.group_folders()) == 1


@pytest.mark.parametrize(("answer", "left"), [("n", 5), ("", 5), ("y", 4)])
def test_rm_asks(store: Store, monkeypatch: pytest.MonkeyPatch, answer: str, left: int) -> None:
    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(runs_command, "sys", SimpleNamespace(stdin=terminal, stdout=terminal))
    done = call(store, "runs", "rm", "01", input=f"{answer}\n")
    assert "1 of them belong to studies, which would train them again: sites, small" in done.stdout
    assert "Remove 1 run of" in done.stdout
    assert len(store.run_ids()) == left


def test_rm_leaves_what_changed_while_it_asked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed run that another process has trained in the meantime is no failed run any more."""

    def agreed(rows: list[Any]) -> bool:
        path = store.run_folder(run_id(3)) / "result.json"
        path.write_bytes((store.run_folder(run_id(1)) / "result.json").read_bytes())
        return True

    monkeypatch.setattr(runs_command, "_agreed", agreed)
    done = call(store, "runs", "rm", "--failed")
    assert done.exit_code == 0
    assert run_id(3) in store.run_ids()
    assert f"changed meanwhile, so they stayed: {run_id(3)[:8]}" in done.stderr


# --- verify -------------------------------------------------------------------------------------------


def test_verify(store: Store) -> None:
    assert call(store, "runs", "verify").stdout == "5 results, all sound\n"
    path = store.run_folder(run_id(2)) / "config.json"
    path.write_text(path.read_text().replace("0.2", "0.3"))
    (kept,) = store.group_folders()
    (kept / "40.safetensors").write_bytes(b"")
    done = call(store, "runs", "verify")
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        f"{run_id(2)}: {path} does not match its checksum",
        f"{kept}: {kept / '40.safetensors'} does not match its checksum",
    ]
    assert "2 of 5 results damaged" in done.stderr
    assert call(store, "runs", "verify", "01", "03").stdout == "2 results, all sound\n"
    assert call(store, "runs", "verify", "02").exit_code == 1


# --- status -------------------------------------------------------------------------------------------


def test_status_of_a_study(store: Store) -> None:
    done = call(store, "status", "sites")
    rows = [" ".join(line) for line in lines(done) if line]
    assert rows[0] == "sites: 2 of 5 runs finished, 1 failed, 2 to do; last changed just now"
    assert rows[1] == "arm finished failed to do epochs kept last changed"
    assert rows[3:6] == ["zero_shot 1 just now", "pini 1 1 40 of 100 just now", "wide 1 1 40 of 100 just now"]
    assert rows[6:8] == ["failed:", f"wide, seed 1: {ERROR}"]
    assert rows[8] == f"go on: pinikit run sites.yaml run.data.shots=4 --runs {store.folder}"


def test_status_of_all_studies(store: Store) -> None:
    heads = [line for line in call(store, "status").stdout.splitlines() if "runs finished" in line]
    assert [head.partition(";")[0] for head in heads] == [
        "sites: 2 of 5 runs finished, 1 failed, 2 to do",
        "small: 1 of 1 runs finished",
    ]


def test_status_of_runs_that_are_being_trained(store: Store) -> None:
    with store.lock(run_id(4)), store.lock(run_id(9)):
        (found,) = json.loads(call(store, "status", "sites", "--json").stdout)
    assert found["counts"] == {
        "finished": 2,
        "untested": 0,
        "failed": 1,
        "running": 2,
        "to do": 0,
        "damaged": 0,
    }
    assert [(arm["arm"], arm["epoch"], arm["epochs"]) for arm in found["arms"]] == [
        ("zero_shot", None, None),
        ("pini", 40, 100),
        ("wide", 40, 100),
    ]
    (found,) = json.loads(call(store, "status", "sites", "--json").stdout)
    assert found["counts"]["running"] == 0, "a lock file that nobody holds is nothing"


def test_status_tells_the_age_and_damage(store: Store) -> None:
    path = store.run_folder(run_id(1)) / "result.json"
    path.write_text("{")
    old = time.time() - 3 * 86400 - 60
    os.utime(path, (old, old))
    row = [" ".join(line) for line in lines(call(store, "status", "small"))]
    assert row[0] == "small: 0 of 1 runs finished, 1 damaged; last changed 3 d ago"
    assert row[-1] == "go on with the pinikit run that began it"


def test_status_of_a_file_is_what_the_file_says_now(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("name: sites\nrun: {data: {name: digits, shots: 2}}\nseeds: [1, 2]\n")
    head = call(store, "status", path).stdout.splitlines()[0]
    assert head == "sites: 0 of 2 runs finished, 2 to do"
    done = call(store, "status", path, "seeds=[1]")
    assert done.stdout.splitlines()[0] == "sites: 0 of 1 runs finished, 1 to do"
    assert f"go on: pinikit run {path} 'seeds=[1]'" in done.stdout

"""Storages: errors in one line, searches that are not mixed up, databases that are away for a moment."""

from __future__ import annotations

import itertools
import os
import sqlite3
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages.journal import _file
from sqlalchemy.exc import OperationalError, ProgrammingError

from pinikit.config.schema import TuneConfig
from pinikit.errors import ConfigError
from pinikit.tuning import storage as storage_module
from pinikit.tuning.storage import DATABASE, StorageLostError, close_storage, open_search, open_storage


def silent(text: str) -> None:
    """Nobody is told."""


def in_journal(folder: Path) -> str:
    return f"journal:{folder / 'search.log'}"


def study(metrics: tuple[str, ...] = ("accuracy",)) -> Any:
    return SimpleNamespace(name="s", file=Path("s.yaml"), tune=TuneConfig(metrics=list(metrics)))


FACTS = {
    "pinikit": "1",
    "space": {"optim.lr": {"kind": "float", "low": 1e-4, "high": 0.1}},
    "identity": {"method": {"name": "pini"}},
    "seeds": (1, 2),
    "metrics": ["accuracy"],
    "noise": "mean",
    "data": {"1": "abc"},
}


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("search.db", "allowed: a database's URL"),
        ("sqlite://", "lost when the process ends"),
        ("sqlite:///:memory:", "lost when the process ends"),
        ("sqlite:////nowhere/at/all/search.db", "unable to open database file"),
        ("journal:/nowhere/at/all/search.log", "No such file"),
        ("nothing://host/name", "cannot be reached|needs a driver"),
        ("postgresql://me:geheim@127.0.0.1:1/name", "refused|pip install 'pinikit.postgres.'"),
        ("::/://", "allowed|cannot be reached"),
    ],
)
def test_a_storage_that_cannot_be_reached_is_one_line(where: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        open_storage(where, tmp_path, silent)
    assert str(caught.value).startswith("--storage:")
    assert "geheim" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_journal_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "notes.log"
    path.write_text("dear diary\nand so on\n")
    with pytest.raises(ConfigError, match="cannot be reached"):
        open_storage(str(path), tmp_path, silent)
    with pytest.raises(ConfigError, match="cannot be reached"):
        open_storage(f"sqlite:///{path}", tmp_path, silent)


def test_by_default_it_is_a_file_in_the_studys_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a {strange} folder % ?"
    storage = open_storage(None, folder, silent)
    open_search(storage, study(), FACTS)
    close_storage(storage)
    assert (folder / DATABASE).stat().st_size > 0
    assert [path.name for path in folder.iterdir()] == [DATABASE]


@pytest.mark.parametrize("where", [None, "journal:{}/search.log", "{}/search.log"])
def test_a_search_is_opened_again_only_by_an_equal_study(where: str | None, tmp_path: Path) -> None:
    place = where and where.format(tmp_path)
    found = open_search(open_storage(place, tmp_path, silent), study(), FACTS)
    assert found.user_attrs["seeds"] == [1, 2]
    storage = open_storage(place, tmp_path, silent)
    open_search(storage, study(), FACTS)
    other = {**FACTS, "space": {"optim.lr": {"kind": "float", "low": 1e-4, "high": 0.2}}, "seeds": (1, 3)}
    with pytest.raises(ConfigError) as caught:
        open_search(storage, study(), other)
    message = str(caught.value)
    assert message.startswith("s.yaml: name: the storage holds another search 's'")
    assert "space optim.lr.high: 0.1 there, 0.2 here" in message
    assert "seeds: [1, 2] there, [1, 3] here" in message


def test_many_differences_are_summed_up(tmp_path: Path) -> None:
    storage = open_storage(in_journal(tmp_path), tmp_path, silent)
    open_search(storage, study(), FACTS)
    with pytest.raises(ConfigError, match="and 3 more differences"):
        open_search(storage, study(), {**FACTS, "space": {f"p{i}": 1 for i in range(8)}})


def test_somebody_elses_study_is_refused(tmp_path: Path) -> None:
    storage = open_storage(in_journal(tmp_path), tmp_path, silent)
    optuna.create_study(storage=storage, study_name="s").add_trial(optuna.create_trial(value=1.0))
    with pytest.raises(ConfigError, match="pinikit did not make"):
        open_search(storage, study(), FACTS)


def test_a_description_that_its_creator_did_not_finish_is_finished(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(storage_module, "CLAIM_SECONDS", 0.0)
    storage = open_storage(None, tmp_path, silent)
    optuna.create_study(storage=storage, study_name="s", direction="maximize").set_user_attr("noise", "mean")
    assert open_search(storage, study(), FACTS).user_attrs["pinikit"] == "1"


def test_a_description_that_another_search_began_is_not_finished(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(storage_module, "CLAIM_SECONDS", 0.0)
    storage = open_storage(in_journal(tmp_path), tmp_path, silent)
    optuna.create_study(storage=storage, study_name="s", direction="maximize").set_user_attr("seeds", [7])
    with pytest.raises(ConfigError, match=r"seeds: \[7\] there, \[1, 2\] here"):
        open_search(storage, study(), FACTS)


def test_who_describes_a_search_slowly_is_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    storage, now, begun = open_storage(in_journal(tmp_path), tmp_path, silent), [0.0], list[Any]()
    creator = optuna.create_study(storage=storage, study_name="s", direction="maximize")
    words = [*((key, value) for key, value in FACTS.items() if key != "pinikit"), ("pinikit", "1")]

    def sleep(seconds: float) -> None:
        now[0] += 0.9 * storage_module.CLAIM_SECONDS
        creator.set_user_attr(*words.pop(0))

    monkeypatch.setattr(storage_module, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    open_search(storage, study(), FACTS, begun.append)
    assert not words
    assert not begun


@pytest.mark.skipif(os.name == "nt", reason="there the lock is no link")
def test_a_lock_whose_holder_has_died_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a journal that is known by a relative path, too: the lock's link must lead to it."""
    (tmp_path / "shared").mkdir()
    monkeypatch.chdir(tmp_path)
    found = open_search(open_storage("shared/search.log", tmp_path, silent), study(), FACTS)
    dead = open_storage("shared/search.log", tmp_path, silent)
    dead._backend._lock.acquire()
    assert (tmp_path / "shared" / "search.log.lock").is_symlink()
    ticks = itertools.count(0, 5)
    monkeypatch.setattr(
        _file,
        "time",
        SimpleNamespace(monotonic=lambda: _at_most(next(ticks), 600), sleep=lambda seconds: None),
    )
    found.set_user_attr("held", True)
    assert found.user_attrs["held"] is True


def _at_most(value: int, most: int) -> int:
    assert value < most, "the lock is never broken"
    return value


def test_directions_follow_from_the_metrics(tmp_path: Path) -> None:
    found = open_search(
        open_storage(in_journal(tmp_path), tmp_path, silent),
        study(("accuracy", "nll", "seconds")),
        {**FACTS, "metrics": []},
    )
    assert [direction.name for direction in found.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]


def test_a_database_that_is_locked_is_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(storage_module, "LOCK_SECONDS", 0.01)
    monkeypatch.setattr(storage_module, "PAUSES", (0.02, 0.05))
    storage = open_storage(None, tmp_path, silent)
    found = open_search(storage, study(), FACTS)
    other = sqlite3.connect(tmp_path / DATABASE, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, other.rollback)
    release.start()
    start = time.monotonic()
    found.set_user_attr("held", True)
    assert time.monotonic() - start > 0.2
    release.join()
    assert found.user_attrs["held"] is True


def test_a_database_that_stays_away_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "PAUSES", (0.001, 0.001))
    calls, told = [], list[str]()

    def away(self: Any) -> None:
        calls.append(1)
        raise StorageInternalError("commit") from OperationalError("", {}, Exception("server closed"))

    monkeypatch.setattr(storage_module, "PATIENCE", 0.05)
    with pytest.raises(StorageLostError, match="server closed"):
        storage_module._patient(away)(SimpleNamespace(_say=told.append))
    assert len(calls) > 2

    def refuses(self: Any) -> None:
        calls.append(1)
        raise StorageInternalError("commit") from ProgrammingError("", {}, Exception("no such column"))

    calls.clear()
    with pytest.raises(StorageInternalError):
        storage_module._patient(refuses)(SimpleNamespace(_say=told.append))
    assert len(calls) == 1

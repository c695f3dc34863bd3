"""The result store trusts nothing that is not whole."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from pinikit.errors import ConfigError, PinikitError
from pinikit.study.record import RECORD
from pinikit.study.store import CHECKED_FILES, OPTIONAL_FILES, RESULT, Store, StoredResult

RUN = "0123456789abcdef"
CONTENT: dict[str, Any] = {
    "arm": "pini",
    "seed": 1,
    "status": "finished",
    "metrics": {"val": None, "test": {"mean": {"accuracy": 71.25, "noise_ratio": {"image": 0.1}}}},
    "costs": {"seconds_total": 1.5},
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """With one finished run."""
    store = Store(tmp_path / "runs")
    store.prepare()
    folder = store.run_folder(RUN)
    folder.mkdir()
    for name in CHECKED_FILES:
        (folder / name).write_bytes(f"content of {name}".encode())
    store.save(RUN, CONTENT)
    return store


def test_a_result_comes_back(store: Store) -> None:
    result = store.load(RUN)
    assert result is not None
    assert store.damage(RUN) is None
    assert result.finished
    assert result.run_id == RUN
    assert result.error == ""
    assert result.metrics("test", "mean")["accuracy"] == 71.25
    assert result.costs["seconds_total"] == 1.5
    assert {key: result.content[key] for key in CONTENT} == CONTENT
    assert set(result.content["files"]) == set(CHECKED_FILES)
    assert not [path for path in store.run_folder(RUN).iterdir() if path.name.startswith(".")]


def test_what_save_returns_is_what_load_finds(store: Store) -> None:
    saved = store.save(RUN, CONTENT)
    assert saved == store.load(RUN)


def test_a_failed_run_is_stored_with_its_error(store: Store) -> None:
    store.save(RUN, {"arm": "pini", "seed": 1, "status": "failed", "error": "the loss became nan"})
    result = store.load(RUN)
    assert result is not None
    assert not result.finished
    assert result.error == "the loss became nan"


def test_an_absent_result_is_neither_found_nor_damaged(store: Store) -> None:
    (store.run_folder("fedcba9876543210")).mkdir()
    for run in ("fedcba9876543210", "ffffffffffffffff"):
        assert store.load(run) is None
        assert store.damage(run) is None


@pytest.mark.parametrize("name", CHECKED_FILES)
@pytest.mark.parametrize("how", ["flip", "truncate", "remove"])
def test_a_damaged_file_is_named(store: Store, name: str, how: str) -> None:
    path = store.run_folder(RUN) / name
    content = bytearray(path.read_bytes())
    if how == "remove":
        path.unlink()
    else:
        content[3] ^= 1
        path.write_bytes(content if how == "flip" else content[:-4])
    assert store.load(RUN) is None
    assert str(path) in str(store.damage(RUN))


def test_every_flipped_or_missing_byte_of_the_result_is_noticed(store: Store) -> None:
    path = store.run_folder(RUN) / RESULT
    whole = path.read_bytes()
    original = json.loads(whole)
    for index in range(0, len(whole), 7):
        for damaged in (whole[:index], whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :]):
            path.write_bytes(damaged)
            if store.damage(RUN) is None:
                assert json.loads(damaged) == original, "only white space may change"
            else:
                assert store.load(RUN) is None
                assert str(path.parent) in str(store.damage(RUN))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "7", "{}", '{"checksum": "x"}', '{"a": NaN}', '{"a": 1e999, "checksum": ""}', "{"],
)
def test_a_result_that_is_something_else(store: Store, text: str) -> None:
    path = store.run_folder(RUN) / RESULT
    path.write_text(text)
    assert str(path) in str(store.damage(RUN))
    assert store.load(RUN) is None


def test_an_edited_number_is_noticed(store: Store) -> None:
    path = store.run_folder(RUN) / RESULT
    path.write_text(path.read_text().replace("71.25", "99.25"))
    assert store.damage(RUN) == f"{path} does not match its own checksum"


def test_a_folder_in_place_of_a_file(store: Store) -> None:
    path = store.run_folder(RUN) / CHECKED_FILES[0]
    path.unlink()
    path.mkdir()
    assert str(path) in str(store.damage(RUN))


def test_numbers_that_json_cannot_say_are_never_stored(store: Store) -> None:
    before = (store.run_folder(RUN) / RESULT).read_bytes()
    with pytest.raises(ValueError, match="Out of range float"):
        store.save(RUN, {**CONTENT, "costs": {"seconds_total": float("nan")}})
    assert (store.run_folder(RUN) / RESULT).read_bytes() == before


def test_only_files_that_are_there_are_checked_of_a_failed_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.save(RUN, {**CONTENT, "status": "failed"}).content["files"] == {}
    assert isinstance(store.load(RUN), StoredResult)


@pytest.mark.parametrize("name", sorted({*CHECKED_FILES} - {*OPTIONAL_FILES}))
def test_a_run_without_a_file_is_not_stored_as_finished(store: Store, name: str) -> None:
    path = store.run_folder(RUN) / name
    path.unlink()
    with pytest.raises(PinikitError, match=rf"Cannot read .*{name}: it does not exist"):
        store.save(RUN, CONTENT)
    assert store.load(RUN) is None


def test_a_finished_run_may_lack_its_record(store: Store) -> None:
    (store.run_folder(RUN) / RECORD).unlink()
    assert RECORD not in store.save(RUN, CONTENT).content["files"]
    assert store.load(RUN) is not None


# --- places ---------------------------------------------------------------------------------------------


def test_prepare_leaves_nothing_behind(tmp_path: Path) -> None:
    store = Store(tmp_path / "a" / "runs")
    store.prepare()
    store.prepare()
    assert list((tmp_path / "a" / "runs" / "by-id").iterdir()) == []
    assert store.run_folder(RUN) == tmp_path / "a" / "runs" / "by-id" / RUN
    assert store.study_folder("sites") == tmp_path / "a" / "runs" / "studies" / "sites"


@pytest.mark.parametrize("place", ["file/runs", "file", "file/by-id"])
def test_a_place_that_cannot_be_written_to_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("I am a file")
    with pytest.raises(ConfigError, match=r"--runs: cannot write to .*; choose another folder with --runs"):
        Store(tmp_path / place).prepare()
    assert Store(tmp_path / place).load(RUN) is None


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc here")
def test_a_file_system_without_writing_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot write to /proc/pinikit"):
        Store("/proc/pinikit").prepare()


def test_a_full_disk_is_one_sentence(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    before = (store.run_folder(RUN) / RESULT).read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PinikitError, match=r"Cannot write .*result\.json: the disk is full\."):
        store.save(RUN, {**CONTENT, "seed": 2})
    assert (store.run_folder(RUN) / RESULT).read_bytes() == before


def _try_lock(folder: Path, answers: Any) -> None:
    lock = Store(folder).lock(RUN)
    try:
        lock.acquire(timeout=0.05)
        answers.put("got it")
    except TimeoutError:
        answers.put("held")


def test_a_run_is_trained_by_one_process_only(store: Store) -> None:
    context = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")
    answers = context.Queue()

    def ask() -> Any:
        process = context.Process(target=_try_lock, args=(store.folder, answers))
        process.start()
        process.join()
        return answers.get(timeout=10)

    with store.lock(RUN):
        assert ask() == "held"
    assert ask() == "got it"

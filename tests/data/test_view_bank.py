"""The view bank on disk: nothing wrong is ever read, nothing in use is removed, nothing hangs."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from pinikit.data import files, view_bank
from pinikit.data.shelf import Shelf
from pinikit.data.view_bank import (
    Recipe,
    ViewBank,
    parse_age,
    parse_size,
    row_key,
    size_text,
    user_bank,
)
from pinikit.errors import ConfigError

RECIPE = Recipe("tiny", {"weights": "w", "precision": "fp32", "device": "cpu"})
ROW_BYTES = 4 * 256
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def key(number: int, seed: int = 0) -> bytes:
    return row_key(number.to_bytes(32, "big"), seed)


def values(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers).float()[:, None].expand(-1, 256)


def stored(bank: ViewBank, *numbers: int, stage: str = "image_feature", recipe: Recipe = RECIPE) -> Shelf:
    """A shelf after these rows were written to one file."""
    shelf = Shelf(recipe, stage, bank)
    shelf.add([key(n) for n in numbers], [0] * len(numbers), values(*numbers))
    shelf.flush()
    return shelf


def fresh(bank: ViewBank, stage: str = "image_feature", recipe: Recipe = RECIPE) -> Shelf:
    """The same shelf as another process sees it."""
    shelf = Shelf(recipe, stage, ViewBank(bank.folder, bank.limit, bank.notice))
    shelf.refresh()
    return shelf


def read(shelf: Shelf, *numbers: int) -> torch.Tensor:
    keys = [key(n) for n in numbers]
    assert not shelf.missing(keys)
    return shelf.rows(keys).take(torch.arange(len(keys)))


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def bank(tmp_path: Path, notices: list[str]) -> ViewBank:
    return ViewBank(tmp_path / "views", 10**9, notices.append)


@contextlib.contextmanager
def forked(work: Callable[[], Any]) -> Iterator[int]:
    """A child that says when it has done ``work``, and then lives until it is killed."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            kept = work()
            os.write(send, b"done" if kept is not None else b"none")
            time.sleep(120)
        finally:
            os._exit(1)
    try:
        assert os.read(receive, 4) == b"done"
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


# --- what was written is read ------------------------------------------------------------------------


def test_another_process_finds_the_rows(bank: ViewBank, notices: list[str]) -> None:
    stored(bank, 1, 2, 3)
    stored(bank, 4)
    shelf = fresh(bank)
    assert shelf.missing([key(n) for n in (1, 4, 5)]) == {key(5)}
    assert torch.equal(read(shelf, 4, 2, 2), values(4, 2, 2))
    assert shelf.missing([key(1, seed=9)]), "another view of the same picture"
    assert notices == []


@pytest.mark.parametrize(
    ("stage", "facts"), [("pixels", RECIPE.facts), ("image_feature", {**RECIPE.facts, "weights": "v"})]
)
def test_other_stages_and_recipes_are_apart(bank: ViewBank, stage: str, facts: dict[str, Any]) -> None:
    stored(bank, 1)
    assert fresh(bank, stage, Recipe("tiny", facts)).missing([key(1)]) == {key(1)}
    assert not fresh(bank, recipe=Recipe("another name", RECIPE.facts)).missing([key(1)])


def test_rows_written_later_are_seen_after_a_refresh(bank: ViewBank) -> None:
    shelf = fresh(bank)
    stored(bank, 1)
    assert shelf.missing([key(1)])
    shelf.refresh()
    assert torch.equal(read(shelf, 1), values(1))


def test_the_format_of_the_rows_is_kept(bank: ViewBank) -> None:
    for number, dtype in enumerate((torch.bfloat16, torch.float64, torch.uint8)):
        rows = torch.randn(2, 3, 4).mul(20).abs().to(dtype)
        shelf = Shelf(RECIPE, f"stage{number}", bank)
        shelf.add([key(1), key(2)], [0, 0], rows)
        shelf.flush()
        found = read(fresh(bank, f"stage{number}"), 2, 1)
        assert found.dtype == dtype
        assert torch.equal(found, rows.flip(0))


def test_rows_are_written_as_they_come_together(bank: ViewBank, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses little, and memory holds little."""
    monkeypatch.setattr("pinikit.data.shelf.FILE_BYTES", 3 * ROW_BYTES)
    shelf = Shelf(RECIPE, "image_feature", bank)
    for number in range(7):
        shelf.add([key(number)], [0], values(number))
    assert len(bank.files()) == 2
    monkeypatch.setattr("pinikit.data.shelf.FILE_SECONDS", 0.0)
    shelf.add([key(7)], [0], values(7))
    assert len(bank.files()) == 3


# --- damage -----------------------------------------------------------------------------------------


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0, 9, 300, -1, -ROW_BYTES])
def test_one_flipped_bit_is_never_read(bank: ViewBank, notices: list[str], place: int) -> None:
    stored(bank, 1, 2)
    stored(bank, 3)
    (path,) = (path for path in bank.files() if path.stat().st_size > 2 * ROW_BYTES)
    flip(path, place)
    (line,) = bank.verify()
    assert str(path) in line
    shelf = fresh(bank)
    assert shelf.missing([key(n) for n in (1, 2, 3)]) == {key(1), key(2)}
    assert torch.equal(read(shelf, 3), values(3))
    assert len(notices) == 1
    assert "damaged" in notices[0]
    assert str(path) in notices[0]
    assert not path.exists()
    assert bank.verify() == []


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 4000])
def test_a_file_of_something_else_is_removed(bank: ViewBank, notices: list[str], content: bytes) -> None:
    stored(bank, 1)
    (path,) = bank.files()
    path.write_bytes(content)
    assert fresh(bank).missing([key(1)])
    assert len(notices) == 1
    assert bank.files() == []


def test_a_file_that_was_damaged_after_it_was_listed(bank: ViewBank, notices: list[str]) -> None:
    stored(bank, 1)
    shelf = fresh(bank)
    flip(bank.files()[0], -1)
    assert shelf.missing([key(1)]) == {key(1)}
    assert len(notices) == 1


def test_a_file_that_vanished_is_no_news(bank: ViewBank, notices: list[str]) -> None:
    stored(bank, 1)
    shelf = fresh(bank)
    bank.files()[0].unlink()
    assert shelf.missing([key(1)]) == {key(1)}
    assert notices == []


def test_mapped_rows_survive_the_removal_of_their_file(bank: ViewBank) -> None:
    shelf = stored(bank, 1, 2)
    bank.files()[0].unlink()
    shelf.refresh()
    assert torch.equal(read(shelf, 2, 1), values(2, 1))


@needs_fork
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_killed_while_it_writes(
    bank: ViewBank, notices: list[str], monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """What the dead process leaves is no row, is not counted, and is cleared away some time later."""
    stored(bank, 1)
    write = files._write_and_sync

    def die(path: Path, data: bytes) -> None:
        write(path, data[: int(share * len(data))])
        os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        try:
            monkeypatch.setattr(files, "_write_and_sync", die)
            stored(bank, 2)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert bank.verify() == []
    assert len(bank.files()) == 1
    shelf = fresh(bank)
    assert shelf.missing([key(1), key(2)]) == {key(2)}
    (leftover,) = bank.folder.rglob(".*.tmp")
    stored(bank, 3)
    assert leftover.exists(), "it could be another process's that is writing"
    os.utime(leftover, (0, 0))
    assert torch.equal(read(stored(bank, 2), 2), values(2))
    assert not leftover.exists()
    assert notices == []


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES])
def test_a_file_that_cannot_be_read_is_not_removed(
    bank: ViewBank, notices: list[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    stored(bank, 1)
    listed, new = fresh(bank), Shelf(RECIPE, "image_feature", bank)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(files.hashlib, "file_digest", refuse)
        assert listed.missing([key(1)]) == {key(1)}
        patch.setattr("safetensors.safe_open", refuse)
        new.refresh()
        assert new.missing([key(1)]) == {key(1)}
        listed.refresh()
        assert listed.missing([key(1)]) == {key(1)}
    assert len(notices) == 2, "each says it once"
    assert all("cannot be read" in notice for notice in notices)
    assert bank.verify() == []
    assert torch.equal(read(fresh(bank), 1), values(1))


def test_a_damaged_file_that_cannot_be_removed(
    bank: ViewBank, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a shared folder that is read-only."""
    stored(bank, 1)
    flip(bank.files()[0], -ROW_BYTES)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", refuse)
    shelf = fresh(bank)
    for _ in range(2):
        assert shelf.missing([key(1)]) == {key(1)}
        shelf.refresh()
    assert len(notices) == 1


def test_rows_that_were_let_go_are_read_again_unless_removed(bank: ViewBank) -> None:
    shelf = stored(bank, 1)
    stored(bank, 2)
    shelf.refresh()
    rows = shelf.rows([key(1)]) if not shelf.missing([key(1), key(2)]) else None
    shelf.release()
    assert bank.prune(size=0).in_use == 1, "somebody may ask for rows of the first"
    assert shelf.missing([key(1), key(2)]) == {key(2)}
    assert rows is not None
    assert torch.equal(rows.take(torch.tensor([0])), values(1))
    del rows
    shelf.release()
    assert torch.equal(read(shelf, 1), values(1))


# --- no room ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_disk_that_refuses_leaves_the_rows_in_memory(
    bank: ViewBank, notices: list[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        path.write_bytes(data[:10])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "_write_and_sync", refuse)
    shelf = stored(bank, 1)
    shelf.add([key(2)], [0], values(2))
    shelf.flush()
    assert torch.equal(read(shelf, 2, 1), values(2, 1))
    assert len(notices) == 1, "said once"
    assert "stay in memory" in notices[0]
    assert ("disk is full" in notices[0]) == (number == errno.ENOSPC)
    assert [path for path in bank.folder.rglob("*") if path.is_file()] == []


def test_the_last_of_the_disk_is_left_to_results(
    bank: ViewBank, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(bank, 1)
    free = [0]
    usage = view_bank.shutil.disk_usage(bank.folder.parent)
    monkeypatch.setattr(view_bank.shutil, "disk_usage", lambda _: usage._replace(total=10**12, free=free[0]))
    shelf = stored(bank, 2, 3)
    assert torch.equal(read(shelf, 3), values(3))
    assert "the disk is full" in notices[0]
    assert bank.files() == [], "its own old rows went first"
    free[0] = view_bank.RESERVE + 10**6
    assert 0 < bank.room() <= 10**6
    stored(bank, 2, 3)
    assert len(bank.files()) == 1


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="may not mount a file system")
def test_a_full_file_system(tmp_path: Path, notices: list[str]) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a file system")
    try:
        bank = ViewBank(small / "views", 10**9, notices.append)
        held = [stored(bank, *range(first, first + 40)) for first in range(0, 400, 40)]  # of 41 KB each
        for number, shelf in enumerate(held):
            assert torch.equal(read(shelf, 40 * number + 7), values(40 * number + 7))
        assert 3 <= len(bank.files()) <= 6
        assert bank.verify() == []
        assert notices == [
            "the view bank takes no more rows, which stay in memory: "
            "the disk is full but for 13.1 KB that are left for results"
        ]
        assert not [*small.rglob(".*.tmp")]
    finally:
        held.clear()
        subprocess.run(["umount", "-l", small], check=True)


def test_nothing_on_disk(tmp_path: Path, notices: list[str]) -> None:
    bank = ViewBank(tmp_path / "views", 0, notices.append)
    assert torch.equal(read(stored(bank, 1), 1), values(1))
    assert not bank.folder.exists()
    assert notices == []
    assert bank.room() == 0


# --- the bound ---------------------------------------------------------------------------------------


def age(path: Path, seconds: float) -> None:
    moment = time.time() - seconds
    os.utime(path, (moment, moment))


def file_of(bank: ViewBank, before: list[Path]) -> Path:
    (path,) = set(bank.files()) - set(before)
    return path


def three_files(bank: ViewBank) -> list[Path]:
    """Used 3, 2 and 1 hours ago."""
    paths: list[Path] = []
    for hours in (3, 2, 1):
        stored(bank, hours)
        paths.append(file_of(bank, paths))
        age(paths[-1], 3600 * hours)
    return paths


def test_what_was_not_used_for_longest_goes_first(bank: ViewBank) -> None:
    paths = three_files(bank)
    shelf = fresh(bank)
    read(shelf, 3)  # the oldest one is used again
    bank.limit = int(3.5 * paths[0].stat().st_size)
    stored(bank, 4)
    assert [path.exists() for path in paths] == [True, False, True]
    assert bank.size() <= bank.limit


def test_what_is_in_use_stays_and_new_rows_find_room_in_memory(bank: ViewBank, notices: list[str]) -> None:
    held = [stored(bank, number) for number in (1, 2)]
    bank.limit = bank.size() + 10
    shelf = stored(bank, 3)
    assert len(bank.files()) == 2
    assert torch.equal(read(shelf, 3), values(3))
    assert "everything in it is in use" in notices[0]
    assert "PINIKIT_CACHE_SIZE" in notices[0]
    assert torch.equal(read(held[0], 1), values(1))


@needs_fork
def test_what_another_process_uses_stays_until_it_ends(bank: ViewBank) -> None:
    stored(bank, 1)
    shelf = fresh(bank)
    with forked(lambda: shelf.missing([key(1)])):
        done = bank.prune(size=0)
        assert (done.files, done.in_use) == (0, 1)
        assert len(bank.files()) == 1
    assert bank.prune(size=0).files == 1
    assert bank.files() == []


def test_a_file_larger_than_the_bound_removes_nothing(bank: ViewBank, notices: list[str]) -> None:
    paths = three_files(bank)
    bank.limit = bank.size() + 10
    stored(bank, *range(100, 200))
    assert bank.files() == sorted(paths)
    assert len(notices) == 1
    assert "these rows take 1" in notices[0]
    assert "in use" not in notices[0]


# --- prune and list -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"age": 1.5 * 3600}, [False, False, True]),
        ({"age": 10 * 3600}, [True, True, True]),
        ({"size": 0}, [False, False, False]),
        ({"size": 10**6, "age": 2.5 * 3600}, [False, True, True]),
        ({"size": 10**6}, [True, True, True]),
    ],
)
def test_prune(bank: ViewBank, options: dict[str, Any], left: list[bool]) -> None:
    paths = three_files(bank)
    size = paths[0].stat().st_size
    done = bank.prune(**options)
    assert [path.exists() for path in paths] == left
    assert (done.files, done.size, done.in_use) == (left.count(False), left.count(False) * size, 0)
    if not any(left):
        assert [*bank.folder.rglob("*")] == [], "no empty folders stay"
        stored(bank, 1)
        assert len(bank.holdings()) == 1


def test_holdings(bank: ViewBank) -> None:
    assert bank.holdings() == []
    stored(bank, 1, 2)
    stored(bank, 2, 3)
    shelf = Shelf(RECIPE, "pixels", bank)
    shelf.add([key(1, 5), key(1, 6), key(2, 7)], [1, 2, 1], values(1, 2, 3))
    shelf.flush()
    feature, pixels = bank.holdings()
    assert (feature.stage, feature.backbone, feature.precision, feature.device) == (
        "image_feature",
        "tiny",
        "fp32",
        "cpu",
    )
    assert (feature.pictures, feature.views, feature.files) == (3, 0, 2)
    assert (pixels.stage, pixels.pictures, pixels.views) == ("pixels", 2, 2)
    assert feature.size + pixels.size == bank.size()
    assert abs(feature.used - time.time()) < 60


def test_holdings_of_a_damaged_bank(bank: ViewBank) -> None:
    stored(bank, 1)
    (path,) = bank.files()
    path.write_bytes(b"nonsense")
    (bank.folder / RECIPE.key / "recipe.json").write_text("{")
    (holding,) = bank.holdings()
    assert (holding.backbone, holding.pictures, holding.size) == ("unknown", 0, 8)


# --- taking turns --------------------------------------------------------------------------------------


def test_a_turn_is_exclusive_and_handed_on(bank: ViewBank) -> None:
    lock = FileLock(bank.folder / RECIPE.key / "turn.lock")
    with bank.turn(RECIPE):
        assert not lock.is_locked
        with pytest.raises(TimeoutError):
            lock.acquire(timeout=0.1)
    with lock.acquire(timeout=0.1):
        pass


def test_nobody_waits_for_ever(bank: ViewBank, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process that holds the turn does not stop the others."""
    monkeypatch.setattr(view_bank, "PATIENCE", 2.0)
    entered = []
    with bank.turn(RECIPE), ViewBank(bank.folder, bank.limit).turn(RECIPE):
        entered.append(True)
    assert entered


def test_who_waits_long_says_so(bank: ViewBank, notices: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_bank, "PATIENCE", 2.5)
    monkeypatch.setattr(view_bank, "NOTE_AFTER", 0.0)
    with bank.turn(RECIPE), ViewBank(bank.folder, bank.limit, notices.append).turn(RECIPE):
        (notice,) = notices
    assert "waiting" in notice


def test_a_turn_ends_when_a_write_is_refused(bank: ViewBank, monkeypatch: pytest.MonkeyPatch) -> None:
    with bank.turn(RECIPE):
        stored(bank, 1)
        with pytest.raises(TimeoutError):
            FileLock(bank.folder / RECIPE.key / "turn.lock").acquire(timeout=0.1)
        bank.limit = 10
        stored(bank, 2)
        with FileLock(bank.folder / RECIPE.key / "turn.lock").acquire(timeout=0.1):
            pass


@needs_fork
def test_a_killed_process_loses_its_turn(bank: ViewBank) -> None:
    turn = bank.turn(RECIPE)
    with forked(lambda: turn.__enter__() or True), pytest.raises(TimeoutError):
        FileLock(bank.folder / RECIPE.key / "turn.lock").acquire(timeout=0.1)
    start = time.monotonic()
    with bank.turn(RECIPE):
        assert time.monotonic() - start < 5


@pytest.mark.skipif(os.name != "posix", reason="folders as files")
def test_a_folder_that_cannot_be_made_is_no_obstacle(tmp_path: Path, notices: list[str]) -> None:
    (tmp_path / "views").write_text("in the way")
    bank = ViewBank(tmp_path / "views", 10**9, notices.append)
    with bank.turn(RECIPE):
        shelf = stored(bank, 1)
    assert torch.equal(read(shelf, 1), values(1))
    assert len(notices) == 1


# --- sizes and times -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("123", 123), ("5GB", 5 * 10**9), ("1.5 tb", 15 * 10**11), (" 20 MB ", 2 * 10**7), ("7 B", 7)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, "here") == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "5 GiB", "5,5GB", "1e9"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"here: found .*allowed: bytes"):
        parse_size(text, "here")


@pytest.mark.parametrize(("text", "seconds"), [("30d", 30 * 86400), ("1.5h", 5400), ("90 m", 5400)])
def test_ages(text: str, seconds: float) -> None:
    assert parse_age(text, "here") == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "3w", "-3d"])
def test_ages_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"here: found .*allowed: days"):
        parse_age(text, "here")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 KB"),
        (12_345, "12.3 KB"),
        (999_600, "1.00 MB"),
        (2 * 10**13, "20.00 TB"),
    ],
)
def test_sizes_as_text(size: int, text: str) -> None:
    assert size_text(size) == text


def test_the_environment_decides_folder_and_bound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PINIKIT_CACHE", str(tmp_path))
    monkeypatch.setenv("PINIKIT_CACHE_SIZE", "3MB")
    bank = user_bank()
    assert (bank.folder, bank.limit) == (tmp_path / "views", 3 * 10**6)
    monkeypatch.delenv("PINIKIT_CACHE_SIZE")
    assert user_bank().limit == view_bank.DEFAULT_LIMIT
    monkeypatch.setenv("PINIKIT_CACHE_SIZE", "much")
    with pytest.raises(ConfigError, match="PINIKIT_CACHE_SIZE: found 'much'"):
        user_bank()

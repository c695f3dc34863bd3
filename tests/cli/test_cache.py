"""``pinikit cache``: what there is, making it smaller, checking it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from pinikit.cli.app import app
from pinikit.data.shelf import Shelf
from pinikit.data.view_bank import Recipe, ViewBank, row_key, user_bank


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run ``pinikit cache`` with a cache of its own."""
    monkeypatch.setenv("PINIKIT_CACHE", str(tmp_path))
    monkeypatch.setenv("PINIKIT_CACHE_SIZE", "2GB")
    monkeypatch.setenv("COLUMNS", "150")
    return lambda *words: CliRunner().invoke(app, ["cache", *words])


def fill(bank: ViewBank, stage: str = "image_feature", views: int = 2, age: float = 0.0) -> Path:
    """Three pictures in some views (0 for clean), in one file that was last used ``age`` seconds ago."""
    recipe = Recipe("my backbone", {"precision": "bf16", "device": "cpu AVX512", "weights": str(age)})
    numbers = range(1, views + 1) if views else (0,)
    keys = [row_key(bytes([n]) * 32, view) for view in numbers for n in range(3)]
    shelf = Shelf(recipe, stage, bank)
    shelf.add(keys, [key[-1] for key in keys], torch.zeros(len(keys), 1000))
    before = set(bank.files())
    shelf.flush()
    (path,) = set(bank.files()) - before
    moment = time.time() - age
    os.utime(path, (moment, moment))
    return path


def test_ls(call: Any) -> None:
    assert "0 B of 2.00 GB (PINIKIT_CACHE_SIZE) in " in call("ls").output
    bank = user_bank()
    fill(bank)
    fill(bank, "spatial_feature", views=0, age=3 * 86400 + 60)
    done = call("ls")
    assert done.exit_code == 0
    feature, spatial = (line.split() for line in done.stdout.splitlines() if "my backbone" in line)
    assert " ".join(feature) == "my backbone image_feature bf16 cpu AVX512 2 3 24.5 KB just now"
    assert " ".join(spatial) == "my backbone spatial_feature bf16 cpu AVX512 clean 3 12.3 KB 3 d ago"
    assert "36.8 KB of 2.00 GB (PINIKIT_CACHE_SIZE) in " in done.stdout


@pytest.mark.parametrize("width", [80, 50])
def test_ls_in_a_narrow_terminal(call: Any, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    fill(user_bank())
    monkeypatch.setenv("COLUMNS", str(width))
    lines = call("ls").stdout.splitlines()
    assert max(map(len, lines[:-1])) <= width
    assert any("24.5 KB" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["--all"], [False, False]),
        (["--age", "1d"], [False, True]),
        (["--age", "5d"], [True, True]),
        (["--size", "30KB"], [False, True]),
        (["--size", "1MB", "--age", "1d"], [False, True]),
    ],
)
def test_prune(call: Any, words: list[str], left: list[bool]) -> None:
    paths = [fill(user_bank(), age=age) for age in (2 * 86400, 60)]
    size = paths[0].stat().st_size
    done = call("prune", *words)
    assert done.exit_code == 0
    assert [path.exists() for path in paths] == left
    gone = left.count(False)
    expected = {0: "removed 0 files of 0 B", 1: "removed 1 file of 24.5 KB", 2: "removed 2 files of 48.9 KB"}
    assert done.stdout.splitlines() == [expected[gone]], size


def test_prune_says_what_is_in_use(call: Any) -> None:
    bank = user_bank()
    fill(bank)
    shelf = Shelf(
        Recipe("x", {"precision": "bf16", "device": "cpu AVX512", "weights": "0.0"}), "image_feature", bank
    )
    shelf.refresh()
    assert not shelf.missing([row_key(bytes(32), 1)])
    done = call("prune", "--all")
    assert done.stdout.splitlines() == ["removed 0 files of 0 B", "1 file in use by a running process stayed"]
    assert len(bank.files()) == 1


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        ([], "allowed: --size, --age, --all"),
        (["--all", "--age", "1d"], "allowed: --size, --age, --all"),
        (["--size", "big"], "--size: found 'big'"),
        (["--age", "old"], "--age: found 'old'"),
    ],
)
def test_prune_refuses(call: Any, words: list[str], fragment: str) -> None:
    fill(user_bank())
    done = call("prune", *words)
    assert done.exit_code == 2
    assert fragment in done.stderr
    assert "Traceback" not in done.output
    assert len(user_bank().files()) == 1


def test_verify(call: Any) -> None:
    assert call("verify").output == "0 files of 0 B, all sound\n"
    path = fill(user_bank())
    other = fill(user_bank(), age=5)
    done = call("verify")
    assert (done.exit_code, done.output) == (0, "2 files of 48.9 KB, all sound\n")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    done = call("verify")
    assert done.exit_code == 3
    assert "1 of 2 files of the view bank damaged" in done.stderr
    assert str(path) in done.stderr
    assert str(other) not in done.stderr
    assert done.stdout == ""


def test_a_bound_that_is_no_size_is_refused(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINIKIT_CACHE_SIZE", "lots")
    for word in ("ls", "verify"):
        done = call(word)
        assert done.exit_code == 2
        assert "PINIKIT_CACHE_SIZE: found 'lots'" in done.stderr

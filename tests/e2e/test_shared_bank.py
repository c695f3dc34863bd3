"""One view bank for several processes and studies: no work is done twice, and nothing wrong is ever read."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import STUDY, bits, draw_pictures, read, write_study
from processes import Ended, Shell, shell

pytestmark = [pytest.mark.drill, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]

WORDS = ("--arms", "zero_shot,image,block")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of all commands of this file; tests begin with it empty."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def forked(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with shell(tmp_path_factory.mktemp("shell"), PINIKIT_CACHE=cache) as opened:
        yield opened


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of few pictures, as their number is no matter here."""
    folder = tmp_path_factory.mktemp("study")
    root = draw_pictures(folder / "pictures", {"blue_sky": (0, 0, 190), "red": (190, 0, 0)}, count=10)
    text = STUDY.replace("views: 1", "views: 2").replace("[mean, sample, mc-2]", "[sample]")
    return write_study(folder, text.replace("name: digits", f"name: image_folder, root: {root}"))


@pytest.fixture(scope="module")
def reference(
    study: Path, cache: Path, forked: Shell, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[Any, Any], int]:
    """Results without any view bank on disk, and how many pictures had to be encoded."""
    folder = tmp_path_factory.mktemp("reference")
    ended = forked("run", study, *WORDS, "--runs", folder, environment={"PINIKIT_CACHE_SIZE": "0"})
    assert ended.code == 0, ended.stderr
    assert not (cache / "views").exists()
    return bits(read(folder)), encoded(folder)


@pytest.fixture(autouse=True)
def _empty(forked: Shell) -> None:
    assert forked("cache", "prune", "--all").code == 0


def encoded(runs: Path) -> int:
    """Pictures that went through the tower, in all runs together."""
    return round(sum(content["costs"]["images_encoded"] for content in read(runs).values()))


def files(cache: Path) -> list[Path]:
    return sorted(cache.glob("views/*/*/*.safetensors"))


def test_a_second_study_encodes_nothing(
    study: Path, reference: tuple[dict[Any, Any], int], tmp_path: Path, forked: Shell
) -> None:
    results, count = reference
    for runs, expected in ((tmp_path / "first", count), (tmp_path / "second", 0)):
        ended = forked("run", study, *WORDS, "--runs", runs)
        assert ended.code == 0, ended.stderr
        assert bits(read(runs)) == results
        assert encoded(runs) == expected
    cached = sum(content["costs"]["rows_cached"] for content in read(tmp_path / "second").values())
    assert cached >= count


def test_two_processes_at_once(
    study: Path,
    reference: tuple[dict[Any, Any], int],
    cache: Path,
    tmp_path: Path,
    forked: Shell,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    ended: dict[str, Ended] = {}
    with shell(tmp_path_factory.mktemp("other"), PINIKIT_CACHE=cache) as other:

        def work(name: str, opened: Shell) -> None:
            ended[name] = opened("run", study, *WORDS, "--runs", tmp_path / name)

        threads = [threading.Thread(target=work, args=args) for args in (("one", forked), ("two", other))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(200)
    results, count = reference
    for name in ("one", "two"):
        assert ended[name].code == 0, ended[name].stderr
        assert bits(read(tmp_path / name)) == results
    assert encoded(tmp_path / "one") + encoded(tmp_path / "two") == count, "each picture once"
    assert forked("cache", "verify").code == 0


def test_killed_while_it_writes_the_bank(
    study: Path, reference: tuple[dict[Any, Any], int], cache: Path, tmp_path: Path, forked: Shell
) -> None:
    """At any of the first files of a study, of which some are the bank's."""
    interrupted = 0
    for number in range(2, 12, 2):
        runs = tmp_path / f"runs{number}"
        assert forked("cache", "prune", "--all").code == 0
        ended = forked("run", study, *WORDS, "--runs", runs, die_at_write=number)
        assert ended.code == -signal.SIGKILL, ended.stderr
        interrupted += bool([*cache.glob("views/**/.*.tmp")])
        verified = forked("cache", "verify")
        assert verified.code == 0, verified.stderr
    assert interrupted, "no file of the bank was among them"
    runs = tmp_path / "runs"
    assert forked("run", study, *WORDS, "--runs", runs).code == 0
    assert bits(read(runs)) == reference[0]


def test_a_damaged_bank_is_told_and_rebuilt(
    study: Path, reference: tuple[dict[Any, Any], int], cache: Path, tmp_path: Path, forked: Shell
) -> None:
    assert forked("run", study, *WORDS, "--runs", tmp_path / "first").code == 0
    damaged = files(cache)
    for path in damaged:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 32
        path.write_bytes(content)
    verified = forked("cache", "verify")
    assert verified.code == 3
    assert all(str(path) in verified.stderr for path in damaged)
    ended = forked("run", study, *WORDS, "--runs", tmp_path / "second")
    assert ended.code == 0, ended.stderr
    notes = [line for line in ended.stderr.splitlines() if "damaged file of the view bank" in line]
    assert len(notes) == len(damaged)
    assert all(line.startswith("note: ") for line in notes)
    assert bits(read(tmp_path / "second")) == reference[0]
    assert forked("cache", "verify").code == 0


def planned(ended: Ended) -> tuple[str, str, int]:
    """Bytes needed, bytes there, pictures to encode."""
    assert ended.code == 0, ended.stderr
    text = " ".join(ended.stdout.split())
    match = re.search(r"view bank: (.+?) of activations, (.+?) of them there; (\d+) picture", text)
    assert match, text
    return match[1], match[2], int(match[3])


def test_a_dry_run_tells_what_the_bank_will_need(
    study: Path, reference: tuple[dict[Any, Any], int], cache: Path, tmp_path: Path, forked: Shell
) -> None:
    words = ("run", study, *WORDS, "--dry-run", "--runs")
    needed, present, missing = planned(forked(*words, tmp_path / "runs"))
    assert (present, missing) == ("0 B", reference[1])
    assert files(cache) == [], "nothing is encoded for it"
    assert forked("run", study, *WORDS, "--runs", tmp_path / "runs").code == 0
    assert planned(forked(*words, tmp_path / "empty")) == (needed, needed, 0)
    assert planned(forked(*words, tmp_path / "runs")) == ("0 B", "0 B", 0), "no run is left"
    unit = {"KB": 10**3, "MB": 10**6}[needed.split()[1]]
    stored = sum(path.stat().st_size for path in files(cache))
    assert 0.9 * stored < float(needed.split()[0]) * unit < 1.01 * stored

"""The fault drill: a study whose processes are killed at random comes out as if nothing had happened.

Slow, so it is left out of the tests unless asked for: ``pytest -m drill -n 2``.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from commands import bits, read

pytestmark = [
    pytest.mark.drill,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
    pytest.mark.timeout(600),
]

STUDY = """\
name: drill
run:
  data: {name: digits, shots: 4, views: 2}
  method: {name: pini, optim: {epochs: 12, lr: 0.01, batch_size: 8}}
  evaluate: {noise: [mean, mc-2]}
  device: cpu
  threads: 1
design:
  baseline: zero_shot
  arms:
    zero_shot: {method: {name: zero_shot}}
    feature: {method.injections.image: {site: image_feature, injector: cross_attention, share: image}}
    mlp: {method.injections.image: {site: image_feature, injector: mlp, share: image}}
    other: {method.injections.text: {site: text_feature, noise: {name: gaussian, std: sign_free}}}
seeds: [1, 2, 3, 4]
"""
RUNS = 16
LIGHT = ("--arms", "mlp")
"""Half of it: these runs and those of the baseline."""
LIGHT_RUNS = 8
KILLS = 20
PARENTS = 3
FIRST = """\
import sys
sys.modules["transformers"] = None
import pinikit.reporting.html.page as page, pinikit.study.resume as resume
page.html_page = lambda results, digest: f"page {digest}"
resume.INTERVAL = 0.0
"""
"""What each process of the drill executes first: what takes long and is not needed is left out, and every epoch ends
with a checkpoint, so that kills hit them."""
WORKERS = 2
KILLED = -signal.SIGKILL
SMALL = 1_500_000
"""Bytes of a disk that holds a part of the study's results."""
LARGEST_FILE = 60_000
"""Bytes that the checkpoints of some arms exceed."""


@dataclass
class Place:
    """A study, its store, and a cache of its own."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.study, self.runs = self.folder / "drill.yaml", self.folder / "runs"
        self.study.write_text(STUDY, encoding="utf-8")
        (self.folder / "site").mkdir()
        (self.folder / "site" / "sitecustomize.py").write_text(FIRST, encoding="utf-8")
        self._started: list[Parent] = []

    def start(self, *words: object, **options: Any) -> Parent:
        """The command in a process of its own."""
        shown = self.folder / f"shown-{len(self._started)}.txt"
        command = [
            sys.executable,
            "-m",
            "pinikit",
            "run",
            self.study,
            "--runs",
            self.runs,
            "--fuse",
            "2",
            *words,
        ]
        with shown.open("w") as stream:
            process = subprocess.Popen(
                list(map(str, command)), stdout=stream, stderr=stream, env=self._environment(), **options
            )
        self._started.append(Parent(process, shown))
        return self._started[-1]

    def _environment(self) -> dict[str, str]:
        """The environment of the command and its workers."""
        paths = [str(self.folder / "site"), os.environ.get("PYTHONPATH", "")]
        own = {"OMP_NUM_THREADS": "1", "PINIKIT_CACHE": str(self.folder / "cache")}
        return {**os.environ, **own, "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def shown(self) -> str:
        """What all of its commands have shown."""
        return "".join(parent.text() for parent in self._started)

    def close(self) -> None:
        """End what is still under way."""
        for parent in self._started:
            parent.process.kill()
            parent.process.wait()

    def finished(self) -> dict[Path, int]:
        """When each finished result was written."""
        found = {}
        for path in self.runs.glob("by-id/*/result.json"):
            with contextlib.suppress(OSError, ValueError):  # it is replaced just now
                if json.loads(path.read_text())["status"] == "finished":
                    found[path] = path.stat().st_mtime_ns
        return found

    def leftovers(self) -> list[str]:
        """Temporary files, locks and checkpoints."""
        found = [
            path
            for path in self.runs.rglob("*")
            if path.name.startswith(".") or path.suffix in (".tmp", ".lock")
        ]
        found += self.runs.glob("by-group/*")
        return sorted(str(path.relative_to(self.runs)) for path in found)


@dataclass
class Parent:
    """A command under way."""

    process: subprocess.Popen[bytes]
    shown: Path

    def workers(self) -> list[int]:
        """Its worker processes."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                if int(parent) == self.process.pid and b"spawn_main" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        return found

    def end(self, seconds: float = 300) -> int:
        """Its exit code, waited for; there is never a traceback."""
        code = self.process.wait(seconds)
        assert "Traceback" not in self.text(), self.text()
        return code

    def text(self) -> str:
        """What it has shown."""
        return self.shown.read_text()


class Progress:
    """Counts the lines on epochs that appear in the logs of runs: when to strike."""

    def __init__(self, runs: Path) -> None:
        self._runs, self._seen = runs, dict[Path, int]()

    def new(self) -> int:
        """How many there are since the last call."""
        count = 0
        for path in self._runs.glob("by-id/*/run.log"):
            with contextlib.suppress(OSError):
                lines = path.read_text().count("INFO epoch ")
                before = self._seen.get(path, 0)
                count += lines - before if lines >= before else lines
                self._seen[path] = lines
        return count


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with contextlib.closing(Place(tmp_path / "place")) as opened:
        yield opened


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """The study without any disturbance, in one process."""
    place = Place(tmp_path_factory.mktemp("reference"))
    parent = place.start()
    assert parent.end() == 0, parent.text()
    found = bits(read(place.runs))
    assert len(found) == RUNS
    assert place.leftovers() == []
    return found


def test_twenty_kills(reference: dict[Any, Any], place: Place) -> None:
    chance = random.Random(4)
    targets = chance.sample(["parent"] * PARENTS + ["worker"] * (KILLS - PARENTS), KILLS)
    progress, kept, codes = Progress(place.runs), dict[Path, int](), list[int]()
    parent, due = place.start("--jobs", WORKERS), chance.randint(1, 4)
    while True:
        if parent.process.poll() is not None:
            codes.append(parent.end())
            check_kept(place, kept)
            if codes[-1] == 0:
                break
            parent = place.start("--jobs", WORKERS)
        due -= progress.new()
        if due <= 0 and targets and strike(parent, targets[-1], chance):
            targets.pop()
            due = chance.randint(1, 4)
            check_kept(place, kept)
        time.sleep(0.02)
    assert not targets, "the study was over too soon"
    assert codes.count(KILLED) == PARENTS
    assert set(codes) <= {KILLED, 1, 0}
    assert "training goes on after epoch" in place.shown()
    assert bits(read(place.runs)) == reference
    assert place.leftovers() == []


def light(reference: dict[Any, Any]) -> dict[Any, Any]:
    """What the lighter half of the study comes to."""
    found = {key: item for key, item in reference.items() if key[0] in ("zero_shot", "mlp")}
    assert len(found) == LIGHT_RUNS
    return found


def strike(parent: Parent, target: str, chance: random.Random) -> bool:
    """Kill the parent, which leaves no worker behind, or one of its workers; False if there is none."""
    workers = sorted(parent.workers())
    if target == "worker":
        if workers:
            os.kill(chance.choice(workers), signal.SIGKILL)
        return bool(workers)
    parent.process.kill()
    parent.process.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 10)
    return True


def check_kept(place: Place, kept: dict[Path, int]) -> None:
    """What was finished once is never written again."""
    now = place.finished()
    assert {path: now.get(path) for path in kept} == kept
    kept |= now


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_two_parents_share_the_work(reference: dict[Any, Any], place: Place) -> None:
    """One of them is killed on the way and started again; no run is trained twice."""
    doomed, other = place.start(*LIGHT), place.start(*LIGHT)
    progress = Progress(place.runs)
    wait_until(lambda: progress.new() > 0, 300)
    doomed.process.kill()
    again = place.start(*LIGHT)
    assert [parent.end() for parent in (doomed, other, again)] == [KILLED, 0, 0]
    lines = [line for parent in (doomed, other, again) for line in parent.text().splitlines()]
    own = [
        line.partition("] ")[2].partition(":")[0] for line in lines if re.match(r"\[\d+/\d+\].* % in ", line)
    ]
    assert len(own) == len(set(own)), "no run was trained twice"
    assert len(own) >= LIGHT_RUNS - 2, "only what ended at that very moment is not said"
    assert bits(read(place.runs)) == light(reference)
    assert place.leftovers() == []


@dataclass
class Disk:
    """A disk that is too small, until room is made."""

    folder: Path
    options: dict[str, Any]
    """How commands are started that find it so."""
    make_room: Callable[[], Any]


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    """A file system of its own; without the right to mount one, a limit on the size of files."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(folder)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        try:
            enlarge = ["mount", "-o", "remount,size=1g", str(folder)]
            yield Disk(folder, {}, lambda: subprocess.run(enlarge, check=True))
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
    else:
        limits = (LARGEST_FILE, LARGEST_FILE)
        options = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)}
        yield Disk(folder, options, options.clear)


def test_a_full_disk(reference: dict[Any, Any], place: Place, tmp_path: Path) -> None:
    """One clear message; what was finished stays, and with room again the same command completes it."""
    kept: dict[Path, int] = {}
    with small_disk(tmp_path / "small") as disk:
        place.runs = disk.folder / "runs"
        parent = place.start(*LIGHT, "--jobs", WORKERS, **disk.options)
        assert parent.end() == 1, parent.text()
        assert "Cannot write" in parent.text()
        check_kept(place, kept)
        assert len(kept) < LIGHT_RUNS
        disk.make_room()
        parent = place.start(*LIGHT)
        assert parent.end() == 0, parent.text()
        check_kept(place, kept)
        assert bits(read(place.runs)) == light(reference)
        assert place.leftovers() == []

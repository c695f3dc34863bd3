"""Searches whose processes are killed come out with exactly the trials that were asked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from searching import Drill

pytestmark = [
    pytest.mark.drill,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
    pytest.mark.timeout(500),
]

TRIALS = 5


def test_a_killed_worker_and_a_killed_parent_cost_no_trial(tmp_path: Path) -> None:
    drill = Drill(tmp_path, None, TRIALS)
    try:
        parent = drill.start("--jobs", "2")
        drill.kill_a_worker()
        drill.wait_for(lambda board: board.done >= 3)
        parent.kill()  # its workers end with it
        parent.wait()
        last = drill.start()
        assert last.wait(timeout=200) == 0, drill.output()
        drill.check_total()
        assert "another one takes its place" in drill.output()
    finally:
        drill.stop()


def test_a_journal_knows_of_dead_workers_too(tmp_path: Path) -> None:
    drill = Drill(tmp_path, f"journal:{tmp_path / 'search.log'}", TRIALS)
    try:
        drill.start()
        drill.kill_a_worker(replace=drill.start)
        last = drill.start()
        assert last.wait(timeout=200) == 0, drill.output()
        drill.check_total()
        assert "ended without a word" in drill.output()
    finally:
        drill.stop()

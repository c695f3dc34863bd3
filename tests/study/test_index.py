"""The command in a study's index says all that decides its results."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "reporting"))

from fabricated import make_study

from pinikit.study.index import command, read_index, write_index
from pinikit.study.saved import saved_study
from pinikit.study.store import Store


@pytest.mark.parametrize(("fuse", "end"), [("auto", ""), ("2", " --fuse 2"), ("off", " --fuse off")])
def test_the_command_groups_runs_as_they_were(tmp_path: Path, fuse: str, end: str) -> None:
    study = replace(make_study(tmp_path), fuse=fuse)
    assert command(study) == f"pinikit run {study.file}{end}"
    store = Store(tmp_path / "runs")
    write_index(study, store)
    assert read_index(store, study.name).command == command(study)
    saved, _ = saved_study(store, study.name)
    assert command(saved) == command(study)

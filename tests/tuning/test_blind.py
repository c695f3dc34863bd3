"""What the tuner must not open, beside the test split of its own data (``test_engine.py``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_search import STUDY, Rig, memory, one_backbone, rig, search

from pinikit.components.datasets.image_folder import ImageFolder
from pinikit.errors import DataError
from pinikit.study.study import resolve_study

__all__ = ["memory", "one_backbone", "rig"]  # fixtures


def test_the_tuner_does_not_open_other_data(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its classes and labels are test data; the study of the best arms opens it."""

    def opened(self: ImageFolder) -> Any:
        raise DataError("somebody opens other data")

    monkeypatch.setattr(ImageFolder, "read", opened)
    other = f"  evaluate: {{other_data: {{elsewhere: {{name: image_folder, root: {tmp_path}}}}}}}\n"
    text = STUDY.replace("  device: cpu\n", f"  device: cpu\n{other}")
    (tmp_path / "plain.yaml").write_text(text.partition("search:")[0])
    with pytest.raises(DataError, match="somebody opens"):  # an ordinary study does
        resolve_study(tmp_path / "plain.yaml")
    trials = search(tmp_path, 4, text=text)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4
    config = json.loads(trials[3].user_attrs["config"])
    assert config["evaluate"]["other_data"]["elsewhere"]["root"] == str(tmp_path)

"""Checkpoints: everything comes back, nothing damaged is used."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pinikit.components.datasets.digits import Digits
from pinikit.data.manifest import make_manifest
from pinikit.errors import WeightsError
from pinikit.study.checkpoint import DESCRIPTION, TENSORS, load_checkpoint, save_checkpoint
from pinikit.study.predictor import LoadedPredictor
from pinikit.study.study import Run

STATE = {
    "image.injector.weight": torch.randn(4, 3, generator=torch.Generator().manual_seed(0)),
    "text.injector.values.mean": torch.zeros(1, 2, 5).transpose(1, 2),  # not contiguous
    "image.injector.bn.num_batches_tracked": torch.tensor(7),
    "half": torch.ones(3, dtype=torch.float16, requires_grad=True),
}
CONFIG: dict[str, Any] = {
    "seed": 3,
    "precision": "fp32",
    "method": {"name": "pini", "samples": 1},
    "lr": 1e-3,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    dataset = Digits()
    run = Run(
        "0123456789abcdef",
        "pini",
        3,
        CONFIG,
        "a {}.",
        make_manifest(dataset, 1, 3),
        dataset,
        {"weights": "ab"},
    )
    predictor: Any = SimpleNamespace(state=lambda: STATE)
    save_checkpoint(tmp_path, run, predictor)
    return tmp_path


def test_everything_comes_back(folder: Path) -> None:
    checkpoint = load_checkpoint(folder)
    assert checkpoint.config == CONFIG
    assert checkpoint.template == "a {}."
    assert checkpoint.weights == "ab"
    assert checkpoint.class_names == Digits().catalogue().class_names
    assert set(checkpoint.state) == set(STATE)
    for name, tensor in STATE.items():
        assert torch.equal(checkpoint.state[name], tensor)
        assert checkpoint.state[name].dtype == tensor.dtype
    assert set(load_file(folder / TENSORS)) == set(STATE), "readable without pinikit"


def test_equal_content_equal_bytes(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = [(folder / name).read_bytes() for name in (TENSORS, DESCRIPTION)]
    other = tmp_path_factory.mktemp("other")
    dataset = Digits()
    run = Run(
        "0123456789abcdef",
        "pini",
        3,
        CONFIG,
        "a {}.",
        make_manifest(dataset, 1, 3),
        dataset,
        {"weights": "ab"},
    )
    reordered = dict(reversed([(name, tensor.clone()) for name, tensor in STATE.items()]))
    predictor: Any = SimpleNamespace(state=lambda: reordered)
    save_checkpoint(other, run, predictor)
    assert [(other / name).read_bytes() for name in (TENSORS, DESCRIPTION)] == before


@pytest.mark.parametrize("name", [TENSORS, DESCRIPTION])
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(
        WeightsError, match=f"has no {name}; the run is not finished, or this is no run's folder"
    ):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", [TENSORS, DESCRIPTION])
def test_every_flipped_or_missing_byte_is_noticed(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_bytes()
    original = None if name == TENSORS else json.loads(whole)
    for index in range(0, len(whole), 5):
        for damaged in (whole[:index], whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :]):
            path.write_bytes(damaged)
            loaded = False
            with contextlib.suppress(WeightsError):
                load_checkpoint(folder)
                loaded = True
            if loaded:  # only white space may change, and only in the description
                assert original is not None
                assert json.loads(damaged) == original


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"format": 1}', "{", '{"format": NaN}'])
def test_a_description_that_is_something_else(folder: Path, text: str) -> None:
    (folder / DESCRIPTION).write_text(text)
    with pytest.raises(WeightsError, match=r"damaged|format"):
        load_checkpoint(folder)


def test_an_edited_configuration_is_noticed(folder: Path) -> None:
    path = folder / DESCRIPTION
    path.write_text(path.read_text().replace('"samples": 1', '"samples": 2'))
    with pytest.raises(WeightsError, match=r"checkpoint\.json: is damaged .*; run the study again"):
        load_checkpoint(folder)
    with pytest.raises(WeightsError):
        LoadedPredictor(folder)


def test_a_newer_format_is_said(folder: Path) -> None:
    path = folder / DESCRIPTION
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(WeightsError, match="format 2 is not known to this pinikit"):
        load_checkpoint(folder)

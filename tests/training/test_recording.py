"""What a run records, against what its model was given."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from few_shot import IMAGE, TEXT, bank_of, held_out, manifest_of, model_of, task_of

from pinikit.components.methods.pini import _PiniPredictor
from pinikit.errors import DataError
from pinikit.study.record import NoiseSummary, Record, read_record, write_record
from pinikit.study.recording import Witness, looked_at, noise_summaries
from pinikit.training.bank import Bank
from pinikit.training.evaluation import evaluate
from pinikit.training.task import Split

CONSTANT = {"name": "constant", "values": {"mean": 0.5, "std": 0.25}}


@pytest.fixture(scope="module")
def bank() -> Bank:
    return bank_of()


def summaries(bank: Bank, injections: dict[str, Any]) -> dict[str, NoiseSummary]:
    task, items = task_of(bank), manifest_of(bank).test
    indices = looked_at(items)
    split = Split(bank, [items[index] for index in indices], lambda done, total: None)
    predictor = _PiniPredictor(model_of(task, injections))
    found = noise_summaries(predictor, split, indices, task.backbone, task.prompts, seed=1)
    return {item.label: item for item in found}


def test_predictions_are_those_that_were_scored(bank: Bank) -> None:
    predictor = _PiniPredictor(model_of(task_of(bank), {"text": TEXT, "image": IMAGE}))
    for modes in (["mean", "sample"], ["sample", "mc-3"]):
        witness = Witness(modes)
        metrics = evaluate(predictor, held_out(bank), modes, seed=1, batch_size=4, witness=witness)
        seen = witness.predictions(manifest_of(bank).test)
        assert seen.mode == modes[0]
        assert 100 * np.mean(seen.labels == seen.predicted) == pytest.approx(metrics[modes[0]]["accuracy"])
        assert (seen.confidence >= 1 / 3).all()


def test_prompt_noise_is_measured_by_token(bank: Bank) -> None:
    task = task_of(bank)
    model = model_of(task, {"text": TEXT})
    values = {name.rpartition(".")[2]: value for name, value in model.injections.state_dict().items()}
    found = summaries(bank, {"text": TEXT})["text"]
    assert (found.layout, found.tokens) == ("tokens", ("a", "photo", "of", "a"))
    np.testing.assert_allclose(found.mean, values["mean"][0].norm(dim=-1), rtol=1e-5)
    np.testing.assert_allclose(found.spread, values["std"][0].norm(dim=-1), rtol=0.25)
    np.testing.assert_allclose(found.clean, model._embedding.prefix[0, 1:].norm(dim=-1), rtol=1e-5)


def test_tokens_of_class_names_are_a_mean_over_those_who_have_them(bank: Bank) -> None:
    site = {"site": "prompt_classname", "injector": CONSTANT}
    found = summaries(bank, {"text": site})["text"]
    width = bank.backbone.text.width
    assert found.tokens[0] == "name token 1"
    assert len(found.tokens) == max(task_of(bank).prompts.classname_lengths)
    np.testing.assert_allclose(found.mean, 0.5 * width**0.5, rtol=1e-5)  # not less where most have no token


def test_maps_lie_on_the_grid_of_the_stage(bank: Bank) -> None:
    stage = bank.backbone.image.stages["patch_embedding"]
    side = round(stage.shape[0] ** 0.5)
    found = summaries(bank, {"image": {"site": "patch_embedding", "injector": CONSTANT}})["image"]
    assert (found.layout, found.mean.shape) == ("grid", (1 + 3, side, side))  # the classes are three
    np.testing.assert_allclose(found.mean, 0.5 * stage.shape[1] ** 0.5, rtol=1e-3)
    np.testing.assert_allclose(found.spread.mean(), 0.25 * stage.shape[1] ** 0.5, rtol=0.1)
    items = manifest_of(bank).test
    assert sorted(items[index].label for index in found.examples) == [0, 1, 2]


def test_maps_keep_their_places(bank: Bank) -> None:
    """Example rows are of the pictures that they are said to be of."""
    config = {"site": "pixels", "injector": CONSTANT, "noise": "gaussian"}
    found = summaries(bank, {"image": config})["image"]
    items = manifest_of(bank).test
    pixels = bank.get(["pixels"], [items[index] for index in found.examples])["pixels"]  # [E, 3, H, W]
    wanted = torch.nn.functional.adaptive_avg_pool2d(pixels.square().sum(1), found.clean.shape[1:]).sqrt()
    np.testing.assert_allclose(found.clean[1:], wanted, rtol=1e-3)


def test_a_site_without_positions_has_one_length(bank: Bank) -> None:
    found = summaries(bank, {"image": {**IMAGE, "injector": CONSTANT}})["image"]
    width = bank.backbone.feature_width
    assert (found.layout, found.pictures) == ("vector", len(manifest_of(bank).test))
    np.testing.assert_allclose(found.mean, [0.5 * width**0.5], rtol=1e-5)


def test_record_survives_the_disk(bank: Bank, tmp_path: Path) -> None:
    noise = summaries(bank, {"text": TEXT, "image": {"site": "patch_embedding", "injector": CONSTANT}})
    predictor = _PiniPredictor(model_of(task_of(bank), {"text": TEXT}))
    witness = Witness(["mean"])
    evaluate(predictor, held_out(bank), ["mean"], seed=1, batch_size=4, witness=witness)
    record = Record(witness.predictions(manifest_of(bank).test), tuple(noise.values()))
    path = tmp_path / "record.safetensors"
    write_record(path, record)
    found = read_record(path)
    np.testing.assert_equal(asdict(found), asdict(record))
    first = path.read_bytes()
    write_record(path, found)
    assert path.read_bytes() == first
    path.write_bytes(first[:-100])
    with pytest.raises(DataError, match=r"record\.safetensors: the record cannot be read"):
        read_record(path)

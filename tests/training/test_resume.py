"""Training that is interrupted and goes on gives the bits of training that was left alone."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from few_shot import IMAGE, TEXT, Squares, bank_of, context, model_of, optim, silent
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.optim import list_optimizers

from pinikit.components.losses.cross_entropy import CrossEntropy
from pinikit.config.schema import OptimConfig
from pinikit.data.files import write_json
from pinikit.data.manifest import make_manifest
from pinikit.errors import ConfigError, PinikitError
from pinikit.study import resume
from pinikit.study.resume import GroupCheckpoints, Interrupted, StopRequest, kept_checkpoints
from pinikit.study.store import Store
from pinikit.training import loop
from pinikit.training.context import Checkpoints
from pinikit.training.loop import (
    Trainee,
    WeightedLoss,
    _optimiser_state,
    _restore_optimiser,
    check_optimiser,
    make_optimiser,
    train,
)
from pinikit.training.task import make_task

PINI = {"text": TEXT, "image": IMAGE}
IDS = ("aaaa", "bbbb", "cccc")
CONDITIONS = {"threads": 1, "versions": {"torch": torch.__version__}}
EPOCHS = 4


class StopAfter(StopRequest):
    """Asks to stop after so many epochs of this process."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self._left = epochs

    def is_set(self) -> bool:
        self._left -= 1
        return self._left <= 0


def group(precision: str = "fp32", seeds: Sequence[int] = (1, 2, 7), **changes: Any) -> list[Trainee]:
    """Arms that differ in seed (and so pictures), learning rate and weight of the loss."""
    bank = bank_of(Squares(train=30), precision)
    made = []
    for index, seed in enumerate(seeds):
        manifest = make_manifest(bank.dataset, 4, seed)
        prompts = bank.backbone.text.tokenize(bank.dataset.plain_template, manifest.class_names)
        task = make_task(bank, prompts, manifest, 2, silent)
        config = optim(**{"epochs": EPOCHS, "lr": 0.01 * (index + 1), **changes})
        losses = [WeightedLoss(CrossEntropy(), 1.0 + index)]
        run = context(seed=seed, precision=precision)
        made.append(Trainee(model_of(task, PINI, seed), losses, config, task, run))
    return made


def kept_in(folder: Path, **changes: Any) -> GroupCheckpoints:
    return GroupCheckpoints(Store(folder), IDS, CONDITIONS, **changes)


def trained(arms: Sequence[Trainee], checkpoints: Checkpoints | None = None) -> list[Any]:
    """Everything that training leaves behind, in a form in which NaN equals itself."""
    for arm in arms:
        arm.run.checkpoints = checkpoints or Checkpoints()
    failures = train(arms, samples=2)
    states = [
        {key: value.numpy() for key, value in arm.model.injections.state_dict().items()} for arm in arms
    ]
    return [
        [{key: value.tobytes() for key, value in state.items()} for state in states],
        [[repr(row) for row in arm.run.history] for arm in arms],
        [arm.run.images for arm in arms],
        [repr(failure) for failure in failures],
    ]


@cache
def undisturbed(seeds: tuple[int, ...] = (1, 2, 7)) -> list[Any]:
    return trained(group(seeds=seeds))


def interrupted(folder: Path, epochs: int, **changes: Any) -> None:
    with pytest.raises(Interrupted, match=f"stopped after epoch {epochs} of {EPOCHS}"):
        trained(group(**changes), kept_in(folder, stop=StopAfter(epochs)))


# --- equal bits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "precision"),
    [("sgd", "fp32"), ("sgd", "bf16"), ("adamw", "fp32"), ("adamw", "bf16")],
)
def test_a_group_that_is_interrupted_comes_out_the_same(tmp_path: Path, name: str, precision: str) -> None:
    """After every epoch, the last one too."""
    alone = trained(group(precision, name=name))
    for _ in range(EPOCHS):
        with pytest.raises(Interrupted):
            trained(group(precision, name=name), kept_in(tmp_path, stop=StopAfter(1)))
    assert trained(group(precision, name=name), kept_in(tmp_path)) == alone


@pytest.mark.parametrize("epochs", [1, 3, EPOCHS])
def test_one_interruption(tmp_path: Path, epochs: int) -> None:
    interrupted(tmp_path, epochs)
    assert trained(group(), kept_in(tmp_path)) == undisturbed()


def test_the_scale_of_fp16_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is so large at first that steps are skipped: a fresh one would skip others."""
    monkeypatch.setattr(loop, "_FP16_SCALE", 2.0**22)
    alone = trained(group("fp16", seeds=(1,)))
    interrupted(tmp_path, 2, precision="fp16", seeds=(1,))
    assert trained(group("fp16", seeds=(1,)), kept_in(tmp_path)) == alone


def test_an_arm_that_had_failed_stays_failed(tmp_path: Path) -> None:
    def arms() -> list[Trainee]:
        first, second, third = group(warmup_epochs=0)
        return [first, replace(second, optim=replace(second.optim, lr=1e30)), third]

    alone = trained(arms())
    assert alone[3][1].startswith("TrainingError")
    with pytest.raises(Interrupted):
        trained(arms(), kept_in(tmp_path, stop=StopAfter(3)))
    assert trained(arms(), kept_in(tmp_path)) == alone


def test_ctrl_c_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    """Without a stop request: what was due at the last epoch is there."""

    def progress(epoch: int, epochs: int, **_: float) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    arms = group()
    arms[0].run.progress = progress
    with pytest.raises(KeyboardInterrupt):
        trained(arms, kept_in(tmp_path, interval=0.0))
    assert [(kept.epoch, kept.epochs, kept.runs) for kept in kept_checkpoints(Store(tmp_path))] == [
        (2, EPOCHS, IDS)
    ]
    assert trained(group(), kept_in(tmp_path)) == undisturbed()


def _steps(optimiser: torch.optim.Optimizer, parameters: Sequence[torch.nn.Parameter], count: int) -> None:
    for _ in range(count):
        optimiser.zero_grad()
        torch.stack([(value.sin() + value.square()).sum() for value in parameters]).sum().backward()
        optimiser.step()


def _parameters() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.linspace(-1, 2, 12).view(4, 3)), torch.nn.Parameter(torch.ones(5))]


@pytest.mark.parametrize("name", ["nesterov", *list_optimizers()])
def test_every_optimiser_goes_on_with_the_same_bits(name: str) -> None:
    if name.startswith("kron"):
        pytest.skip("it compiles for a minute; checked by hand")
    config = OptimConfig(name=name, lr=0.01)
    try:
        check_optimiser(config)
    except ConfigError:
        pytest.skip("refused by pinikit")
    expected, found = _parameters(), _parameters()
    _steps(make_optimiser(expected, config), expected, 7)
    first = make_optimiser(found, config)
    _steps(first, found, 4)
    tensors: dict[str, torch.Tensor] = {}
    kept = json.loads(json.dumps(resume._pack(_optimiser_state(first), tensors)))
    second = make_optimiser(found, config)
    _restore_optimiser(second, resume._unpack(kept, tensors))
    _steps(second, found, 3)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


# --- when, and what of it is of no use --------------------------------------------------------------------


def test_short_training_never_pays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(group(seeds=(1,)), kept_in(tmp_path))
    assert list(tmp_path.iterdir()) == []
    clock = iter(range(0, 10_000, 25))
    monkeypatch.setattr(resume.time, "monotonic", lambda: float(next(clock)))
    checkpoints = kept_in(tmp_path, interval=60.0)
    seen = []
    for epoch in range(1, 8):
        checkpoints.offer(epoch, 8, lambda epoch=epoch: seen.append(epoch) or {"epoch": epoch})
    assert seen == [3, 6]
    assert kept_in(tmp_path).load() == {"epoch": 6}
    assert len(list(checkpoints.folder.iterdir())) == 2, "older ones are removed"


@pytest.mark.parametrize("how", ["state", "tensors", "half", "missing", "format", "conditions"])
def test_a_checkpoint_of_no_use_is_told_and_training_starts_again(tmp_path: Path, how: str) -> None:
    interrupted(tmp_path, 2, seeds=(1,))
    (folder,) = Store(tmp_path).group_folders()
    state, tensors = folder / "state.json", folder / "2.safetensors"
    spoil = {
        "state": lambda: state.write_text(state.read_text().replace('"epoch": 2', '"epoch": 3')),
        "tensors": lambda: tensors.write_bytes(tensors.read_bytes()[:-1] + b"\x01"),
        "half": lambda: state.write_bytes(state.read_bytes()[:100]),
        "missing": tensors.unlink,
        "format": lambda: state.write_text(state.read_text().replace('"format": 1', '"format": 0')),
        "conditions": lambda: None,
    }
    spoil[how]()
    told: list[str] = []
    checkpoints = kept_in(tmp_path, tell=told.append)
    if how == "conditions":
        checkpoints = GroupCheckpoints(Store(tmp_path), IDS, {"threads": 2}, tell=told.append)
    assert trained(group(seeds=(1,)), checkpoints) == undisturbed((1,))
    (text,) = told
    assert text.startswith("training starts again: the checkpoint in")
    assert ("threads: 1 then, 2 now" if how == "conditions" else str(folder)) in text
    assert not folder.exists()


def test_a_checkpoint_that_is_used_is_told(tmp_path: Path) -> None:
    interrupted(tmp_path, 2, seeds=(1,))
    told: list[str] = []
    checkpoints = kept_in(tmp_path, tell=told.append)
    trained(group(seeds=(1,)), checkpoints)
    assert told == [f"training goes on after epoch 2 of {EPOCHS}"]
    checkpoints.remove()
    assert list(tmp_path.iterdir()) == []


def test_other_groups_are_left_alone(tmp_path: Path) -> None:
    kept_in(tmp_path, interval=0.0).offer(2, EPOCHS, lambda: {"epoch": 2})
    assert GroupCheckpoints(Store(tmp_path), IDS[:2], CONDITIONS).load() is None
    assert kept_in(tmp_path).load() is not None


def test_a_full_disk_does_not_stop_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise PinikitError("Cannot write it: the disk is full.")

    monkeypatch.setattr(resume, "write_atomic", full)
    told: list[str] = []
    checkpoints = kept_in(tmp_path, interval=0.0, tell=told.append)
    assert trained(group(seeds=(1,)), checkpoints) == undisturbed((1,))
    assert told == [
        "an interruption would cost the whole training, as it cannot be kept: Cannot write it: the disk is full."
    ]


def test_checkpoints_of_stored_runs_are_swept(tmp_path: Path) -> None:
    """A process was killed between the last result and the removal."""
    kept_in(tmp_path, interval=0.0).offer(2, EPOCHS, lambda: {"epoch": 2})
    store = Store(tmp_path)
    for run_id in IDS:
        resume.tidy_checkpoints(store)
        assert len(list(kept_checkpoints(store))) == 1
        store.save(run_id, {"status": "failed"})
    half = store.group_folder(["dddd"])
    write_json(half / "state.json", {})
    resume.tidy_checkpoints(store)
    assert store.group_folders() == [half], "another process may be writing it"
    os.utime(half, (0, 0))
    resume.tidy_checkpoints(store)
    assert not half.parent.exists()


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.uint8, torch.bool]).map(
        lambda kind: torch.tensor([1, 0, 1]).to(kind)
    )
)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(other)
    return bool(one == other) and repr(one) == repr(other)


@settings(max_examples=25, deadline=None)
@given(
    st.recursive(
        LEAVES,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.tuples(inner, inner)
            | st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=3)
        ),
    )
)
def test_what_is_kept_comes_back_as_it_was(value: Any) -> None:
    tensors: dict[str, torch.Tensor] = {}
    packed = json.loads(json.dumps(resume._pack(value, tensors), allow_nan=False))
    back = resume._unpack(packed, tensors)
    assert type(back) is type(value)
    assert _same(value, back)
    with pytest.raises(TypeError, match="found object"):
        resume._pack([value, object()], {})

"""The training loop: batches, views, optimisers, schedules, number formats, divergence."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from few_shot import IMAGE, TEXT, Squares, bank_of, context, held_out, model_of, optim, task_of
from hypothesis import given, settings
from hypothesis import strategies as st

from pinikit.components.contracts import Loss
from pinikit.components.losses.cross_entropy import CrossEntropy
from pinikit.components.methods.pini import _PiniPredictor
from pinikit.config.schema import OptimConfig
from pinikit.errors import ConfigError, PinikitError
from pinikit.training.bank import Bank
from pinikit.training.draws import MeanDraw
from pinikit.training.evaluation import evaluate
from pinikit.training.loop import (
    Trainee,
    TrainingError,
    WeightedLoss,
    _batches,
    check_optimiser,
    make_optimiser,
    total_loss,
    train,
)
from pinikit.training.model import NoisyModel, Output
from pinikit.training.schedule import learning_rate

PINI = {"text": TEXT, "image": IMAGE}
CE = [WeightedLoss(CrossEntropy(), 1.0)]


@pytest.fixture(scope="module")
def bank() -> Bank:
    return bank_of()


def trained(
    bank: Bank,
    config: OptimConfig,
    injections: dict[str, Any] = PINI,
    *,
    views: int = 2,
    samples: int = 1,
    losses: list[WeightedLoss] = CE,
    **changes: Any,
) -> tuple[NoisyModel, Any]:
    task, run = task_of(bank, views=views), context(**changes)
    model = model_of(task, injections)
    (failure,) = train([Trainee(model, losses, config, task, run)], samples)
    if failure is not None:
        raise failure
    return model, run


# --- batches and views --------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5))
def test_the_last_batch_is_left_out_only_if_there_is_a_full_one(count: int, size: int, epoch: int) -> None:
    batches = [batch.tolist() for batch in _batches(count, size, 1, epoch)]
    rows = [row for batch in batches for row in batch]
    assert len(set(rows)) == len(rows)
    assert set(rows) <= set(range(count))
    if count < size:
        assert list(map(len, batches)) == [count]
    else:
        assert list(map(len, batches)) == [size] * (count // size)


def test_every_epoch_has_its_own_order() -> None:
    orders = [torch.cat(list(_batches(24, 8, seed, epoch))).tolist() for seed in (1, 2) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] == torch.cat(list(_batches(24, 8, 1, 0))).tolist()


@pytest.mark.parametrize(
    ("views", "epochs", "wanted"), [(0, 1, [0]), (1, 2, [1]), (3, 9, [1, 2, 3]), (3, 2, [1, 2])]
)
def test_only_the_views_that_are_wanted_are_encoded(
    bank: Bank, monkeypatch: pytest.MonkeyPatch, views: int, epochs: int, wanted: list[int]
) -> None:
    asked: list[list[int]] = []
    loaded = bank.views
    monkeypatch.setattr(
        bank,
        "views",
        lambda stages, items, numbers, *rest: (
            asked.append([*numbers]) or loaded(stages, items, numbers, *rest)
        ),
    )
    trained(bank, optim(epochs=epochs), views=views)
    assert asked == [wanted]


def test_pictures_are_counted(bank: Bank) -> None:
    """12 pictures in batches of 5 are 10 an epoch."""
    assert trained(bank, optim(epochs=3, batch_size=5))[1].images == 30
    assert trained(bank, optim(epochs=3, batch_size=50), samples=4)[1].images == 36


# --- optimisers ---------------------------------------------------------------------------------------


def steps(optimiser: torch.optim.Optimizer, parameter: torch.Tensor, count: int = 4) -> torch.Tensor:
    for _ in range(count):
        optimiser.zero_grad()
        (parameter.sin().sum() + parameter.square().sum()).backward()
        optimiser.step()
    return parameter.detach()


def parameter() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.linspace(-1, 2, 7, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8, weight_decay=0.01)),
        ("nesterov", lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8, weight_decay=0.01, nesterov=True)),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.01)),
        ("adam", lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.01)),
    ],
)
def test_optimisers_are_torch_s(name: str, reference: Any) -> None:
    config = OptimConfig(name=name, lr=0.05, momentum=0.8, weight_decay=0.01)
    ours, theirs = parameter(), parameter()
    found = steps(make_optimiser([ours], config), ours)
    torch.testing.assert_close(found, steps(reference([theirs]), theirs), rtol=1e-12, atol=1e-12)


def test_weight_decay_applies_to_every_parameter(bank: Bank) -> None:
    """Also to vectors, which timm leaves out by default."""
    model = model_of(task_of(bank), PINI)
    groups = make_optimiser(list(model.injections.parameters()), OptimConfig(weight_decay=0.5)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.5]
    assert sum(len(group["params"]) for group in groups) == len(list(model.injections.parameters()))


@pytest.mark.parametrize("name", ["sgd", "nesterov", "adamw", "adam", "lamb", "lion", "adafactorbv", "muon"])
def test_optimisers_train(bank: Bank, name: str) -> None:
    try:
        check_optimiser(OptimConfig(name=name))
    except ConfigError:
        pytest.skip(f"this timm has no {name}")
    model, run = trained(bank, optim(name=name, lr=1e-3, epochs=2))
    assert all(math.isfinite(row["loss"]) for row in run.history)
    fresh = model_of(task_of(bank), PINI).injections.state_dict()
    assert any(not torch.equal(value, fresh[key]) for key, value in model.injections.state_dict().items())


def test_an_unknown_optimiser_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"optim\.name: unknown optimiser 'adamww' \(did you mean 'adamw'\?\)"
    ):
        check_optimiser(OptimConfig(name="adamww"))


def test_training_takes_the_steps_of_sgd(bank: Bank) -> None:
    """One batch, no noise in the draw: the loop's first two steps are torch's."""
    injections = {"image": {**IMAGE, "noise": "mu_only"}}
    config = optim(epochs=2, batch_size=50, warmup_epochs=0, schedule="constant", lr=0.03)
    model, _ = trained(bank, config, injections, views=0)
    task = task_of(bank, views=0)
    other = model_of(task, injections)
    reference = torch.optim.SGD(other.injections.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4)
    activations = task.train.activations(other.requires)
    for _ in range(2):
        reference.zero_grad()
        total_loss(CE, other(activations, MeanDraw()), task.train.labels).backward()
        reference.step()
    for key, value in other.injections.state_dict().items():
        torch.testing.assert_close(model.injections.state_dict()[key], value, rtol=1e-5, atol=1e-6)


# --- schedule -----------------------------------------------------------------------------------------


def test_constant_schedule_and_warmups() -> None:
    config = OptimConfig(lr=0.5, epochs=6, schedule="constant", warmup_epochs=2, warmup_lr=0.1)
    assert [learning_rate(epoch, config) for epoch in range(6)] == [0.1, 0.1, 0.5, 0.5, 0.5, 0.5]
    config.warmup, config.warmup_epochs = "linear", 4
    assert [learning_rate(epoch, config) for epoch in range(6)] == [0.1, 0.125, 0.25, 0.375, 0.5, 0.5]
    config.warmup_epochs = 0
    assert learning_rate(0, config) == 0.5


def test_cosine_starts_at_the_top_and_never_reaches_zero() -> None:
    config = OptimConfig(lr=0.5, epochs=10, warmup_epochs=1)
    rates = [learning_rate(epoch, config) for epoch in range(10)]
    assert rates[0] == config.warmup_lr
    assert rates[1] == 0.5
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[9] == pytest.approx(0.25 * (1 + math.cos(0.8 * math.pi)))


def test_the_history_tells_the_rate_in_force(bank: Bank) -> None:
    config = optim(epochs=4, lr=0.02)
    seen: list[tuple[int, int, set[str]]] = []
    _, run = trained(
        bank, config, progress=lambda epoch, epochs, **values: seen.append((epoch, epochs, set(values)))
    )
    assert [row["lr"] for row in run.history] == [learning_rate(epoch, config) for epoch in range(4)]
    assert [row["epoch"] for row in run.history] == [0, 1, 2, 3]
    assert seen == [(epoch, 4, {"loss", "accuracy"}) for epoch in range(1, 5)]


# --- what is trained ------------------------------------------------------------------------------------


def test_training_lowers_the_loss_and_leaves_the_backbone(bank: Bank) -> None:
    frozen = {key: value.clone() for key, value in bank.backbone.model.state_dict().items()}
    _, run = trained(bank, optim(epochs=12, name="adamw", lr=0.01), views=1)
    assert run.history[-1]["loss"] < 0.7 * run.history[0]["loss"]
    assert run.history[-1]["train_accuracy"] > run.history[0]["train_accuracy"]
    assert all(torch.equal(value, frozen[key]) for key, value in bank.backbone.model.state_dict().items())


def test_same_seed_same_bits_whatever_the_global_generator(bank: Bank) -> None:
    (one, first), (again, second), (other, _) = (
        (torch.manual_seed(index), trained(bank, optim(), seed=seed))[1]
        for index, seed in enumerate((1, 1, 2))
    )
    assert first.history == second.history
    state, same, different = (model.injections.state_dict() for model in (one, again, other))
    assert all(torch.equal(value, same[key]) for key, value in state.items())
    assert not all(torch.equal(value, different[key]) for key, value in state.items())
    before = torch.get_rng_state()
    trained(bank, optim(epochs=1))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("samples", [2, 5])
def test_samples_without_randomness_change_nothing(bank: Bank, samples: int) -> None:
    injections = {"image": {**IMAGE, "noise": "mu_only"}}
    (one, first), (several, second) = (
        trained(bank, optim(), injections, samples=count) for count in (1, samples)
    )
    for row, other in zip(first.history, second.history, strict=True):
        assert row == pytest.approx(other, rel=1e-4)
    for key, value in one.injections.state_dict().items():
        torch.testing.assert_close(several.injections.state_dict()[key], value, rtol=1e-3, atol=1e-5)


def test_each_sample_has_its_own_noise(bank: Bank) -> None:
    seen: list[torch.Tensor] = []

    class Spy(Loss):
        requires = frozenset({"logits", "labels", "image_features"})

        def __call__(self, batch: Any) -> torch.Tensor:
            seen.append(batch["image_features"].detach())
            assert len(batch["labels"]) == len(batch["logits"]) == 12 * 3
            assert (batch["labels"].view(12, 3) == batch["labels"].view(12, 3)[:, :1]).all()
            loss: torch.Tensor = torch.nn.functional.cross_entropy(batch["logits"], batch["labels"])
            return loss

    trained(
        bank,
        optim(epochs=1, batch_size=12),
        {"image": IMAGE},
        samples=3,
        losses=[WeightedLoss(Spy(), 1.0)],
    )
    grouped = seen[0].view(12, 3, -1)
    assert not torch.allclose(grouped[:, 0], grouped[:, 1])


def test_losses_are_weighted_and_summed() -> None:
    class Constant(Loss):
        def __init__(self, value: float) -> None:
            self.value = value

        def __call__(self, batch: Any) -> torch.Tensor:
            assert batch["logits"].dtype == torch.float32
            return torch.tensor(self.value)

    half = torch.zeros(2, 3, dtype=torch.float16)
    output = Output(half, half, half, {})
    losses = [WeightedLoss(Constant(2.0), 0.5), WeightedLoss(Constant(3.0), 10.0)]
    assert total_loss(losses, output, torch.tensor([0, 1])) == 31


def test_nothing_to_train_is_no_error(bank: Bank) -> None:
    model, run = trained(bank, optim(), {"image": {"site": "image_feature", "noise": "isotropic"}})
    assert run.history == []
    assert list(model.injections.parameters()) == []


# --- number formats and divergence ------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_other_number_formats_stay_near(precision: str) -> None:
    """No step may be lost: fp16's loss scaling begins low enough."""
    exact, rough = (
        [row["loss"] for row in trained(bank_of(precision=name), optim(epochs=4), precision=name)[1].history]
        for name in ("fp32", precision)
    )
    assert rough == pytest.approx(exact, rel=0.05)


def test_a_loss_that_is_no_number_is_an_error(bank: Bank) -> None:
    run = context()
    task = task_of(bank)
    (failure,) = train([Trainee(model_of(task, PINI), CE, optim(lr=1e30), task, run)])
    assert isinstance(failure, TrainingError)
    assert str(failure).startswith("the loss became nan in epoch 1 (learning rate 1e+30); a smaller")
    assert len(run.history) == 2, "the epochs until then are told"


@pytest.mark.parametrize("lr", [1e30, 1e38])
def test_a_last_step_that_spoils_everything_is_an_error(bank: Bank, lr: float) -> None:
    """The loss of the only step was fine; its effect shows in the evaluation."""
    config = optim(epochs=1, batch_size=50, warmup_epochs=0, lr=lr)
    model, run = trained(bank, config)
    assert math.isfinite(run.history[0]["loss"])
    with pytest.raises(
        PinikitError, match=r"evaluation with noise 'mean': .* is (nan|inf).*smaller run\.method"
    ):
        evaluate(_PiniPredictor(model), held_out(bank), ["mean"], seed=1, batch_size=9)


def test_fewer_pictures_than_a_batch(bank: Bank) -> None:
    _, run = trained(bank_of(Squares(train=3, val=0)), optim(batch_size=32, epochs=2))
    assert run.images == 6

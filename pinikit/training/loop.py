"""The training loop: the injections' parameters, and nothing else, follow the loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from torch import Tensor

from pinikit.components.contracts import Loss, Predictor
from pinikit.config.schema import OptimConfig
from pinikit.errors import ConfigError, PinikitError, nearest
from pinikit.seeding import generator
from pinikit.training.context import RunContext
from pinikit.training.draws import RandomDraw
from pinikit.training.loss_batch import Entries, class_shares, clean_entries, noisy_entries, stages_of
from pinikit.training.model import NoisyModel, Output, noisy_outputs, noisy_texts
from pinikit.training.schedule import learning_rate
from pinikit.training.task import Task
from pinikit.training.views import view_numbers

_TIMM_NAMES = {"sgd": "momentum", "nesterov": "sgd"}
"""timm's ``sgd`` is Nesterov's; here, as in torch and in PiNI's recipe, ``sgd`` is plain momentum."""

_FP16_SCALE = 2.0**10
"""torch's 2**16 overflows in the first steps and skips them; few-shot runs have no steps to spare."""


class TrainingError(PinikitError):
    """Training went wrong in a way that the run's configuration causes."""


@dataclass(frozen=True)
class WeightedLoss:
    """A loss with its weight."""

    loss: Loss
    weight: float
    label: str = "loss"
    """As the run names it: its random numbers are its own."""


def check_optimiser(optim: OptimConfig) -> None:
    """Refuse an optimiser that timm does not have, or that cannot make a step with these settings.

    Raises:
        ConfigError: names the nearest one, or says what stands in its way.
    """
    known = ["nesterov", *list_optimizers()]
    if optim.name not in known:
        raise ConfigError(
            f"run.method.optim.name: unknown optimiser {optim.name!r}{nearest(optim.name, known)}; "
            "allowed: sgd, nesterov, adamw and every other name of timm.optim.list_optimizers()"
        )
    probe = torch.zeros(2, 2, requires_grad=True)
    probe.grad = torch.ones_like(probe)
    try:
        make_optimiser([probe], optim).step()
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"run.method.optim.name: {optim.name!r} cannot be used here ({reason})") from error


def make_optimiser(parameters: Sequence[Tensor], optim: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser; weight decay applies to all parameters, as in PiNI's recipe."""
    name = _TIMM_NAMES.get(optim.name, optim.name)
    optimiser: torch.optim.Optimizer = create_optimizer_v2(
        parameters, opt=name, lr=optim.lr, weight_decay=optim.weight_decay, momentum=optim.momentum
    )
    if hasattr(optimiser, "deterministic"):  # Kron: draws from its own generator, not the global one
        optimiser.deterministic = True
    return optimiser


@dataclass(frozen=True)
class Trainee:
    """One arm to be trained: a model on a task, with its own losses, optimiser and randomness."""

    model: NoisyModel
    losses: list[WeightedLoss]
    optim: OptimConfig
    task: Task
    run: RunContext
    predictor: Callable[[NoisyModel], Predictor] | None = None
    """What ``run.watch`` is shown of the model; without it, nothing."""


def train(trainees: Sequence[Trainee], samples: int = 1) -> list[TrainingError | None]:
    """Train the injections of several arms side by side; one row of each ``run.history`` per epoch.

    The frozen towers are crossed once for all arms (see :func:`noisy_texts`), everything else is each
    arm's own, so an arm is trained as it would be alone. The arms have equal numbers of training
    pictures, epochs, rows per batch and ``samples``, and models of equal structure. What the first one's
    ``run.checkpoints`` kept of an interrupted training is where they start.

    Returns:
        For each arm None, or why its training ended: its loss was no longer finite.
    """
    learners = [Learner(trainee, samples) for trainee in trainees]
    if not learners[0].parameters:
        return [None] * len(learners)
    epochs, checkpoints = trainees[0].optim.epochs, trainees[0].run.checkpoints
    for epoch in range(_go_on(learners, checkpoints.load()), epochs):
        for batches in zip(*(learner.batches(epoch) for learner in learners), strict=True):
            step(learners, batches)
        for learner in learners:
            learner.finish(epoch)
            learner.show(epoch)
        if all(learner.failure for learner in learners):
            break
        checkpoints.offer(epoch + 1, epochs, partial(_state, learners, epoch + 1))
    return [learner.failure for learner in learners]


def _state(learners: Sequence[Learner], epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "arms": [learner.state() for learner in learners]}


def _go_on(learners: Sequence[Learner], state: Mapping[str, Any] | None) -> int:
    """Bring the arms to where they were interrupted, if they were: epochs done."""
    if state is None:
        return 0
    for learner, kept in zip(learners, state["arms"], strict=True):
        learner.restore(kept)
    epoch: int = state["epoch"]
    return epoch


@dataclass(frozen=True)
class Batch:
    """Clean activations [B, ...] by stage, and labels [B]."""

    activations: Mapping[str, Tensor]
    labels: Tensor


def step(learners: Sequence[Learner], batches: Sequence[Batch]) -> None:
    """One optimiser step of every arm, on a batch each; never waits for the device."""
    models = [learner.model for learner in learners]
    draws = [learner.draw for learner in learners]
    samples = learners[0].samples
    texts = noisy_texts(models, draws)
    outputs = noisy_outputs(models, [batch.activations for batch in batches], draws, texts, samples)
    losses = [
        learner.loss(output, batch) for learner, output, batch in zip(learners, outputs, batches, strict=True)
    ]
    torch.stack(losses).sum().backward()
    for learner in learners:
        learner.update()


class Learner:
    """What one arm has of its own while it is trained."""

    def __init__(self, trainee: Trainee, samples: int) -> None:
        run = trainee.run
        self.model, self.samples, self._trainee = trainee.model.train(), samples, trainee
        self.parameters = [p for p in self.model.injections.parameters() if p.requires_grad]
        self.draw = RandomDraw(run.seed, "train", device=run.device)
        self.failure: TrainingError | None = None
        if self.parameters:
            self._optimiser = make_optimiser(self.parameters, trainee.optim)
            numbers = view_numbers(trainee.task.views, trainee.optim.epochs)
            stages = self.model.requires | stages_of(item.loss for item in trainee.losses)
            self._views = trainee.task.train.views(stages, numbers)
            self._shares = class_shares(trainee.task.train.labels, len(trainee.task.class_names))
        self._scaler = torch.amp.GradScaler(
            run.device.type, init_scale=_FP16_SCALE, enabled=run.precision == "fp16"
        )
        self._totals = torch.zeros(2, device=run.device)  # summed loss, correct rows; read once per epoch
        self._rows = 0
        self._ratios: Mapping[str, Tensor] = {}  # of the last step, by injection; read once per epoch

    def batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, whose learning rate is set."""
        trainee = self._trainee
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate(epoch, trainee.optim)
        seed, labels = trainee.run.seed, trainee.task.train.labels
        views = self._views.of_epoch(epoch, seed)
        for rows in _batches(len(labels), trainee.optim.batch_size, seed, epoch):
            chosen = labels[rows.to(labels.device, non_blocking=True)]
            yield Batch(self._views.gather(views[rows], rows), chosen)

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """The loss to be differentiated; what the epoch's means need is noted."""
        labels = batch.labels.repeat_interleave(self.samples)
        clean = clean_entries(self.model, batch.activations, self.samples)
        beside = {**clean, "class_prior": lambda: self._shares}
        loss = total_loss(self._trainee.losses, output, labels, beside, self.draw)
        correct = (output.logits.detach().argmax(1) == labels).sum()
        self._totals += torch.stack([loss.detach().float() * len(labels), correct])
        self._rows += len(labels)
        self._ratios = output.ratios
        scaled: Tensor = self._scaler.scale(loss)
        return scaled

    def update(self) -> None:
        """Follow the gradients, and forget them."""
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._optimiser.zero_grad(set_to_none=True)

    def finish(self, epoch: int) -> None:
        """Record the epoch, unless the arm has failed before."""
        if self.failure is None:
            self._trainee.run.images += self._rows // self.samples
            ratios = [ratio.mean().float() for ratio in self._ratios.values()]
            loss, accuracy, *sizes = torch.stack([*(self._totals / self._rows), *ratios]).tolist()
            self._record(epoch, loss, 100 * accuracy, dict(zip(self._ratios, sizes, strict=True)))
        self._totals.zero_()
        self._rows = 0

    def show(self, epoch: int) -> None:
        """Show the arm as it is after an epoch to whoever wants to see it, unless it has failed."""
        watch, predictor = self._trainee.run.watch, self._trainee.predictor
        if watch is not None and predictor is not None and self.failure is None:
            watch(epoch + 1, predictor(self.model))
            self.model.train()  # which a predictor is not

    def state(self) -> dict[str, Any]:
        """All that the arm needs to go on after an epoch; which pictures follow is in the epoch's number."""
        return {
            "injections": dict(self.model.injections.state_dict()),
            "optimiser": _optimiser_state(self._optimiser),
            "scaler": self._scaler.state_dict(),
            "draw": self.draw.state(),
            "reported": self._trainee.run.state(),
            "failure": None if self.failure is None else str(self.failure),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self.model.injections.load_state_dict(state["injections"])
        _restore_optimiser(self._optimiser, state["optimiser"])
        self._scaler.load_state_dict(state["scaler"])
        self.draw.restore(state["draw"])
        self._trainee.run.restore(state["reported"])
        self.failure = None if state["failure"] is None else TrainingError(state["failure"])

    def _record(self, epoch: int, loss: float, accuracy: float, ratios: Mapping[str, float]) -> None:
        run, optim = self._trainee.run, self._trainee.optim
        rate = learning_rate(epoch, optim)
        noise = {f"noise_ratio.{label}": ratio for label, ratio in ratios.items()}
        run.history.append({"epoch": epoch, "lr": rate, "loss": loss, "train_accuracy": accuracy, **noise})
        if math.isfinite(loss):
            run.progress(epoch + 1, optim.epochs, loss=loss, accuracy=accuracy)
        else:
            self.failure = TrainingError(
                f"the loss became {loss} in epoch {epoch} (learning rate {rate:g}); "
                "a smaller run.method.optim.lr or precision: fp32 usually helps"
            )


def _optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """What steps have changed; settings that are no numbers (functions, number formats) are left out."""
    state = optimiser.state_dict()
    kinds = (bool, int, float, str, list, tuple, Tensor)
    groups = [
        {key: value for key, value in group.items() if isinstance(value, kinds)}
        for group in state["param_groups"]
    ]
    return {**state, "param_groups": groups}


def _restore_optimiser(optimiser: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Go on from what :func:`_optimiser_state` gave, bit by bit."""
    fresh = optimiser.state_dict()["param_groups"]
    groups = [{**new, **kept} for new, kept in zip(fresh, state["param_groups"], strict=True)]
    optimiser.load_state_dict({**state, "param_groups": groups})
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for index, kept in state["state"].items():
        loaded = optimiser.state[parameters[index]]
        for key, value in kept.items():
            loaded[key] = _exactly(value, loaded[key])


def _exactly(kept: Any, loaded: Any) -> Any:
    """``kept`` on the device of ``loaded``, whose number format torch has made that of the parameter."""
    if isinstance(kept, Tensor):
        return kept.to(loaded.device, copy=True)
    if isinstance(kept, list | tuple):
        return type(kept)(_exactly(*pair) for pair in zip(kept, loaded, strict=True))
    return loaded


def total_loss(
    losses: list[WeightedLoss],
    output: Output,
    labels: Tensor,
    beside: Entries | None = None,
    draw: RandomDraw | None = None,
) -> Tensor:
    """The weighted sum of the losses, computed in float32 or better.

    Args:
        losses: what is summed.
        output: what the noisy model made of a batch.
        labels: [B·S].
        beside: entries of the batch that say something else than the noisy model.
        draw: of the random numbers that losses require.
    """
    entries = {**noisy_entries(output, labels), **(beside or {})}
    shared = frozenset[str]().union(*(item.loss.requires for item in losses)) - {"uniform"}
    batch = {name: entries[name]() for name in sorted(shared)}
    terms = []
    for item in losses:
        given = {key: batch[key] for key in item.loss.requires & shared}
        if "uniform" in item.loss.requires and draw is not None:
            given["uniform"] = draw.uniform(item.label, len(labels), item.loss.uniforms)
        terms.append(item.weight * item.loss(given))
    return torch.stack(terms).sum()


def _batches(count: int, size: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """Shuffled row indices; the last, incomplete batch is left out only if there is a full one."""
    order = torch.randperm(count, generator=generator(seed, "batches", epoch))
    batches = order.split(size)
    yield from (batch for batch in batches if len(batch) == size or len(batches) == 1)

"""The training loop: the injections' parameters, and nothing else, follow the loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from torch import Tensor

from pinikit.components.contracts import Loss
from pinikit.config.schema import OptimConfig
from pinikit.errors import ConfigError, PinikitError, nearest
from pinikit.seeding import generator
from pinikit.training.context import RunContext
from pinikit.training.draws import RandomDraw
from pinikit.training.model import NoisyModel
from pinikit.training.precision import at_least_float32, autocast
from pinikit.training.schedule import learning_rate
from pinikit.training.task import Task

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
    return optimiser


def train(
    model: NoisyModel,
    losses: list[WeightedLoss],
    optim: OptimConfig,
    samples: int,
    task: Task,
    run: RunContext,
) -> None:
    """Train the model's injections on the task; one row of ``run.history`` per epoch.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    parameters = [parameter for parameter in model.injections.parameters() if parameter.requires_grad]
    if not parameters:
        return
    optimiser = make_optimiser(parameters, optim)
    scaler = torch.amp.GradScaler(run.device.type, init_scale=_FP16_SCALE, enabled=run.precision == "fp16")
    views = _load_views(model, task)
    draw = RandomDraw(run.seed, "train", device=run.device)
    model.train()
    for epoch in range(optim.epochs):
        rate = learning_rate(epoch, optim)
        for group in optimiser.param_groups:
            group["lr"] = rate
        totals = torch.zeros(2, device=run.device)  # summed loss, correct rows; read once per epoch
        rows = 0
        for batch in _batches(len(task.train), optim.batch_size, run.seed, epoch):
            activations, labels = views.batch(batch, epoch, run.seed)
            labels = labels.repeat_interleave(samples)
            with autocast(run.device, run.precision):
                output = model(activations, draw, samples=samples)
            loss = total_loss(losses, output, labels)
            optimiser.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.step(optimiser)
            scaler.update()
            rows += len(labels)
            correct = (output.logits.detach().argmax(1) == labels).sum()
            totals += torch.stack([loss.detach().float() * len(labels), correct])
        run.images += rows // samples
        _record(run, epoch, optim.epochs, rate, (totals / rows).tolist())


def total_loss(losses: list[WeightedLoss], output: Any, labels: Tensor) -> Tensor:
    """The weighted sum of the losses, computed in float32 or better."""
    batch: Mapping[str, Tensor] = {
        "logits": at_least_float32(output.logits),
        "labels": labels,
        "image_features": at_least_float32(output.image_features),
        "text_features": at_least_float32(output.text_features),
    }
    terms = [item.weight * item.loss({key: batch[key] for key in item.loss.requires}) for item in losses]
    return torch.stack(terms).sum()


def _record(run: RunContext, epoch: int, epochs: int, rate: float, means: list[float]) -> None:
    loss, accuracy = means
    run.history.append({"epoch": epoch, "lr": rate, "loss": loss, "train_accuracy": 100 * accuracy})
    if not torch.isfinite(torch.tensor(loss)):
        raise TrainingError(
            f"the loss became {loss} in epoch {epoch} (learning rate {rate:g}); "
            "a smaller run.method.optim.lr or precision: fp32 usually helps"
        )
    run.progress(epoch + 1, epochs, loss=loss, accuracy=100 * accuracy)


def _batches(count: int, size: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """Shuffled row indices; the last, incomplete batch is left out only if there is a full one."""
    order = torch.randperm(count, generator=generator(seed, "batches", epoch))
    batches = order.split(size)
    yield from (batch for batch in batches if len(batch) == size or len(batches) == 1)


class _Views:
    """All views of the training pictures on the device; each epoch takes one view of each picture.

    Over K epochs every picture shows each of its K views once, in an order of its own.
    """

    def __init__(self, activations: dict[str, Tensor], labels: Tensor) -> None:
        self._activations, self._labels = activations, labels  # stage: [K, N, ...]
        self._count = next(iter(activations.values())).shape[0]

    def batch(self, rows: Tensor, epoch: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
        """Activations and labels of the pictures ``rows`` in this epoch."""
        turn, step = divmod(epoch, self._count)
        order = torch.rand(len(self._labels), self._count, generator=generator(seed, "views", turn)).argsort(
            1
        )
        rows = rows.to(self._labels.device)
        views = order[:, step].to(self._labels.device)[rows]
        return {stage: tensor[views, rows] for stage, tensor in self._activations.items()}, self._labels[rows]


def _load_views(model: NoisyModel, task: Task) -> _Views:
    """Views 1 to K, or the clean pictures where ``views`` is 0."""
    views = range(1, task.views + 1) if task.views else [0]
    loaded = [task.train.activations(model.requires, view) for view in views]
    stacked = {stage: torch.stack([view[stage] for view in loaded]) for stage in model.requires}
    return _Views(stacked, task.train.labels)

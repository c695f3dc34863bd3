"""The learning rate of each epoch, as CoOp's and PiNI's trainers have it."""

from __future__ import annotations

import math

from pinikit.config.schema import OptimConfig


def learning_rate(epoch: int, optim: OptimConfig) -> float:
    """The rate in force during ``epoch`` (from 0).

    Warm-up epochs hold ``warmup_lr`` (``constant``) or climb linearly to ``lr``, starting at
    ``warmup_lr`` instead of 0. Then half a cosine over ``epochs`` starts, counted from the end of the
    warm-up, so the last epoch does not reach 0. Ready-made warm-ups of timm and torch reach other
    values in the linear case (by up to 5e-6 for lr 1e-3). Source: golden ``pini_lr``.
    """
    if epoch < optim.warmup_epochs:
        if optim.warmup == "constant" or epoch == 0:
            return optim.warmup_lr
        return optim.lr * epoch / optim.warmup_epochs
    if optim.schedule == "constant":
        return optim.lr
    return optim.lr * 0.5 * (1 + math.cos(math.pi * (epoch - optim.warmup_epochs) / optim.epochs))

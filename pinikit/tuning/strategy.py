"""Optuna's samplers and pruners as a tune study names them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, WilcoxonPruner
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from pinikit.config.schema import TuneConfig
from pinikit.seeding import derive_seed
from pinikit.tuning.study import PAIRS_FOR_WILCOXON, WILCOXON_LEVEL

SEEDS = 2**32
"""Optuna's samplers take seeds below."""

STARTUP_TRIALS = 10
"""Complete trials before the median pruner ends any."""

WARMUP_EPOCHS = 5
"""Epochs that every trial has: the learning rate warms up in the first."""


def make_sampler(tune: TuneConfig, place: int) -> BaseSampler:
    """The sampler of one trial, seeded by the search's seed and the trial's place.

    So what is suggested follows from the trials before it, whoever evaluates it and after whatever
    interruption.
    """
    seed = derive_seed(tune.seed, "tune", place) % SEEDS
    with quiet():
        if tune.sampler == "random":
            return RandomSampler(seed=seed)
        if tune.sampler == "nsgaii":
            return NSGAIISampler(seed=seed)
        return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


def make_pruner(tune: TuneConfig) -> BasePruner:
    """What ends hopeless trials early."""
    with quiet():
        if tune.pruner == "median":
            return MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=WARMUP_EPOCHS)
        if tune.pruner == "hyperband":
            return HyperbandPruner(min_resource=WARMUP_EPOCHS)
        if tune.pruner == "wilcoxon":
            # With ties its test is approximated and may come below its level too early.
            return WilcoxonPruner(p_threshold=WILCOXON_LEVEL, n_startup_steps=PAIRS_FOR_WILCOXON)
        return NopPruner()


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block Optuna tells neither what is experimental nor of every trial."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)

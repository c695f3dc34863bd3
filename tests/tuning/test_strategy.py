"""Samplers that suggest the same again, and pruners that prune when they may."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from test_tune_study import tune_study

from pinikit.config.schema import TuneConfig
from pinikit.tuning.space import Space
from pinikit.tuning.strategy import make_pruner, make_sampler, quiet
from pinikit.tuning.study import PAIRS_FOR_WILCOXON, SEEDS_FOR_WILCOXON

SEARCH = {  # without ranges of components, which are tried out and need torch
    "injections.text.noise": ["gaussian", "laplace", "student_t"],
    "injections.image": "optional",
    "injections.image.share": ["batch", "image"],
    "injections.image.injector.hidden": [16, 64, 256],
    "losses.classify": ["cross_entropy", "focal_ce"],
    "optim.lr": [1e-4, 1e-3, 1e-2],
    "data.views": {"low": 1, "high": 400},
}


def suggested(folder: Path, sign: int = 1) -> list[dict[str, Any]]:
    """The parameters of a search's first trials, of which the first ten are random."""
    study = tune_study(folder, SEARCH, tune={"seed": 3})
    space = Space(study, lambda config: None)
    with quiet():
        search = optuna.create_study(direction="maximize")
        for place in range(20):
            search.sampler = make_sampler(study.tune, place)
            trial = search.ask()
            config = space.suggest(trial)
            search.tell(trial, sign * (len(config["method"]["injections"]) - config["data"]["views"] / 1000))
        return [trial.params for trial in search.trials]


def test_suggestions_depend_on_the_seed_alone(tmp_path: Path) -> None:
    code = f"import json, pathlib, test_strategy as t; print(json.dumps(t.suggested(pathlib.Path({str(tmp_path)!r}))))"
    hashing = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    environment = {**os.environ, "PYTHONHASHSEED": hashing, "PYTHONPATH": str(Path(__file__).parent)}
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    here = suggested(tmp_path)
    assert [list(params.items()) for params in json.loads(other.stdout)] == [
        list(params.items()) for params in here
    ]
    opposite = suggested(tmp_path, sign=-1)
    assert opposite[:10] == here[:10]
    assert opposite[10:] != here[10:]  # the model is asked


def pruned_after(values: Sequence[float], best: Sequence[float]) -> int | None:
    """Seeds after which a trial is pruned beside a better one; None if never."""
    pruner = make_pruner(TuneConfig(pruner="wilcoxon"))
    with quiet():
        search = optuna.create_study(direction="maximize", pruner=pruner)
    complete = create_trial(value=sum(best) / len(best), intermediate_values=dict(enumerate(best)))
    search.add_trial(complete)
    for count in range(1, len(values) + 1):
        seen = create_trial(state=TrialState.RUNNING, intermediate_values=dict(enumerate(values[:count])))
        if pruner.prune(search, seen):
            return count
    return None


@pytest.mark.parametrize("lost", [[1.0] * 8, [1, 2, 3, 4, 5, 6, 7, 8]], ids=["ties", "no ties"])
def test_wilcoxon_prunes_from_the_fifth_seed_on(lost: list[float]) -> None:
    best = [80.0 + 3 * index for index in range(8)]
    worse = [one - two for one, two in zip(best, lost, strict=True)]
    assert pruned_after(worse, best) == PAIRS_FOR_WILCOXON == SEEDS_FOR_WILCOXON - 1 == 5
    mixed = [one - (-1) ** index * two for index, (one, two) in enumerate(zip(best, lost, strict=True))]
    assert pruned_after(mixed, best) is None

"""A search made by hand, with everything that the engine notes, and runs of its best arms; nothing is trained."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from pinikit.data.files import canonical_json
from pinikit.study.store import StoredResult
from pinikit.study.study import Study, resolve_study
from pinikit.tuning.best import ZERO_SHOT_CHANGES, best_study
from pinikit.tuning.request import Request
from pinikit.tuning.results import METRICS, TuneResult, collect
from pinikit.tuning.space import Space
from pinikit.tuning.study import TuneStudy, resolve_tune
from pinikit.tuning.tickets import FAILURES

STUDY = """
name: made_up
question: Which noise helps?
run:
  data: {name: digits, shots: 4}
  prompt: {template: pini}
  method:
    name: pini
    injections:
      text: {site: prompt_template, noise: {name: gaussian, std: sign_free}}
      image: {site: image_feature, injector: cross_attention, share: image}
    losses: {classify: cross_entropy}
    optim: {epochs: 20}
  evaluate: {noise: [mean, sample, mc-4]}
  device: cpu
  threads: 1
seeds: [1, 2, 3]
search:
  injections.image.noise: [gaussian, laplace, student_t, uniform]
  injections.image.noise.*: auto
  injections.image.injector: [mlp, cross_attention]
  injections.text: optional
  losses.classify: [cross_entropy, focal_ce]
  optim.lr: auto
tune: {best: 2, fresh_seeds: [11, 12, 13, 14]}
"""

EPOCHS = 4


def make_search(
    folder: Path, changes: Sequence[str] = (), trials: int = 40, text: str = STUDY
) -> tuple[TuneStudy, optuna.Study]:
    """A search of a study, and Optuna's study of it: anchors, random trials, pruned, failed and equal ones."""
    path = folder / "made_up.yaml"
    path.write_text(text, encoding="utf-8")
    study = resolve_tune(path, list(changes))
    space = Space(study, lambda config: None)
    directions = ["maximize" if METRICS[key].higher else "minimize" for key in study.tune.metrics]
    found = optuna.create_study(
        study_name=study.name, sampler=optuna.samplers.RandomSampler(seed=0), directions=directions
    )
    found.set_user_attr("space", space.describe())
    found.set_user_attr("data", {str(seed): f"{seed:064x}" for seed in study.seeds})
    found.enqueue_trial(space.defaults()["base"], user_attrs={"label": "base"})
    _play(study, found, space.suggest(trial := found.ask()), trial)
    _play(study, found, _zero_shot(study), found.ask(), label="zero_shot")
    for _ in range(trials - 2):
        trial = found.ask()
        _play(study, found, space.suggest(trial), trial)
    return study, found


def make_result(folder: Path, changes: Sequence[str] = (), trials: int = 40, text: str = STUDY) -> TuneResult:
    """What is known of :func:`make_search`'s search."""
    study, found = make_search(folder, changes, trials, text)
    request = Request(str(study.file), study.overrides, trials)
    return collect(study, found, request, ["val: a part of train is held out."])


def accuracy(config: Mapping[str, Any], seed: int) -> float:
    """Made up, and as good with one learning rate as with no other; Laplace noise helps."""
    if config["method"]["name"] == "zero_shot":
        return 60.0 + 0.2 * seed
    distance = abs(math.log10(config["method"]["optim"]["lr"]) + 1.7)
    laplace = config["method"]["injections"]["image"]["noise"]["name"] == "laplace"
    return 80.0 - 5.0 * distance + 2.0 * laplace + 0.3 * (seed % 3)


def _zero_shot(study: TuneStudy) -> dict[str, Any]:
    prompt = {**study.base["prompt"], "template": ZERO_SHOT_CHANGES["prompt.template"]}
    return {**study.base, "method": {"name": "zero_shot"}, "prompt": prompt}


def _play(
    study: TuneStudy, found: optuna.Study, config: Mapping[str, Any], trial: Trial, label: str = ""
) -> None:
    """Give a trial what the engine would have given it, and end it."""
    number = trial.number
    trial.set_user_attr("place", number)
    trial.set_user_attr("config", json.dumps(config))
    trial.set_user_attr("hash", canonical_json(config))
    trial.set_user_attr("seconds", {"bank": 0.0, "train": 2.0, "evaluate": 0.1, "overhead": 0.05})
    if label:
        trial.set_user_attr("label", label)
    if number == 9:
        trial.set_user_attr("failure", "FloatingPointError: the loss is NaN in epoch 2")
        trial.set_user_attr("failure_kind", "error")
        trial.set_user_attr(FAILURES, {"error": 1})  # so it is not tried again
        found.tell(trial, state=TrialState.FAIL)
        return
    values = {
        str(seed): {
            "accuracy": accuracy(config, seed),
            "macro_accuracy": accuracy(config, seed) - 1,
            "nll": 3 - accuracy(config, seed) / 50 + 0.01 * (number % 5),
            "ece": 5.0,
            "seconds": 1.0 + number % 3,
        }
        for seed in study.seeds
    }
    last = 2 if number % 7 == 5 else EPOCHS
    mean = sum(accuracy(config, seed) for seed in study.seeds) / len(study.seeds)
    if len(study.tune.metrics) == 1:
        for epoch in range(1, last + 1):
            trial.report(mean - 10 / epoch, epoch)
    if last < EPOCHS:
        found.tell(trial, state=TrialState.PRUNED)
        return
    trial.set_user_attr("by_seed", values)
    found.tell(
        trial,
        [sum(row[key] for row in values.values()) / len(values) for key in study.tune.metrics],
    )


def measured_again(
    result: TuneResult,
    folder: Path,
    lead: Mapping[str, float],
    overrides: Sequence[str] = (),
    arms: str | None = None,
) -> tuple[Study, dict[tuple[str, int], StoredResult]]:
    """The study of the best arms and made-up runs of it.

    Args:
        result: the search.
        folder: for its ``best.yaml``.
        lead: points of test accuracy by which an arm is ahead of ``base``; validation is 3 points above test.
        overrides: changes to the study.
        arms: which of its arms.
    """
    path = folder / "best.yaml"
    path.write_text(best_study(result), encoding="utf-8")
    study = resolve_study(path, list(overrides), arms)
    results = {}
    for run in study.runs:
        test = 70.0 + lead.get(run.arm, 0.0) + 0.4 * (run.seed % 3) + 0.1 * (hash_of(run.arm) * run.seed % 5)
        modes = {
            mode: {"accuracy": test, "macro_accuracy": test, "nll": 1.0, "ece": 4.0}
            for mode in run.config["evaluate"]["noise"]
        }
        validation = {mode: {**row, "accuracy": test + 3.0} for mode, row in modes.items()}
        content = {"status": "finished", "metrics": {"test": modes, "val": validation}, "costs": {}}
        results[run.arm, run.seed] = StoredResult(run.id, content)
    return study, results


def hash_of(name: str) -> int:
    """Equal in every process."""
    return sum(name.encode())

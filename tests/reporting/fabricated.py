"""Studies and results made by hand, so that reports are tested without torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pinikit.api import StudyResult
from pinikit.config.checking import Checker
from pinikit.config.loading import load_study
from pinikit.data.catalogue import Item
from pinikit.data.manifest import SplitManifest
from pinikit.plugin import registry
from pinikit.study.designs import expand
from pinikit.study.store import StoredResult
from pinikit.study.study import Run, Study, _expectations, _settings

STUDY = """
name: sites
question: Where does learned noise help most?
run:
  data: {name: digits, shots: 4}
  prompt: {template: pini}
  method: {name: pini, injections: {}, optim: {epochs: 50}}
design:
  kind: arms
  baseline: zero_shot
  arms:
    zero_shot: {method: {name: zero_shot}, prompt: {template: plain}}
    text_side:
      method.injections.text: {site: prompt_template, injector: free, noise: {name: gaussian, std: sign_free}}
    image_side:
      method.injections.image: {site: image_block.middle, injector: cross_attention, share: image}
    both:
      method.injections:
        text: {site: prompt_template, injector: free, noise: {name: gaussian, std: sign_free}}
        image: {site: image_feature, injector: {name: cross_attention, reduction: 2}, share: image}
seeds: [1, 2, 3]
"""

COSTS = {
    "zero_shot": "nothing trained",
    "text_side": "text tower",
    "image_side": "image tower from image_block.3",
    "both": "text tower + image tower from image_feature",
}
ACCURACIES = {
    "zero_shot": (55.0, 55.0, 55.0),
    "text_side": (61.2, 60.1, 62.9),
    "image_side": (70.3, 71.9, 68.4),
    "both": (75.0, 77.5, 76.1),
}


def make_study(folder: Path, text: str = STUDY, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Study:
    """The study of a YAML text; its runs have made-up identities and a manifest of three pictures."""
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    checker = Checker(registry())
    file = load_study(path, overrides, checker)
    config, arms = file.config, expand(file, checker)
    runs = tuple(_run(arm, arms[arm].config, seed) for arm in arms for seed in config.seeds)
    baseline = config.design.baseline
    axes = {axis: _settings(arms, axis) for axis in config.design.axes}
    given = {"axes": axes, "expect": _expectations(file, arms)}
    return Study(config.name, config.question, path, baseline, arms, tuple(config.seeds), runs, **given)  # type: ignore[arg-type]


def _run(arm: str, config: Mapping[str, Any], seed: int) -> Run:
    identity = hashlib.sha256(f"{arm} {seed}".encode()).hexdigest()[:16]
    data = config["data"]
    items = [Item(f"picture-{seed}-{index}", index % 2) for index in range(6)]
    manifest = SplitManifest(
        data["name"], data["shots"], seed, ("zero", "one"), tuple(items[:2]), (), tuple(items[2:])
    )
    said = {"components": {"method:pini": [1, "pinikit"]}}
    return Run(identity, arm, seed, {**config, "seed": seed}, "{}", manifest, None, said)  # type: ignore[arg-type]  # no data set is opened


def finished(run: Run, accuracy: float, **changes: Any) -> StoredResult:
    """A result with this accuracy with noise at its mean; ``changes`` go into its metrics or costs."""
    trained = run.config["method"]["name"] != "zero_shot"
    drop = 0.4 if trained else 0.0
    modes = changes.pop("modes", run.config["evaluate"]["noise"])
    metrics = {
        mode: _metrics(accuracy - drop * (mode == "sample") + drop * mode.startswith("mc"), mode, run)
        for mode in modes
    }
    costs = {
        "seconds_train": 4.0 * trained,
        "seconds_evaluate": 0.3,
        "seconds_load": 1.5,
        "seconds_bank": 0.5,
        "images_encoded": 100,
        "rows_cached": 40,
        "tokens_train": 5000 if "text tower" in COSTS.get(run.arm, "") else 52,
        "tokens_evaluate": 52,
        "text_flops_per_second": 2.5e10 if "text tower" in COSTS.get(run.arm, "") else None,
        "matmul_share": 0.615 if "text tower" in COSTS.get(run.arm, "") else None,
        "seconds_total": 5.1 if trained else 0.4,
        "peak_memory_mb": 612.5,
        "trainable_parameters": 12345 if trained else 0,
        "images_per_second": 1512.3 if trained else 0.0,
        "cost_class": COSTS.get(run.arm, "features only"),
    }
    costs |= {key: value for key, value in changes.items() if key in costs}
    val = {"mean": _metrics(accuracy + 1, "mean", run)}
    content = {
        "format": 1,
        "run_id": run.id,
        "status": "finished",
        "arm": run.arm,
        "seed": run.seed,
        "study": "sites",
        "metrics": {"test": metrics, "val": changes.get("val", val)},
        "costs": costs,
        "files": {},
    }
    return StoredResult(run.id, content)


def _metrics(accuracy: float, mode: str, run: Run) -> dict[str, Any]:
    noisy = mode.startswith("mc") and run.config["method"]["name"] != "zero_shot"
    labels = run.config["method"].get("injections", {})
    return {
        "accuracy": accuracy,
        "macro_accuracy": accuracy - 0.1,
        "nll": 0.8,
        "ece": 4.2,
        "draw_accuracy_std": 0.35 if noisy else 0.0,
        "flip_rate": 2.5 if noisy else 0.0,
        "noise_ratio": {label: 0.1 * (index + 1) for index, label in enumerate(labels)},
    }


def failed(run: Run, error: str = "FloatingPointError: the loss is NaN in epoch 3") -> StoredResult:
    """A failed result."""
    content = {
        "format": 1,
        "run_id": run.id,
        "status": "failed",
        "error": error,
        "arm": run.arm,
        "seed": run.seed,
    }
    return StoredResult(run.id, content)


def make_result(
    folder: Path,
    text: str = STUDY,
    accuracies: Mapping[str, Sequence[float | None]] = ACCURACIES,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> StudyResult:
    """A study with results; an accuracy of None is a failed run."""
    study = make_study(folder, text, overrides)
    results = {}
    for run in study.runs:
        accuracy = accuracies[run.arm][study.seeds.index(run.seed)]
        results[run.arm, run.seed] = failed(run) if accuracy is None else finished(run, accuracy)
    return StudyResult(study, results, folder / "runs" / "studies" / study.name)


def make_axes_result(folder: Path, datasets: Sequence[str] = ("digits", "dtd")) -> StudyResult:
    """Every arm at 1 and 16 shots of each data set; 16 shots and each further data set give 5 points more."""
    axes = f"  axes: {{data.name: [{', '.join(datasets)}], data.shots: [1, 16]}}\n  baseline:"
    accuracies = {
        f"{series}, data={name}, shots={shots}": [value + 5 * (shots == 16) + 5 * place for value in values]
        for series, values in ACCURACIES.items()
        for place, name in enumerate(datasets)
        for shots in (1, 16)
    }
    return make_result(folder, STUDY.replace("  baseline:", axes), accuracies)

"""The shape of a study and of a run, as dataclasses for OmegaConf.

Field metadata says what a plain type cannot: ``component`` marks a mapping with the ``name`` of a
registered component and its parameters (``extras`` are keys of ours beside them), ``choices`` and
``minimum`` bound a value, ``search`` is the range that a tune study's ``auto`` takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pinikit.signature import Range

MISSING: Any = "???"
"""OmegaConf's mark of a value that must be given."""

NESTED = ("InjectionConfig", "LossConfig", "OptimConfig")
"""Schemas that component constructors may name in their annotations."""


def component(kind: str, default: str | None = None, extras: type | None = None) -> Any:
    """A field that holds a component of ``kind``; ``default`` names the one taken if none is given."""
    factory = (lambda: {"name": default}) if default else dict
    return field(default_factory=factory, metadata={"component": kind, "default": default, "extras": extras})


def bounded(default: Any, **metadata: Any) -> Any:
    """A plain field with ``choices``, ``minimum``, ``positive`` or ``search`` metadata."""
    return field(default=default, metadata=metadata)


def _between(kind: Literal["Float", "Int"], low: float, high: float, log: bool = False) -> Range:
    """A search range of numbers."""
    return Range(f"{kind}Distribution", {"low": low, "high": high, "log": log})


def _among(*choices: Any) -> Range:
    """A search range of some values."""
    return Range("CategoricalDistribution", {"choices": choices})


@dataclass
class InjectionConfig:
    """One injection: where, from what network, of what distribution, combined how, drawn how often."""

    site: dict[str, Any] = component("site")
    injector: dict[str, Any] = component("injector", "free")
    noise: dict[str, Any] = component("noise", "gaussian")
    combine: dict[str, Any] = component("combine", "add")
    share: str = bounded(
        "batch", choices=("batch", "class", "image"), search=_among("batch", "class", "image")
    )


@dataclass
class LossExtras:
    """What a loss has beside its own parameters."""

    weight: float = bounded(1.0, search=_between("Float", 0.01, 10.0, log=True))


@dataclass
class LossConfig:
    """A weighted loss."""

    loss: dict[str, Any] = component("loss", extras=LossExtras)


@dataclass
class OptimConfig:
    """Optimiser and learning-rate schedule; the defaults are PiNI's recipe."""

    name: str = bounded("sgd", search=_among("sgd", "nesterov", "adamw"))
    lr: float = bounded(1e-3, positive=True, search=_between("Float", 1e-4, 0.1, log=True))
    epochs: int = bounded(100, minimum=1, search=_between("Int", 10, 100, log=True))
    batch_size: int = bounded(32, minimum=1, search=_among(8, 16, 32, 64, 128))
    momentum: float = bounded(0.9, minimum=0, search=_between("Float", 0.0, 0.99))
    weight_decay: float = bounded(5e-4, minimum=0, search=_between("Float", 1e-6, 0.1, log=True))
    schedule: str = bounded("cosine", choices=("cosine", "constant"), search=_among("cosine", "constant"))
    warmup_epochs: int = bounded(1, minimum=0, search=_between("Int", 0, 5))
    warmup: str = bounded("constant", choices=("constant", "linear"))
    warmup_lr: float = bounded(1e-5, minimum=0)


@dataclass
class BackboneConfig:
    """Which frozen model: ``glyph``, an open_clip architecture, ``hf-hub:…`` or ``local-dir:…``."""

    name: str = "glyph"
    pretrained: str | None = None
    quick_gelu: bool | None = None


@dataclass
class DataExtras:
    """What a few-shot task has beside its data set's own parameters."""

    shots: int = bounded(16, minimum=1)
    split_seed: int | None = bounded(None, minimum=0)
    views: int = bounded(4, minimum=0)
    manifest: str | None = None


@dataclass
class PromptConfig:
    """The template: ``plain`` or ``pini`` of the data set, or a text with one ``{}``."""

    template: str = "plain"


@dataclass
class OtherDataConfig:
    """A data set that a run is tested on, but not trained on."""

    data: dict[str, Any] = component("dataset")


ALONE: Mapping[type, str] = {LossConfig: "loss", OtherDataConfig: "data"}
"""Schemas that stand for the one component in them: it is written without its key."""


@dataclass
class EvaluateConfig:
    """How noise is treated at test time: ``mean``, ``sample`` (one draw), ``mc-K``."""

    noise: list[str] = field(default_factory=lambda: ["mean", "sample", "mc-16"])
    batch_size: int = bounded(1024, minimum=1)
    other_data: dict[str, OtherDataConfig] = field(default_factory=dict)
    """Further data sets to test on, by label; nothing is trained or chosen there."""


@dataclass
class RunConfig:
    """Everything that one run depends on."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    data: dict[str, Any] = component("dataset", "digits", DataExtras)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    method: dict[str, Any] = component("method", "zero_shot")
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    precision: str = bounded("auto", choices=("auto", "fp32", "bf16", "fp16"))
    device: str = "auto"
    threads: int | None = bounded(None, minimum=1)


@dataclass
class DesignConfig:
    """How the arms are derived; ``docs/studies.md`` explains each kind with an example."""

    kind: str = bounded("arms", choices=("arms", "grid", "one_factor", "leave_one_out", "zip"))
    baseline: str | None = None
    arms: dict[str, Any] = field(default_factory=dict)
    """Changes to ``run``, each under its name; beside another kind, arms of their own."""
    factors: dict[str, Any] = field(default_factory=dict)
    """Values by key path of ``run``, or sets of changes by label."""
    parts: Any = None
    """What ``leave_one_out`` leaves out: labels, or changes by name; None for all injections and losses."""
    axes: dict[str, Any] = field(default_factory=dict)
    """Values by key path; every arm is repeated at each."""
    impossible: str = bounded("auto", choices=("auto", "drop", "error"))
    """What becomes of arms that cannot be built; ``auto`` drops them in a grid."""


@dataclass
class ExpectConfig:
    """A published number that an arm should come near to."""

    value: float = MISSING
    tolerance: float = bounded(MISSING, minimum=0)
    """Largest difference, in the unit of the metric, that counts as reproduced."""
    metric: str = bounded("accuracy", choices=("accuracy", "macro_accuracy", "nll", "ece"))
    other_data: str | None = None
    """Label of another data set that the arm is tested on besides; None for its own."""
    protocol: str = MISSING
    """How the number was measured, by name: templates, split, noise at test time."""
    source: str = MISSING
    """Where the number stands: a citation."""


@dataclass
class TuneConfig:
    """How a tune study's space is searched, and what of it is measured again."""

    metrics: list[Literal["accuracy", "macro_accuracy", "nll", "ece", "seconds"]] = field(
        default_factory=lambda: ["accuracy"]
    )
    """What of a trial counts, on validation data; ``seconds``: training and evaluation. Several: Pareto."""
    noise: str = "mean"
    """How noise is treated on validation data: ``mean``, ``sample``, ``mc-K``."""
    sampler: str = bounded("tpe", choices=("tpe", "random", "nsgaii"))
    pruner: str = bounded("auto", choices=("auto", "median", "hyperband", "wilcoxon", "none"))
    """What ends hopeless trials early; ``auto`` is ``median`` for one metric, and ``none`` for several."""
    seed: int = bounded(0, minimum=0)
    """Of the sampler."""
    best: int = bounded(3, minimum=1)
    """How many of the best arms ``best.yaml`` measures again."""
    fresh_seeds: list[int] = field(default_factory=lambda: [101, 102, 103, 104, 105])
    """Seeds that the search does not use, with which the best arms are measured again."""


@dataclass
class StudyConfig:
    """A study file."""

    name: str = MISSING
    defaults: list[str] = field(default_factory=list)
    """Study files, or names of shipped studies, that this one is laid over."""
    question: str = ""
    run: RunConfig = field(default_factory=RunConfig)
    design: DesignConfig = field(default_factory=DesignConfig)
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    expect: dict[str, list[ExpectConfig]] = field(default_factory=dict)
    """Published numbers by name or pattern of arms; a study file may leave out the list around one."""
    search: dict[str, Any] = field(default_factory=dict)
    """What a tune study leaves open, by key path of ``run`` or of ``run.method``; ``docs/tuning.md``."""
    tune: TuneConfig = field(default_factory=TuneConfig)
    """How ``pinikit tune`` searches."""

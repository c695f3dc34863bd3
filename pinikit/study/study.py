"""A study resolved to runs: every arm with every seed, each with its identity. Imports no torch."""

from __future__ import annotations

import copy
import fnmatch
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pinikit.backbones.identity import weights_hash
from pinikit.backbones.spec import BackboneSpec
from pinikit.config.build import create
from pinikit.config.checking import Checker
from pinikit.config.hardware import resolve_device, resolve_precision
from pinikit.config.identity import identity_of, run_id
from pinikit.config.loading import find_study, load_study
from pinikit.config.schema import DataExtras, StudyConfig
from pinikit.data.catalogue import DataSet
from pinikit.data.files import canonical_json
from pinikit.data.manifest import SplitManifest, load_manifest, make_manifest
from pinikit.errors import ConfigError, PinikitError, listing, nearest
from pinikit.plugin import registry

PINI_CONTEXT = "x " * 16
"""The sixteen context words that PiNI puts in front of the template."""


@dataclass(frozen=True)
class Run:
    """One arm with one seed, fully resolved."""

    id: str
    arm: str
    seed: int
    config: Mapping[str, Any]
    """The complete configuration; ``device`` and ``precision`` as resolved, seed and split seed filled in."""
    template: str
    """The prompt template as text."""
    manifest: SplitManifest = field(repr=False)
    dataset: DataSet = field(repr=False)
    identity: Mapping[str, Any] = field(repr=False)

    @property
    def backbone(self) -> BackboneSpec:
        """Which backbone."""
        return BackboneSpec(**self.config["backbone"])


@dataclass(frozen=True)
class Arm:
    """A named configuration of a study, without the seed."""

    name: str
    """Unique in the study."""
    config: Mapping[str, Any] = field(repr=False)
    """Its complete run configuration."""
    series: str
    """Its name without the values of the study's axes: arms of one series differ in their setting alone."""
    setting: Mapping[str, str]
    """The axes' values as text, by axis; empty in a study without axes."""
    baseline: str | None
    """The arm that it is compared with: the study's baseline at the same setting."""


@dataclass(frozen=True)
class Study:
    """A study's arms and their runs, in the study's order."""

    name: str
    question: str
    file: Path
    baseline: str | None
    """The series that the others are compared with."""
    arms: Mapping[str, Arm]
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]

    def run(self, arm: str, seed: int) -> Run:
        """The run of an arm with a seed."""
        return next(run for run in self.runs if (run.arm, run.seed) == (arm, seed))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the results should know of the data, without repetitions."""
        return tuple(dict.fromkeys(note for run in self.runs for note in run.manifest.notes))


def resolve_study(
    source: str | Path, overrides: Sequence[str] | Mapping[str, Any] = (), arms: str | None = None
) -> Study:
    """Read a study, apply overrides, pick arms, and resolve every run.

    Args:
        source: a study file, or the name of a shipped study.
        overrides: ``key.path=value`` words or a mapping of key paths.
        arms: comma-separated shell patterns; the baseline is always kept.

    Raises:
        ConfigError, DataError, WeightsError: with file, key, what was found and what is allowed.
    """
    path = find_study(source)
    checker = Checker(registry())
    config, configs = load_study(path, overrides, checker)
    _check_study(config, configs, path)
    chosen = _pick(configs, arms, config.design.baseline)
    resolver = _Resolver(checker)
    runs = []
    for arm, arm_config in chosen.items():
        try:
            runs += [resolver.run(arm, arm_config, seed) for seed in config.seeds]
        except PinikitError as error:
            raise type(error)(f"{path}: arm {arm!r}: {error}") from error
    baseline = config.design.baseline
    named = {name: Arm(name, arm_config, name, {}, baseline) for name, arm_config in chosen.items()}
    return Study(config.name, config.question, path, baseline, named, tuple(config.seeds), tuple(runs))


def _check_study(config: StudyConfig, arms: Mapping[str, Any], path: Path) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", config.name):
        raise ConfigError(f"{path}: name: found {config.name!r}; allowed: letters, digits, '.', '_', '-'")
    for arm in arms:
        if not arm.strip() or "," in arm:
            raise ConfigError(f"{path}: design.arms: found the name {arm!r}; allowed: a name without commas")
    if not config.seeds:
        raise ConfigError(f"{path}: seeds: found none; allowed: at least one")
    if repeated := [seed for seed, count in Counter(config.seeds).items() if count > 1]:
        raise ConfigError(f"{path}: seeds: {repeated[0]} stands more than once; allowed: distinct seeds")
    if negative := [seed for seed in config.seeds if seed < 0]:
        raise ConfigError(f"{path}: seeds: found {negative[0]}; allowed: 0 or more")
    baseline = config.design.baseline
    if baseline is not None and baseline not in arms:
        raise ConfigError(
            f"{path}: design.baseline: found {baseline!r}{nearest(baseline, arms)}; allowed: {listing(arms)}"
        )


def _pick(arms: Mapping[str, Any], patterns: str | None, baseline: str | None) -> dict[str, Any]:
    """The arms that match, in the study's order, and the baseline."""
    if patterns is None:
        return dict(arms)
    wanted = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    if not wanted:
        raise ConfigError(f"--arms: found no pattern; allowed: {listing(arms)}")
    for pattern in wanted:
        if not fnmatch.filter(arms, pattern):
            raise ConfigError(
                f"--arms: no arm matches {pattern!r}{nearest(pattern, arms)}; allowed: {listing(arms)}"
            )
    return {
        name: config
        for name, config in arms.items()
        if name == baseline or any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)
    }


class _Resolver:
    """Resolves runs; data sets and manifests that several runs share are read once."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._datasets: dict[str, DataSet] = {}
        self._manifests: dict[tuple[DataSet, Any], SplitManifest] = {}
        self._contents: dict[tuple[DataSet, str], str] = {}

    def run(self, arm: str, arm_config: Mapping[str, Any], seed: int) -> Run:
        """An arm with a seed."""
        config = copy.deepcopy(dict(arm_config))
        config["seed"] = seed
        config["device"] = resolve_device(config["device"])
        config["precision"] = resolve_precision(
            config["precision"], config["device"], config["backbone"]["name"]
        )
        data = config["data"]
        data["split_seed"] = seed if data["split_seed"] is None else data["split_seed"]
        dataset = self._dataset(data)
        manifest = self._manifest(dataset, data)
        data["shots"], data["split_seed"] = manifest.shots, manifest.split_seed
        template = resolve_template(config["prompt"]["template"], dataset)
        identity = identity_of(
            config,
            template=template,
            weights=weights_hash(BackboneSpec(**config["backbone"])),
            manifest=manifest.hash,
            content=self._content(dataset, manifest),
            precision=config["precision"],
            checker=self._checker,
            without={"shots", "split_seed", "manifest", *dataset.path_parameters},
        )
        return Run(run_id(identity), arm, seed, config, template, manifest, dataset, identity)

    def _dataset(self, data: Mapping[str, Any]) -> DataSet:
        extras = DataExtras.__dataclass_fields__
        spec = {key: value for key, value in data.items() if key not in extras}
        key = canonical_json(spec)
        if key not in self._datasets:
            self._datasets[key] = create("dataset", spec, "run.data")
        return self._datasets[key]

    def _manifest(self, dataset: DataSet, data: Mapping[str, Any]) -> SplitManifest:
        file, sampling = data["manifest"], (data["shots"], data["split_seed"])
        key = (dataset, file or sampling)
        if key not in self._manifests:
            self._manifests[key] = load_manifest(file, dataset) if file else make_manifest(dataset, *sampling)
        return self._manifests[key]

    def _content(self, dataset: DataSet, manifest: SplitManifest) -> str:
        key = (dataset, manifest.hash)
        if key not in self._contents:
            self._contents[key] = dataset.content(manifest.items)
        return self._contents[key]


def resolve_template(template: str, dataset: DataSet) -> str:
    """``plain``, ``pini`` or a text with one ``{}``, as text.

    Raises:
        ConfigError: another word.
    """
    if template == "plain":
        return dataset.plain_template
    if template == "pini":
        return f"{PINI_CONTEXT}{dataset.pini_words} {{}}."
    if template.count("{}") != 1:
        hint = nearest(template, ["plain", "pini"])
        raise ConfigError(
            f"run.prompt.template: found {template!r}{hint}; allowed: plain, pini, or a text with one {{}} "
            "for the class name"
        )
    return template

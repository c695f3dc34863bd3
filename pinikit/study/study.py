"""A study resolved to runs: every arm with every seed, each with its identity. Imports no torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pinikit.backbones.identity import weights_hash
from pinikit.backbones.spec import BackboneSpec
from pinikit.config.build import create
from pinikit.config.checking import Checker, shown
from pinikit.config.hardware import resolve_device, resolve_precision
from pinikit.config.identity import ComponentVersions, identity_of, run_id
from pinikit.config.loading import StudyFile, find_study, load_study, override_words
from pinikit.config.schema import DataExtras, ExpectConfig
from pinikit.data.catalogue import DataSet
from pinikit.data.files import canonical_json
from pinikit.data.manifest import SplitManifest, load_manifest, make_manifest
from pinikit.errors import ConfigError, PinikitError, listing, nearest
from pinikit.plugin import registry
from pinikit.study.arm import Arm as Arm
from pinikit.study.collecting import collecting_later
from pinikit.study.designs import BASELINES, expand
from pinikit.study.other_data import OtherData, OtherDataSets
from pinikit.study.patterns import few, match_arms, meant, no_such_arm
from pinikit.study.template import PINI_CONTEXT as PINI_CONTEXT
from pinikit.study.template import resolve_template

LONGEST_NAME = 100
"""Letters of a study's name, which is a folder."""

MOST_NOTES = 3
"""Groups of equal arms that notes name."""


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
    others: Mapping[str, OtherData] = field(default_factory=dict, repr=False)
    """Data that it is tested on besides, by label; unknown in a study that is read back from the store."""

    @property
    def backbone(self) -> BackboneSpec:
        """Which backbone."""
        return BackboneSpec(**self.config["backbone"])


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
    axes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The settings that every series is repeated at: the axes' values as text, in the study's order."""
    expect: Mapping[str, tuple[ExpectConfig, ...]] = field(default_factory=dict)
    """Published numbers, by arm."""
    impossible: Literal["drop", "error"] = "error"
    """What becomes of arms that cannot be built on their backbone."""
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Arms that cannot be built and are left out, with the reason."""
    dropped_runs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Identities of the runs that these would have had."""
    overrides: tuple[str, ...] = ()
    """What was changed on the command line, as its words."""
    picked: str | None = None
    """The patterns of ``--arms``, if any."""
    fuse: str = "auto"
    """The word of ``--fuse``: how runs are grouped, which decides last digits and names checkpoints."""

    @cached_property
    def runs_by_arm(self) -> Mapping[str, Mapping[int, Run]]:
        """Each arm's runs by seed."""
        found: dict[str, dict[int, Run]] = {arm: {} for arm in self.arms}
        for run in self.runs:
            found[run.arm][run.seed] = run
        return found

    def run(self, arm: str, seed: int) -> Run:
        """The run of an arm with a seed."""
        return self.runs_by_arm[arm][seed]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the results should know of data and arms, without repetitions."""
        manifests = {run.manifest.hash: run.manifest for run in self.runs}.values()
        return tuple(
            dict.fromkeys([*(note for item in manifests for note in item.notes), *self._equal_arms()])
        )

    def without(self, dropped: Mapping[str, str]) -> Study:
        """The study without arms that cannot be built, which are kept with the reason."""
        if not dropped:
            return self
        left = {name: arm for name, arm in self.arms.items() if name not in dropped}
        runs = tuple(run for run in self.runs if run.arm in left)
        gone = {arm: tuple(run.id for run in self.runs_by_arm[arm].values()) for arm in dropped}
        return replace(
            self,
            arms=left,
            runs=runs,
            dropped={**self.dropped, **dropped},
            dropped_runs={**self.dropped_runs, **gone},
        )

    def _equal_arms(self) -> Iterator[str]:
        """Arms of different series that are the same configuration."""
        equal: dict[tuple[str, ...], list[Arm]] = {}
        for name, runs in self.runs_by_arm.items():
            equal.setdefault(tuple(run.id for run in runs.values()), []).append(self.arms[name])
        same = [arms for arms in equal.values() if len({arm.series for arm in arms}) > 1]
        for arms in same[:MOST_NOTES]:
            yield f"equal arms, whose runs are the same: {few(repr(arm.name) for arm in arms)}"
        if len(same) > MOST_NOTES:
            yield f"and {len(same) - MOST_NOTES} more groups of equal arms"


@collecting_later()
def resolve_study(
    source: str | Path, overrides: Sequence[str] | Mapping[str, Any] = (), arms: str | None = None
) -> Study:
    """Read a study, apply overrides, derive and pick arms, and resolve every run.

    Args:
        source: a study file, or the name of a shipped study.
        overrides: ``key.path=value`` words or a mapping of key paths.
        arms: comma-separated shell patterns of arms or series; their baselines are always kept.

    Raises:
        ConfigError, DataError, WeightsError: with file, key, what was found and what is allowed.
    """
    path = find_study(source)
    checker = Checker(registry())
    file = load_study(path, overrides, checker)
    if file.config.search:
        raise ConfigError(f"{path}: search: is for 'pinikit tune {source}'; a study that is run has none")
    if "tune" in file.given:
        raise ConfigError(f"{path}: tune: is for 'pinikit tune', with search; a study that is run has none")
    check_study(file)
    derived = expand(file, checker)
    expect = _expectations(file, derived)
    chosen = _pick(derived, arms)
    resolver = Resolver(checker)
    runs: list[Run] = []
    for arm in chosen.values():
        try:
            runs += resolver.runs(arm, file.config.seeds)
        except PinikitError as error:
            raise type(error)(f"{path}: arm {arm.name!r}: {error}") from error
    design = file.config.design
    drops = design.kind == "grid" if design.impossible == "auto" else design.impossible == "drop"
    return Study(
        name=file.config.name,
        question=file.config.question,
        file=path,
        baseline=design.baseline or BASELINES.get(design.kind),
        arms=chosen,
        seeds=tuple(file.config.seeds),
        runs=tuple(runs),
        axes={axis: _settings(chosen, axis) for axis in design.axes},
        expect={arm: numbers for arm, numbers in expect.items() if arm in chosen},
        impossible="drop" if drops else "error",
        overrides=override_words(overrides),
        picked=arms,
    )


def check_study(file: StudyFile) -> None:
    """Look at a study's name, the names of its arms and its seeds.

    Raises:
        ConfigError: one of them is not allowed.
    """
    config, path = file.config, file.path
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", config.name) or len(config.name) > LONGEST_NAME:
        raise ConfigError(
            f"{path}: name: found {shown(config.name)}; allowed: letters, digits, '.', '_', '-', "
            f"{LONGEST_NAME} at most"
        )
    for arm in config.design.arms:
        if not arm.strip() or "," in arm or not arm.isprintable():
            raise ConfigError(f"{path}: design.arms: found the name {arm!r}; allowed: a name without commas")
    if not config.seeds:
        raise ConfigError(f"{path}: seeds: found none; allowed: at least one")
    if repeated := [seed for seed, count in Counter(config.seeds).items() if count > 1]:
        raise ConfigError(f"{path}: seeds: {repeated[0]} stands more than once; allowed: distinct seeds")
    if negative := [seed for seed in config.seeds if seed < 0]:
        raise ConfigError(f"{path}: seeds: found {negative[0]}; allowed: 0 or more")


def _pick(arms: Mapping[str, Arm], patterns: str | None) -> dict[str, Arm]:
    """The arms that match, in the study's order, and what they are compared with."""
    if patterns is None:
        return dict(arms)
    picked = match_arms(arms, patterns, "--arms")
    kept = {*picked, *(arms[name].baseline for name in picked)}
    return {name: arm for name, arm in arms.items() if name in kept}


def _settings(arms: Mapping[str, Arm], axis: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(arm.setting[axis] for arm in arms.values()))


def _expectations(file: StudyFile, arms: Mapping[str, Arm]) -> dict[str, tuple[ExpectConfig, ...]]:
    """Published numbers by arm, from those by name or pattern."""
    found: dict[str, tuple[ExpectConfig, ...]] = {}
    for pattern, numbers in file.config.expect.items():
        names = meant(arms, pattern)
        if not names:
            raise no_such_arm(arms, pattern, str(file.where / "expect"))
        for name in names:
            _check_labels(arms[name], numbers, str(file.where / "expect" / pattern))
            found[name] = (*found.get(name, ()), *numbers)
    return {name: found[name] for name in arms if name in found}


def _check_labels(arm: Arm, numbers: Sequence[ExpectConfig], where: str) -> None:
    """Refuse a number that was published for data that the arm is not tested on."""
    labels = arm.config["evaluate"]["other_data"]
    for number in numbers:
        label = number.other_data
        if label is not None and label not in labels:
            allowed = listing(labels) if labels else "none, as evaluate.other_data is empty"
            raise ConfigError(
                f"{where}.other_data: arm {arm.name!r}: found {shown(label)}{nearest(label, labels)}; "
                f"allowed: {allowed}"
            )


@dataclass(frozen=True)
class _Known:
    """What the runs of an arm have in common."""

    dataset: DataSet
    template: str
    weights: str
    components: Mapping[str, list[Any]]
    others: Mapping[str, OtherData]


class Resolver:
    """Resolves the runs of arms; what several runs share is found out once."""

    def __init__(
        self,
        checker: Checker,
        prepare: Callable[[SplitManifest, DataSet], SplitManifest] = lambda manifest, dataset: manifest,
    ) -> None:
        self._prepare = prepare  # makes of a task's split manifest the one that its runs have
        self._components = ComponentVersions(checker)
        self._datasets: dict[str, DataSet] = {}
        self._by_data: dict[int, tuple[DataSet, Mapping[str, Any]]] = {}
        """The same by the identity in memory of what arms say of their data, which is kept beside it."""
        self._manifests: dict[tuple[DataSet, Any], SplitManifest] = {}
        self._contents: dict[tuple[DataSet, str], str] = {}
        self._weights: dict[BackboneSpec, str] = {}
        self._others = OtherDataSets()

    def runs(self, arm: Arm, seeds: Sequence[int]) -> list[Run]:
        """An arm with each seed."""
        given = arm.config
        device = resolve_device(given["device"])
        precision = resolve_precision(given["precision"], device, given["backbone"]["name"])
        config = {**given, "device": device, "precision": precision}
        dataset = self._dataset(given["data"])
        known = _Known(
            dataset,
            resolve_template(given["prompt"]["template"], dataset),
            self._weights_hash(BackboneSpec(**given["backbone"])),
            self._components.of(given),
            self._others.of(given),
        )
        return [self._run(arm.name, config, known, seed) for seed in seeds]

    def _run(self, arm: str, arm_config: Mapping[str, Any], known: _Known, seed: int) -> Run:
        data, dataset = dict(arm_config["data"]), known.dataset
        data["split_seed"] = seed if data["split_seed"] is None else data["split_seed"]
        manifest = self._manifest(dataset, data)
        data["shots"], data["split_seed"] = manifest.shots, manifest.split_seed
        config = {**arm_config, "data": data, "seed": seed}
        identity = identity_of(
            config,
            components=known.components,
            template=known.template,
            weights=known.weights,
            manifest=manifest.hash,
            content=self._content(dataset, manifest),
            without={"shots", "split_seed", "manifest", *dataset.path_parameters},
            other_data={label: other.identity for label, other in known.others.items()},
        )
        key, others = run_id(identity), known.others
        return Run(key, arm, seed, config, known.template, manifest, dataset, identity, others)

    def _weights_hash(self, backbone: BackboneSpec) -> str:
        if backbone not in self._weights:
            self._weights[backbone] = weights_hash(backbone)
        return self._weights[backbone]

    def _dataset(self, data: Mapping[str, Any]) -> DataSet:
        if id(data) not in self._by_data:
            extras = DataExtras.__dataclass_fields__
            spec = {key: value for key, value in data.items() if key not in extras}
            key = canonical_json(spec)
            if key not in self._datasets:
                self._datasets[key] = create("dataset", spec, "run.data")
            self._by_data[id(data)] = (self._datasets[key], data)
        return self._by_data[id(data)][0]

    def _manifest(self, dataset: DataSet, data: Mapping[str, Any]) -> SplitManifest:
        file, sampling = data["manifest"], (data["shots"], data["split_seed"])
        key = (dataset, file or sampling)
        if key not in self._manifests:
            manifest = load_manifest(file, dataset) if file else make_manifest(dataset, *sampling)
            self._manifests[key] = self._prepare(manifest, dataset)
        return self._manifests[key]

    def _content(self, dataset: DataSet, manifest: SplitManifest) -> str:
        key = (dataset, manifest.hash)
        if key not in self._contents:
            self._contents[key] = dataset.content(manifest.items)
        return self._contents[key]

"""A tune study, resolved: the base configuration, its seeds, and what of it is open.

Imports neither torch nor optuna.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pinikit.config.checking import Checker, Where, shown
from pinikit.config.loading import StudyFile, find_study, load_study, override_words
from pinikit.config.schema import DesignConfig, TuneConfig
from pinikit.errors import ConfigError, listing, nearest
from pinikit.plugin import registry
from pinikit.study.designs.draft import Draft
from pinikit.study.study import check_study
from pinikit.tuning.openings import read_openings

WILCOXON_LEVEL = 0.05
"""What the Wilcoxon pruner's one-sided test must come below."""

PAIRS_FOR_WILCOXON = math.floor(-math.log2(WILCOXON_LEVEL)) + 1
"""Seeds after which it can: the signed-rank test of n pairs gives 2⁻ⁿ at best."""

SEEDS_FOR_WILCOXON = PAIRS_FOR_WILCOXON + 1
"""Seeds from which on it is of use: one must be left to be saved."""


@dataclass(frozen=True)
class TuneStudy:
    """What ``pinikit tune`` searches, and how."""

    name: str
    question: str
    file: Path
    base: Mapping[str, Any] = field(repr=False)
    """The complete run configuration that the search starts from."""
    seeds: tuple[int, ...]
    """Of every trial."""
    tune: TuneConfig
    """How it is searched; the pruner is never ``auto`` here."""
    search: Mapping[str, Any]
    """What is open, as written, by key path of ``run`` or of ``run.method``."""
    overrides: tuple[str, ...] = ()
    """What was changed on the command line, as its words."""

    @property
    def step(self) -> Literal["seed", "epoch"]:
        """What the pruner looks at one after the other."""
        return "seed" if self.tune.pruner == "wilcoxon" else "epoch"

    @property
    def where(self) -> Where:
        """The file's ``search``, for messages."""
        return Where(str(self.file), "search")


def resolve_tune(source: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> TuneStudy:
    """Read a tune study, apply overrides, and check what can be checked without its backbone.

    Args:
        source: a study file, or the name of a shipped study.
        overrides: ``key.path=value`` words or a mapping of key paths.

    Raises:
        ConfigError: with file, key, what was found and what is allowed.
    """
    path = find_study(source)
    checker = Checker(registry())
    file = load_study(path, overrides, checker)
    check_study(file)
    _check_use(file, source)
    base = Draft(file.run, checker, file.where / "run").complete()
    study = TuneStudy(
        name=file.config.name,
        question=file.config.question,
        file=path,
        base=base,
        seeds=tuple(file.config.seeds),
        tune=_checked(file.config.tune, file.config.seeds, file.where / "tune"),
        search=file.config.search,
        overrides=override_words(overrides),
    )
    read_openings(study.base, study.search, study.where, checker)
    return study


def _check_use(file: StudyFile, source: str | Path) -> None:
    """Refuse what a search cannot have, and a file without one."""
    if not file.config.search:
        raise ConfigError(
            f"{file.path}: search: found none; allowed: what is open, such as {{optim.lr: auto}} "
            f"(a study without a search is for 'pinikit run {source}')"
        )
    for key, found, without in (
        ("design", file.config.design, DesignConfig()),
        ("expect", file.config.expect, {}),
    ):
        if found != without:
            raise ConfigError(f"{file.path}: {key}: a study with a search has none: its trials are its arms")


def _checked(tune: TuneConfig, seeds: Sequence[int], where: Where) -> TuneConfig:
    """The settings of a search, the pruner's default filled in.

    Raises:
        ConfigError: they contradict each other.
    """
    _check_list("metrics", tune.metrics, where)
    _check_list("fresh_seeds", tune.fresh_seeds, where)
    if wrong := [seed for seed in tune.fresh_seeds if seed < 0 or seed in seeds]:
        reason = "0 or more" if wrong[0] < 0 else "seeds that the search does not use: it chose by those"
        raise ConfigError(f"{where}.fresh_seeds: found {wrong[0]}; allowed: {reason}")
    if not re.fullmatch(r"mean|sample|mc-[1-9]\d*", tune.noise):
        hint = nearest(tune.noise, ["mean", "sample", "mc-16"])
        raise ConfigError(
            f"{where}.noise: found {shown(tune.noise)}{hint}; allowed: mean, sample, mc-K such as mc-16"
        )
    if tune.pruner == "auto":
        one = len(tune.metrics) == 1 and tune.metrics != ["seconds"]
        return replace(tune, pruner="median" if one else "none")
    if tune.pruner != "none" and len(tune.metrics) > 1:
        raise ConfigError(
            f"{where}.pruner: found {tune.pruner!r} with the metrics {listing(tune.metrics)}; allowed: none, "
            "as a trial that is behind in one of several metrics may lead in another"
        )
    if tune.pruner != "none" and tune.metrics == ["seconds"]:
        raise ConfigError(f"{where}.pruner: found {tune.pruner!r} with the metric seconds; allowed: none")
    if tune.pruner == "wilcoxon" and len(seeds) < SEEDS_FOR_WILCOXON:
        raise ConfigError(
            f"{where}.pruner: found 'wilcoxon' with {len(seeds)} seeds, where it can never prune; allowed: "
            f"{SEEDS_FOR_WILCOXON} seeds or more (its test needs {PAIRS_FOR_WILCOXON}), or another pruner"
        )
    return tune


def _check_list(key: str, found: Sequence[Any], where: Where) -> None:
    if not found:
        raise ConfigError(f"{where / key}: found none; allowed: at least one")
    if repeated := [value for value, count in Counter(found).items() if count > 1]:
        raise ConfigError(f"{where / key}: {shown(repeated[0])} stands more than once; allowed: each once")

"""What a search found: its trials as plain data, from Optuna's study or from ``tuning.json``.

Imports neither torch nor optuna, so that a page can be made, and a study of the best arms be written, without
the storage.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pinikit.data.files import read_json, write_json
from pinikit.errors import DataError
from pinikit.study.arm import Arm
from pinikit.study.statistics import Comparison, Estimate, compare, estimate
from pinikit.tuning.asking import plain_name
from pinikit.tuning.importance import Importance, importances
from pinikit.tuning.request import Request

if TYPE_CHECKING:
    from optuna.study import Study as OptunaStudy
    from optuna.trial import FrozenTrial

    from pinikit.tuning.study import TuneStudy

RESULT = "tuning.json"
FORMAT = 2

BASE, PINI, ZERO_SHOT = "base", "pini", "zero_shot"
"""Labels of the anchors, which are trials of every search: PiNI where the base has other injections."""

ANCHORS = (BASE, PINI, ZERO_SHOT)
"""Others are compared with them; they are never pruned."""

COMPLETE, PRUNED, FAILED, RUNNING, WAITING = "complete", "pruned", "failed", "running", "waiting"

_STATES = {"COMPLETE": COMPLETE, "PRUNED": PRUNED, "FAIL": FAILED, "RUNNING": RUNNING, "WAITING": WAITING}


@dataclass(frozen=True)
class Metric:
    """What a search may look for."""

    key: str
    text: str
    """As a sentence says it, without the split."""
    unit: str
    of_differences: str
    higher: bool
    """Whether more is better."""
    digits: int

    @property
    def measured(self) -> str:
        """As a sentence says what the search measures."""
        return self.text if self.key == "seconds" else f"validation {self.text}"

    @property
    def sign(self) -> float:
        """Times the value: more is better."""
        return 1.0 if self.higher else -1.0


METRICS: Mapping[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric("accuracy", "accuracy", "%", "points", True, 2),
        Metric("macro_accuracy", "macro accuracy", "%", "points", True, 2),
        Metric("nll", "NLL", "nats", "nats", False, 4),
        Metric("ece", "ECE", "%", "points", False, 2),
        Metric("seconds", "time of a run", "s", "s", False, 2),
    )
}


@dataclass(frozen=True)
class TrialRow:
    """One trial: a point of the space, its values on validation data, and what it cost."""

    number: int
    """Optuna's."""
    state: str
    label: str = ""
    """Of a point that was put in by name: ``base``, ``zero_shot``, a component at its defaults."""
    values: tuple[float, ...] = ()
    """Means over seeds, one for each metric; empty unless the trial is complete."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """By the names of the space: Optuna has others where fewer choices are possible."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The complete run configuration; empty where the trial did not get so far."""
    hash: str = ""
    """Equal for equal configurations, seeds and pictures."""
    by_seed: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    """By phase: ``bank``, ``train``, ``evaluate``, ``overhead``."""
    steps: Mapping[int, float] = field(default_factory=dict)
    """What the pruner was told, by epoch; by the seed's place where :attr:`TuneResult.step` is ``seed``."""
    failure: str = ""
    same_as: int | None = None
    """The trial whose values it took over, as their configurations are equal."""
    retry_of: int | None = None
    """The failed trial that it tries again."""
    superseded: bool = False
    """Whether another trial stands in its place: it failed and was tried again, or is a spare ticket."""
    worker: str = ""
    notes: tuple[str, ...] = ()
    began: str = ""
    """Date and time, as ``ended``, in ISO 8601."""
    ended: str = ""

    @property
    def name(self) -> str:
        """What tables call it, and the arm of ``best.yaml`` that it becomes."""
        return self.label if self.label in (BASE, PINI, ZERO_SHOT) else f"trial_{self.number}"

    def estimate(self, metric: str) -> Estimate:
        """Mean and interval of a metric over the search's seeds."""
        return estimate(row[metric] for row in self.by_seed.values() if metric in row)

    def against(self, other: TrialRow, metric: str) -> Comparison:
        """Differences to another trial, paired by the seeds for which both are known."""
        values, others = self._values(metric), other._values(metric)
        return compare(values[seed] - others[seed] for seed in values if seed in others)

    def _values(self, metric: str) -> dict[int, float]:
        found = {seed: row.get(metric, math.nan) for seed, row in self.by_seed.items()}
        return {seed: value for seed, value in found.items() if math.isfinite(value)}


@dataclass(frozen=True)
class TuneResult:
    """A search as far as it is."""

    name: str
    question: str
    version: str
    """Of pinikit."""
    metrics: tuple[str, ...]
    noise: str
    """How noise is treated on validation data."""
    step: str
    """What the pruner looks at one after the other: ``epoch`` or ``seed``."""
    seeds: tuple[int, ...]
    fresh_seeds: tuple[int, ...]
    keep: int
    """How many arms ``best.yaml`` measures again."""
    base_config: Mapping[str, Any]
    """The base configuration, complete."""
    search: Mapping[str, Any]
    """What the study opens, as it is written there."""
    space: Mapping[str, Any]
    """A description of the space, complete."""
    data: Any
    """Split manifests of the search, by seed."""
    trials: tuple[TrialRow, ...]
    distributions: Mapping[str, Any]
    """Optuna's, as JSON, by parameter."""
    importances: tuple[Importance, ...]
    request: Request
    notes: tuple[str, ...] = ()

    @property
    def metric(self) -> Metric:
        """The first metric, by which trials are ranked."""
        return METRICS[self.metrics[0]]

    @property
    def best_name(self) -> str:
        """The name of the study that measures the best arms again."""
        return best_name(self.name)

    def count(self, state: str) -> int:
        """How many trials are in a state; those that were tried again count once."""
        return sum(row.state == state and not row.superseded for row in self.trials)

    @cached_property
    def complete(self) -> list[TrialRow]:
        """The complete trials with distinct configurations, in the order of their numbers.

        Of equal ones it is the anchor, which may be a later attempt, else the one that was evaluated.
        """
        found: dict[str, TrialRow] = {}
        order = sorted(
            self.trials, key=lambda row: (row.label not in ANCHORS, row.same_as is not None, row.number)
        )
        for row in order:
            if row.state == COMPLETE and row.values and all(map(math.isfinite, row.values)):
                found.setdefault(row.hash or str(row.number), row)
        return sorted(found.values(), key=lambda row: row.number)

    @cached_property
    def ranked(self) -> list[TrialRow]:
        """:attr:`complete`, the best first: by the metric; of several, the Pareto front goes first."""
        front = set(self.front)
        sign = self.metric.sign
        return sorted(
            self.complete, key=lambda row: (row.number not in front, -sign * row.values[0], row.number)
        )

    def rank(self, row: TrialRow) -> int:
        """The place of a complete trial among :attr:`ranked`, from 1."""
        return self.ranked.index(row) + 1

    @cached_property
    def front(self) -> list[int]:
        """Numbers of the trials that no other beats in every metric; with one metric, of the best ones."""
        signs = [METRICS[key].sign for key in self.metrics]
        points = {
            row.number: tuple(sign * value for sign, value in zip(signs, row.values, strict=True))
            for row in self.complete
        }
        return [
            number
            for number, own in points.items()
            if not any(
                other != own and all(a >= b for a, b in zip(other, own, strict=True))
                for other in points.values()
            )
        ]

    def labelled(self, label: str) -> TrialRow | None:
        """The first complete trial with a label."""
        return next((row for row in self.complete if row.label == label), None)

    @property
    def base(self) -> TrialRow | None:
        """The base configuration, if its trial is complete."""
        return self.labelled(BASE)

    @property
    def zero_shot(self) -> TrialRow | None:
        """Zero-shot classification, if its trial is complete."""
        return self.labelled(ZERO_SHOT)

    def best(self, count: int | None = None) -> list[TrialRow]:
        """The best trials beside ``base`` and ``zero_shot``; as many as the study keeps unless given."""
        rows = [row for row in self.ranked if row.label not in (BASE, ZERO_SHOT)]
        return rows[: self.keep if count is None else count]

    @property
    def anchors(self) -> list[TrialRow]:
        """The complete trials that are there whatever the space is: ``base``, ``pini``, ``zero_shot``."""
        found = (self.labelled(label) for label in (BASE, PINI, ZERO_SHOT))
        return [row for row in found if row is not None]

    @property
    def to_measure(self) -> list[TrialRow]:
        """What ``best.yaml`` measures besides the other anchors: the best, and ``pini`` if there is one."""
        rows, pini = self.best(), self.labelled(PINI)
        return rows if pini is None or pini in rows else [*rows, pini]

    @property
    def arms(self) -> Mapping[str, Arm]:
        """The complete trials as arms that are compared with ``base``."""
        baseline = BASE if self.base is not None else None
        return {row.name: Arm(row.name, row.config, row.name, {}, baseline) for row in self.complete}

    def save(self, folder: Path) -> None:
        """Write ``tuning.json`` into the study's folder.

        Raises:
            PinikitError: it cannot be written.
        """
        content = {"format": FORMAT, **asdict(self), "request": self.request.as_json()}
        write_json(folder / RESULT, _as_json(content))


def best_name(name: str) -> str:
    """The name of the study that measures a search's best arms again; a folder's, so not too long."""
    return f"{name[:95]}_best"


def load_result(folder: Path) -> TuneResult:
    """What ``tuning.json`` of a study's folder says.

    Raises:
        DataError: it is missing, damaged, or of another version.
    """
    content = read_json(folder / RESULT, "result of a search")
    try:
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        known = {item.name: content[item.name] for item in fields(TuneResult)}
        known |= {key: tuple(known[key]) for key in ("metrics", "seeds", "fresh_seeds", "notes")}
        known["trials"] = tuple(map(_row_of_json, known["trials"]))
        known["importances"] = tuple(map(_importance_of_json, known["importances"]))
        known["request"] = Request.of_json(known["request"])
        return TuneResult(**known)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / RESULT} is no result of a search; pinikit tune writes it anew") from error


def collect(study: TuneStudy, found: OptunaStudy, request: Request, notes: Sequence[str] = ()) -> TuneResult:
    """What Optuna's study holds, as plain data.

    Args:
        study: the tune study.
        found: Optuna's study of it, with the attributes that the engine gives it and its trials.
        request: what was asked for.
        notes: what a reader should know, such as data without a validation split.
    """
    from pinikit import __version__
    from pinikit.tuning.tickets import superseded

    frozen = found.get_trials(deepcopy=False)
    metrics = tuple(study.tune.metrics)
    gone = superseded(frozen)
    rows = tuple(replace(trial_row(trial), superseded=trial.number in gone) for trial in frozen)
    distributions = distributions_of(frozen)
    return TuneResult(
        name=study.name,
        question=study.question,
        version=__version__,
        metrics=metrics,
        noise=study.tune.noise,
        step=study.step,
        seeds=tuple(study.seeds),
        fresh_seeds=tuple(study.tune.fresh_seeds),
        keep=study.tune.best,
        base_config=_json(study.base),
        search=_json(study.search),
        space=_json(found.user_attrs.get("space", {})),
        data=found.user_attrs.get("data"),
        trials=rows,
        distributions=distributions,
        importances=tuple(
            item
            for place, key in enumerate(metrics)
            for item in importances(rows, distributions, place, METRICS[key])
        ),
        request=request,
        notes=tuple(notes),
    )


def trial_row(trial: FrozenTrial) -> TrialRow:
    """A trial of Optuna as plain data."""
    attrs = trial.user_attrs
    config = attrs.get("config", {})
    steps = {int(step): float(value) for step, value in sorted(trial.intermediate_values.items())}
    return TrialRow(
        number=trial.number,
        state=_STATES[trial.state.name],
        label=str(attrs.get("label", "")),
        values=tuple(trial.values) if trial.state.name == "COMPLETE" and trial.values else (),
        params={plain_name(name): value for name, value in trial.params.items()},
        config=json.loads(config) if isinstance(config, str) else config,
        hash=str(attrs.get("hash", "")),
        by_seed={int(seed): dict(row) for seed, row in attrs.get("by_seed", {}).items()},
        seconds={phase: float(value) for phase, value in attrs.get("seconds", {}).items()},
        steps={step: value for step, value in steps.items() if math.isfinite(value)},
        failure=str(attrs.get("failure", "")),
        same_as=attrs.get("same_as"),
        retry_of=attrs.get("retry_of"),
        worker=str(attrs.get("worker", "")),
        notes=tuple(attrs.get("notes", ())),
        began=_moment(trial.datetime_start),
        ended=_moment(trial.datetime_complete),
    )


def distributions_of(trials: Sequence[FrozenTrial]) -> dict[str, Any]:
    """Optuna's distributions of all parameters that a trial has, as JSON, by the names of the space.

    Where fewer choices were possible in some trials, it is all that some trial had.
    """
    from optuna.distributions import distribution_to_json

    seen: dict[str, Any] = {}
    for trial in trials:
        for name, distribution in trial.distributions.items():
            seen.setdefault(name, distribution)
    found: dict[str, Any] = {}
    for name, distribution in seen.items():
        known, content = plain_name(name), json.loads(distribution_to_json(distribution))
        found[known] = _wider(found[known], content) if known in found else content
    return found


def _wider(one: Mapping[str, Any], other: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a parameter's distributions the one that holds the values of both: a range, or all choices."""
    several = [item["attributes"].get("choices") for item in (one, other)]
    if None in several:
        return one if several[0] is None else other
    more, fewer = sorted(several, key=len, reverse=True)
    return {**one, "attributes": {"choices": [*more, *(item for item in fewer if item not in more)]}}


def _row_of_json(content: Mapping[str, Any]) -> TrialRow:
    numbers = {
        "values": tuple(map(float, content["values"])),
        "by_seed": {int(seed): _numbers(row) for seed, row in content["by_seed"].items()},
        "steps": {int(step): float(value) for step, value in content["steps"].items()},
        "seconds": _numbers(content["seconds"]),
    }
    return TrialRow(**{**content, **numbers, "notes": tuple(content["notes"])})


def _importance_of_json(content: Mapping[str, Any]) -> Importance:
    known = {key: float(content[key]) for key in ("ped_anova", "fanova") if content[key] is not None}
    return Importance(**{**content, **known})


def _numbers(content: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in content.items()}


def _json(value: Any) -> Any:
    """As it comes back from a file."""
    return json.loads(json.dumps(value))


def _moment(time: Any) -> str:
    return "" if time is None else str(time.isoformat(timespec="seconds"))


def _as_json(value: Any) -> Any:
    """With NaN and infinities, which JSON cannot say, as texts that ``float`` reads."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value

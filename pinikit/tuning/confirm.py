"""What became of a search's best arms on fresh seeds: the answer, from the runs of ``best.yaml``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pinikit.errors import PinikitError
from pinikit.reporting.text import number, plural, signed, signed_interval
from pinikit.study.saved import saved_study
from pinikit.study.statistics import Comparison, Estimate, compare, estimate
from pinikit.study.store import Store, StoredResult
from pinikit.study.study import Study
from pinikit.tuning.best import changed, searched
from pinikit.tuning.results import BASE, METRICS, ZERO_SHOT, Metric, TrialRow, TuneResult, best_name

Results = Mapping[tuple[str, int], StoredResult]


@dataclass(frozen=True)
class Arm:
    """An arm of ``best.yaml``: in the search, and measured again."""

    name: str
    trial: TrialRow | None
    """None where the search has no complete trial of it."""
    seeds: int
    """Fresh seeds that finished."""
    search: Estimate
    """Validation metric over the search's seeds; NaN where it is unknown, as all that follows."""
    fresh: Estimate
    """Validation metric over the fresh seeds."""
    test: Estimate
    """Test metric over the fresh seeds."""
    difference: Comparison
    """Test metric minus that of ``base``, paired by fresh seed."""


@dataclass(frozen=True)
class Confirmation:
    """The best arms of a search on fresh seeds."""

    metric: Metric
    """That of the search, or accuracy where the search went for speed."""
    arms: tuple[Arm, ...]
    """``base`` and ``zero_shot``, then the best by rank."""

    @property
    def chosen(self) -> Arm | None:
        """The arm that the answer is about: the best by validation on the fresh seeds, if all have that.

        The test set has no say in it, so the interval of the difference on test data is honest. Without
        validation data it is the arm that the search ranks first.
        """
        known = [arm for arm in self.arms if arm.name not in (BASE, ZERO_SHOT) and arm.seeds]
        if not known or any(math.isnan(arm.fresh.mean) for arm in known):
            return known[0] if known else None
        return max(known, key=lambda arm: self.metric.sign * arm.fresh.mean)


def confirmation(result: TuneResult, store: Store) -> Confirmation | str | None:
    """What the store has of the search's ``best.yaml``.

    Returns:
        None if it was never run; the reason, if its runs are of no use here.
    """
    name = best_name(result.name)
    if name not in store.study_names():
        return None
    try:
        study, results = saved_study(store, name)
    except PinikitError as error:
        return str(error)
    return confirmed(result, study, results)


def confirmed(result: TuneResult, study: Study, results: Results) -> Confirmation | str:
    """The search's trials beside the runs of a study that was written as its ``best.yaml``.

    Returns:
        The reason, if the study is another one: changed by hand or by overrides, or of an earlier search.
    """
    trials = {row.name: row for row in result.complete}
    if BASE not in study.arms:
        return f"the study {study.name} has no arm {BASE}"
    if reason := _other(result, study, trials):
        return reason
    metric = result.metric if result.metric.key != "seconds" else METRICS["accuracy"]
    by_arm: dict[str, dict[int, StoredResult]] = {arm: {} for arm in study.arms}
    for (arm, seed), item in results.items():
        if item.finished and arm in by_arm:
            by_arm[arm][seed] = item
    if not by_arm[BASE]:
        return f"no run of its arm {BASE} is finished"
    arms = [_arm(name, trials.get(name), runs, by_arm[BASE], metric, result) for name, runs in by_arm.items()]
    return Confirmation(metric, tuple(arms))


def _other(result: TuneResult, study: Study, trials: Mapping[str, TrialRow]) -> str:
    """Why the study's runs say nothing of the search; empty if they do."""
    if shared := sorted(set(study.seeds) & set(result.seeds)):
        return f"its seeds are not fresh: the search used {', '.join(map(str, shared))}, too"
    reference = searched(study.arms[BASE].config)
    base = trials[BASE].config if BASE in trials else result.base_config
    if _differ(reference, searched(base)):
        return f"its arm {BASE} has another configuration than the search"
    for name, arm in study.arms.items():
        if name in (BASE, ZERO_SHOT):
            continue
        if name not in trials:
            return f"its arm {name} is no complete trial of the search"
        if _differ(searched(arm.config), searched(trials[name].config)):
            return f"its arm {name} has another configuration than the trial"
    return ""


def _differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return any(True for _ in changed(one, other))


def _arm(
    name: str,
    trial: TrialRow | None,
    runs: Mapping[int, StoredResult],
    base: Mapping[int, StoredResult],
    metric: Metric,
    result: TuneResult,
) -> Arm:
    def values(split: str) -> dict[int, float]:
        return {
            seed: value
            for seed, run in runs.items()
            if (value := _value(run, split, metric, result)) is not None
        }

    test = values("test")
    reference = {seed: _value(run, "test", metric, result) for seed, run in base.items()}
    differences = [
        value - other
        for seed, value in test.items()
        if name != BASE and (other := reference.get(seed)) is not None
    ]
    search = trial.estimate(metric.key) if trial is not None else estimate(())
    fresh = estimate(values("val").values())
    return Arm(name, trial, len(runs), search, fresh, estimate(test.values()), compare(differences))


def _value(run: StoredResult, split: str, metric: Metric, result: TuneResult) -> float | None:
    """A run's metric with noise treated as in the search; None if it was not measured so."""
    modes = run.content["metrics"].get(split) or {}
    found = modes.get(result.noise, {}).get(metric.key)
    return None if found is None else float(found)


# --- the answer -------------------------------------------------------------------------------------------


def answer(result: TuneResult, found: Confirmation | None) -> str:
    """The search in a sentence or two: on fresh seeds if it was measured there, else what is known so far."""
    if found is not None and found.chosen is not None:
        return " ".join([_verdict(found, found.chosen), _curse(found, found.chosen, result)])
    return _so_far(result)


def _verdict(found: Confirmation, arm: Arm) -> str:
    """Whether the arm beats ``base`` on the test set."""
    metric, gap, seeds = found.metric, arm.difference, plural(arm.difference.pairs, "fresh seed")
    if not gap.pairs:
        return f"`{arm.name}` and `{BASE}` share no fresh seed that finished, so they cannot be compared."
    by = f"{signed_interval(gap.mean, gap.low, gap.high, metric.digits)} {metric.of_differences}"
    what = f"of test {metric.text}"
    if math.isnan(gap.low):
        return (
            f"`{arm.name}` differs from `{BASE}` by {by} {what} on {seeds}, which says nothing about spread."
        )
    measured = f"{what} on {seeds} (paired, 95 % interval)"
    if metric.sign * gap.mean > 0 and not gap.low <= 0 <= gap.high:
        return f"`{arm.name}` beats `{BASE}` by {by} {measured}."
    among = plural(sum(item.name not in (BASE, ZERO_SHOT) for item in found.arms), "best arm")
    verb = "is worse than" if not gap.low <= 0 <= gap.high else "is not told apart from"
    return (
        f"The search found no arm that beats `{BASE}` on fresh seeds: `{arm.name}`, the first of "
        f"{among} by validation, {verb} `{BASE}`: {by} {measured}."
    )


def _curse(found: Confirmation, arm: Arm, result: TuneResult) -> str:
    """How much of the value in the search was luck."""
    metric = found.metric
    if math.isnan(arm.search.mean) or math.isnan(arm.fresh.mean):
        return ""
    values = f"{number(arm.search.mean, metric.digits)} {metric.unit} in the search, "
    values += f"{number(arm.fresh.mean, metric.digits)} {metric.unit} on fresh seeds"
    base = next(item for item in found.arms if item.name == BASE)
    drift = ""
    if not math.isnan(base.search.mean) and not math.isnan(base.fresh.mean):
        lost = (arm.fresh.mean - base.fresh.mean) - (arm.search.mean - base.search.mean)
        drift = f"; its lead over `{BASE}` changed by {signed(lost, metric.digits)} {metric.of_differences}"
    return f"Its validation {metric.text} was {values}{drift}."


def _so_far(result: TuneResult) -> str:
    """What the search says before anything was measured again."""
    metric, best = result.metric, result.best(1)
    if not result.complete:
        return f"None of {plural(len(result.trials), 'trial')} is complete, so there is nothing to compare."
    if not best:
        return f"Beside the anchors none of {plural(len(result.trials), 'trial')} is complete."
    top, base = best[0], result.base
    value = f"{number(top.values[0], metric.digits)} {metric.unit}"
    sentence = f"In the search `{top.name}` is the best of {plural(len(result.complete), 'configuration')}: "
    if len(result.metrics) > 1:
        sentence = (
            f"In the search {plural(len(result.front), 'configuration')} of {len(result.complete)} are "
        )
        sentence += f"beaten by no other in every metric; by the first one `{top.name}` leads: "
    sentence += f"{metric.measured} {value}"
    if base is not None:
        sentence += f", `{BASE}` {number(base.values[0], metric.digits)} {metric.unit}"
        if metric.sign * (top.values[0] - base.values[0]) <= 0:
            return f"{sentence}. No configuration beats `{BASE}` even there."
    return f"{sentence}. The best of many is partly luck: only fresh seeds tell whether it is better."


def is_answered(found: Confirmation | str | None) -> bool:
    """Whether the best arms were measured again."""
    return isinstance(found, Confirmation) and found.chosen is not None

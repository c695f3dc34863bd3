"""What became of a search's best arms on fresh seeds: the answer, from the runs of ``best.yaml``.

The answer is about one arm, which the search ranks first: it was fixed before any fresh seed was run, so its
paired difference on the test set is not the greatest of several.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pinikit.errors import PinikitError
from pinikit.reporting.text import number, plural, signed, signed_interval
from pinikit.study.saved import saved_study
from pinikit.study.statistics import Comparison, Estimate, compare, estimate, holm
from pinikit.study.store import Store, StoredResult
from pinikit.study.study import Study
from pinikit.tuning.best import BEST, changed, searched
from pinikit.tuning.results import BASE, METRICS, ZERO_SHOT, Metric, TrialRow, TuneResult, best_name
from pinikit.tuning.seen import share_seen

Results = Mapping[tuple[str, int], StoredResult]

FEWEST_PAIRS = 3
"""Fresh seeds below which nothing is said: of two, the interval reaches nine standard deviations each way."""


@dataclass(frozen=True)
class Arm:
    """An arm of ``best.yaml``: in the search, and measured again."""

    name: str
    trial: TrialRow | None
    """None where the search has no complete trial of it."""
    seeds: int
    """Fresh seeds whose test metric is known."""
    search: Estimate
    """Validation metric over the search's seeds; NaN where it is unknown, as all that follows."""
    fresh: Estimate
    """Validation metric over the fresh seeds."""
    test: Estimate
    """Test metric over the fresh seeds."""
    fresh_lead: Comparison
    """Validation metric minus that of ``base``, paired by fresh seed; as the following without pairs for
    ``base``."""
    difference: Comparison
    """Test metric minus that of ``base``, paired by fresh seed."""


@dataclass(frozen=True)
class Confirmation:
    """The best arms of a search on fresh seeds."""

    metric: Metric
    """That of the search, or accuracy where the search went for speed."""
    arms: tuple[Arm, ...]
    """``base`` and ``zero_shot``, then the best by rank, and PiNI where the base has other injections."""
    seeds: int
    """Fresh seeds that each arm should have."""
    leader: Arm
    """The arm that the answer is about: the search's first beside ``base`` and ``zero_shot``."""
    seen: float
    """Share of the fresh seeds' validation pictures that the search had seen; NaN where it is unknown."""

    @property
    def base(self) -> Arm:
        """The configuration that the search began with."""
        return next(arm for arm in self.arms if arm.name == BASE)

    @property
    def complete(self) -> bool:
        """Whether the leader and ``base`` have every fresh seed, so that there is an answer."""
        return self.leader.seeds == self.base.seeds == self.seeds

    @property
    def others_ahead(self) -> list[tuple[Arm, float]]:
        """Arms beside the leader with p-values of their difference to ``base`` on the test set.

        They come from paired t-tests, and are corrected for the number of these arms (Holm). Arms that lack a
        seed, or have too few of them or no spread to be tested, are left out.
        """
        tested = [
            arm
            for arm in self.arms
            if arm.name not in (BASE, self.leader.name) and arm.seeds == self.seeds and _is_told(arm)
        ]
        return list(zip(tested, holm([_t_test_p(arm.difference) for arm in tested]), strict=True))


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
        The reason, if the study is not the one that ``best.yaml`` asks for as the search is now: changed by
        hand or by overrides, run in part, or of an earlier state of the search.
    """
    trials = {row.name: row for row in result.complete}
    if reason := _other(result, study, trials):
        return reason
    metric = result.metric if result.metric.key != "seconds" else METRICS["accuracy"]
    by_arm: dict[str, dict[int, StoredResult]] = {arm: {} for arm in study.arms}
    for (arm, seed), item in results.items():
        if item.finished and arm in by_arm and seed in result.fresh_seeds:
            by_arm[arm][seed] = item
    if not by_arm[BASE]:
        return f"no run of its arm {BASE} is finished"
    arms = {
        name: _arm(name, trials.get(name), runs, by_arm[BASE], metric, result)
        for name, runs in by_arm.items()
    }
    leader = arms[result.best(1)[0].name]
    return Confirmation(
        metric, tuple(arms.values()), len(result.fresh_seeds), leader, share_seen(result, study.runs)
    )


def _other(result: TuneResult, study: Study, trials: Mapping[str, TrialRow]) -> str:
    """Why the study's runs are not those that ``best.yaml`` asks for; empty if they are."""
    best = [row.name for row in result.to_measure]
    if not best:
        return f"no trial beside {BASE} and {ZERO_SHOT} is complete"
    if shared := sorted(set(study.seeds) & set(result.seeds)):
        return f"its seeds are not fresh: the search used {', '.join(map(str, shared))}, too"
    if set(study.seeds) != set(result.fresh_seeds):
        return f"it has the seeds {_listed(study.seeds)}, and {BEST} {_listed(result.fresh_seeds)}; {AGAIN}"
    if set(study.arms) != {BASE, ZERO_SHOT, *best}:
        measured = [name for name in study.arms if name not in (BASE, ZERO_SHOT)]
        return f"it measured {_listed(measured)}, and {BEST} now asks for {_listed(best)}; {AGAIN}"
    for name, arm in study.arms.items():
        expected = trials[name].config if name in trials else result.base_config
        if (name in trials or name == BASE) and _differ(searched(expected), searched(arm.config)):
            return f"its arm {name} has another configuration than in the search; {AGAIN}"
    return ""


AGAIN = f"run {BEST} again, as it is now"


def _listed(values: Collection[Any]) -> str:
    return ", ".join(map(str, values)) or "nothing"


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
    def values(split: str, of: Mapping[int, StoredResult]) -> dict[int, float]:
        found = {seed: _value(run, split, metric, result) for seed, run in of.items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def against_base(split: str) -> Comparison:
        own, reference = values(split, runs), values(split, base)
        return compare(own[seed] - reference[seed] for seed in own if seed in reference and name != BASE)

    search = trial.estimate(metric.key) if trial is not None else estimate(())
    fresh, test = values("val", runs), values("test", runs)
    return Arm(
        name,
        trial,
        len(test),
        search,
        estimate(fresh.values()),
        estimate(test.values()),
        against_base("val"),
        against_base("test"),
    )


def _value(run: StoredResult, split: str, metric: Metric, result: TuneResult) -> float | None:
    """A run's metric, noise treated as in the search; None if it was not measured so, or is not finite."""
    modes = run.content["metrics"].get(split) or {}
    found = modes.get(result.noise, {}).get(metric.key)
    return None if found is None or not math.isfinite(found) else float(found)


def _is_told(arm: Arm) -> bool:
    """Whether there are seeds enough, and spread between them, to judge the difference to ``base``."""
    return arm.difference.pairs >= FEWEST_PAIRS and arm.difference.spread > 0


def _t_test_p(gap: Comparison) -> float:
    """Two-sided p-value of the paired t-test, below 5 % where the 95 % interval leaves out 0."""
    from scipy.special import stdtr

    statistic = gap.mean / (gap.spread / math.sqrt(gap.pairs))
    return float(2 * stdtr(gap.pairs - 1, -abs(statistic)))


# --- the answer -------------------------------------------------------------------------------------------


def answer(result: TuneResult, found: Confirmation | str | None) -> str:
    """The search in a sentence or two: on fresh seeds if it was measured there, else what is known so far."""
    if not isinstance(found, Confirmation):
        return _so_far(result)
    if not found.complete:
        return f"{_lacking(found)} {_so_far(result)}"
    said = [_nothing_better(result) or _verdict(found), _curse(found, result), _zero_shot_ahead(result)]
    return " ".join(text for text in said if text)


def _lacking(found: Confirmation) -> str:
    """Which seeds there are of the two arms that the answer needs."""
    arms = " and ".join(f"{arm.seeds} of `{arm.name}`" for arm in (found.leader, found.base))
    return f"No answer yet: of {plural(found.seeds, 'fresh seed')} {arms} are finished; run {BEST} again."


def _nothing_better(result: TuneResult) -> str:
    """That no trial comes before ``base`` by the first metric; empty if one does."""
    base, metric = result.base, result.metric
    if base is None or not result.best(1):
        return ""
    top = result.best(1)[0]
    if metric.sign * (top.values[0] - base.values[0]) > 0 and _differ(
        searched(base.config), searched(top.config)
    ):
        return ""
    return (
        f"The search found nothing better than `{BASE}`, whose {metric.measured} is {_said(base, metric)}; "
        f"that of `{top.name}`, the best of the others, is {_said(top, metric)}."
    )


def _verdict(found: Confirmation) -> str:
    """Whether the leader beats ``base`` on the test set."""
    arm, metric, gap = found.leader, found.metric, found.leader.difference
    seeds, what = plural(gap.pairs, "fresh seed"), f"{metric.of_differences} of test {metric.text}"
    differs = f"`{arm.name}` differs from `{BASE}` by {signed(gap.mean, metric.digits)} {what} on"
    if gap.pairs < FEWEST_PAIRS:
        return f"{differs} {seeds}: too few to say whether it is better, which takes {FEWEST_PAIRS}."
    if not gap.spread > 0:
        return f"{differs} each of {seeds} alike: without any spread there is no interval to judge by."
    by = f"{signed_interval(gap.mean, gap.low, gap.high, metric.digits)} {what} on {seeds}"
    by += " (paired, 95 % interval)"
    clear = not gap.low <= 0 <= gap.high
    if clear and metric.sign * gap.mean > 0:
        return f"`{arm.name}` beats `{BASE}` by {by}."
    verb = "is worse than" if clear else "is not told apart from"
    return (
        f"The search found no arm that beats `{BASE}` on fresh seeds: `{arm.name}`, which it ranks first, "
        f"{verb} `{BASE}`: {by}."
    )


def _curse(found: Confirmation, result: TuneResult) -> str:
    """How much of the leader's value in the search was luck."""
    arm, metric, base = found.leader, found.metric, result.base
    if math.isnan(arm.search.mean) or math.isnan(arm.fresh.mean):
        return ""
    before, after = (f"{number(item.mean, metric.digits)} {metric.unit}" for item in (arm.search, arm.fresh))
    text = f"The validation {metric.text} of `{arm.name}` was {before} in the search, {after} on fresh seeds"
    if base is None or arm.trial is None:
        return f"{text}."
    leads = (arm.trial.against(base, metric.key).mean, arm.fresh_lead.mean)
    lead, later = (signed(value, metric.digits) for value in leads)
    return f"{text}; its lead over `{BASE}` {lead} and {later} {metric.of_differences}."


def _so_far(result: TuneResult) -> str:
    """What the search says before anything was measured again."""
    metric, best = result.metric, result.best(1)
    if not result.complete:
        return f"None of {plural(len(result.trials), 'trial')} is complete, so there is nothing to compare."
    if not best:
        return f"Beside the anchors none of {plural(len(result.trials), 'trial')} is complete."
    if nothing := _nothing_better(result):
        return nothing
    top, base = best[0], result.base
    sentence = f"In the search `{top.name}` is the best of {plural(len(result.complete), 'configuration')}: "
    if len(result.metrics) > 1:
        sentence = (
            f"In the search {plural(len(result.front), 'configuration')} of {len(result.complete)} are "
        )
        sentence += f"beaten by no other in every metric; by the first one `{top.name}` leads: "
    sentence += f"{metric.measured} {_said(top, metric)}"
    sentence += f", `{BASE}` {_said(base, metric)}" if base is not None else ""
    luck = "The best of many is partly luck: only fresh seeds tell whether it is better."
    return " ".join(text for text in (f"{sentence}.", _zero_shot_ahead(result), luck) if text)


def _zero_shot_ahead(result: TuneResult) -> str:
    """That the search's best trained arm is behind no training at all; empty if it is not."""
    metric, plain, best = result.metric, result.zero_shot, result.best(1)
    if plain is None or not best or metric.key == "seconds":  # nothing is as quick as no training
        return ""
    if metric.sign * (plain.values[0] - best[0].values[0]) <= 0:
        return ""
    return f"In the search `{ZERO_SHOT}` is ahead of `{best[0].name}`: {_said(plain, metric)}."


def _said(row: TrialRow, metric: Metric) -> str:
    """The value of a trial's first metric."""
    return f"{number(row.values[0], metric.digits)} {metric.unit}"


def is_answered(found: Confirmation | str | None) -> bool:
    """Whether the best arms were measured again."""
    return isinstance(found, Confirmation) and found.complete

"""Studies with axes: comparisons within a setting, series over settings and data sets, ranks, leaders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pinikit.study.statistics import arm_summaries, finished_by_arm, leaders, ranking, series_summaries
from pinikit.study.store import StoredResult
from pinikit.study.study import Arm


def result(accuracy: float | None) -> StoredResult:
    if accuracy is None:
        return StoredResult("r", {"status": "failed", "error": "it broke"})
    row = {"accuracy": accuracy, "macro_accuracy": accuracy, "nll": 1.0, "ece": 1.0, "noise_ratio": {}}
    metrics = {"test": {"mean": row}, "val": None}
    return StoredResult("r", {"status": "finished", "metrics": metrics, "costs": {"cost_class": "c"}})


Table = Mapping[str, Mapping[tuple[str, str], Sequence[float | None]]]


def crossed(table: Table, baseline: str | None = "base") -> tuple[Any, dict[Any, StoredResult]]:
    """A study over data sets and shots; accuracies by series, (data set, shots) and seed."""
    arms, results = {}, {}
    for series, settings in table.items():
        for (name, shots), accuracies in settings.items():
            setting = {"data": name, "data.shots": shots}
            arm = f"{series}, data={name}, shots={shots}"
            config = {"data": {"name": name, "root": None, "shots": int(shots), "split_seed": None}}
            base = f"{baseline}, data={name}, shots={shots}" if baseline else None
            arms[arm] = Arm(arm, config, series, setting, base)
            results |= {(arm, seed): result(value) for seed, value in enumerate(accuracies, 1)}
    return SimpleNamespace(name="s", arms=arms, baseline=baseline, runs=()), results


SETTINGS = [("a", "1"), ("a", "4"), ("b", "4")]
BASE = {("a", "1"): [40.0, 42.0], ("a", "4"): [50.0, 50.0], ("b", "4"): [10.0, 12.0]}
BETTER = {("a", "1"): [44.0, 44.0], ("a", "4"): [58.0, 60.0], ("b", "4"): [14.0, 15.0]}


def test_arms_are_compared_at_their_own_setting() -> None:
    rows = {row.arm: row for row in arm_summaries(*crossed({"base": BASE, "better": BETTER}))}
    row = rows["better, data=a, shots=4"]
    assert (row.difference, row.series, row.setting) == (9.0, "better", "data=a, data.shots=4")
    assert row.baseline == "base, data=a, shots=4"
    assert rows["base, data=a, shots=4"].is_baseline
    assert math.isnan(rows["base, data=a, shots=4"].difference)


def test_each_data_set_counts_alike() -> None:
    _, better = series_summaries(*crossed({"base": BASE, "better": BETTER}))
    assert (better.settings, better.datasets) == (3, 2)
    assert better.accuracy == pytest.approx((np.mean([44, 59]) + 14.5) / 2)
    by_seed = [((44 - 40 + 58 - 50) / 2 + 4) / 2, ((44 - 42 + 60 - 50) / 2 + 3) / 2]
    interval = stats.ttest_1samp(by_seed, 0).confidence_interval()
    assert better.over_seeds.mean == pytest.approx(np.mean(by_seed))
    assert (better.over_seeds.low, better.over_seeds.high) == pytest.approx((interval.low, interval.high))
    by_dataset = [np.mean([4, 8, 2, 10]), np.mean([4, 3])]
    interval = stats.ttest_1samp(by_dataset, 0).confidence_interval()
    assert (better.over_datasets.low, better.over_datasets.high) == pytest.approx(
        (interval.low, interval.high)
    )
    assert better.over_datasets.pairs == 2


def test_only_seeds_that_every_setting_has_are_averaged() -> None:
    better = {**BETTER, ("b", "4"): [None, 15.0]}
    _, row = series_summaries(*crossed({"base": BASE, "better": better}))
    assert row.over_seeds.pairs == 1
    assert row.over_seeds.mean == ((2 + 10) / 2 + 3) / 2
    assert row.over_datasets.mean == (6 + 3) / 2


def test_one_data_set_has_no_interval_over_data_sets() -> None:
    only = {key: value for key, value in BETTER.items() if key[0] == "a"}
    _, row = series_summaries(*crossed({"base": {key: BASE[key] for key in only}, "better": only}))
    assert row.over_datasets.pairs == 0
    assert row.over_seeds.pairs == 2


def test_a_study_without_axes_has_no_series() -> None:
    arms = {"a": Arm("a", {}, "a", {}, None)}
    study: Any = SimpleNamespace(arms=arms, baseline=None)
    assert series_summaries(study, {}) == []
    assert ranking(study, {}) is None


def many(datasets: int, seed: int = 0) -> Table:
    generator = np.random.default_rng(seed)
    hard = generator.uniform(0, 50, datasets)
    return {
        name: {(f"d{i}", "4"): (hard[i] + gain + generator.normal(0, 1, 2)).tolist() for i in range(datasets)}
        for name, gain in (("base", 0.0), ("good", 10.0), ("same", 10.2), ("best", 20.0))
    }


def test_ranks_equal_scipy_and_groups_hold_what_is_not_told_apart() -> None:
    table = many(8)
    found = ranking(*crossed(table))
    assert found is not None
    means = np.array([[np.mean(table[name][f"d{i}", "4"]) for name in table] for i in range(8)])
    average = stats.rankdata(-means, axis=1).mean(axis=0)
    assert dict(zip(found.series, found.ranks, strict=True)) == pytest.approx(
        dict(zip(table, average, strict=True))
    )
    assert (found.series[0], found.series[-1], found.ranks[0]) == ("best", "base", 1.0)
    assert found.tested
    assert found.p < 0.001
    assert any(set(group) == {"good", "same"} or {"good", "same"} < set(group) for group in found.groups)
    assert not any({"best", "base"} <= set(group) for group in found.groups)


def test_few_data_sets_are_ranked_but_not_tested() -> None:
    found = ranking(*crossed(many(3)))
    assert found is not None
    assert not found.tested
    assert found.groups == ()
    assert ranking(*crossed(many(1))) is None


def test_series_that_lack_a_data_set_are_not_ranked() -> None:
    table = many(6)
    partial = {**table, "same": {**table["same"], ("d2", "4"): [None, None]}}
    found = ranking(*crossed(partial))
    assert found is not None
    assert found.incomplete == ("same",)
    assert len(found.series) == 3


def test_leaders_are_the_best_and_what_seeds_do_not_tell_from_it() -> None:
    table: Table = {
        "best": {("a", "1"): [80.0, 82.0, 81.0]},
        "level": {("a", "1"): [81.0, 80.0, 80.0]},
        "worse": {("a", "1"): [75.0, 77.1, 75.9]},
    }
    study, results = crossed(table, None)
    finished = finished_by_arm(results)
    assert {arm.split(",")[0] for arm in leaders(finished, study.arms)} == {"best", "level"}
    one = {key: value for key, value in results.items() if key[1] == 1}
    assert leaders(finished_by_arm(one), study.arms) == frozenset()
    assert leaders({}, study.arms) == frozenset()


def test_complete_means_the_same_settings_not_as_many() -> None:
    """Every series has three of four settings, but not the same ones: nothing is ranked, nor fails."""
    table = {
        name: {(f"d{i}", "4"): [float(i), 1.0 + i] for i in range(4) if i != gap}
        for gap, name in enumerate(("base", "one", "two", "three"))
    }
    study, results = crossed(table)
    assert ranking(study, results) is None
    assert not any(row.complete for row in series_summaries(study, results))


def test_a_study_ranks_what_is_complete_and_tells_of_other_seeds() -> None:
    table = many(6)
    found = ranking(*crossed(table))
    assert found is not None
    assert found.same_seeds
    fewer = {**table, "same": {**table["same"], ("d2", "4"): [None, 3.0]}}
    found = ranking(*crossed(fewer))
    assert found is not None
    assert (found.incomplete, found.same_seeds) == ((), False)


def test_the_gain_is_paired() -> None:
    """A seed that only the series has moves its mean, not its gain."""
    base = {("a", "1"): [40.0, 42.0, None], ("b", "1"): [10.0, 11.0, None]}
    better = {("a", "1"): [44.0, 46.0, 90.0], ("b", "1"): [14.0, 15.0, 90.0]}
    _, row = series_summaries(*crossed({"base": base, "better": better}))
    assert row.gain == 4.0
    alone = {("a", "1"): [None, None, 90.0]}
    _, row = series_summaries(*crossed({"base": {("a", "1"): base["a", "1"]}, "better": alone}))
    assert math.isnan(row.gain)

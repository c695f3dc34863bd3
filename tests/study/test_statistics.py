"""Means, intervals and paired differences, held against scipy.stats."""

from __future__ import annotations

import itertools
import math
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pinikit.study.statistics import (
    SharedCosts,
    arm_summaries,
    as_table,
    draws_in,
    estimate,
    finished_by_arm,
    headline,
    long_rows,
    long_table,
    paired_differences,
    shared_costs,
)
from pinikit.study.store import StoredResult
from pinikit.study.study import Arm


def row(accuracy: float, **changes: Any) -> dict[str, Any]:
    plain = {"macro_accuracy": accuracy, "nll": 1.0, "ece": 5.0, "draw_accuracy_std": 0.0, "flip_rate": 0.0}
    return {"accuracy": accuracy, **plain, "noise_ratio": {}, **changes}


NUMBERS = itertools.count()


def result(modes: dict[str, Any] | float | None, **costs: Any) -> StoredResult:
    """Finished with these test metrics by mode (a number: accuracy at the mean), or failed (None)."""
    if modes is None:
        return StoredResult(f"r{next(NUMBERS)}", {"status": "failed", "error": "it broke"})
    test = {"mean": row(modes)} if isinstance(modes, float) else modes
    plain = {
        "seconds_total": 2.0,
        "peak_memory_mb": 100.0,
        "trainable_parameters": 7,
        "images_per_second": 50.0,
    }
    content = {"status": "finished", "metrics": {"test": test, "val": None}}
    return StoredResult(
        f"r{next(NUMBERS)}", {**content, "costs": {**plain, "cost_class": "text tower", **costs}}
    )


def study(arms: dict[str, list[Any]], baseline: str | None = None) -> tuple[Any, dict[Any, StoredResult]]:
    """A study with seeds 1, 2, … and these results by arm."""
    results = {
        (arm, seed): value if isinstance(value, StoredResult) else result(value)
        for arm, values in arms.items()
        for seed, value in enumerate(values, 1)
    }
    runs = tuple(SimpleNamespace(arm=arm, seed=seed, id=f"{arm}{seed}") for arm, seed in results)
    named = {name: Arm(name, {}, name, {}, baseline) for name in arms}
    return SimpleNamespace(name="s", arms=named, baseline=baseline, runs=runs), results


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), min_size=2, max_size=9))
def test_interval_equals_scipy(values: list[float]) -> None:
    found = estimate(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    error = stats.sem(values)
    if len(set(values)) > 1 and error > 1e-12:
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), error)
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9, abs=1e-9)
        test = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((test.low, test.high), rel=1e-9, abs=1e-9)


def test_equal_values_have_a_width_of_exactly_zero() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = estimate([38.1 + 0.2] * 3)
    assert (found.mean, found.interval) == (38.1 + 0.2, 0.0)


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    assert estimate([3.0]).mean == 3.0
    assert math.isnan(estimate([3.0]).interval)
    assert math.isnan(estimate([]).mean)


def test_difference_is_paired_by_seed() -> None:
    base, arm = [50.0, 60.0, 55.5], [58.0, 66.0, 65.0]
    table = as_table(arm_summaries(*study({"base": base, "arm": arm}, "base"))).set_index("arm")
    test = stats.ttest_rel(arm, base)
    interval = test.confidence_interval(0.95)
    found = table.loc["arm", ["difference", "difference_low", "difference_high"]]
    assert list(found) == pytest.approx([np.mean(arm) - np.mean(base), interval.low, interval.high])
    assert list(table.loc["arm", ["pairs", "wins", "ties", "losses"]]) == [3, 3, 0, 0]
    assert table.loc["base", ["difference", "difference_low"]].isna().all()


def test_failed_seeds_leave_the_pairs_that_both_have() -> None:
    made, results = study({"base": [50.0, None, 52.0, 54.0], "arm": [60.0, 99.0, None, 61.0]}, "base")
    finished = finished_by_arm(results)
    assert paired_differences(finished["arm"], finished["base"]) == {1: 10.0, 4: 7.0}
    base, arm = arm_summaries(made, results)
    assert (arm.seeds, arm.failed, arm.pairs, arm.difference) == (3, 1, 2, 8.5)
    assert base.accuracy == 52.0
    interval = stats.ttest_rel([60.0, 61.0], [50.0, 54.0]).confidence_interval(0.95)
    assert (arm.difference_low, arm.difference_high) == pytest.approx((interval.low, interval.high))


def test_wins_ties_and_losses() -> None:
    _, arm = arm_summaries(*study({"base": [5.0, 5.0, 5.0, 5.0], "arm": [6.0, 5.0, 4.0, 7.0]}, "base"))
    assert (arm.wins, arm.ties, arm.losses) == (2, 1, 1)


def test_an_arm_without_a_finished_run() -> None:
    base, arm = arm_summaries(*study({"base": [5.0, 6.0], "arm": [None, None]}, "base"))
    assert (arm.seeds, arm.failed, arm.pairs, arm.cost_class, arm.noise) == (0, 2, 0, "", "")
    assert math.isnan(arm.accuracy)
    assert math.isnan(arm.difference)
    assert math.isnan(arm.seconds_total)
    assert base.seeds == 2


def test_a_baseline_without_a_finished_run_leaves_differences_unknown() -> None:
    _, arm = arm_summaries(*study({"base": [None, None], "arm": [5.0, 6.0]}, "base"))
    assert math.isnan(arm.difference)
    assert arm.pairs == 0


def test_no_baseline_no_differences() -> None:
    table = as_table(arm_summaries(*study({"a": [5.0, 6.0], "b": [5.0, 7.0]})))
    assert table["difference"].isna().all()
    assert (table["pairs"] == 0).all()


def test_deterministic_arms_differ_without_spread() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, arm = arm_summaries(*study({"base": [41.7] * 3, "arm": [38.2] * 3}, "base"))
    assert arm.difference == arm.difference_low == arm.difference_high == -3.5
    assert arm.untested == "the same difference every time"


def test_draws_stand_apart_from_seeds() -> None:
    modes = {
        "mean": row(70.0, noise_ratio={"image": 0.0}),
        "sample": row(69.0, noise_ratio={"image": 0.1}),
        "mc-4": row(71.0, draw_accuracy_std=0.9, flip_rate=9.0),
        "mc-16": row(72.0, draw_accuracy_std=0.5, flip_rate=3.0, noise_ratio={"image": 0.25, "text": 0.5}),
    }
    (found,) = arm_summaries(*study({"arm": [result(modes), result(modes)]}))
    assert (found.accuracy, found.accuracy_interval) == (70.0, 0.0)
    assert (found.sample_accuracy, found.mc_noise, found.mc_accuracy) == (69.0, "mc-16", 72.0)
    assert (found.draw_std, found.flip_rate, found.noise_ratio) == (0.5, 3.0, "image 0.25, text 0.5")


def test_a_study_may_leave_modes_out() -> None:
    (found,) = arm_summaries(*study({"arm": [result({"sample": row(3.0)}), result({"sample": row(5.0)})]}))
    assert (found.noise, found.accuracy, found.sample_accuracy, found.mc_noise) == ("sample", 4.0, 4.0, "")
    assert math.isnan(found.mc_accuracy)
    assert math.isnan(found.draw_std)
    assert headline(result({"mc-8": row(3.0), "mean": row(4.0)})) == 4.0


def test_draws_in_a_mode() -> None:
    assert [draws_in(mode) for mode in ("mean", "sample", "mc-16", "")] == [0, 1, 16, 0]


def test_costs_are_means_and_the_peak() -> None:
    runs = [result(5.0, seconds_total=2.0, peak_memory_mb=80.0), result(6.0, seconds_total=4.0)]
    (found,) = arm_summaries(*study({"arm": runs}))
    assert (found.seconds_total, found.peak_memory_mb, found.trainable_parameters) == (3.0, 100.0, 7.0)


def test_text_speed_is_a_mean_over_the_runs_that_have_one() -> None:
    runs = [
        result(5.0, text_flops_per_second=2e9, matmul_share=0.5, tokens_train=40),
        result(6.0, text_flops_per_second=4e9, matmul_share=0.7, tokens_train=60),
    ]
    text, image = arm_summaries(
        *study({"text": runs, "image": [result(5.0, text_flops_per_second=None, matmul_share=None)]})
    )
    assert (text.text_flops_per_second, text.matmul_share, text.tokens_train) == (
        3e9,
        pytest.approx(60.0),
        50.0,
    )
    assert math.isnan(image.text_flops_per_second)
    assert math.isnan(image.matmul_share)
    assert math.isnan(image.tokens_train), "a result of an earlier version does not tell"


def test_shared_costs_are_sums_over_finished_runs() -> None:
    runs = [
        result(5.0, seconds_load=2.0, seconds_bank=3.0, images_encoded=10, rows_cached=0),
        result(6.0, seconds_load=0.0, seconds_bank=0.5, images_encoded=2, rows_cached=8),
        None,
    ]
    _, results = study({"arm": runs})
    assert shared_costs(results) == SharedCosts(2.0, 3.5, 12.0, 8.0)
    same_run = {**results, ("another name", 1): results["arm", 1]}
    assert shared_costs(same_run) == SharedCosts(2.0, 3.5, 12.0, 8.0)
    assert shared_costs({}) == SharedCosts(0.0, 0.0, 0.0, 0.0)


def test_long_table_has_a_row_per_run_and_mode() -> None:
    modes = {"mean": row(70.0, noise_ratio={"image": 0.2}), "sample": row(69.0)}
    made, results = study({"a": [result(modes), None], "b": [5.0, 6.0]})
    table = long_table(made, results)
    assert list(table["arm"]) == ["a", "a", "a", "b", "b"]
    assert list(table["noise"])[:2] == ["mean", "sample"]
    assert list(table["status"]) == ["finished", "finished", "failed", "finished", "finished"]
    assert table.loc[2, "error"] == "it broke"
    assert table.loc[0, "noise_ratio.image"] == 0.2
    assert table.loc[0, "cost_class"] == "text tower"


def test_validation_accuracy_stands_in_the_row_of_its_mode() -> None:
    stored = result({"mean": row(70.0), "sample": row(69.0)})
    stored.content["metrics"]["val"] = {"mean": row(80.0)}
    first, second = long_rows(*study({"a": [stored]}))
    assert first["val_accuracy"] == 80.0
    assert math.isnan(second["val_accuracy"])

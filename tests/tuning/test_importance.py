"""Importances rest on all trials that say something, and on one name for each parameter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from pinikit.tuning.importance import Importance, importances
from pinikit.tuning.results import METRICS, distributions_of, trial_row

FULL, FEWER = CategoricalDistribution(["a", "b", "c"]), CategoricalDistribution(["c", "a"])
UNIT = FloatDistribution(0.0, 1.0)


def found(trials: Sequence[FrozenTrial]) -> dict[str, Importance]:
    """By parameter."""
    for number, trial in enumerate(trials):
        trial.number = number
    rows = [trial_row(trial) for trial in trials]
    items = importances(rows, distributions_of(trials), 0, METRICS["accuracy"])
    return {item.parameter: item for item in items}


def trial(value: float | None, **given: tuple[Any, BaseDistribution]) -> FrozenTrial:
    """Complete with a value; pruned in the third epoch without one."""
    return create_trial(
        state=TrialState.COMPLETE if value is not None else TrialState.PRUNED,
        value=value,
        params={name: item for name, (item, _) in given.items()},
        distributions={name: kind for name, (_, kind) in given.items()},
        intermediate_values={} if value is not None else {3: 10.0},
    )


def spread(count: int) -> Iterator[tuple[int, float]]:
    """Numbers, each with one of the unit interval that has nothing to do with it."""
    return ((index, (index * 0.618) % 1) for index in range(count))


def test_a_parameter_is_one_whatever_its_choices_were() -> None:
    trials = []
    for index, other in spread(48):
        name, kind = ("x", FULL) if index % 2 else ("x (only c, a)", FEWER)
        letter = kind.choices[index // 2 % len(kind.choices)]
        trials.append(
            trial(90.0 if letter == "a" else 50.0 + other, **{name: (letter, kind)}, y=(other, UNIT))
        )
    items = found(trials)
    assert set(items) == {"x", "y"}
    assert (items["x"].trials, items["x"].complete) == (48, 48)
    assert (items["x"].fanova or 0.0) > 0.9  # in a trial out of two it is known by either name


def test_a_number_beside_choices_keeps_its_range() -> None:
    whole, few = IntDistribution(1, 64), CategoricalDistribution([8, 16])
    trials = [trial(1.0, n=(5, whole)), trial(1.0, **{"n (only 8, 16)": (16, few)})]
    for order in (trials, trials[::-1]):
        assert distributions_of(order)["n"]["name"] == "IntDistribution"
    choices = distributions_of([trial(1.0, **{"x (only c, a)": ("c", FEWER)}), trial(1.0, x=("b", FULL))])
    assert choices["x"]["attributes"]["choices"] == ["a", "b", "c"]


def test_pruned_trials_count_behind_the_complete_ones() -> None:
    complete = [
        trial(50.0 + index * 0.37 % 1, bad=("a", FULL), y=(other, UNIT)) for index, other in spread(30)
    ]
    pruned = [trial(None, bad=("b", FULL), y=(other, UNIT)) for _, other in spread(30)]
    alone, both = found(complete), found([*complete, *pruned])
    assert alone["bad"].ped_anova < 0.1  # among the survivors it never varies
    assert both["bad"].ped_anova > 0.5
    assert (both["bad"].trials, both["bad"].complete) == (60, 30)
    assert both["y"].fanova == alone["y"].fanova  # which needs values


def test_parameters_of_some_trials_only_have_no_share_of_the_variance() -> None:
    trials = [
        trial(other, y=(other, UNIT), **({"z": (other, UNIT)} if index % 2 else {}))
        for index, other in spread(60)
    ]
    items = found(trials)
    assert items["z"].fanova is None
    assert items["z"].trials == 30
    assert items["y"].fanova == 1

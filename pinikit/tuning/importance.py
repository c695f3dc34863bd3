"""How much each parameter matters to a search's metric, by PED-ANOVA and fANOVA. optuna is imported late."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.study import Study as OptunaStudy

    from pinikit.tuning.results import Metric, TrialRow

FEWEST = 20
"""Trials with a parameter below which nothing is said of it: the best tenth would be one trial."""

TREES = 64


@dataclass(frozen=True)
class Importance:
    """A parameter's importance to one metric."""

    parameter: str
    metric: str
    trials: int
    """Complete and pruned trials that have the parameter: PED-ANOVA judges it on these alone."""
    complete: int
    """The complete ones among them; fANOVA judges by these."""
    ped_anova: float
    """Share of all parameters' importance to being among the best tenth of these trials (PED-ANOVA)."""
    fanova: float | None
    """Share of the variance (fANOVA, a random forest); None for parameters that not every trial has."""


def importances(
    rows: Sequence[TrialRow],
    distributions: Mapping[str, Any],
    place: int,
    metric: Metric,
    *,
    forest: bool = True,
) -> list[Importance]:
    """Importances to a metric, the largest first; parameters that few trials have are left out.

    A parameter that exists only beside some choices is judged on the trials that have it. A pruned trial has
    no value that could be compared, but a place: behind all complete ones, the further it came the better.
    PED-ANOVA asks for places only, and without the pruned trials would ask what tells the best from the good;
    fANOVA needs values, so it goes without them. Sources: Watanabe et al., "PED-ANOVA", IJCAI 2023; Hutter et
    al., "An Efficient Approach for Assessing Hyperparameter Importance", ICML 2014.

    Args:
        rows: trials; those that failed, or took over another's values, do not count.
        distributions: Optuna's distributions as JSON, by parameter.
        place: of the metric among the trials' values.
        metric: the metric.
        forest: whether fANOVA is computed, too, which takes a second or so.
    """
    from pinikit.tuning.results import PRUNED

    complete = [row for row in rows if len(row.values) > place and row.same_as is None and row.params]
    pruned = [row for row in rows if row.state == PRUNED and row.same_as is None and row.params]
    enough = {
        name: members
        for name in distributions
        if len(members := _users(name, [*complete, *pruned])) >= FEWEST
    }
    places = _places(complete, pruned, place, metric)
    shares: dict[str, float] = {}
    for members in dict.fromkeys(enough.values()):
        names = [name for name, own in enough.items() if own == members]
        judged = [row for row in (*complete, *pruned) if row.number in members]
        shares |= _ped_anova(_study(judged, names, distributions, places), names)
    total = sum(shares.values()) or 1.0
    whole: dict[str, float] = {}
    common = [name for name in enough if len(_users(name, complete)) == len(complete)]
    if forest and common and len(complete) >= FEWEST:
        values = {row.number: -metric.sign * row.values[place] for row in complete}
        whole = _fanova(_study(complete, common, distributions, values), common)
    found = [
        Importance(
            name, metric.key, len(enough[name]), len(_users(name, complete)), share / total, whole.get(name)
        )
        for name, share in shares.items()
    ]
    return sorted(found, key=lambda item: (-item.ped_anova, item.parameter))


def _users(name: str, rows: Sequence[TrialRow]) -> frozenset[int]:
    """Numbers of the trials that have a parameter."""
    return frozenset(row.number for row in rows if name in row.params)


def _places(
    complete: Sequence[TrialRow], pruned: Sequence[TrialRow], place: int, metric: Metric
) -> dict[int, float]:
    """Places of the trials by number, the best first; equal values share one."""
    keys: dict[int, tuple[float, ...]] = {
        row.number: (0, -metric.sign * row.values[place]) for row in complete
    }
    for row in pruned:
        last = max(row.steps, default=-1)
        keys[row.number] = (1, -last, -metric.sign * row.steps.get(last, 0.0))
    order = {key: float(index) for index, key in enumerate(sorted(set(keys.values())))}
    return {number: order[key] for number, key in keys.items()}


def _study(
    rows: Sequence[TrialRow],
    names: Sequence[str],
    distributions: Mapping[str, Any],
    values: Mapping[int, float],
) -> OptunaStudy:
    """A study in memory of some parameters of some trials, with values by number: less is better."""
    import optuna
    from optuna.distributions import json_to_distribution
    from optuna.trial import create_trial

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="minimize")
    finally:
        optuna.logging.set_verbosity(level)
    known = {name: json_to_distribution(json.dumps(distributions[name])) for name in names}
    for row in rows:
        params = {name: row.params[name] for name in names}
        study.add_trial(create_trial(params=params, distributions=known, value=values[row.number]))
    return study


def _ped_anova(study: OptunaStudy, names: list[str]) -> dict[str, float]:
    """As it comes, so that parameters of other trials can stand beside these."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental in the oldest version that is allowed
        evaluator = PedAnovaImportanceEvaluator()
        found = get_param_importances(study, evaluator=evaluator, params=names, normalize=False)
    return {name: float(found.get(name, 0.0)) for name in names}


def _fanova(study: OptunaStudy, names: list[str]) -> dict[str, float]:
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = FanovaImportanceEvaluator(n_trees=TREES, seed=0)
        found = get_param_importances(study, evaluator=evaluator, params=names)
    return {name: float(value) for name, value in found.items()}

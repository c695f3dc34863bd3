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
"""Complete trials with a parameter below which nothing is said of it: the best tenth would be one trial."""

TREES = 64


@dataclass(frozen=True)
class Importance:
    """A parameter's importance to one metric."""

    parameter: str
    metric: str
    trials: int
    """Complete trials that have the parameter; it is judged on these alone."""
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

    A parameter that exists only beside some choices is judged on the trials that have it. Sources: Watanabe
    et al., "PED-ANOVA", IJCAI 2023; Hutter et al., "An Efficient Approach for Assessing Hyperparameter
    Importance", ICML 2014.

    Args:
        rows: trials; those that are not complete, or took over another's values, do not count.
        distributions: Optuna's distributions as JSON, by parameter.
        place: of the metric among the trials' values.
        metric: the metric.
        forest: whether fANOVA is computed, too, which takes a second or so.
    """
    counted = [row for row in rows if len(row.values) > place and row.same_as is None and row.params]
    users = {name: frozenset(row.number for row in counted if name in row.params) for name in distributions}
    enough = {name: members for name, members in users.items() if len(members) >= FEWEST}
    if not enough:
        return []
    shares: dict[str, float] = {}
    for members in dict.fromkeys(enough.values()):
        names = [name for name, own in enough.items() if own == members]
        study = _study([row for row in counted if row.number in members], names, distributions, place, metric)
        shares |= _ped_anova(study, names)
    total = sum(shares.values()) or 1.0
    most = max(len(members) for members in enough.values())
    common = [name for name, members in enough.items() if len(members) == most]
    whole = {}
    if forest:
        shared = frozenset.intersection(*(enough[name] for name in common))
        everywhere = [row for row in counted if row.number in shared]
        if len(everywhere) >= FEWEST:
            whole = _fanova(_study(everywhere, common, distributions, place, metric), common)
    found = [
        Importance(name, metric.key, len(enough[name]), share / total, whole.get(name))
        for name, share in shares.items()
    ]
    return sorted(found, key=lambda item: (-item.ped_anova, item.parameter))


def _study(
    rows: Sequence[TrialRow],
    names: Sequence[str],
    distributions: Mapping[str, Any],
    place: int,
    metric: Metric,
) -> OptunaStudy:
    """A study in memory with one objective, less is better, of some parameters of some trials."""
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
        study.add_trial(
            create_trial(params=params, distributions=known, value=-metric.sign * row.values[place])
        )
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

"""The anchors of a search: what it evaluates whatever its space is. Imports neither torch nor optuna."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pinikit.config.checking import Checker, Where, slots_of
from pinikit.config.schema import RunConfig
from pinikit.data.files import canonical_json
from pinikit.tuning.results import PINI, ZERO_SHOT

BUDGET = ("epochs", "batch_size")
"""What PiNI takes over from another method's optimiser, so that both may see the pictures equally often."""


def fixed_anchors(
    base: Mapping[str, Any], fits: Callable[[Mapping[str, Any]], str | None], checker: Checker
) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
    """The anchors beside the base, which need not be points of the space.

    Args:
        base: the complete run configuration that the search starts from.
        fits: the reason why a configuration cannot be built, or None.
        checker: knows the components.

    Returns:
        Complete run configurations by label: zero-shot classification, and PiNI's injections where the base
        has others and they can be built; and what a user should know of that.
    """
    plain = {**base["prompt"], "template": "plain"}
    found: dict[str, Mapping[str, Any]] = {
        ZERO_SHOT: {**base, "method": {"name": "zero_shot"}, "prompt": plain}
    }
    pini = _pini(base, checker)
    if _injections(base["method"]) == _injections(pini["method"]):
        return found, []
    if (reason := fits(pini)) is not None:
        return found, [f"PiNI is not among the trials: the base has other injections, and here {reason}"]
    return {**found, PINI: pini}, []


def _pini(base: Mapping[str, Any], checker: Checker) -> dict[str, Any]:
    """The base with PiNI's injections and prompt; another method gives way to PiNI's defaults."""
    own = base["method"]
    if own["name"] == "pini":
        given = {key: value for key, value in own.items() if key != "injections"}
    else:
        budget = {key: value for key, value in own.get("optim", {}).items() if key in BUDGET}
        given = {"name": "pini", "optim": budget}
    method = checker.complete(given, slots_of(RunConfig)["method"], Where("PiNI's defaults", "run.method"))
    return {**base, "method": method, "prompt": {**base["prompt"], "template": "pini"}}


def _injections(method: Mapping[str, Any]) -> list[str]:
    """A method's injections, to be compared whatever they are called."""
    return sorted(map(canonical_json, method.get("injections", {}).values()))

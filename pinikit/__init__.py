"""pinikit: ablations of noise-based adaptation of vision-language models.

Names are imported when they are first used, so ``import pinikit`` is instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pinikit.api import StudyResult, load_predictor, plan_study, predict, run_study, tune
    from pinikit.components.contracts import Combine, Injector, Loss, Method, Noise, Predictor, Site
    from pinikit.data.catalogue import DataSet
    from pinikit.errors import PinikitError
    from pinikit.plugin import hookimpl

__version__ = "0.1.0"

_HOMES = {
    "pinikit.api": ("run_study", "plan_study", "load_predictor", "predict", "report", "tune", "StudyResult"),
    "pinikit.components.contracts": ("Noise", "Injector", "Site", "Combine", "Loss", "Method", "Predictor"),
    "pinikit.data.catalogue": ("DataSet",),
    "pinikit.errors": ("PinikitError",),
    "pinikit.plugin": ("hookimpl",),
}

__all__ = [
    "Combine",
    "DataSet",
    "Injector",
    "Loss",
    "Method",
    "Noise",
    "PinikitError",
    "Predictor",
    "Site",
    "StudyResult",
    "hookimpl",
    "load_predictor",
    "plan_study",
    "predict",
    "report",
    "run_study",
    "tune",
]


def __getattr__(name: str) -> Any:
    home = next((module for module, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module 'pinikit' has no attribute {name!r}")
    return getattr(import_module(home), name)

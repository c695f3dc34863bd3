"""Tests that every component of a kind must pass, for authors of components; they need pytest.

Subclass the class of your component's kind and say what the component is called::

    from pinikit.testing import NoiseConformance


    class TestMyNoise(NoiseConformance):
        component = "my_noise"

See docs/plugins.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

try:
    import pytest
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("pinikit.testing needs pytest: pip install pytest") from error

if TYPE_CHECKING:
    from pinikit.testing.combine import CombineConformance
    from pinikit.testing.conformance import Conformance, conformance_of
    from pinikit.testing.injector import InjectorConformance
    from pinikit.testing.loss import LossConformance
    from pinikit.testing.noise import NoiseConformance
    from pinikit.testing.site import SiteConformance

_HOMES = {
    "CombineConformance": "combine",
    "Conformance": "conformance",
    "InjectorConformance": "injector",
    "LossConformance": "loss",
    "NoiseConformance": "noise",
    "SiteConformance": "site",
    "conformance_of": "conformance",
}
"""Name -> module; each is imported when it is first used, as they train."""

pytest.register_assert_rewrite(
    *(f"{__name__}.{module}" for module in {*_HOMES.values(), "few_shot", "isolation"})
)

__all__ = [
    "CombineConformance",
    "Conformance",
    "InjectorConformance",
    "LossConformance",
    "NoiseConformance",
    "SiteConformance",
    "conformance_of",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pinikit.testing' has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

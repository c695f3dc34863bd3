"""A named configuration of a study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Arm:
    """A named configuration of a study, without the seed."""

    name: str
    """Unique in the study."""
    config: Mapping[str, Any] = field(repr=False)
    """Its complete run configuration."""
    series: str
    """Its name without the values of the study's axes: arms of one series differ in their setting alone."""
    setting: Mapping[str, str]
    """The axes' values as text, by axis; empty in a study without axes."""
    baseline: str | None
    """The arm that it is compared with: the study's baseline at the same setting."""

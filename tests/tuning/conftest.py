"""The reader of pages and made-up runs stand with the reporting tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "reporting"))


@pytest.fixture(autouse=True, scope="module")
def small_forests() -> Iterator[None]:
    """Fewer trees tell the same here, in less time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pinikit.tuning.importance.TREES", 12)
        yield

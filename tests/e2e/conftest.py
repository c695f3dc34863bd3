"""Studies are run many times here; their pages and figures, which take longest, are looked at elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def undrawn(request: pytest.FixtureRequest) -> Iterator[None]:
    """Words instead of page and figures, but for the tests of ``pinikit report``."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__.rpartition(".")[2] != "test_reports":
            patch.setattr("pinikit.reporting.html.page.html_page", lambda results, digest: f"page {digest}")
            patch.setattr("pinikit.reporting.figure.accuracy_figure", lambda result: (b"png", b"svg"))
        yield

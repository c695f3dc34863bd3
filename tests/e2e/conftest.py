"""Studies are run many times here; their pages, which take longest to draw, are looked at elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def undrawn_pages(request: pytest.FixtureRequest) -> Iterator[None]:
    """A word instead of the page, but for the tests of ``pinikit report``."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__.rpartition(".")[2] != "test_reports":
            patch.setattr("pinikit.reporting.html.page.html_page", lambda results, digest: f"page {digest}")
        yield

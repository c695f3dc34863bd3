"""``pinikit report``: reports of finished studies, from what the store knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from pinikit import api


def report(studies: Sequence[str], runs: Path, output: Path | None) -> None:
    """Write the reports and say where they are.

    Raises:
        PinikitError: what ``pinikit.report`` raises.
    """
    for path in api.report(studies, runs=runs, output=output):
        typer.echo(path)

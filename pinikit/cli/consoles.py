"""Where output goes: tables to stdout, progress and errors to stderr."""

from __future__ import annotations

import os
import sys

import typer
from rich.console import Console

from pinikit.plugin import plugins

WIDE = 160
"""Columns when the output is no terminal, whose width nobody sees."""


def output() -> Console:
    """The console of tables."""
    return _console(stderr=False)


def progress() -> Console:
    """The console of progress."""
    return _console(stderr=True)


def report_problems() -> None:
    """Say which plug-ins were left out, and why."""
    for problem in plugins().problems:
        typer.echo(f"pinikit: plug-in {problem.plugin!r} was left out: {problem.reason}", err=True)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else WIDE
    return Console(stderr=stderr, width=width, highlight=False, emoji=False, markup=False)

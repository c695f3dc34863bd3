"""Where output goes: tables to stdout, progress and errors to stderr."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Self

import typer
from rich.console import Console

from pinikit.plugin import plugins

WIDE = 160
"""Columns when the output is no terminal, whose width nobody sees."""


class Shown:
    """What the command line opens, and closes when an error or Ctrl-C ends it, too."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal as it was."""


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

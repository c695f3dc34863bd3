"""``pinikit run``: progress while the API works, then the comparison."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import typer

from pinikit import api
from pinikit.cli.app import INTERRUPTED
from pinikit.cli.consoles import output, progress, report_problems
from pinikit.cli.progress import BarReporter, LineReporter, ShownReporter
from pinikit.cli.tables import print_plan, print_result
from pinikit.reporting.text import plural


def run(
    source: str, overrides: Sequence[str], *, arms: str | None, runs: Path, fuse: str, quiet: bool
) -> int:
    """Run a study and show how its arms compare.

    Returns:
        0, 1 if some runs failed, 130 if it was interrupted.

    Raises:
        PinikitError: what ``pinikit.run_study`` raises.
    """
    reporter = _prepare(quiet)
    try:
        with reporter:
            result = api.run_study(source, overrides, arms=arms, runs=runs, fuse=fuse, reporter=reporter)
    except KeyboardInterrupt:
        kept = f"finished runs are kept in {runs}; type the same command again to go on"
        typer.echo(f"pinikit: interrupted; {kept}", err=True)
        return INTERRUPTED
    if not quiet:
        if reporter.todo == 0:
            runs_done = plural(len(result.study.runs), "run")
            typer.echo(f"all {runs_done} were finished before; nothing was trained")
        print_result(output(), result)
    _show_failures(result, runs)
    return 1 if result.failed else 0


def show_plan(
    source: str, overrides: Sequence[str], *, arms: str | None, runs: Path, fuse: str, quiet: bool
) -> None:
    """Check a study and show what running it would mean.

    Raises:
        PinikitError: what ``pinikit.plan_study`` raises.
    """
    reporter = _prepare(quiet)
    with reporter:
        plan = api.plan_study(source, overrides, arms=arms, runs=runs, fuse=fuse)
        for message in plan.messages:
            reporter.message(message)
    if not quiet:
        print_plan(output(), plan)


def _prepare(quiet: bool) -> ShownReporter:
    """The reporter that suits the output; plug-ins that were left out are said at once."""
    if quiet:
        warnings.simplefilter("ignore")
        return ShownReporter()
    report_problems()
    if sys.stderr.isatty():
        return BarReporter(progress())
    return LineReporter(lambda line: typer.echo(line, err=True))


def _show_failures(result: api.StudyResult, runs: Path) -> None:
    if not result.failed:
        return
    typer.echo(f"pinikit: {len(result.failed)} of {plural(len(result.study.runs), 'run')} failed:", err=True)
    for (arm, seed), item in result.results.items():
        if not item.finished:
            log = runs / "by-id" / item.run_id / "run.log"
            typer.echo(f"  {arm}, seed {seed}: {' '.join(item.error.split())} (log: {log})", err=True)

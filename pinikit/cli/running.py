"""``pinikit run``: progress while the API works, then the comparison."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from pinikit import api
from pinikit.cli.app import INTERRUPTED
from pinikit.cli.consoles import output, progress, report_problems
from pinikit.cli.progress import BarReporter, LineReporter, ShownReporter
from pinikit.cli.tables import print_plan, print_result
from pinikit.errors import ConfigError
from pinikit.reporting.text import plural
from pinikit.study.choice import FAILED
from pinikit.study.executors.signals import interruptible
from pinikit.study.patterns import few
from pinikit.study.results import fresh_store
from pinikit.study.resume import kept_checkpoints
from pinikit.study.store import Store


def run(
    source: str,
    overrides: Sequence[str],
    *,
    runs: Path,
    quiet: bool,
    check: bool = False,
    rerun: str | None = None,
    **options: Any,
) -> int:
    """Run a study and show how its arms compare.

    Args:
        source, overrides, runs, check, rerun, options: as for ``pinikit.run_study``.
        quiet: show nothing but errors.

    Returns:
        0, 1 if some runs failed or lack a test on other data or, with ``check``, an expectation is not met,
        130 if it was interrupted.

    Raises:
        PinikitError: what ``pinikit.run_study`` raises.
    """
    reporter = _prepare(quiet)
    try:
        with interruptible(), reporter:
            options |= {"check": check, "rerun": rerun}
            result = api.run_study(source, overrides, runs=runs, reporter=reporter, **options)
    except KeyboardInterrupt:
        again = "" if rerun in (None, FAILED) else "; runs that were replaced already are trained again"
        typer.echo(
            f"pinikit: interrupted; {_kept(runs)}; type the same command again to go on{again}", err=True
        )
        return INTERRUPTED
    if not quiet:
        if reporter.todo == 0 and not result.not_run:
            runs_done = plural(len(result.study.runs), "run")
            typer.echo(f"all {runs_done} were finished before; nothing was trained")
        print_result(output(), result)
    _show_failures(result, runs)
    unmet = [item for item in result.verdicts if not item.met] if check else []
    if unmet:
        arms = ", ".join(dict.fromkeys(item.arm for item in unmet))
        typer.echo(f"pinikit: {len(unmet)} of {len(result.verdicts)} expectations not met: {arms}", err=True)
    return 1 if result.failed or result.untested or unmet else 0


def _kept(runs: Path) -> str:
    """What an interruption leaves."""
    store = Store(runs)
    under_way = [*kept_checkpoints(store), *kept_checkpoints(fresh_store(store))]
    if not under_way:
        return f"finished runs are kept in {runs}"
    count = plural(sum(len(item.runs) for item in under_way), "run")
    epochs = ", ".join(f"{item.epoch} of {item.epochs}" for item in under_way)
    return f"finished runs, and {count} after {epochs} epochs, are kept in {runs}"


def parse_time(text: str, option: str = "--time-limit") -> float:
    """Seconds from ``90``, ``90s``, ``10m`` or ``1.5h``; ``option`` is who is told of anything else.

    Raises:
        ConfigError: it is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip().lower())
    if match is None:
        raise ConfigError(f"{option}: found {text!r}; allowed: seconds, or a time such as 90s, 10m, 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def show_plan(source: str, overrides: Sequence[str], *, quiet: bool, **options: Any) -> None:
    """Check a study and show what running it would mean; arguments as for ``pinikit.plan_study``.

    Raises:
        PinikitError: what ``pinikit.plan_study`` raises.
    """
    reporter = _prepare(quiet)
    with reporter:
        plan = api.plan_study(source, overrides, **options)
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
    if result.not_run:
        left = f"{len(result.not_run)} of {plural(len(result.study.runs), 'run')} not run, as asked"
        typer.echo(f"pinikit: {left}; the command without --fail-fast and --rerun takes them up", err=True)
    _show_untested(result)
    if not result.failed:
        return
    typer.echo(f"pinikit: {len(result.failed)} of {plural(len(result.study.runs), 'run')} failed:", err=True)
    for (arm, seed), item in result.results.items():
        if not item.finished:
            log = runs / "by-id" / item.run_id / "run.log"
            tries = len(item.content.get("tries", ())) + 1
            facts = f"tried {tries} times; log: {log}" if tries > 1 else f"log: {log}"
            typer.echo(f"  {arm}, seed {seed}: {' '.join(item.error.split())} ({facts})", err=True)


def _show_untested(result: api.StudyResult) -> None:
    """Runs that were trained and could not be tested on other data, one line for each reason."""
    if not result.untested:
        return
    count = f"{len(result.untested)} of {plural(len(result.study.runs), 'run')}"
    typer.echo(
        f"pinikit: {count} not tested on all their data; the same command tries it again, without training:",
        err=True,
    )
    runs: dict[tuple[str, str], list[str]] = {}
    for (arm, seed), item in result.results.items():
        for label, reason in item.untested.items() if item.finished else ():
            runs.setdefault((label, " ".join(reason.split())), []).append(f"{arm} seed {seed}")
    for (label, reason), found in runs.items():
        typer.echo(f"  {label}: {few(found)}: {reason}", err=True)

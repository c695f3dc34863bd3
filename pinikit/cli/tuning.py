"""``pinikit tune``: progress while the API works, then the best trials and how to measure them again."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from pinikit import api
from pinikit.cli.app import INTERRUPTED
from pinikit.cli.consoles import output, progress, report_problems
from pinikit.cli.running import parse_time
from pinikit.cli.tables import Column, fit, table_of
from pinikit.cli.tune_progress import QuietSearch, SearchBars, SearchLines
from pinikit.data.files import write_atomic
from pinikit.errors import ConfigError
from pinikit.reporting.changes import ArmSettings, change_text
from pinikit.reporting.text import plural, plus_minus, signed_interval
from pinikit.study.executors.signals import interruptible
from pinikit.study.store import Store
from pinikit.tuning.best import BEST
from pinikit.tuning.confirm import answer, confirmation, is_answered
from pinikit.tuning.publishing import PAGE, confirm_command
from pinikit.tuning.request import Request
from pinikit.tuning.results import BASE, COMPLETE, FAILED, METRICS, ZERO_SHOT, TrialRow, TuneResult
from pinikit.tuning.stored import known_request, stored_search

TRIALS = 100
"""Of a search that is told no number."""

SHOWN = 5
"""Best trials in the terminal; the page has more."""


def request_of(
    study: str,
    changes: Sequence[str],
    resume: bool,
    runs: Path,
    trials: int | None,
    timeout: str | None,
    jobs: int | None,
    storage: str | None,
) -> Request:
    """What the words of the command ask for; with ``resume``, over what was asked for last.

    Raises:
        ConfigError: there is nothing to resume, or a time cannot be read.
    """
    request = Request(study, trials=TRIALS)
    if resume:
        found = known_request(Store(runs), study, storage)
        if found is None:
            raise ConfigError(f"--resume: {runs} has no search {study!r}; without --resume it begins")
        request = found
    given: dict[str, Any] = {
        "trials": trials,
        "timeout": None if timeout is None else parse_time(timeout, "--timeout"),
        "jobs": jobs,
        "storage": storage,
    }
    request = replace(request, **{key: value for key, value in given.items() if value is not None})
    return replace(request, overrides=(*request.overrides, *changes))


def search(request: Request, *, runs: Path, quiet: bool) -> int:
    """Search, and show what was found.

    Returns:
        0; 1 if no trial is complete, or the base configuration failed; 130 if it was interrupted.

    Raises:
        PinikitError: what ``pinikit.tune`` raises.
    """
    reporter = _prepare(quiet)
    try:
        with interruptible(), reporter:
            result = api.tune(
                request.source,
                request.overrides,
                trials=request.trials,
                timeout=request.timeout,
                jobs=request.jobs,
                storage=request.storage,
                runs=runs,
                reporter=reporter,
            )
    except KeyboardInterrupt:
        typer.echo(
            f"pinikit: interrupted; {plural(reporter.over, 'trial')} of {request.trials} are kept; type the "
            "same command again to go on, or `pinikit tune --resume`",
            err=True,
        )
        return INTERRUPTED
    if not quiet:
        if reporter.nothing_to_do:
            typer.echo(f"all {plural(request.trials, 'trial')} were over before; nothing was evaluated")
        print_found(output(), result, Store(runs))
    failed = any(row.label == BASE and row.state == FAILED and not row.superseded for row in result.trials)
    return 1 if failed or not result.count(COMPLETE) else 0


def export(study: str, path: Path | None, *, runs: Path, storage: str | None) -> None:
    """Write all trials as CSV to a file, or to the terminal.

    Raises:
        PinikitError: there is no such search, or the file cannot be written.
    """
    from pinikit.tuning.export import trials_csv

    result = stored_search(study, runs=runs, storage=storage)
    text = trials_csv(result)
    if path is None:
        typer.echo(text, nl=False)
        return
    write_atomic(path, text)
    typer.echo(f"{plural(len(result.trials), 'trial')} in {path}")


def print_found(console: Console, result: TuneResult, store: Store) -> None:
    """The best trials, the answer as far as it is known, and what to do next."""
    if result.complete:
        columns, dropped = fit(console, _columns(result))
        console.print(table_of(columns))
        named = f"; no room for: {', '.join(column.title for column in dropped)}" if dropped else ""
        caption = f"validation data, ± 95 % over {plural(len(result.seeds), 'seed')}{named}"
        console.print(Text(caption, style="dim"))
        console.print(_recipe(result), soft_wrap=True)
    found = confirmation(result, store)
    console.print(plain(answer(result, found)), soft_wrap=True)
    if isinstance(found, str):
        console.print(f"the runs of {result.best_name} do not count: {found}", soft_wrap=True)
    if failed := result.count(FAILED):
        console.print(f"{plural(failed, 'trial')} failed; the page says why", soft_wrap=True)
    folder = store.study_folder(result.name)
    console.print(f"page: {folder / PAGE}", soft_wrap=True)
    if result.best():
        console.print(f"best arms: {folder / BEST}", soft_wrap=True)
    if result.best() and not is_answered(found):
        what = f"measure the best {len(result.best())} on fresh seeds and the test set"
        console.print(f"{what}: {confirm_command(result, store)}", soft_wrap=True)


def plain(text: str) -> str:
    """A report's sentence without its markup."""
    return text.replace("`", "").replace("**", "")


def _columns(result: TuneResult) -> list[Column]:
    """The best trials and the anchors."""
    rows = result.best(SHOWN)
    rows += [row for row in result.anchors if row not in rows]
    metric = result.metric
    columns = [Column("trial", [row.name for row in rows], justify="left")]
    columns += [
        Column(f"{METRICS[key].text} ({METRICS[key].unit})", [_value(row, key) for row in rows])
        for key in result.metrics
    ]
    if (base := result.base) is not None:
        gaps = [row.against(base, metric.key) for row in rows]
        texts = [signed_interval(gap.mean, gap.low, gap.high, metric.digits) for gap in gaps]
        cells = ["" if row is base else text for row, text in zip(rows, texts, strict=True)]
        columns.append(Column(f"Δ to {BASE}", cells, 1))
    return columns


def _recipe(result: TuneResult) -> str:
    """What the best trial changes."""
    row = result.ranked[0]
    changes = change_text(ArmSettings(result).changes(row.name))
    return f"{row.name} has {changes}" if row.label not in (BASE, ZERO_SHOT) else f"{row.name} is the best"


def _value(row: TrialRow, key: str) -> str:
    found = row.estimate(key)
    return plus_minus(found.mean, found.interval, METRICS[key].digits)


def _prepare(quiet: bool) -> QuietSearch:
    """The reporter that suits the output; plug-ins that were left out are said at once."""
    if quiet:
        warnings.simplefilter("ignore")
        return QuietSearch()
    report_problems()
    if sys.stderr.isatty():
        return SearchBars(progress())
    return SearchLines(lambda line: typer.echo(line, err=True))

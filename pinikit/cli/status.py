"""``pinikit status``: how far studies are, and how to go on."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pinikit.cli.cache import ago
from pinikit.cli.runs import Json, RunsFolder, moment

if TYPE_CHECKING:
    from rich.table import Table

    from pinikit.study.inspection import ArmStatus, StudyStatus

FEW = 10
"""Runs whose errors are shown."""


def status(
    study: Annotated[
        str | None,
        typer.Argument(
            metavar="[STUDY]",
            help="The name of a study in the store, as it was run last, or a study file; all if left out.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Changes to it, as given to pinikit run."),
    ] = None,
    runs: RunsFolder = Path("runs"),
    as_json: Json = False,
) -> None:
    """Say what of a study is finished, failed, running and to do, and how to go on."""
    from pinikit.cli.consoles import output
    from pinikit.study.inspection import study_status

    found = study_status(study, overrides or (), runs=runs)
    if as_json:
        typer.echo(json.dumps([_plain(item) for item in found], indent=2))
        return
    if not found:
        typer.echo(f"no study in {runs}")
    console = output()
    for item in found:
        typer.echo(_head(item))
        if study is not None or not _complete(item):
            console.print(_table(item.arms))
        for line in _failures(item) + _next(item, runs):
            typer.echo(line)


def _plain(item: StudyStatus) -> dict[str, Any]:
    arms = [{**asdict(arm), "changed": moment(arm.changed)} for arm in item.arms]
    head = {"name": item.name, "command": item.command, "changed": moment(item.changed)}
    return {**head, "counts": item.counts, "arms": arms}


def _complete(item: StudyStatus) -> bool:
    return item.counts["finished"] == sum(item.counts.values())


def _head(item: StudyStatus) -> str:
    """``sites: 30 of 36 runs finished, 1 failed, 5 to do; last changed 5 min ago``."""
    counts = item.counts
    others = [f"{count} {state}" for state, count in counts.items() if count and state != "finished"]
    parts = ", ".join([f"{counts['finished']} of {sum(counts.values())} runs finished", *others])
    return f"{item.name}: {parts}" + ("" if item.changed is None else f"; last changed {ago(item.changed)}")


def _table(arms: Sequence[ArmStatus]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    states = [state for state in arms[0].counts if any(arm.counts[state] for arm in arms)] if arms else []
    epochs = any(arm.epoch is not None for arm in arms)
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("arm", overflow="fold")
    for title in [*states, *(["epochs kept"] if epochs else []), "last changed"]:
        table.add_column(title, justify="right", no_wrap=True)
    for arm in arms:
        kept = [] if not epochs else ["" if arm.epoch is None else f"{arm.epoch} of {arm.epochs}"]
        cells = [arm.arm, *(str(arm.counts[state] or "") for state in states), *kept]
        table.add_row(*map(Text, [*cells, "" if arm.changed is None else ago(arm.changed)]))
    return table


def _failures(item: StudyStatus) -> list[str]:
    lines = [
        f"  {arm.arm}, seed {seed}: {' '.join(error.split())}"
        for arm in item.arms
        for seed, error in arm.errors.items()
    ]
    more = [f"  and {len(lines) - FEW} more"] if len(lines) > FEW else []
    words = {"failed": "failed", "untested": "not tested on all their data"}
    title = " or ".join(word for state, word in words.items() if item.counts[state])
    return [f"{title}:", *lines[:FEW], *more] if lines else []


def _next(item: StudyStatus, runs: Path) -> list[str]:
    """How to go on; nothing where nothing is left to do."""
    counts = item.counts
    if _complete(item):
        return []
    if counts["running"] and counts["running"] + counts["finished"] == sum(counts.values()):
        return ["a running process trains the rest"]
    if not item.command:
        return ["go on with the pinikit run that began it"]
    folder = "" if runs == Path("runs") else f" --runs {shlex.quote(str(runs))}"
    return [f"go on: {item.command}{folder}"]

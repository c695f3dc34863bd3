"""``pinikit runs``: what the result store holds, and how to compare, check and shrink it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pinikit.cli.cache import ago
from pinikit.errors import ConfigError

if TYPE_CHECKING:
    from pinikit.study.inspection import RunRow

RunsFolder = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder of the result store.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's folder, or first digits of its identity.")
]

SHORT_ID = 8
"""Digits of an identity that the list shows."""

WORDS = 40
"""Characters of a text in the list; longer ones are cut."""

app = typer.Typer(
    help="The result store: every run once, by its identity, shared by all studies.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def ls(
    study: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only runs that this study refers to.")
    ] = None,
    arm: Annotated[str | None, typer.Option(metavar="PATTERN", help="Only these arms, e.g. 'pini*'.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only failed runs.")] = False,
    unused: Annotated[bool, typer.Option("--unused", help="Only runs that no study refers to.")] = False,
    runs: RunsFolder = Path("runs"),
    as_json: Json = False,
) -> None:
    """List the runs, those of a study in its order."""
    from pinikit.data.view_bank import size_text
    from pinikit.reporting.text import plural
    from pinikit.study.inspection import list_runs

    rows = list_runs(runs, study=study, arm=arm, failed=failed, unused=unused)
    if as_json:
        typer.echo(json.dumps([{**asdict(row), "changed": moment(row.changed)} for row in rows], indent=2))
        return
    if rows:
        typer.echo("\n".join(_lines(rows)))
    total = size_text(sum(row.size for row in rows))
    typer.echo(f"{plural(len(rows), 'run')} of {total} in {runs}")


@app.command()
def show(run: RunName, runs: RunsFolder = Path("runs"), as_json: Json = False) -> None:
    """Show all that is known of a run: configuration, metrics, costs, files, tries, environment."""
    from pinikit.study.inspection import describe_run

    found = describe_run(run, runs)
    if as_json:
        typer.echo(json.dumps({**found, "changed": moment(found["changed"])}, indent=2, ensure_ascii=False))
    else:
        typer.echo(_described(found))


@app.command()
def diff(
    one: RunName,
    other: Annotated[str, typer.Argument(metavar="RUN", help="The run to compare it with.")],
    runs: RunsFolder = Path("runs"),
) -> None:
    """Show side by side what two runs do not have in common."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from pinikit.cli.consoles import output
    from pinikit.study.inspection import compare_runs
    from pinikit.study.store import Store

    store = Store(runs)
    ids = (store.find(one), store.find(other))
    differences = compare_runs(*ids, runs)
    if not differences:
        typer.echo("no differences")
        return
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for title in ("", "key", *(run_id[:SHORT_ID] for run_id in ids)):
        table.add_column(title, overflow="fold")
    before = ""
    for item in differences:
        part, before = (item.part if item.part != before else ""), item.part
        table.add_row(*map(Text, [part, item.key, *map(_value, item.values)]))
    output().print(table)


@app.command()
def rm(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Folders or first digits of identities.")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Remove failed runs.")] = False,
    unused: Annotated[bool, typer.Option("--unused", help="Remove runs that no study refers to.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Remove runs, but for those that are being trained; exits with 1 if one of them stayed."""
    from pinikit.data.view_bank import size_text
    from pinikit.reporting.text import plural
    from pinikit.study.inspection import remove_runs

    rows = _chosen(names or [], failed, unused, runs)
    if not rows:
        typer.echo("nothing to remove")
        return
    if not (yes or _agreed(rows)):
        typer.echo("nothing was removed")
        return
    if not yes:
        rows = _as_shown(rows, runs)
    done = remove_runs([row.id for row in rows], runs)
    typer.echo(f"removed {plural(len(done.removed), 'run')} of {size_text(done.size)}")
    if done.busy:
        typer.echo(f"pinikit: being trained, so they stayed: {', '.join(done.busy)}", err=True)
        raise typer.Exit(1)


@app.command()
def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Folders or first digits of identities; all if left out."),
    ] = None,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Read results and checkpoints and compare them with their checksums; exits with 1 if one is damaged."""
    from pinikit.reporting.text import plural
    from pinikit.study import inspection
    from pinikit.study.store import Store

    count, damaged = inspection.verify([Store(runs).find(run) for run in names or []], runs)
    if not damaged:
        typer.echo(f"{plural(count, 'result')}, all sound")
        return
    for name, what in damaged.items():
        typer.echo(f"{name}: {what}")
    typer.echo(
        f"pinikit: {len(damaged)} of {plural(count, 'result')} damaged; the next pinikit run of a study "
        "makes those that it needs anew",
        err=True,
    )
    raise typer.Exit(1)


def moment(seconds: float | None) -> str | None:
    """Seconds since 1970 as ISO 8601 in UTC, for JSON."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else None


def _chosen(names: Sequence[str], failed: bool, unused: bool, runs: Path) -> list[RunRow]:
    """The runs that are to be removed."""
    from pinikit.study.inspection import list_runs
    from pinikit.study.store import Store

    if [bool(names), failed, unused].count(True) != 1:
        raise ConfigError("runs rm: found no choice, or several; allowed: RUN..., or --failed, or --unused")
    ids = {Store(runs).find(name) for name in names}
    rows = list_runs(runs, failed=failed, unused=unused)
    return [row for row in rows if not names or row.id in ids]


def _as_shown(rows: Sequence[RunRow], runs: Path) -> list[RunRow]:
    """Without those that have changed while the user was asked, which is told."""
    from pinikit.study.inspection import list_runs

    now = {row.id: row for row in list_runs(runs)}
    same = [row for row in rows if now.get(row.id) == row]
    if changed := [row.id[:SHORT_ID] for row in rows if row not in same and row.id in now]:
        typer.echo(f"pinikit: changed meanwhile, so they stayed: {', '.join(changed)}", err=True)
    return same


def _agreed(rows: Sequence[RunRow]) -> bool:
    """Ask whether these runs may go.

    Raises:
        ConfigError: there is no terminal to ask in.
    """
    from pinikit.data.view_bank import size_text
    from pinikit.reporting.text import plural

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("runs rm: found no terminal to ask in; allowed: --yes, to remove without asking")
    for line in _lines(rows):
        typer.echo(line)
    used = [row for row in rows if row.studies]
    if used:
        studies = ", ".join(dict.fromkeys(name for row in used for name in row.studies))
        typer.echo(f"{len(used)} of them belong to studies, which would train them again: {studies}")
    total = size_text(sum(row.size for row in rows))
    return typer.confirm(f"Remove {plural(len(rows), 'run')} of {total}?")


def _lines(rows: Sequence[RunRow]) -> list[str]:
    """A plain table, which a pager and grep can read; rich would take minutes for ten thousand runs."""
    from pinikit.data.view_bank import size_text

    titles = ["id", "state", "study", "arm", "seed", "data", "shots", "accuracy", "changed", "size", "error"]
    cells = [
        [
            row.id[:SHORT_ID],
            row.state,
            _cut(",".join(row.studies) or "–"),
            _cut(row.arm),
            "" if row.seed is None else str(row.seed),
            row.data,
            "" if row.shots is None else str(row.shots),
            "" if row.accuracy is None else f"{row.accuracy:.2f}",
            ago(row.changed),
            size_text(row.size),
            _cut(" ".join(row.error.split())),
        ]
        for row in rows
    ]
    if not any(row.error for row in rows):
        titles, cells = titles[:-1], [line[:-1] for line in cells]
    numbers = {"seed", "shots", "accuracy", "size"}
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    sides = [">" if title in numbers else "<" for title in titles]
    form = "  ".join(f"{{:{side}{width}}}" for side, width in zip(sides, widths, strict=True))
    return [form.format(*line).rstrip() for line in [titles, *cells]]


def _cut(text: str) -> str:
    return text if len(text) <= WORDS else text[: WORDS - 1] + "…"


def _described(found: Mapping[str, Any]) -> str:
    """A run as a page of text."""
    import yaml

    from pinikit.data.view_bank import size_text

    head = [
        f"run {found['id']}: {found['state']}"
        + (f", {found['epoch'][0]} of {found['epoch'][1]} epochs kept" if found["epoch"] else ""),
        f"arm {found['arm']}, seed {found['seed']}; studies: {', '.join(found['studies']) or 'none'}",
        f"{found['folder']}, changed {ago(found['changed'])}",
        *([f"damaged: {found['damage']}"] if found["damage"] else []),
        *([f"error: {found['error']}"] if found["error"] else []),
        *(f"try {number}: {item['reason']}" for number, item in enumerate(found["tries"], 1)),
    ]
    files = {name: size_text(size) for name, size in found["files"].items()}
    prompt = {"template": found["template"], "classes": found["classes"]}
    sections = {
        "configuration": found["config"],
        "prompt": prompt,
        "metrics": found["metrics"],
        "costs": found["costs"],
        "environment": found["environment"],
        "files": files,
    }
    texts = [
        yaml.safe_dump({name: _short(content)}, sort_keys=False, allow_unicode=True, width=100)
        for name, content in sections.items()
        if content
    ]
    return "\n".join([*head, "", *texts]).rstrip()


def _short(value: Any) -> Any:
    """The same with long lists replaced by their length, and without empty values."""
    if isinstance(value, Mapping):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list) and len(value) > 12:
        return f"{len(value)} values"
    return value


def _value(value: Any) -> str:
    """A value of a difference; a dash where a run has none."""
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(_short(value))

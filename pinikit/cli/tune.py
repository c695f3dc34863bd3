"""``pinikit tune``: the commands. What they need is imported when they run, so that ``--help`` is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

SEARCH = "search"
"""The command that ``pinikit tune`` is without another's name; nobody has to type it."""

STUDY = "tune"
"""The shipped study that is searched where none is given."""


class _OrSearch(TyperGroup):
    """A group whose first command is meant where no other is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        if not args or args[0] not in self.commands:
            args = [SEARCH, *args]
        return super().parse_args(ctx, args)


class _Unnamed(TyperCommand):
    """A command whose help does not tell its name."""

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        formatter.write_usage(ctx.parent.command_path, " ".join(self.collect_usage_pieces(ctx)))


app = typer.Typer(
    cls=_OrSearch,
    help="Search the design space on validation data: which components and parameters are best?",
    rich_markup_mode=None,
)

RunsFolder = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder of the result store.")]
Storage = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Where trials are kept: a database's URL, or journal:FILE. Commands with the same storage, on "
        "any machine, share the work. Else an SQLite file in the study's folder.",
    ),
]
StudyName = Annotated[
    str,
    typer.Argument(
        metavar="STUDY", help="A study file with 'search', or a shipped study's name.", show_default=True
    ),
]


@app.command(
    SEARCH,
    cls=_Unnamed,
    hidden=True,
    epilog="`pinikit tune export [STUDY] -o FILE` writes all trials as CSV.",
)
def search(
    study: StudyName = STUDY,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Changes to it, e.g. run.data.shots=16 'seeds=[1,2]'."),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="How many trials in all, with those of earlier calls.  [default: 100]"
        ),
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Begin no trial after this time: seconds, or e.g. 10m, 2h."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(metavar="N", help="Evaluate N trials at a time, in N processes.  [default: 1]"),
    ] = None,
    storage: Storage = None,
    sampler: Annotated[
        str | None,
        typer.Option(metavar="tpe|random|nsgaii", help="Who suggests trials; short for tune.sampler=…"),
    ] = None,
    pruner: Annotated[
        str | None,
        typer.Option(
            metavar="median|hyperband|wilcoxon|none",
            help="Who stops trials that do badly; short for tune.pruner=…",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Of the sampler; short for tune.seed=…")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with what the last call asked for (trials, changes, storage); what is given besides "
            "goes before.",
        ),
    ] = False,
    runs: RunsFolder = Path("runs"),
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing but errors.")] = False,
) -> None:
    """Search for the best components and parameters, on validation data alone.

    Writes tuning.html and best.yaml into the study's folder: `pinikit run …/best.yaml` measures the best arms
    again, on fresh seeds and the test set. Ctrl-C keeps everything; the same command goes on.
    """
    from pinikit.cli import tuning

    if "=" in study and not Path(study).is_file():  # no study is given, but changes to the shipped one
        study, overrides = STUDY, [study, *(overrides or [])]
    short = {"tune.sampler": sampler, "tune.pruner": pruner, "tune.seed": seed}
    changes = [*(overrides or []), *(f"{key}={value}" for key, value in short.items() if value is not None)]
    request = tuning.request_of(study, changes, resume, runs, trials, timeout, jobs, storage)
    raise typer.Exit(tuning.search(request, runs=runs, quiet=quiet))


@app.command()
def export(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A search in the store by name, or its study file.")
    ] = STUDY,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where the table goes; else to the terminal."),
    ] = None,
    storage: Storage = None,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Write all trials of a search as CSV: parameters, values by seed, seconds, state."""
    from pinikit.cli import tuning

    tuning.export(study, output, runs=runs, storage=storage)

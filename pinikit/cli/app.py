"""The commands. What a command needs is imported when it runs, so that ``--help`` is instant."""

from __future__ import annotations

import _thread
import os
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pinikit import __version__
from pinikit.cli import cache, plugins, runs, schema, status, tune
from pinikit.errors import PinikitError

INTERRUPTED = 130


class Guarded(TyperGroup):
    """Shows errors that a user can cause as one message with an exit code; others keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            typer.Exit: with the exit code of the error that was shown.
        """
        before = sys.unraisablehook
        sys.unraisablehook = _interrupt_again
        try:
            return super().invoke(ctx)
        except PinikitError as error:
            typer.echo(f"pinikit: {error}", err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            typer.echo("pinikit: interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None
        finally:
            sys.unraisablehook = before


def _interrupt_again(dropped: Any) -> None:
    """Python drops a Ctrl-C that arrives inside a destructor or weak-reference callback: send it again."""
    if issubclass(dropped.exc_type, KeyboardInterrupt):
        threading.Timer(0.05, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(dropped)


app = typer.Typer(
    name="pinikit",
    cls=Guarded,
    help="Ablations of learned noise in frozen vision-language models: modular, honest, fast.",
    epilog="Exit codes: 0 done, 1 some runs failed, 2 usage or configuration, 3 data or weights, 4 plug-in, "
    "130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(cache.app, name="cache")
app.add_typer(plugins.app, name="plugins")
app.add_typer(runs.app, name="runs")
app.add_typer(tune.app, name="tune")

Fuse = Annotated[
    str,
    typer.Option(
        metavar="auto|off|N",
        help="Train runs that differ in seeds and numbers only together: as many as fit, none, N.",
    ),
]
Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder of the result store.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pinikit {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    plugins_dir: Annotated[
        Path | None,
        typer.Option("--plugins-dir", metavar="DIR", help="Folder of single-file plug-ins to load."),
    ] = None,
) -> None:
    """Ablations of learned noise in frozen vision-language models: modular, honest, fast."""
    if plugins_dir is not None:
        from pinikit.plugin_sources import FOLDER

        os.environ[FOLDER] = str(plugins_dir.resolve())  # worker processes read it, too


@app.command()
def run(
    study: Annotated[
        str,
        typer.Argument(metavar="STUDY", help="A study file, or a shipped study's name (injection_sites)."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Changes to it, e.g. run.data.shots=16 'seeds=[1,2]'."),
    ] = None,
    arms: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="Arms to take, e.g. 'pini*,text_*'; always with the baseline."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and show arms, runs and costs; train nothing.")
    ] = False,
    runs: Runs = Path("runs"),
    fuse: Fuse = "auto",
    jobs: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Train N groups of runs at a time, in N processes that take turns with the GPUs.",
        ),
    ] = 1,
    rerun: Annotated[
        str | None,
        typer.Option(
            metavar="failed|all|PATTERN",
            help="Train again, besides what is not finished: all runs, or those of these arms; their results "
            "stay until the new ones are whole. Or try only what failed, and nothing new. Without it, failed "
            "runs are tried again and finished ones never.",
        ),
    ] = None,
    retries: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Further tries after a crash, lack of memory, or a try that took too long.",
        ),
    ] = 1,
    time_limit: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="End runs that take longer: seconds, or e.g. 10m, 2h. Runs that are trained together have "
            "the sum.",
        ),
    ] = None,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Start nothing new after the first failed run.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 unless the published numbers of 'expect' are met.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing but errors.")] = False,
) -> None:
    """Run what is not finished yet of a study and compare its arms.

    Ctrl-C lets the epochs under way end and keeps how far the runs are, a second one stops at once; the same
    command goes on. The same command at the same time, in another terminal, shares the work.
    """
    from pinikit.cli import running

    options: dict[str, Any] = {"arms": arms, "runs": runs, "fuse": fuse, "rerun": rerun, "check": check}
    if dry_run:
        running.show_plan(study, overrides or [], quiet=quiet, **options)
    else:
        options |= {"jobs": jobs, "retries": retries, "fail_fast": fail_fast}
        options["time_limit"] = None if time_limit is None else running.parse_time(time_limit)
        raise typer.Exit(running.run(study, overrides or [], quiet=quiet, **options))


app.command()(status.status)
app.command()(schema.schema)


@app.command()
def report(
    studies: Annotated[
        list[str],
        typer.Argument(metavar="STUDY...", help="Studies of the store by name or folder, or study files."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where the page goes; else the study's folder."),
    ] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Write the report of finished runs; several studies stand side by side in one page."""
    from pinikit.cli.report import report as write

    write(studies, runs, output)


@app.command("list")
def list_components(
    kind: Annotated[
        str | None, typer.Argument(metavar="[KIND]", help="site, noise, injector, …; all if left out.")
    ] = None,
) -> None:
    """List the components that studies can name, with one line each and where they come from."""
    from pinikit.cli import catalogue

    catalogue.show_list(kind)


@app.command()
def show(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="The component's kind, e.g. noise.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name or a synonym, e.g. gaussian.")],
) -> None:
    """Explain a component: parameters, defaults, search ranges, paper, and how a study names it."""
    from pinikit.cli import catalogue

    catalogue.show_component(kind, name)


@app.command()
def predict(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's folder, or first digits of its identity.")
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures to classify.")],
    top: Annotated[int, typer.Option(min=1, metavar="N", help="How many classes to show.")] = 5,
    runs: Runs = Path("runs"),
) -> None:
    """Classify pictures with a finished run."""
    from pinikit import api

    for image, classes in zip(images, api.predict(run, images, runs=runs, top=top), strict=True):
        typer.echo(image)
        for label, probability in classes:
            typer.echo(f"  {100 * probability:6.2f} %  {label}")

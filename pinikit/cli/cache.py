"""``pinikit cache``: what the view bank on disk holds, and how to shrink and check it."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from pinikit.errors import ConfigError, DataError

app = typer.Typer(
    help="The view bank: frozen activations on disk, shared by all studies; it can always be computed again.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def ls() -> None:
    """List what the view bank holds, by backbone and stage."""
    from pinikit.cli.consoles import output
    from pinikit.data.view_bank import SIZE_VARIABLE, size_text, user_bank
    from pinikit.reporting.text import count

    bank, console = user_bank(), output()
    holdings = bank.holdings()
    if holdings:
        table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
        for title in ("backbone", "stage", "precision", "device"):
            table.add_column(title, overflow="fold")
        for title in ("views", "pictures", "bytes", "last used"):
            table.add_column(title, justify="right", no_wrap=True)
        for row in holdings:
            words = [row.backbone, row.stage, row.precision, row.device]
            views = count(row.views) if row.views else "clean"
            numbers = [views, count(row.pictures), size_text(row.size), ago(row.used)]
            table.add_row(*map(Text, words + numbers))
        console.print(table)
    total = f"{size_text(bank.size())} of {size_text(bank.limit)} ({SIZE_VARIABLE})"
    console.print(f"{total} in {bank.folder}", soft_wrap=True)


@app.command()
def prune(
    size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Remove what was not used for longest, down to e.g. 5GB."),
    ] = None,
    age: Annotated[
        str | None, typer.Option(metavar="TIME", help="Remove what was not used for e.g. 30d or 12h.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove everything.")] = False,
) -> None:
    """Remove rows from the view bank, but for what a running process uses."""
    from pinikit.data.view_bank import parse_age, parse_size, size_text, user_bank
    from pinikit.reporting.text import plural

    if everything == (size is not None or age is not None):
        raise ConfigError(
            "cache prune: found no choice, or --all beside others; allowed: --size, --age, --all"
        )
    done = user_bank().prune(
        0 if everything else None if size is None else parse_size(size, "--size"),
        None if age is None else parse_age(age, "--age"),
    )
    typer.echo(f"removed {plural(done.files, 'file')} of {size_text(done.size)}")
    if done.in_use:
        typer.echo(f"{plural(done.in_use, 'file')} in use by a running process stayed")


@app.command()
def verify() -> None:
    """Read all of the view bank and compare it with its checksums; exits with 3 if something is damaged.

    Raises:
        DataError: names what is damaged.
    """
    from pinikit.data.view_bank import size_text, user_bank
    from pinikit.reporting.text import plural

    bank = user_bank()
    files, size = len(bank.files()), bank.size()
    if damaged := bank.verify():
        raise DataError(
            f"{len(damaged)} of {plural(files, 'file')} of the view bank damaged; a run that needs "
            "them computes their rows again:\n" + "\n".join(f"  {line}" for line in damaged)
        )
    typer.echo(f"{plural(files, 'file')} of {size_text(size)}, all sound")


def ago(moment: float) -> str:
    """``just now``, ``5 min ago``, ``3 h ago``, ``12 d ago``."""
    minutes = (time.time() - moment) / 60
    for unit, length in (("d", 1440), ("h", 60), ("min", 1)):
        if minutes >= length:
            return f"{int(minutes / length)} {unit} ago"
    return "just now"

"""``pinikit plugins``: which there are, what is wrong with them, a new one, and switching one off."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from pinikit.errors import ConfigError, PluginError

app = typer.Typer(
    help="Plug-ins: components and trackers from installed distributions or the files of --plugins-dir.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The plug-in's name, as 'plugins list' has it.")]


@app.command("list")
def list_plugins() -> None:
    """List the plug-ins, where they come from, and what they add."""
    from pinikit.cli.consoles import output, report_problems
    from pinikit.plugin import plugins

    found = plugins()
    if not found.sources:
        typer.echo("no plug-ins; pinikit plugins new writes one")
        return
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for title in ("plug-in", "version", "from", "state", "components"):
        table.add_column(title, overflow="fold")
    left_out = {(problem.plugin, problem.origin) for problem in found.problems}
    for source in found.sources:
        off = source.name in found.disabled
        state = "off" if off else "left out" if (source.name, source.origin) in left_out else "on"
        parts = ", ".join(_components(source.label)) if state == "on" else ""
        table.add_row(*map(Text, (source.name, source.version, source.origin, state, parts)))
    output().print(table)
    report_problems()


@app.command()
def doctor(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The one to look at; all if left out.")
    ] = None,
) -> None:
    """Import every plug-in and its components, each in a process of its own, and say what is wrong.

    Exits with 4 if something is.
    """
    from pinikit.plugin_doctor import examine

    broken = 0
    for one in examine(name):
        source = one.source
        state = " (off)" if one.disabled else ""
        verdict = "" if one.findings else f": fine{state}; {', '.join(one.components) or 'hooks only'}"
        typer.echo(f"{source.label}, from {source.origin}{verdict}")
        for finding in one.findings:
            typer.echo(f"  wrong: {finding}")
        if one.findings:
            broken += not one.disabled
            typer.echo(f"  whose: {one.owner or 'it does not say'}")
            switch = "it is off" if one.disabled else f"pinikit plugins disable {source.name}"
            typer.echo(f"  to switch it off: {switch}; for good: {source.removal}")
    if broken:
        raise typer.Exit(PluginError.exit_code)


@app.command()
def new(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="noise, injector or loss.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the distribution, e.g. my-noise.")],
    into: Annotated[
        Path, typer.Option("--into", metavar="DIR", help="Where its folder is made; here unless given.")
    ] = Path(),
) -> None:
    """Write a plug-in that works: an installable distribution with one component, tests and a README."""
    from pinikit.plugin_template import write_plugin

    folder = write_plugin(kind, name, into)
    typer.echo(f"wrote {folder}; next:\n  pip install -e '{folder}[test]' && pytest {folder}")


@app.command()
def disable(
    name: Name,
    enable: Annotated[bool, typer.Option("--enable", help="Switch it on again.")] = False,
) -> None:
    """Switch a plug-in off, or on again, for this user, for all processes that start from now on."""
    from pinikit.plugin_doctor import unknown
    from pinikit.plugin_sources import all_sources, disabled, set_disabled, settings_file

    off, names = disabled(), [source.name for source in all_sources()]
    if enable and name not in off:
        raise ConfigError(f"plug-in {name!r} is not off; off are: {', '.join(sorted(off)) or 'none'}")
    if not enable and name not in names:
        raise unknown(name, names)
    set_disabled(off - {name} if enable else off | {name})
    typer.echo(f"{name} is {'on' if enable else 'off'} ({settings_file()})")


def _components(label: str) -> list[str]:
    """What a plug-in added."""
    from pinikit.plugin import registry
    from pinikit.registry import KINDS

    entries = [entry for kind in KINDS for entry in registry().entries(kind) if entry.source == label]
    return [
        f"{entry.kind} {entry.name}{' (in place of a built-in)' if entry.replaces else ''}"
        for entry in entries
    ]

"""The command line: parse, call the Python API, render. It has no logic of its own."""

from __future__ import annotations


def main() -> None:
    """Run the command line of this process; ends it with the documented exit code."""
    from pinikit.cli.app import app

    app(prog_name="pinikit")

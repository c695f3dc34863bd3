"""The command line: parse, call the Python API, render. It has no logic of its own."""

from __future__ import annotations

import os


def main() -> None:
    """Run the command line of this process; ends it with the documented exit code."""
    # Read by torch's OpenMP when it loads. Threads that spin while they wait take the processor from the
    # threads they wait for: beside other busy processes one run took 17 s so, and 45 s with ACTIVE.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pinikit.cli.app import app

    app(prog_name="pinikit")

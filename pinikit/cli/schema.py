"""``pinikit schema``: the JSON Schema of study files, with which editors complete and check them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def schema(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it to a file.")
    ] = None,
) -> None:
    """Write the JSON Schema of study files, with all components of this installation.

    An editor with a YAML language server takes it from the first line of a study:
    # yaml-language-server: $schema=schema.json
    """
    from pinikit.config.json_schema import study_schema
    from pinikit.data.files import write_atomic
    from pinikit.plugin import registry

    text = json.dumps(study_schema(registry()), indent=1, ensure_ascii=False) + "\n"
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_atomic(output, text)

"""The process that :mod:`pinikit.testing.process` starts: makes components and answers with digests."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """Answer each line of the standard input with a line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a component prints is no answer
    for line in sys.stdin:
        try:
            answer = {"digest": _digest(**json.loads(line))}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _digest(kind: str, spec: dict[str, Any], threads: int) -> str:
    import torch

    from pinikit.config.build import create
    from pinikit.testing.probes import digest, probe_of

    torch.set_num_threads(threads)
    return digest(probe_of(kind)(create(kind, spec, "test")))


if __name__ == "__main__":
    main()

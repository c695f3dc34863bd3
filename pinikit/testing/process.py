"""Another process, in which components are made from their configuration and probed."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest


def digest_in_a_process(kind: str, spec: Mapping[str, Any]) -> str:
    """The digest of what a component does in another process, which is started once."""
    import torch

    process = _process()
    assert process.stdin is not None
    assert process.stdout is not None
    job = {"kind": kind, "spec": dict(spec), "threads": torch.get_num_threads()}
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        pytest.fail(f"the other process ended with code {process.wait()}")
    answer: dict[str, str] = json.loads(line)
    if "error" in answer:
        pytest.fail(f"in another process: {answer['error']}")
    return answer["digest"]


@cache
def _process() -> subprocess.Popen[str]:
    """The other process; it ends with this one."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "pinikit.testing"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdin is not None
    atexit.register(process.stdin.close)
    return process

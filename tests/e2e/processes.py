"""Commands in processes of their own, which can be killed, interrupted and starved.

Importing torch takes seconds, so one process imports everything and forks for each command. As drawing a report's
page takes seconds too, a word stands for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

SERVER = '''
import json, os, resource, signal, sys, traceback

import matplotlib.figure, pandas, scipy.stats, timm.optim, torch
import pinikit.study.predictor, pinikit.study.run
import pinikit.components.methods.pini, pinikit.components.methods.zero_shot
import pinikit.reporting.html.page
from pinikit.data import files

pinikit.reporting.html.page.html_page = lambda results, digest: f"page {digest}"


def die_at_write(number):
    """Write half of the file, then die like under kill -9."""
    write, count = files._write_and_sync, 0
    def half(path, data):
        nonlocal count
        count += 1
        write(path, data[: len(data) // 2] if count == number else data)
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
    files._write_and_sync = half


def command(task):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(task["environment"])
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(task[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    if task["die_at_write"]:
        die_at_write(task["die_at_write"])
    if task["file_limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (task["file_limit"],) * 2)
    sys.argv = ["pinikit", *task["words"]]
    from pinikit.cli import main
    code = 1
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)


signal.signal(signal.SIGINT, signal.SIG_IGN)
print("ready", flush=True)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        command(json.loads(line))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
'''


@dataclass(frozen=True)
class Ended:
    """How a command ended; a negative code is the signal that killed it."""

    code: int
    stdout: str
    stderr: str


class Shell:
    """Runs commands, one after the other, with these additions to the environment."""

    def __init__(self, folder: Path, **environment: object) -> None:
        self._folder = folder
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"}
            | {key: str(value) for key, value in environment.items()},
        )
        assert self._read() == "ready"

    def __call__(
        self,
        *words: object,
        meanwhile: Callable[[int], Any] = lambda pid: None,
        die_at_write: int = 0,
        file_limit: int = 0,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> Ended:
        """Run a command to its end.

        Args:
            words: what stands behind ``pinikit``.
            meanwhile: called with the process's id while it runs.
            die_at_write: the number of the file in whose middle the process dies.
            file_limit: largest size of a file in bytes.
            environment: further variables for this command.
        """
        files = {name: self._folder / name for name in ("out", "err")}
        task = {
            "words": list(map(str, words)),
            "die_at_write": die_at_write,
            "file_limit": file_limit,
            "environment": dict(environment),
            **{name: str(path) for name, path in files.items()},
        }
        assert self._server.stdin
        self._server.stdin.write(json.dumps(task) + "\n")
        self._server.stdin.flush()
        meanwhile(int(self._read()))
        code = int(self._read())
        return Ended(code, *(path.read_text() for path in files.values()))

    def close(self) -> None:
        """End the process that forks."""
        assert self._server.stdin
        self._server.stdin.close()
        self._server.wait(timeout=30)

    def _read(self) -> str:
        assert self._server.stdout
        return self._server.stdout.readline().strip()


@contextlib.contextmanager
def shell(folder: Path, **environment: object) -> Iterator[Shell]:
    """A shell that is closed at the end."""
    opened = Shell(folder, **environment)
    try:
        yield opened
    finally:
        opened.close()


def once(condition: Callable[[], bool], number: signal.Signals) -> Callable[[int], None]:
    """Send a signal as soon as the condition holds."""

    def wait(pid: int) -> None:
        deadline = time.monotonic() + 120
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.002)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    return wait

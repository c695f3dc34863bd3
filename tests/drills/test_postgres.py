"""Several workers, one database server: one worker is killed, the server is restarted, the total is exact.

Uses Debian's PostgreSQL (``apt-get install postgresql``), run by an unprivileged user in a folder of its own.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from searching import Drill

BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None, key=lambda path: path.parent.name)
USER = "postgres" if hasattr(os, "geteuid") and os.geteuid() == 0 else None
"""Who runs the server: root may not."""

pytestmark = [
    pytest.mark.drill,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
    pytest.mark.skipif(BINARIES is None, reason="no PostgreSQL server here: apt-get install postgresql"),
    pytest.mark.timeout(400),
]

TRIALS = 9


class Server:
    """A PostgreSQL server of our own on a free port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, _free_port()
        self.url = f"postgresql://tuner@127.0.0.1:{self.port}/postgres"
        self._run("initdb", "-D", "data", "-U", "tuner", "-A", "trust", "-E", "UTF8")

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        self._run("pg_ctl", "-D", "data", "-l", "server.log", "-w", "-o", options, "start")

    def stop(self, how: str = "fast") -> None:
        self._run("pg_ctl", "-D", "data", "-w", "-m", how, "stop")

    def _run(self, program: str, *words: str) -> None:
        assert BINARIES is not None
        command = [str(BINARIES / program), *words]
        with tempfile.TemporaryFile("w+") as output:  # the server would keep a pipe open
            done = subprocess.run(
                command, cwd=self.folder, user=USER, stdout=output, stderr=subprocess.STDOUT, check=False
            )
            output.seek(0)
            assert done.returncode == 0, output.read()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="pinikit-postgres-"))
    if USER is not None:
        shutil.chown(folder, USER)
    found = Server(folder)
    found.start()
    yield found
    found.stop("immediate")
    shutil.rmtree(folder)


def test_three_workers_one_killed_and_a_restart_of_the_database(server: Server, tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="no driver: pip install 'pinikit[postgres]'")
    drill = Drill(tmp_path, server.url, TRIALS)
    try:
        machines = [drill.start(runs="runs"), *(drill.start(runs=f"runs{n}") for n in (2, 3))]
        drill.kill_a_worker(replace=lambda: machines.append(drill.start(runs=f"runs{len(machines) + 1}")))
        drill.wait_for(lambda board: board.done >= 4)
        server.stop()
        server.start()
        ends = sorted(machine.wait(timeout=300) for machine in machines)
        assert ends == [-signal.SIGKILL] * (len(ends) - 2) + [0, 0], drill.output()
        drill.check_total()
        assert "ended without a word" in drill.output()
        workers = {trial.user_attrs["worker"] for trial in drill.board().final.values()}
        assert len(workers) >= 2
    finally:
        drill.stop()

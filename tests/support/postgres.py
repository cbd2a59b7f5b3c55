"""A PostgreSQL server of a test's own, on a Unix socket in a directory of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

QUICK = "-c fsync=off -c shared_buffers=16MB -c max_connections=20 -c listen_addresses="


def programs() -> Path | None:
    """Where its programs are: Debian does not put them into the path."""
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((place for place in reversed(places) if (place / "pg_ctl").exists()), None)


class PostgresServer:
    """One that runs."""

    def __init__(self, bin_: Path, directory: Path, user: str | None) -> None:
        self._bin = bin_
        self._directory = directory
        self._user = user

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self._directory}"

    def make(self) -> None:
        self._run("initdb", "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C")

    def start(self) -> None:
        options = f"{QUICK} -c unix_socket_directories={self._directory}"
        self._run("pg_ctl", "-w", "-o", options, "-l", str(self._directory / "log"), "start")

    def stop(self) -> None:
        """At once, as in a crash."""
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [self._bin / program, *words],
            env={**os.environ, "PGDATA": str(self._directory / "data")},
            user=self._user,
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{program} ended with {done.returncode}"


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Made and started; the test is skipped where there is none, and says so."""
    bin_ = programs()
    if bin_ is None:
        pytest.skip("NO POSTGRESQL HERE: the sink postgres is not tested (Debian: apt install postgresql)")
    # Short, for a socket's path has 100 characters; and not below pytest's, which are root's alone.
    directory = Path(tempfile.mkdtemp(prefix="pg-"))
    user = None
    if os.getuid() == 0:
        # It does not run as root.
        user = "nobody"
        os.chown(directory, pwd.getpwnam(user).pw_uid, -1)
    server = PostgresServer(bin_, directory, user)
    try:
        server.make()
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)

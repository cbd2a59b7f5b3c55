"""Server processes of a test: start one, wait for it, read what it printed, end it with all its children."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.wait import wait_until

REPOSITORY = Path(__file__).resolve().parents[3]
SERVERS = Path(__file__).resolve().parent
LEAVE_TIME = 1.0
"""Seconds that children have to follow their parent."""


def server_command(name: str, *arguments: object) -> list[str]:
    """Return the command line of a server of this folder: ``server_command("echo", "--era", "legacy")``."""
    return [sys.executable, str(SERVERS / f"{name}.py"), *map(str, arguments)]


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass(slots=True, kw_only=True)
class ServerProcess:
    """A running server; standard output and standard error both go to ``log``."""

    popen: subprocess.Popen[bytes]
    log: Path

    def output(self) -> str:
        """Return everything printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def require_alive(self) -> None:
        """Fail with the end of the output if the process has exited."""
        status = self.popen.poll()
        if status is not None:
            tail = self.output()[-4000:]
            raise AssertionError(f"{self.popen.args!r} exited with status {status}; its output ends:\n{tail}")

    def line_beginning(self, prefix: str, *, timeout: float = 20.0) -> str:
        """Wait for a printed line that begins with ``prefix`` and return it."""

        def found() -> str | None:
            self.require_alive()
            complete = self.output().rpartition("\n")[0]
            return next((line for line in complete.splitlines() if line.startswith(prefix)), None)

        wanted = f"a line beginning {prefix!r} of {self.popen.args!r}"
        try:
            line = wait_until(found, timeout=timeout, description=wanted)
        except AssertionError as error:
            raise AssertionError(f"{error}; its output ends:\n{self.output()[-4000:]}") from None
        assert line is not None
        return line

    def descendants(self) -> list[psutil.Process]:
        """Return all processes below this one."""
        try:
            return psutil.Process(self.popen.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def stop(self, *, timeout: float = 20.0) -> list[str]:
        """Send SIGTERM, after ``timeout`` seconds SIGKILL.

        Return the command lines of the children that were left behind a second later; they are killed.
        """
        children = self.descendants()
        if self.popen.poll() is None:
            self.popen.terminate()
        try:
            self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        end = time.monotonic() + LEAVE_TIME
        while (left := [child for child in children if _is_alive(child)]) and time.monotonic() < end:
            time.sleep(0.02)
        return [_kill(process) for process in left]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _kill(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        line = " ".join(process.cmdline()) or f"pid {process.pid}"
        process.kill()
        return line
    return f"pid {process.pid}"


@contextlib.contextmanager
def running(
    command: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    remove: str | None = None,
    cwd: Path = REPOSITORY,
) -> Iterator[ServerProcess]:
    """Start ``command`` and stop it on the way out.

    It gets this process's environment less the names that begin with ``remove``, and ``env``.
    """
    inherited = {
        name: value for name, value in os.environ.items() if not (remove and name.startswith(remove))
    }
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as sink:
        popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**inherited, "PYTHONUNBUFFERED": "1", **(env or {})},
            start_new_session=True,
        )
    process = ServerProcess(popen=popen, log=log)
    try:
        yield process
    finally:
        process.stop()


@contextlib.contextmanager
def running_http(
    name: str, *arguments: object, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Start an HTTP server of this directory on a free port and yield its URL."""
    with running(server_command(name, *arguments), log=log, env=env) as process:
        yield process.line_beginning("listening ").removeprefix("listening ")

"""Processes of the targets: started in groups of their own, found again, weighed, ended. Needs Linux."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import psutil

START_TIMEOUT = 120.0  # seconds; the slowest peer migrates a database at its first start
_STOP_TIMEOUT = 15.0
_POLL_INTERVAL = 0.05
_TOKEN_NAME = "BENCHMARK_TARGET_TOKEN"  # noqa: S105 - the name of a mark, not a secret


class StartError(Exception):
    """A process did not become ready; the message says why and ends with its log."""


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_listening(port: int) -> bool:
    """Whether somebody accepts connections on 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Process:
    """A started program with everything it starts in turn, even what left its group or lost its parent.

    The environment carries a mark, by which orphans are found that no longer descend from the program.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._mark = f"{_TOKEN_NAME}={uuid.uuid4().hex}".encode()
        self._log = log
        self._name = Path(command[0]).name
        name, _, token = self._mark.decode().partition("=")
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                command,
                env={**os.environ, **(env or {}), name: token},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for(
        self, condition: Callable[[], bool], description: str, timeout: float = START_TIMEOUT
    ) -> None:
        """Wait until ``condition`` holds.

        Raises:
            StartError: the program ended, or ``timeout`` seconds have passed.
        """
        end = time.monotonic() + timeout
        while not condition():
            if (code := self._popen.poll()) is not None and not condition():
                raise StartError(f"{self._name} ended with code {code}; its log ends:\n{self.log_tail()}")
            if time.monotonic() > end:
                raise StartError(f"{self._name}: {description} not within {timeout:g} s\n{self.log_tail()}")
            time.sleep(_POLL_INTERVAL)

    def log_text(self) -> str:
        """Return all that the program has printed."""
        return self._log.read_text(errors="replace")

    def log_tail(self, lines: int = 12) -> str:
        """Return the last lines that the program has printed."""
        return "\n".join(f"    | {line[:200]}" for line in self.log_text().splitlines()[-lines:])

    def members(self) -> list[psutil.Process]:
        """Return the program and everything that descends from it or bears its mark."""
        found: dict[int, psutil.Process] = {}
        for root in [self._popen.pid, *self._marked()]:
            if root in found:
                continue
            try:
                process = psutil.Process(root)
                found |= {member.pid: member for member in [process, *process.children(recursive=True)]}
            except psutil.NoSuchProcess:
                continue
        return list(found.values())

    def stop(self) -> None:
        """Ask the program to end, then kill whatever of it is left."""
        members = self.members()
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                self._popen.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                print(
                    f"  note: {self._name} did not end within {_STOP_TIMEOUT:g} s of SIGTERM and was killed"
                )
        kill([*members, *self.members()])
        self._popen.wait()

    def _marked(self) -> Iterable[int]:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    environment = (entry / "environ").read_bytes()
                except OSError:  # ended meanwhile, or not ours
                    continue
                if self._mark in environment.split(b"\0"):
                    yield int(entry.name)


def kill(processes: Iterable[psutil.Process]) -> None:
    """Kill those of ``processes`` that still run (psutil knows a reused id from the process it once was)."""
    for process in processes:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue


def cpu_seconds(processes: Iterable[psutil.Process]) -> dict[int, float]:
    """Return by process id the CPU time so far, user and system, with that of children already gone."""
    times: dict[int, float] = {}
    for process in processes:
        try:
            used = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        times[process.pid] = used.user + used.system + used.children_user + used.children_system
    return times

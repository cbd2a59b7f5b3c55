"""Where one target is set up: its folder, its backends, its processes, and the account of both."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import psutil

from benchmarks.parts import Part, parts_of
from benchmarks.processes import Process, cpu_seconds, is_listening, kill
from benchmarks.tally import read_tallies

BACKEND_FILE = Path(__file__).resolve().parent / "backend.py"


class Transport(StrEnum):
    """How a gateway reaches the backend. Clients always come over Streamable HTTP."""

    STDIO = "stdio"
    HTTP = "http"


class BackendKind(StrEnum):
    """The hand-written backend, or the same tool served by the official SDK."""

    FAST = "fast"
    SDK = "sdk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What one target and its backend have used up so far. CPU in seconds."""

    target_cpu: dict[int, float]
    backend_cpu: dict[int, float]
    backend_calls: int
    parts: Mapping[int, Part] = field(default_factory=dict)

    def target_cpu_since(self, before: Account) -> float:
        """Return the CPU that the target used since ``before``, without its backend's.

        A process that is new counts from zero; the time of one that is gone is in its parent's.
        """
        return max(0.0, sum(self.target_cpu.values()) - sum(before.target_cpu.values()))

    def target_cpu_by_part_since(self, before: Account) -> dict[Part, float]:
        """Return the same, told apart by what the processes are."""
        used = dict.fromkeys(Part, 0.0)
        for account, sign in ((self, 1), (before, -1)):
            for pid, seconds in account.target_cpu.items():
                used[account.parts.get(pid, Part.OTHER)] += sign * seconds
        return {part: max(0.0, seconds) for part, seconds in used.items()}

    def backend_cpu_since(self, before: Account) -> float:
        """Return the CPU that the backend used since ``before``."""
        return sum(used - before.backend_cpu.get(pid, 0.0) for pid, used in self.backend_cpu.items())


class Desk:
    """One target's working place. Everything started through it is ended by `clear`."""

    def __init__(self, folder: Path, *, cache: Path, backend: BackendKind) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.cache = cache
        self._flags = ["--sdk"] if backend is BackendKind.SDK else []
        self._processes: list[Process] = []

    def spawn(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Process:
        """Start a program; its output goes to ``<name>.log`` in the folder."""
        process = Process(command, log=self.folder / f"{name}.log", env=env, cwd=cwd or self.folder)
        self._processes.append(process)
        return process

    def spawn_server(
        self, name: str, command: Sequence[str], *, port: int, env: Mapping[str, str] | None = None
    ) -> Process:
        """Start a program and wait until it listens on ``port``.

        Raises:
            StartError: it does not.
        """
        process = self.spawn(name, command, env=env)
        process.wait_for(lambda: is_listening(port), f"listening on port {port}")
        return process

    def stdio_command(self) -> list[str]:
        """Return the command of this desk's stdio backend."""
        return [sys.executable, str(BACKEND_FILE), "stdio", *self._tally(Transport.STDIO), *self._flags]

    def start_http_backend(self, port: int) -> str:
        """Start this desk's HTTP backend and return its URL.

        Raises:
            StartError: it does not listen.
        """
        tally = self._tally(Transport.HTTP)
        command = [sys.executable, str(BACKEND_FILE), "http", "--port", str(port), *tally, *self._flags]
        self.spawn_server("backend", command, port=port)
        return f"http://127.0.0.1:{port}/mcp"

    def account(self, transport: Transport) -> Account:
        """Return what the target, and its backend behind ``transport``, have used up so far."""
        tallies = read_tallies(self.folder / transport)
        backends = self._backends()
        members = self.members()
        return Account(
            target_cpu=cpu_seconds(members),
            backend_cpu=cpu_seconds(member for pid, member in backends.items() if pid in tallies),
            backend_calls=sum(tallies.values()),
            parts=parts_of(members),
        )

    def members(self) -> list[psutil.Process]:
        """Return all processes that were started here, with their descendants, but for the backends."""
        backends = self._backends()
        found = {member.pid: member for process in self._processes for member in process.members()}
        return [member for pid, member in found.items() if pid not in backends]

    def cpu_by_part(self) -> dict[Part, float]:
        """Return the CPU seconds used so far by part, without the backends'."""
        members = self.members()
        parts, used = parts_of(members), cpu_seconds(members)
        found = dict.fromkeys(Part, 0.0)
        for pid, seconds in used.items():
            found[parts.get(pid, Part.OTHER)] += seconds
        return found

    def clear(self) -> None:
        """End everything that was started here, last first."""
        with ExitStack() as stack:  # a process that cannot be stopped must not keep the others running
            stack.callback(lambda: kill(self._backends().values()))
            for process in self._processes:
                stack.callback(process.stop)
            self._processes = []

    def _tally(self, transport: Transport) -> list[str]:
        return ["--tally", str(self.folder / transport)]

    def _backends(self) -> dict[int, psutil.Process]:
        """Return the live backend processes of this desk, whoever started them."""
        found: dict[int, psutil.Process] = {}
        for pid in {pid for transport in Transport for pid in read_tallies(self.folder / transport)}:
            try:
                process = psutil.Process(pid)
                if str(self.folder) in " ".join(process.cmdline()):  # the id may be another's by now
                    found[pid] = process
            except psutil.NoSuchProcess:
                continue
        return found

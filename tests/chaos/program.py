"""One real process in a process group of its own, that is killed, frozen, and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from common.processes import ProcessGuard
from tests.chaos.journal import Journal

TERM_TIMEOUT = 45.0


class Program:
    """A process by name and kind (``web``, ``worker``, ``backend``, ``redis``); each fault is written to the journal.

    Its standard output and error are appended to ``log`` through all its incarnations. Thread safe.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        log: Path,
        journal: Journal,
        guard: ProcessGuard,
        port: int | None = None,
    ) -> None:
        """``guard`` ends it if the test's own process dies."""
        self.name = name
        self.kind = kind
        self.log = log
        self.port = port
        self.wanted = False
        """Whether it is meant to run: a supervisor starts it again if it does not."""
        self._command = list(command)
        self._env = dict(env)
        self._cwd = cwd
        self._journal = journal
        self._guard = guard
        self._lock = threading.RLock()
        self._popen: subprocess.Popen[bytes] | None = None
        self._frozen = False

    @property
    def pid(self) -> int:
        """Its process id; 0 before the first start."""
        return 0 if self._popen is None else self._popen.pid

    @property
    def alive(self) -> bool:
        """Whether it runs or is frozen."""
        with self._lock:
            return self._popen is not None and self._popen.poll() is None

    def status(self) -> int | None:
        """Its exit status; None while it runs, and before its first start."""
        return None if self._popen is None else self._popen.poll()

    @property
    def frozen(self) -> bool:
        """Whether it was stopped and not continued."""
        return self._frozen

    def start(self) -> None:
        """Start it, if it does not run."""
        with self._lock:
            self.wanted = True
            if self.alive:
                return
            self._guard.discard(self.pid)
            with self.log.open("ab") as sink:
                self._popen = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=sink,
                    env=self._env,
                    cwd=self._cwd,
                    start_new_session=True,
                )
            self._guard.add(self._popen.pid)
            self._frozen = False
            self._tell("start")

    def move(self, env: Mapping[str, str], cwd: Path) -> None:
        """Run with another environment, in another directory, from the next start on."""
        with self._lock:
            self._env, self._cwd = dict(env), cwd

    def kill(self) -> list[psutil.Process]:
        """kill -9 of its whole group, and wait; returns the descendants that it had outside the group."""
        with self._lock:
            below = self.below()
            self._tell("kill")
            self._signal(signal.SIGKILL)
            if self._popen is not None:
                self._popen.wait()
            self._frozen = False
        return below

    def terminate(self, *, timeout: float = TERM_TIMEOUT) -> int:
        """SIGTERM to the program itself, and wait for its end; returns the exit status.

        Raises:
            subprocess.TimeoutExpired: it did not end in time.
        """
        with self._lock:
            popen = self._popen
            self.wanted = False
            if popen is None:
                return 0
            self._tell("term")
            popen.terminate()
        status = popen.wait(timeout)
        self._tell("exit", status=status)
        return status

    def reload(self) -> None:
        """SIGHUP to the program itself: it reads its settings anew."""
        with self._lock:
            if self._popen is not None and self.alive:
                self._tell("hup")
                self._popen.send_signal(signal.SIGHUP)

    def freeze(self) -> None:
        """SIGSTOP to the group."""
        with self._lock:
            if self.alive:
                self._tell("stop")
                self._signal(signal.SIGSTOP)
                self._frozen = True

    def thaw(self) -> None:
        """SIGCONT to the group."""
        with self._lock:
            if self._frozen:
                self._tell("cont")
                self._signal(signal.SIGCONT)
                self._frozen = False

    def below(self) -> list[psutil.Process]:
        """Its living descendants."""
        try:
            return psutil.Process(self.pid).children(recursive=True) if self.alive else []
        except psutil.NoSuchProcess:
            return []

    def output(self) -> str:
        """What it printed, in all its incarnations."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def close(self) -> None:
        """End it for good."""
        self.wanted = False
        with self._lock:
            self._signal(signal.SIGKILL)
            if self._popen is not None:
                self._popen.wait()
            self._guard.discard(self.pid)

    def _signal(self, number: int) -> None:
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def _tell(self, what: str, **more: object) -> None:
        self._journal.write(
            "fault", what=what, process=self.name, kind=self.kind, pid=self.pid, port=self.port, **more
        )


def lives(process: psutil.Process) -> bool:
    """Whether a process runs: a zombie does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False

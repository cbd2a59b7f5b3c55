"""One supervised child: its specification, its process, and whether it is ready."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.processes import ProcessGuard, kill_tree
from gateway_web.supervisor.errors import ChildStartError
from gateway_web.supervisor.logs import log_tail, opened_log

_READY_INTERVAL = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """What to run, and how to tell that it works.

    Attributes:
        name: name in messages and log files; unique among the children of a supervisor.
        argv: command with arguments, never a shell line.
        ready: asked again and again, in a thread of its own, until it is true; it should answer within a
            second and not raise.
        ready_timeout: seconds from start to ready.
        stop_signal: sent to the child alone, not to its group, so that it can end its own workers in order.
        stop_timeout: seconds from ``stop_signal`` to SIGKILL for the child and all that it started.
        log_path: file for its output; None lets it write to our own.
        env: added to our own environment.
        cwd: working directory; None is ours.
    """

    name: str
    argv: Sequence[str]
    ready: Callable[[], bool]
    ready_timeout: float = 30.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout: float = 10.0
    log_path: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: Path | None = None


class ReadinessProbe:
    """Asks ``ready`` in a thread, so that a slow answer of one child never delays the restart of another."""

    def __init__(self, name: str, ready: Callable[[], bool]) -> None:
        self._ready = ready
        self._cancelled = threading.Event()
        self.done = False
        self.error: Exception | None = None
        threading.Thread(target=self._run, name=f"ready-{name}", daemon=True).start()

    def cancel(self) -> None:
        """Stop asking."""
        self._cancelled.set()

    def _run(self) -> None:
        try:
            while not self._cancelled.is_set():
                if self._ready():
                    self.done = True
                    return
                self._cancelled.wait(_READY_INTERVAL)
        except Exception as error:  # noqa: BLE001 - raised again in the supervisor's thread
            self.error = error


class Child:
    """A process for a ``ChildSpec``: the leader of a session of its own, registered at the guard."""

    def __init__(self, spec: ChildSpec, guard: ProcessGuard) -> None:
        self.spec = spec
        self.started_at = 0.0
        self._guard = guard
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._probe: ReadinessProbe | None = None
        self._ready_at: float | None = None

    @property
    def pid(self) -> int | None:
        """Process id, which is also that of the group; None when it does not run."""
        return None if self._process is None else self._process.pid

    @property
    def life(self) -> float:
        """Seconds since it became ready; 0 if it is not."""
        return 0.0 if self._ready_at is None else time.monotonic() - self._ready_at

    def start(self) -> int:
        """Start the process and register it before anything else; return its process id.

        Raises:
            ChildStartError: the command cannot be run.
            ProcessGuardError: it could not be registered; it has been killed again.
        """
        spec = self.spec
        self._ready_at = None
        try:
            process = self._spawn()
        except OSError as error:
            raise ChildStartError(
                f"{spec.name}: cannot run {spec.argv[0]}: {error}", child=spec.name
            ) from error
        self._process = process
        try:
            self._guard.add(process.pid)
        except Exception:
            self.kill()
            raise
        self.started_at = time.monotonic()
        self._probe = ReadinessProbe(spec.name, spec.ready)
        return process.pid

    def exit_status(self) -> int | None:
        """Exit status, negative for a signal, as ``subprocess`` has it; None while the process runs."""
        return None if self._process is None else self._process.poll()

    def became_ready(self) -> bool:
        """True once after each start, when ``ready`` has first been true.

        Raises:
            ChildStartError: ``ready`` raised.
        """
        probe = self._probe
        if probe is None:
            return False
        if probe.error is not None:
            self._probe = None
            message = f"{self.spec.name}: cannot tell whether it is ready: {probe.error}"
            raise ChildStartError(message, child=self.spec.name) from probe.error
        if probe.done:
            self._probe, self._ready_at = None, time.monotonic()
            return True
        return False

    def is_late(self) -> bool:
        """Whether it should have become ready by now."""
        return self._probe is not None and time.monotonic() - self.started_at > self.spec.ready_timeout

    def ask_to_stop(self) -> None:
        """Send ``stop_signal`` to the process alone."""
        if self._process is not None:
            self._process.send_signal(self.spec.stop_signal)

    def kill(self) -> None:
        """SIGKILL for what is left of the process and of all it started; reap it and leave the guard."""
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None
        process, self._process = self._process, None
        if process is None:
            return
        gone = kill_tree(process.pid, grace=0.0)
        if gone:
            process.wait()
            self._guard.discard(process.pid)

    def log_tail(self) -> tuple[str, ...]:
        """The last 20 lines that this process wrote; empty without a log file."""
        return () if self.spec.log_path is None else log_tail(self.spec.log_path, start=self._log_start)

    def _spawn(self) -> subprocess.Popen[bytes]:
        if self.spec.log_path is None:
            return self._popen(None)
        with opened_log(self.spec.log_path) as log:
            self._log_start = os.fstat(log).st_size
            return self._popen(log)

    def _popen(self, output: int | None) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603
            list(self.spec.argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=self.spec.cwd,
            env={**os.environ, **self.spec.env},
            start_new_session=True,
        )


def describe_exit(status: int) -> str:
    """Words for an exit status as ``subprocess`` gives it."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"

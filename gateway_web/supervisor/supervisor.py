"""Start children in order, keep them alive, stop them in reverse."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

from common.processes import ProcessGuard, ProcessGuardError
from gateway_web.supervisor.backoff import Backoff
from gateway_web.supervisor.child import Child, ChildSpec, describe_exit
from gateway_web.supervisor.errors import ChildStartError
from gateway_web.supervisor.events import Event, EventKind
from gateway_web.supervisor.logs import LogFollower

_TICK = 0.05
_GUARD_INTERVAL = 1.0
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(slots=True)
class _Slot:
    """A child and when to start it again."""

    child: Child
    backoff: Backoff
    restart_at: float | None = None


class Supervisor:
    """Runs a fixed list of children.

    ``run`` does everything for a program; ``start``, ``serve`` and ``stop`` are its parts. All of them belong
    to one thread; only ``request_stop`` may be called from elsewhere, signal handlers included.

    A child that dies is started again on its own, after 0.1 s at first and up to 10 s if it keeps dying; the
    others are left alone. What a dead child leaves behind in its session is killed before it is started
    again, since it might hold a port or a file. Children are in sessions of their own, so a Ctrl-C in the
    terminal reaches only the supervisor.

    Args:
        children: in the order to start them; each must be ready before the next is started.
        guard: keeps the promise that no child outlives this process. The caller opens and closes it.
        on_event: told of everything that happens, in the thread of ``run``.
        echo: if given, gets ``(child name, line)`` for every line that a child writes to its log file.
        on_hangup: called in the thread of ``run``, while the children are kept alive, after a SIGHUP; whether that was
            all that it meant. If not, or without it, a SIGHUP stops everything.
        backoff: makes the delays between restarts of one child.
    """

    def __init__(
        self,
        children: Sequence[ChildSpec],
        guard: ProcessGuard,
        on_event: Callable[[Event], None],
        *,
        echo: Callable[[str, str], None] | None = None,
        on_hangup: Callable[[], bool] | None = None,
        backoff: Callable[[], Backoff] = Backoff,
    ) -> None:
        names = [spec.name for spec in children]
        if len(set(names)) != len(names):
            raise ValueError(f"two children have the same name: {', '.join(names)}")
        self._guard = guard
        self._on_event = on_event
        self._echo = echo
        self._slots = [_Slot(Child(spec, guard), backoff()) for spec in children]
        self._followers = [(s.name, LogFollower.at_end(s.log_path)) for s in children if echo and s.log_path]
        self._on_hangup = on_hangup
        self._hung_up = False
        self._guard_check_at = 0.0
        self._stop_requests = 0
        self._stop_signal: signal.Signals | None = None

    @property
    def pids(self) -> Mapping[str, int]:
        """Process ids of the children that run, by name."""
        return {slot.child.spec.name: slot.child.pid for slot in self._slots if slot.child.pid is not None}

    def run(
        self,
        *,
        settled: Callable[[], bool] | None = None,
        on_ready: Callable[[], None] | None = None,
    ) -> signal.Signals | None:
        """Start all children, call ``on_ready``, serve until a signal or ``request_stop``, stop all.

        ``settled`` is asked again and again, while the children are kept alive, until it says that ``on_ready`` may be
        called; it must not block for long.

        The signals are SIGINT, SIGTERM and SIGHUP; a second one, or request, kills what has not stopped yet.
        Must be called in the main thread, whose signal handlers are put back at the end. However it ends, no
        child is left.

        Returns:
            The first signal that came; None for ``request_stop``. A stop during the start is no error.

        Raises:
            ChildStartError: a child ended or did not become ready during the start.
            ProcessGuardError: the guard had no reaper and could not start one during the start.
        """
        with self._handled_signals():
            try:
                if self.start() and (settled is None or self.serve(until=settled)):
                    if on_ready is not None:
                        on_ready()
                    self.serve()
            finally:
                self.stop()
        return self._stop_signal

    def start(self) -> bool:
        """Start the children one after the other; False if a stop was requested meanwhile.

        On an error the caller has to call ``stop``.

        Raises:
            ChildStartError: a child ended or did not become ready.
            ProcessGuardError: the guard has no reaper and cannot start one.
        """
        for count, slot in enumerate(self._slots, start=1):
            if self._stop_requests:
                return False
            self._launch(slot)
            while not self._ready_at_start(slot):
                self._keep_alive(self._slots[: count - 1])
                if self._pause():
                    return False
        return not self._stop_requests

    def serve(self, *, until: Callable[[], bool] = lambda: False) -> bool:
        """Keep the children alive until ``until`` says so, or a stop is requested: then it is False."""
        while not until():
            if self._pause():
                return False
            self._hang_up()
            self._keep_alive(self._slots)
        return True

    def stop(self) -> None:
        """Stop the children in reverse order, each within its ``stop_timeout``; at a second request, kill."""
        for slot in reversed(self._slots):
            if slot.child.pid is not None:
                self._stop_child(slot)
        self._echo_logs()

    def request_stop(self) -> None:
        """Make ``serve`` return and ``start`` give up; the second time, make ``stop`` kill."""
        self._stop_requests += 1

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP and self._on_hangup is not None:
            self._hung_up = True
            return
        self._stop_by(number)

    def _stop_by(self, number: int) -> None:
        if self._stop_signal is None:
            self._stop_signal = signal.Signals(number)
        self.request_stop()

    def signal_children(self, names: Collection[str], number: signal.Signals) -> list[str]:
        """Send a signal to those of these children that run; return their names.

        One that has not set up its signals yet may die of it, and is started again.
        """
        told = []
        for child in (slot.child for slot in self._slots):
            if child.spec.name in names and child.pid is not None and child.exit_status() is None:
                os.kill(child.pid, number)
                told.append(child.spec.name)
        return told

    @contextlib.contextmanager
    def _handled_signals(self) -> Iterator[None]:
        before = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
        for number, handler in before.items():
            if number != signal.SIGHUP or handler != signal.SIG_IGN:  # nohup wants us to outlive the terminal
                signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _hang_up(self) -> None:
        if self._hung_up and self._on_hangup is not None:
            self._hung_up = False
            if not self._on_hangup():
                self._stop_by(signal.SIGHUP)

    def _pause(self) -> bool:
        """One turn of the loop: echo, rest, tell whether to stop."""
        self._echo_logs()
        if not self._stop_requests:
            time.sleep(_TICK)
        return self._stop_requests > 0

    def _launch(self, slot: _Slot) -> None:
        child = slot.child
        slot.restart_at = None
        pid = child.start()
        self._tell(EventKind.STARTED, child, pid=pid)

    def _ready_at_start(self, slot: _Slot) -> bool:
        child, name = slot.child, slot.child.spec.name
        status = child.exit_status()
        if status is not None:
            raise _start_error(child, f"{name} ended while starting: {describe_exit(status)}")
        if child.became_ready():
            self._tell_ready(child)
            return True
        if child.is_late():
            raise _start_error(child, f"{name} was not ready within {child.spec.ready_timeout:g} s")
        return False

    def _keep_alive(self, slots: Sequence[_Slot]) -> None:
        self._check_guard()
        for slot in slots:
            if slot.restart_at is None:
                self._look_after(slot)
            elif time.monotonic() >= slot.restart_at:
                self._relaunch(slot)

    def _check_guard(self) -> None:
        """Replace a dead reaper. Without one we serve on: an outage now is worse than a risk of orphans."""
        if time.monotonic() < self._guard_check_at:
            return
        self._guard_check_at = time.monotonic() + _GUARD_INTERVAL
        try:
            if self._guard.ensure():
                pid = self._guard.reaper_pid
                self._on_event(Event(kind=EventKind.REAPER_RESTARTED, child="reaper", pid=pid))
        except ProcessGuardError as error:
            self._on_event(Event(kind=EventKind.REAPER_LOST, child="reaper", detail=str(error)))

    def _look_after(self, slot: _Slot) -> None:
        child = slot.child
        status = child.exit_status()
        if status is not None:
            self._tell(EventKind.EXITED, child, detail=describe_exit(status))
            self._schedule_restart(slot)
            return
        try:
            if child.became_ready():
                self._tell_ready(child)
            elif child.is_late():
                self._give_up(slot, f"not ready within {child.spec.ready_timeout:g} s")
        except ChildStartError as error:
            self._give_up(slot, str(error))

    def _give_up(self, slot: _Slot, reason: str) -> None:
        self._tell(EventKind.NOT_READY, slot.child, detail=reason)
        self._schedule_restart(slot)

    def _schedule_restart(self, slot: _Slot) -> None:
        life = slot.child.life
        slot.child.kill()
        delay = slot.backoff.delay_after(life)
        slot.restart_at = time.monotonic() + delay
        self._tell(EventKind.RESTARTING, slot.child, seconds=delay)

    def _relaunch(self, slot: _Slot) -> None:
        try:
            self._launch(slot)
        except (ChildStartError, ProcessGuardError) as error:
            self._give_up(slot, str(error))

    def _stop_child(self, slot: _Slot) -> None:
        child = slot.child
        begin = time.monotonic()
        if self._stop_requests < 2:
            self._tell(EventKind.STOPPING, child)
            child.ask_to_stop()
        while child.exit_status() is None:
            if self._stop_requests > 1 or time.monotonic() - begin > child.spec.stop_timeout:
                self._tell(EventKind.KILLED, child)
                break
            self._echo_logs()
            time.sleep(_TICK)
        pid = child.pid
        child.kill()
        self._on_event(
            Event(kind=EventKind.STOPPED, child=child.spec.name, pid=pid, seconds=time.monotonic() - begin)
        )

    def _tell(
        self,
        kind: EventKind,
        child: Child,
        *,
        pid: int | None = None,
        seconds: float | None = None,
        detail: str = "",
    ) -> None:
        event = Event(kind=kind, child=child.spec.name, pid=pid or child.pid, seconds=seconds, detail=detail)
        self._on_event(event)

    def _tell_ready(self, child: Child) -> None:
        self._tell(EventKind.READY, child, seconds=time.monotonic() - child.started_at)

    def _echo_logs(self) -> None:
        if self._echo is None:
            return
        for name, follower in self._followers:
            for line in follower.new_lines():
                self._echo(name, line)


def _start_error(child: Child, problem: str) -> ChildStartError:
    tail = child.log_tail()
    where = f"; the end of {child.spec.log_path}:\n  " + "\n  ".join(tail) if tail else ""
    return ChildStartError(problem + where, child=child.spec.name, log_tail=tail)

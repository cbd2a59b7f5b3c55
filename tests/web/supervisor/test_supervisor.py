"""The supervisor's promises while it serves, with real children, in this process."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.processes import ProcessGuard, is_running
from gateway_web.supervisor import Backoff, ChildSpec, ChildStartError, Event, EventKind, Supervisor
from tests.support.wait import wait_until


def _child(
    name: str, *argv: str, ready: Callable[[], bool] = lambda: True, timeout: float = 10.0
) -> ChildSpec:
    return ChildSpec(name=name, argv=argv or ("sleep", "600"), ready=ready, ready_timeout=timeout)


def _script(text: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", text)


class Served:
    """A supervisor that serves in a thread, and what it has told."""

    def __init__(
        self, guard: ProcessGuard, *children: ChildSpec, backoff: Callable[[], Backoff] = Backoff
    ) -> None:
        self.events: list[Event] = []
        self.supervisor = Supervisor(children, guard, self.events.append, backoff=backoff)

    def of(self, kind: EventKind, child: str) -> list[Event]:
        return [event for event in list(self.events) if event.kind is kind and event.child == child]

    def pid(self, child: str) -> int:
        return wait_until(lambda: self.supervisor.pids.get(child, 0), description=f"{child} runs")


@contextmanager
def serving(*children: ChildSpec, backoff: Callable[[], Backoff] = Backoff) -> Iterator[Served]:
    """Start the children here, serve in a thread, stop at the end."""
    with ProcessGuard(grace=0.5) as guard:
        served = Served(guard, *children, backoff=backoff)
        thread = threading.Thread(target=served.supervisor.serve)
        try:
            assert served.supervisor.start()
            thread.start()
            yield served
        finally:
            served.supervisor.request_stop()
            if thread.ident:
                thread.join()
            served.supervisor.stop()
        assert not served.supervisor.pids


def test_a_killed_child_runs_again_within_a_second_and_the_others_are_left_alone() -> None:
    """kill -9 of one: a new process within 1 s (0.3 s on a free machine), no other child is touched."""
    with serving(_child("redis"), _child("worker"), _child("web")) as served:
        before = dict(served.supervisor.pids)
        killed_at = time.monotonic()
        os.kill(before["worker"], signal.SIGKILL)
        wait_until(lambda: len(served.of(EventKind.READY, "worker")) == 2, description="the worker is back")
        assert time.monotonic() - killed_at < 1.0
        after = served.supervisor.pids
        assert after["worker"] != before["worker"]
        assert (after["redis"], after["web"]) == (before["redis"], before["web"])
        (exited,) = served.of(EventKind.EXITED, "worker")
        assert exited.detail == "killed by SIGKILL"


def test_a_child_that_exits_without_error_is_started_again_too() -> None:
    """Nobody asked it to end."""
    with serving(_child("web")) as served:
        os.kill(served.pid("web"), signal.SIGTERM)
        wait_until(lambda: len(served.of(EventKind.STARTED, "web")) == 2, description="it is back")


def test_what_a_dead_child_leaves_in_its_session_is_killed_before_the_restart(tmp_path: Path) -> None:
    """A worker process that keeps a port would otherwise keep its successor from starting."""
    note = tmp_path / "grandchild"
    forking = _script(
        "import os, time\n"
        f"if not os.fork(): open({str(note)!r}, 'a').write(f'{{os.getpid()}} ')\n"
        "time.sleep(600)"
    )
    with serving(_child("web", *forking, ready=note.exists)) as served:
        grandchild = int(wait_until(note.read_text, description="the grandchild has started").split()[0])
        os.kill(served.pid("web"), signal.SIGKILL)
        wait_until(lambda: len(served.of(EventKind.STARTED, "web")) == 2, description="it is back")
        assert not is_running(grandchild)


def test_delays_grow_while_a_child_keeps_dying() -> None:
    """Each restart waits twice as long as the one before, up to the longest."""

    def quick() -> Backoff:
        return Backoff(first=0.05, longest=0.2, jitter=0.0)

    first_life = threading.Event()

    def ready() -> bool:
        return not first_life.is_set()

    with serving(_child("worker", ready=ready), backoff=quick) as served:
        first_life.set()

        def deaths() -> int:
            return len(served.of(EventKind.RESTARTING, "worker"))

        for count in range(1, 5):
            os.kill(served.pid("worker"), signal.SIGKILL)
            wait_until(lambda: deaths() >= count, description="the death is seen")  # noqa: B023 - used at once
        delays = [event.seconds for event in served.of(EventKind.RESTARTING, "worker")]
        assert delays == [0.05, 0.1, 0.2, 0.2]


def test_a_restarted_child_that_does_not_become_ready_is_killed_and_tried_again() -> None:
    """A process that runs without working is no use."""
    useful = threading.Event()
    useful.set()
    with serving(_child("web", ready=useful.is_set, timeout=0.2)) as served:
        useful.clear()
        os.kill(served.pid("web"), signal.SIGKILL)
        wait_until(lambda: served.of(EventKind.NOT_READY, "web"), description="it is given up")
        useful.set()
        wait_until(lambda: len(served.of(EventKind.READY, "web")) == 2, description="it is back")


def test_a_slow_answer_of_one_child_does_not_delay_the_restart_of_another() -> None:
    """While a readiness question of the web hangs, a killed redis is back within a second."""
    hang = threading.Event()
    answer = threading.Event()

    def ready() -> bool:
        return not hang.is_set() or answer.wait(20)

    with serving(_child("redis"), _child("web", ready=ready)) as served:
        hang.set()
        os.kill(served.pid("web"), signal.SIGKILL)
        wait_until(lambda: len(served.of(EventKind.STARTED, "web")) == 2, description="the web is started")
        killed_at = time.monotonic()
        os.kill(served.pid("redis"), signal.SIGKILL)
        wait_until(lambda: len(served.of(EventKind.READY, "redis")) == 2, description="redis is back")
        assert time.monotonic() - killed_at < 1.0
        answer.set()


def run_until_ready(served: Served, settled: Callable[[], bool]) -> list[str]:
    """Run the supervisor here and stop it as soon as it is ready; what was called."""
    called: list[str] = []

    def on_ready() -> None:
        called.append("ready")
        served.supervisor.request_stop()

    served.supervisor.run(settled=settled, on_ready=on_ready)
    return called


def test_children_are_kept_alive_while_it_settles() -> None:
    """It is ready when it is told so, and not before; a child that dies meanwhile is back by then."""
    with ProcessGuard(grace=0.5) as guard:
        served = Served(guard, _child("web"))
        killed: list[int] = []

        def settled() -> bool:
            assert not [event for event in served.events if event.kind is EventKind.STOPPING]
            if not killed:
                killed.append(served.supervisor.pids["web"])
                os.kill(killed[0], signal.SIGKILL)
            return len(served.of(EventKind.READY, "web")) == 2

        assert run_until_ready(served, settled) == ["ready"]
    assert not served.supervisor.pids


def test_a_stop_while_it_settles_is_no_readiness() -> None:
    """Whoever presses Ctrl-C does not wait for it."""
    with ProcessGuard(grace=0.5) as guard:
        served = Served(guard, _child("web"))

        def settled() -> bool:
            served.supervisor.request_stop()
            return False

        assert run_until_ready(served, settled) == []
    assert served.of(EventKind.STOPPED, "web")


def test_a_dead_reaper_is_replaced_while_serving() -> None:
    """Nobody needs to start or stop for that to be noticed."""
    with serving(_child("web")) as served:
        guard = served.supervisor._guard
        os.kill(guard.reaper_pid or 0, signal.SIGKILL)
        wait_until(lambda: served.of(EventKind.REAPER_RESTARTED, "reaper"), description="a new reaper")
        assert len(served.of(EventKind.STARTED, "web")) == 1


def test_a_child_that_ends_while_starting_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    """Exit status and the last 20 lines of this start, none of an earlier one."""
    log = tmp_path / "logs" / "web.log"
    log.parent.mkdir()
    log.write_text("from yesterday\n")
    spec = ChildSpec(
        name="web",
        argv=_script("import sys\nfor i in range(30): print('line', i)\nsys.exit(3)"),
        ready=lambda: False,
        log_path=log,
    )
    with pytest.raises(ChildStartError) as caught, serving(_child("redis"), spec):
        pass
    assert "web ended while starting: exit status 3" in str(caught.value)
    assert caught.value.child == "web"
    assert caught.value.log_tail == tuple(f"line {i}" for i in range(10, 30))
    assert "line 29" in str(caught.value)


def test_the_tail_of_a_short_log_holds_nothing_of_an_earlier_start(tmp_path: Path) -> None:
    """Yesterday's error would send the user the wrong way."""
    log = tmp_path / "web.log"
    log.write_text("from yesterday\n")
    spec = ChildSpec(name="web", argv=_script("print('today')"), ready=lambda: False, log_path=log)
    with pytest.raises(ChildStartError) as caught, serving(spec):
        pass
    assert caught.value.log_tail == ("today",)


def test_a_child_that_is_not_ready_in_time_is_an_error() -> None:
    """The message names the child and the time it was given."""
    with (
        pytest.raises(ChildStartError, match=r"web was not ready within 0\.2 s"),
        serving(_child("web", ready=lambda: False, timeout=0.2)),
    ):
        pass


def test_a_command_that_cannot_be_run_is_an_error() -> None:
    """No traceback for a missing program."""
    with (
        pytest.raises(ChildStartError, match="web: cannot run /nonexistent/program"),
        serving(_child("web", "/nonexistent/program")),
    ):
        pass


def test_a_readiness_question_that_raises_is_an_error() -> None:
    """A mistake of ours is not taken for a slow start."""

    def broken() -> bool:
        raise LookupError("no such thing")

    with (
        pytest.raises(ChildStartError, match="cannot tell whether it is ready: no such thing"),
        serving(_child("web", ready=broken)),
    ):
        pass


def test_a_child_that_dies_during_the_start_of_a_later_one_is_restarted() -> None:
    """Redis may be killed while the worker is still importing."""
    later = threading.Event()
    with ProcessGuard(grace=0.5) as guard:
        served = Served(guard, _child("redis"), _child("worker", ready=later.is_set))
        thread = threading.Thread(target=served.supervisor.start)
        thread.start()
        try:
            served.pid("worker")
            os.kill(served.pid("redis"), signal.SIGKILL)
            wait_until(lambda: len(served.of(EventKind.READY, "redis")) == 2, description="redis is back")
        finally:
            later.set()
            thread.join()
            served.supervisor.stop()


def test_output_goes_to_the_log_and_to_the_echo(tmp_path: Path) -> None:
    """Both streams of the child, in a private file, and every line to ``echo`` with the child's name."""
    log = tmp_path / "logs" / "web.log"
    lines: list[tuple[str, str]] = []
    text = "import os, time\nos.write(1, b'out\\n')\nos.write(2, b'err\\n')\ntime.sleep(600)"
    spec = ChildSpec(name="web", argv=_script(text), ready=lambda: True, log_path=log)
    with ProcessGuard(grace=0.5) as guard:
        supervisor = Supervisor([spec], guard, lambda _: None, echo=lambda *line: lines.append(line))
        thread = threading.Thread(target=supervisor.serve)
        try:
            assert supervisor.start()
            thread.start()
            wait_until(lambda: len(lines) == 2, description="both lines are echoed")
        finally:
            supervisor.request_stop()
            thread.join()
            supervisor.stop()
    assert sorted(lines) == [("web", "err"), ("web", "out")]
    assert sorted(log.read_text().split()) == ["err", "out"]
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_child_gets_what_its_specification_says(tmp_path: Path) -> None:
    """Working directory, added environment, an empty standard input, a session of its own."""
    log = tmp_path / "web.log"
    text = (
        "import os, sys, time\nprint(os.getcwd(), os.environ['ADDED'], 'PATH' in os.environ, "
        "sys.stdin.read() == '', os.getsid(0) == os.getpid(), flush=True)\ntime.sleep(600)"
    )
    spec = ChildSpec(
        name="web",
        argv=_script(text),
        ready=lambda: log.exists() and log.read_text() != "",
        log_path=log,
        cwd=tmp_path,
        env={"ADDED": "yes"},
    )
    with serving(spec):
        assert log.read_text().split() == [str(tmp_path), "yes", "True", "True", "True"]


def test_two_children_of_one_name_are_refused() -> None:
    """Their log files would be one."""
    with ProcessGuard() as guard, pytest.raises(ValueError, match="same name"):
        Supervisor([_child("web"), _child("web")], guard, lambda _: None)

"""A whole supervised program, from outside: signals, order, and what is left of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.processes import is_running
from tests.support.wait import wait_until

ROOT = Path(__file__).parents[3]


class Program:
    """The running program and what it has said."""

    def __init__(self, state: Path, *children: str) -> None:
        self.state = state
        self.output = state.parent / f"{state.name}.out"
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.web.supervisor.program", str(state), *children],
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def lines(self) -> list[str]:
        return self.output.read_text().splitlines()

    def wait_for(self, pattern: str, *, timeout: float = 20.0) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            return re.search(pattern, self.output.read_text(), re.MULTILINE)

        match = wait_until(found, timeout=timeout, description=f"{pattern!r} in the output")
        assert match is not None
        return match

    def pids(self) -> set[int]:
        """Of children as the events name them, and of toys and their grandchildren as their logs do."""
        named = {
            int(word) for word in re.findall(r"^started \S+ (\d+)$", self.output.read_text(), re.MULTILINE)
        }
        for log in (self.state / "logs").glob("*.log"):
            named |= {int(word) for word in re.findall(r"^pid (\d+)$", log.read_text(), re.MULTILINE)}
        return named

    def order_of_stop(self) -> list[str]:
        return (self.state / "order").read_text().split()


@contextmanager
def running(state: Path, *children: str) -> Iterator[Program]:
    """A program; whatever is left of it is killed at the end."""
    program = Program(state, *children)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.wait()
        for pid in program.pids():
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all_children_in_reverse_order(tmp_path: Path, number: signal.Signals) -> None:
    """Each child has stopped, slow or not, before the one that was started before it is asked to."""
    with running(tmp_path / "s", "steady:a", "slow:b", "steady:c") as program:
        program.wait_for("^all ready")
        started = re.findall(r"^(started|ready) (\w)", program.output.read_text(), re.MULTILINE)
        assert started == [(kind, name) for name in "abc" for kind in ("started", "ready")]
        program.process.send_signal(number)
        assert program.process.wait(10) == 0
        assert program.order_of_stop() == ["c", "b", "a"]
        assert program.lines()[-1] == f"stopped-by {number.name} 0"
        assert len(program.pids()) == 6
        assert not any(is_running(pid) for pid in program.pids())


def test_a_hangup_may_mean_something_else(tmp_path: Path) -> None:
    """Whoever runs the supervisor says so, each time; the children go on."""
    with running(tmp_path / "s", "steady:a", "steady:b", "hangups") as program:
        program.wait_for("^all ready")
        program.process.send_signal(signal.SIGHUP)
        program.wait_for("^told a 0")
        log = tmp_path / "s" / "logs" / "a.log"
        wait_until(lambda: "usr1" in log.read_text(), description="the child to be told")
        assert program.process.poll() is None
        assert all(is_running(pid) for pid in program.pids())
        assert "usr1" not in (tmp_path / "s" / "logs" / "b.log").read_text()
        program.process.send_signal(signal.SIGHUP)
        assert program.process.wait(10) == 0
        assert program.lines()[-1] == "stopped-by SIGHUP 0"


def test_a_child_that_does_not_stop_is_killed_with_its_grandchild(tmp_path: Path) -> None:
    """After its stop timeout, and the one before it is still stopped in order."""
    with running(tmp_path / "s", "steady", "stubborn") as program:
        program.wait_for("^all ready")
        program.process.terminate()
        assert program.process.wait(10) == 0
        program.wait_for("^killed stubborn")
        assert program.order_of_stop() == ["stubborn", "steady"]
        assert not any(is_running(pid) for pid in program.pids())


def test_a_second_signal_kills_at_once(tmp_path: Path) -> None:
    """The slow and the rest are gone well before the slow one would have stopped."""
    with running(tmp_path / "s", "steady", "stubborn:a", "stubborn:b") as program:
        program.wait_for("^all ready")
        program.process.send_signal(signal.SIGINT)
        program.wait_for("^stopping b")
        second = time.monotonic()
        program.process.send_signal(signal.SIGINT)
        assert program.process.wait(10) == 0
        assert time.monotonic() - second < 0.9
        program.wait_for("^killed steady")
        assert not any(is_running(pid) for pid in program.pids())


def test_a_signal_during_the_start_stops_what_was_started(tmp_path: Path) -> None:
    """A child that never becomes ready does not keep the user from leaving, and that is no error."""
    with running(tmp_path / "s", "steady", "never") as program:
        program.wait_for("^started never")
        program.process.send_signal(signal.SIGINT)
        assert program.process.wait(10) == 0
        assert "all ready" not in program.output.read_text()
        assert not any(is_running(pid) for pid in program.pids())


@pytest.mark.parametrize("children", [("redis", "steady", "slow"), ("stubborn", "never")], ids=" ".join)
def test_nothing_is_left_after_kill_9_of_the_supervisor(tmp_path: Path, children: tuple[str, ...]) -> None:
    """Whether all are ready or still starting, every child and grandchild ends within the grace."""
    with running(tmp_path / "s", *children) as program:
        program.wait_for(f"^started {children[-1]}")
        program.process.kill()
        program.process.wait()
        wait_until(lambda: not any(is_running(pid) for pid in program.pids()), description="nothing is left")
        assert program.pids()


def test_a_new_instance_waits_for_the_remains_of_a_killed_one(tmp_path: Path) -> None:
    """Two servers never share the data: the next ``up`` starts when the reaper of the killed one is done."""
    with running(tmp_path / "s", "redis", "stubborn") as first:
        first.wait_for("^all ready")
        old = first.pids()
        first.process.kill()
        with running(tmp_path / "s", "redis") as second:
            second.wait_for("^started redis")
            assert not any(is_running(pid) for pid in old)
            second.wait_for("^all ready")
            second.process.terminate()
            assert second.process.wait(10) == 0


def test_a_second_instance_is_told_who_holds_the_state_directory(tmp_path: Path) -> None:
    """The error names the process and both ways out; the first instance is not disturbed."""
    with running(tmp_path / "s", "steady") as first:
        first.wait_for("^all ready")
        second = subprocess.run(
            [sys.executable, "-m", "tests.web.supervisor.program", str(tmp_path / "s"), "steady"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert second.returncode == 1
        assert f"process {first.process.pid} already runs" in second.stdout
        assert "CANALGATE_STATE_DIR" in second.stdout
        assert first.process.poll() is None

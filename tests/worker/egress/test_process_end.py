"""The end of a child: in time, with all that came of it, and nothing of ours is left."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from common.domain.tool import StdioTransport
from common.processes import ProcessGuard, is_running
from gateway_worker.egress.process import STOP_GRACE, Child
from tests.support.aio import on_loop, until
from tests.support.backends import descendants, open_files, stdio_transport
from tests.support.servers.process import REPOSITORY

CLOSE_BOUND = 5.0


def python(code: str, **fields: object) -> StdioTransport:
    """A child that runs some lines of Python."""
    return StdioTransport(command=sys.executable, args=("-c", code), **fields)  # type: ignore[arg-type]


def child(transport: StdioTransport, guard: ProcessGuard) -> Child:
    """A child, not yet started."""
    return Child(transport, guard, line_limit=1 << 20)


@on_loop
async def test_a_well_behaved_child_ends_with_its_input(guard: ProcessGuard) -> None:
    """It is not killed, and not waited for longer than it takes."""
    ran = child(stdio_transport("echo"), guard)
    await ran.start()
    begun = time.monotonic()
    await ran.stop()
    assert time.monotonic() - begun < STOP_GRACE
    assert await ran.end_words() == "the tool's process ended with exit status 0"


@on_loop
async def test_a_stubborn_child_is_killed_in_time(guard: ProcessGuard, quick_stop: None) -> None:
    """One that ignores the end of its input and SIGTERM is gone after twice the grace (in full: test_stdio)."""
    ran = child(stdio_transport("misbehaving", "--mode", "ignores_sigterm"), guard)
    await ran.start()
    ran.stdin.write(b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}\n')
    await ran.stdout.readline()  # it is deaf by now
    begun = time.monotonic()
    await ran.stop()
    assert time.monotonic() - begun < 2.0
    assert await ran.end_words() == "the tool's process was ended by signal 9"
    assert not is_running(ran.process.pid)


@on_loop
async def test_the_whole_family_ends(guard: ProcessGuard, tmp_path: Path) -> None:
    """A grandchild in the group, which holds the pipes, goes with its parent."""
    pid_file = tmp_path / "pid"
    ran = child(stdio_transport("misbehaving", "--mode", "spawns_grandchild", "--pid-file", pid_file), guard)
    await ran.start()
    await until(pid_file.exists, description="the grandchild's pid")
    await ran.stop()
    assert not is_running(ran.process.pid)
    assert not is_running(int(pid_file.read_text()))


@pytest.mark.parametrize("stubborn", [(), ("--stubborn",)], ids=["obedient", "stubborn"])
def test_daemons_end_with_the_child(stubborn: tuple[str, ...], guard: ProcessGuard, tmp_path: Path) -> None:
    """They left its group, its session and itself; its mark is still upon them."""

    @on_loop
    async def scenario() -> None:
        pid_file = tmp_path / "pids"
        options = ("--daemons", 3, "--pid-file", pid_file, *stubborn)
        ran = child(stdio_transport("forking", *options), guard)
        await ran.start()
        await until(lambda: pid_file.exists() and len(_pids(pid_file)) == 3, description="three daemons")
        await ran.stop(hasty=True)
        assert not any(map(is_running, [ran.process.pid, *_pids(pid_file)]))

    scenario()


def _pids(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()]


@on_loop
async def test_a_child_that_hangs_is_ended_hastily(guard: ProcessGuard) -> None:
    """One second for all that it gets, in place of four."""
    ran = child(stdio_transport("misbehaving", "--mode", "hangs", "--when", "start"), guard)
    await ran.start()
    await until(ran.stderr_tail, description="a deaf child")
    begun = time.monotonic()
    await ran.stop(hasty=True)
    assert time.monotonic() - begun < 1.2
    assert not is_running(ran.process.pid)


@on_loop
async def test_a_tool_may_be_a_gateway_itself(guard: ProcessGuard) -> None:
    """Our mark is no setting to it that it would complain of."""
    code = (
        "import os; from common.settings import layers; print(layers.from_environment(os.environ).problems)"
    )
    ran = child(
        python(code, cwd=str(REPOSITORY)),
        guard,
    )
    await ran.start()
    assert await ran.stdout.read() == b"[]\n"
    await ran.stop()


@on_loop
async def test_a_daemon_that_keeps_the_pipes_holds_up_nobody(guard: ProcessGuard, tmp_path: Path) -> None:
    """One that emptied its environment and left the session is out of reach once its parent is gone.

    Stopping the child ends in time all the same, and lets go of the pipes.
    """
    pid_file = tmp_path / "pid"
    daemon_code = "import time; time.sleep(60)"
    code = (
        "import os, sys\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        f"        open({str(pid_file)!r} + '.new', 'w').write(str(os.getpid()))\n"
        f"        os.replace({str(pid_file)!r} + '.new', {str(pid_file)!r})\n"
        f"        os.execve(sys.executable, [sys.executable, '-c', {daemon_code!r}], {{}})\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "input()"
    )
    files = open_files()
    ran = child(python(code), guard)
    await ran.start()
    await until(pid_file.exists, description="the daemon's pid")
    daemon = int(pid_file.read_text())
    await until(lambda: psutil.Process(daemon).environ() == {}, description="the daemon without environment")
    try:
        begun = time.monotonic()
        async with asyncio.timeout(CLOSE_BOUND * 2):
            await ran.stop()
        assert time.monotonic() - begun < CLOSE_BOUND
        assert is_running(daemon)
        await until(lambda: open_files() <= files, description="our ends of the pipes to be closed")
    finally:
        os.kill(daemon, 9)


@on_loop
async def test_stopping_again_and_at_once_is_harmless(guard: ProcessGuard) -> None:
    """Several tasks may stop the same child."""
    ran = child(stdio_transport("echo"), guard)
    await ran.start()
    await asyncio.gather(ran.stop(), ran.stop(), ran.stop())
    await ran.stop()
    assert not is_running(ran.process.pid)


@on_loop
async def test_the_end_is_known_though_a_descendant_holds_the_pipes(
    guard: ProcessGuard, tmp_path: Path
) -> None:
    """The child's own death counts, not the end of its output."""
    pid_file = tmp_path / "pid"
    ran = child(stdio_transport("misbehaving", "--mode", "spawns_grandchild", "--pid-file", pid_file), guard)
    await ran.start()
    await until(pid_file.exists, description="the grandchild's pid")
    os.kill(ran.process.pid, 9)
    async with asyncio.timeout(2.0):
        await ran.exited.wait()
    assert await ran.end_words() == "the tool's process was ended by signal 9"
    await ran.stop()
    assert not is_running(int(pid_file.read_text()))


@on_loop
async def test_nothing_piles_up(guard: ProcessGuard) -> None:
    """After 30 children the files and processes are those of before, and the reaper knows none of them any more."""
    guard.start()
    files, processes = open_files(), len(descendants())
    for _ in range(30):
        ran = child(python("input()"), guard)
        await ran.start()
        await ran.stop()
        assert ran.process.pid not in guard._groups
    await until(lambda: open_files() <= files, description="file descriptors back", shown=open_files)
    assert len(descendants()) == processes

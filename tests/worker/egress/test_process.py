"""A child process: what it is given, what is kept of it, and that nothing of it is left afterwards."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import orjson
import psutil
import pytest

from common.domain.errors import GatewayError, TransportFailure
from common.domain.tool import MASK, StdioTransport
from common.processes import ProcessGuard, is_running
from gateway_worker.egress.process import (
    INHERITED,
    STDERR_LINE_LENGTH,
    STDERR_LINES,
    STOP_GRACE,
    Child,
    child_environment,
)
from tests.support.aio import on_loop, until
from tests.support.backends import descendants, open_files, stdio_transport

CLOSE_BOUND = 5.0


def python(code: str, **fields: object) -> StdioTransport:
    """A child that runs some lines of Python."""
    return StdioTransport(command=sys.executable, args=("-c", code), **fields)  # type: ignore[arg-type]


def child(transport: StdioTransport, guard: ProcessGuard) -> Child:
    """A child, not yet started."""
    return Child(transport, guard, line_limit=1 << 20)


async def said(transport: StdioTransport, guard: ProcessGuard) -> list[str]:
    """What a child left of its standard error once it has ended."""
    ran = child(transport, guard)
    await ran.start()
    await ran.stdout.read()
    await ran.process.wait()
    await ran.stop()
    return ran.stderr_tail()


def test_the_environment_is_minimal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of ours but the listed names, and what the definition declares, which wins."""
    monkeypatch.setenv("CANALGATE_REDIS__URL", "redis://:secret@host")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("HOME", "/home/us")
    seen = child_environment({"TOKEN": "theirs", "HOME": "/home/them"})
    assert seen["PATH"] == os.environ["PATH"]
    assert (seen["TOKEN"], seen["HOME"]) == ("theirs", "/home/them")
    assert "secret" not in str(seen)


def test_a_real_child_sees_no_secret_of_ours(guard: ProcessGuard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the listed names, what is declared, and what Python adds by itself."""
    monkeypatch.setenv("CANALGATE_REDIS__URL", "redis://:our-secret@host")

    @on_loop
    async def scenario() -> None:
        code = "import json, os; print(json.dumps(dict(os.environ)))"
        ran = child(python(code, env={"TOKEN": "theirs"}), guard)
        await ran.start()
        seen = orjson.loads(await ran.stdout.read())
        await ran.stop()
        assert seen.keys() <= {*INHERITED, "TOKEN", "LC_CTYPE"}
        assert seen["TOKEN"] == "theirs"
        assert "our-secret" not in str(seen)

    scenario()


@on_loop
async def test_the_child_leads_a_session_of_its_own(guard: ProcessGuard) -> None:
    """A signal to our group (Ctrl-C) does not reach it, and its whole family can be ended."""
    ran = child(python("input()"), guard)
    await ran.start()
    pid = ran.process.pid
    assert os.getpgid(pid) == os.getsid(pid) == pid
    await ran.stop()


@pytest.mark.parametrize(
    ("transport", "words"),
    [
        (StdioTransport(command="no-such-command-anywhere"), ["command", "no-such-command-anywhere"]),
        (StdioTransport(command="/no/such/file"), ["command", "/no/such/file"]),
        (python("pass", cwd="/no/such/directory"), ["cwd", "/no/such/directory"]),
        (StdioTransport(command=__file__), ["command", __file__, "Permission denied"]),
        (StdioTransport(command="/"), ["command", "'/'", "Permission denied"]),
        (StdioTransport(command="a\0b"), ["command", "null"]),
        (python("pass", cwd=__file__), ["cwd", __file__]),
    ],
    ids=["not on PATH", "no file", "no cwd", "not executable", "a directory", "null byte", "cwd is a file"],
)
def test_a_child_that_cannot_be_started(
    transport: StdioTransport, words: list[str], guard: ProcessGuard
) -> None:
    """The error names what is at fault, and a stop afterwards is harmless."""

    @on_loop
    async def scenario() -> None:
        refused = child(transport, guard)
        with pytest.raises(TransportFailure) as caught:
            await refused.start()
        for word in words:
            assert word in caught.value.message
        await refused.stop()

    scenario()


@on_loop
async def test_a_child_that_cannot_be_guarded_does_not_live() -> None:
    """Without the reaper's promise there is no child: the failure to register it ends it."""
    closed = ProcessGuard()
    closed.close()
    unguarded = child(python("input()"), closed)
    before = {process.pid for process in descendants()}
    with pytest.raises(GatewayError):
        await unguarded.start()
    await until(lambda: {process.pid for process in descendants()} <= before, description="no new child")


# -- standard error -------------------------------------------------------------------------------------


@on_loop
async def test_the_last_lines_of_standard_error_are_kept(guard: ProcessGuard) -> None:
    """So many lines, each cut, the last one even without its line end."""
    code = (
        "import sys\nfor i in range(200): print(i, 'x' * 1000, file=sys.stderr)\nsys.stderr.write('the end')"
    )
    tail = await said(python(code), guard)
    assert len(tail) == STDERR_LINES
    assert tail[-1] == "the end"
    assert tail[-2].startswith("199 ")
    assert max(map(len, tail)) == STDERR_LINE_LENGTH


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ("s3cret-token", "the token is s3cret-token."),
        ("line one\nline two", "key: line one\nand line two"),
        ("käse-secret", "käse-secret"),
    ],
    ids=["one line", "several lines", "not ASCII"],
)
def test_declared_values_are_masked(value: str, printed: str, guard: ProcessGuard) -> None:
    """A child that prints its environment does not put our secrets into our logs."""

    @on_loop
    async def scenario() -> None:
        transport = python(
            f"import sys; sys.stderr.buffer.write({printed!r}.encode())", env={"SECRET": value}
        )
        tail = "\n".join(await said(transport, guard))
        assert MASK in tail
        for line in value.splitlines():
            assert line not in tail

    scenario()


@on_loop
async def test_of_two_secrets_the_longer_is_masked_whole(guard: ProcessGuard) -> None:
    """One that begins like another leaves no rest behind."""
    transport = python(
        "import sys; sys.stderr.write('abcdEFGH abcd')", env={"SHORT": "abcd", "LONG": "abcdEFGH"}
    )
    assert await said(transport, guard) == [f"{MASK} {MASK}"]


@on_loop
async def test_a_secret_in_a_very_long_line_is_masked(guard: ProcessGuard) -> None:
    """Also where the line is cut in the middle of the secret, and where an earlier secret moved the cut."""
    secret, earlier = "0123456789abcdef", "e" * 60
    code = (
        "import os\n"
        f"for n in range({STDERR_LINE_LENGTH - 110}, {STDERR_LINE_LENGTH + 90}, 4):\n"
        "    line = os.environ['EARLIER'] + '-' * (n - 60) + os.environ['SECRET']\n"
        "    os.write(2, line.encode() + b'=' * 100000 + b'\\n')"
    )
    tail = await said(python(code, env={"SECRET": secret, "EARLIER": earlier}), guard)
    assert len(tail) == STDERR_LINES
    for line in tail:
        assert not any(secret[i : i + 4] in line for i in range(len(secret) - 3)), line


@on_loop
async def test_a_flood_of_standard_error_blocks_nobody_and_costs_no_memory(guard: ProcessGuard) -> None:
    """64 MiB, half of it in one line, are read and dropped."""
    us = psutil.Process()
    code = (
        "import os\n"
        "for _ in range(512): os.write(2, b'x' * 65536)\n"
        "for _ in range(512): os.write(2, (b'y' * 63 + b'\\n') * 1024)"
    )
    before = us.memory_info().rss
    tail = await said(python(code), guard)
    assert tail[-1] == "y" * 63
    assert us.memory_info().rss - before < 16 << 20


# -- the end --------------------------------------------------------------------------------------------


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


@on_loop
async def test_a_daemon_that_keeps_the_pipes_holds_up_nobody(guard: ProcessGuard, tmp_path: Path) -> None:
    """A descendant that left the session is out of reach; stopping its parent ends in time all the same."""
    pid_file = tmp_path / "pid"
    code = (
        "import os, signal, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        f"    open({str(pid_file)!r} + '.new', 'w').write(str(os.getpid()))\n"
        f"    os.replace({str(pid_file)!r} + '.new', {str(pid_file)!r})\n"
        "    time.sleep(60)\n"
        "else:\n"
        "    input()"
    )
    files = open_files()
    ran = child(python(code), guard)
    await ran.start()
    await until(pid_file.exists, description="the daemon's pid")
    daemon = int(pid_file.read_text())
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

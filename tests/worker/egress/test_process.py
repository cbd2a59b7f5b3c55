"""A child process: what it is given, what is kept of it, and that nothing of it is left afterwards."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import orjson
import psutil
import pytest

from common.domain.errors import GatewayError, TransportFailure
from common.domain.tool import MASK, StdioTransport
from common.processes import MARK_NAME, ProcessGuard
from gateway_worker.egress.child_watcher import DescriptorWatcher
from gateway_worker.egress.link import LinkLost
from gateway_worker.egress.process import INHERITED, Child, child_environment
from gateway_worker.egress.stderr import STDERR_LINE_LENGTH, STDERR_LINES
from tests.support.aio import on_loop, until
from tests.support.backends import descendants, open_files


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
    """Only the listed names, what is declared, our mark, and what Python adds by itself."""
    monkeypatch.setenv("CANALGATE_REDIS__URL", "redis://:our-secret@host")

    @on_loop
    async def scenario() -> None:
        code = "import json, os; print(json.dumps(dict(os.environ)))"
        ran = child(python(code, env={"TOKEN": "theirs"}), guard)
        await ran.start()
        seen = orjson.loads(await ran.stdout.read())
        await ran.stop()
        assert seen.keys() <= {*INHERITED, "TOKEN", "LC_CTYPE", MARK_NAME}
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


@pytest.mark.parametrize(
    "fault",
    [OSError(24, "Too many open files"), RuntimeError("can't start new thread")],
    ids=["files", "threads"],
)
def test_a_child_that_asyncio_started_and_forgot_is_ended(
    fault: Exception, guard: ProcessGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts a process first and then arranges to learn of its end; where only that fails, nothing is left."""

    def no_watch(*_: object) -> None:
        raise fault

    @on_loop
    async def scenario() -> None:
        before, files = {process.pid for process in descendants()}, open_files()
        with monkeypatch.context() as patched:
            patched.setattr(DescriptorWatcher, "add_child_handler", no_watch)
            forgotten = child(python("import time; time.sleep(60)"), guard)
            with pytest.raises(LinkLost) as caught:
                await forgotten.start()
            assert caught.value.unsent
        await until(lambda: {p.pid for p in descendants()} <= before, description="no new child")
        await until(lambda: open_files() <= files, description="descriptors back", shown=open_files)
        ran = child(python("input()"), guard)
        await ran.start()
        await ran.stop()
        assert await ran.end_words() == "the tool's process ended with exit status 1", (
            "as input() ends without any"
        )

    if sys.version_info >= (3, 12):
        pytest.skip("from 3.12 on the watch over children is asyncio's own")
    scenario()


@on_loop
async def test_children_cost_no_threads(guard: ProcessGuard) -> None:
    """Their ends are learnt by descriptors."""
    before = threading.active_count()
    children = [child(python("input()"), guard) for _ in range(10)]
    for ran in children:
        await ran.start()
    assert threading.active_count() == before
    await asyncio.gather(*(ran.stop() for ran in children))


def test_the_ends_of_children_are_learnt_on_any_loop(guard: ProcessGuard) -> None:
    """The worker's loop runs beside the main thread."""

    async def end() -> str:
        ran = child(python("raise SystemExit(7)"), guard)
        await ran.start()
        async with asyncio.timeout(10):
            await ran.exited.wait()
        await ran.stop()
        return await ran.end_words()

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(asyncio.run, end()).result(20) == "the tool's process ended with exit status 7"


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

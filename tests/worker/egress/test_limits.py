"""The limits of a tool's process: in force from its first instruction, for whatever it starts, and nobody else."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from typing import Any

import orjson
import pytest

from common.domain.errors import TransportFailure
from common.domain.rules import ProcessLimits
from common.domain.tool import StdioTransport
from common.mcp.revisions import Era
from common.processes import ProcessGuard, is_running
from common.processes import limits as limits_module
from gateway_worker.egress.backend import connect, make_link
from gateway_worker.egress.link import LinkLost
from gateway_worker.egress.process import Child
from gateway_worker.egress.stdio import StdioLink
from tests.support.aio import on_loop
from tests.support.backends import MAX_BYTES, descendants, stdio_tool
from tests.worker.egress.stdio_links import call

LIMITS = ProcessLimits(open_files=64, processes=5000, file_bytes=1 << 20, memory_bytes=1 << 30)
SHOW = """
import json, resource, sys
names = ("RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_FSIZE", "RLIMIT_AS", "RLIMIT_CORE")
print(json.dumps({name: resource.getrlimit(getattr(resource, name)) for name in names}), flush=True)
"""
SHOW_BELOW = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {SHOW!r}]))"


def python(code: str, **fields: Any) -> StdioTransport:
    """A child that runs some lines of Python."""
    return StdioTransport(command=sys.executable, args=("-c", code), **fields)


async def output(
    transport: StdioTransport, guard: ProcessGuard, limits: ProcessLimits
) -> tuple[bytes, Child]:
    """What a child printed until its end, and the ended child."""
    ran = Child(transport, guard, line_limit=1 << 20, limits=limits)
    await ran.start()
    ran.stdin.close()
    printed = await ran.stdout.read()
    await ran.exited.wait()
    await ran.stop()
    return printed, ran


@pytest.fixture
def without_prlimit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without util-linux."""
    monkeypatch.setattr(limits_module, "_prlimit", lambda: None)


@pytest.mark.parametrize("code", [SHOW, SHOW_BELOW], ids=["the child", "what it starts"])
@on_loop
async def test_the_limits_are_in_force(code: str, guard: ProcessGuard) -> None:
    """All of them, soft and hard, and no core dumps."""
    printed, _ = await output(python(code), guard, LIMITS)
    assert orjson.loads(printed) == {
        "RLIMIT_NOFILE": [64, 64],
        "RLIMIT_NPROC": [5000, 5000],
        "RLIMIT_FSIZE": [1 << 20, 1 << 20],
        "RLIMIT_AS": [1 << 30, 1 << 30],
        "RLIMIT_CORE": [0, 0],
    }


@on_loop
async def test_without_prlimit_they_are_set_at_once_after_the_start(
    guard: ProcessGuard, without_prlimit: None
) -> None:
    """From outside, on the running process."""
    waits = f"input()\n{SHOW}"
    ran = Child(python(waits), guard, line_limit=1 << 20, limits=LIMITS)
    await ran.start()
    ran.stdin.write(b"\n")
    shown = orjson.loads(await ran.stdout.readline())
    await ran.stop()
    assert shown["RLIMIT_NOFILE"] == [64, 64]
    assert shown["RLIMIT_AS"] == [1 << 30, 1 << 30]
    assert shown["RLIMIT_CORE"] == [0, 0]


@on_loop
async def test_a_child_without_limits_has_ours_but_for_core_dumps(guard: ProcessGuard) -> None:
    """Nothing else is taken from it."""
    ran = Child(python(f"input()\n{SHOW}"), guard, line_limit=1 << 20)
    await ran.start()
    ran.stdin.write(b"\n")
    shown = orjson.loads(await ran.stdout.readline())
    await ran.stop()
    assert shown["RLIMIT_CORE"] == [0, 0]
    assert shown["RLIMIT_NOFILE"] == list(resource.getrlimit(resource.RLIMIT_NOFILE))
    assert shown["RLIMIT_AS"] == list(resource.getrlimit(resource.RLIMIT_AS))


@on_loop
async def test_a_limit_above_our_own_is_ours(guard: ProcessGuard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody without privileges can raise one; asking for it is no reason not to start."""
    monkeypatch.setattr(limits_module.resource, "getrlimit", lambda _: (100, 200))
    printed, _ = await output(python(SHOW), guard, ProcessLimits(open_files=5000))
    assert orjson.loads(printed)["RLIMIT_NOFILE"] == [200, 200]


EXCEED = {
    "open_files": "files = []\nwhile True: files.append(open('/dev/null'))",
    "file_bytes": "open({path!r}, 'wb').write(b'x' * (2 << 20))",
    "memory_bytes": "b'x' * (2 << 30)",
}
WORDS = {"open_files": "Too many open files", "file_bytes": "File too large", "memory_bytes": "MemoryError"}


@pytest.mark.parametrize("which", list(EXCEED))
def test_a_limit_holds(which: str, guard: ProcessGuard, tmp_path: Any) -> None:
    """Who goes beyond is told so by the system."""

    @on_loop
    async def scenario() -> None:
        code = EXCEED[which].format(path=str(tmp_path / "file"))
        _, ran = await output(python(code), guard, LIMITS)
        assert WORDS[which] in ran.stderr_tail()[-1]

    scenario()


@on_loop
async def test_the_number_of_processes_is_limited(guard: ProcessGuard) -> None:
    """Not for root: so the child becomes somebody else first."""
    forks = "for i in 1 2 3 4 5 6; do sleep 60 & echo forked; done"
    command = ("sh", "-c", forks)
    if os.geteuid() == 0:
        command = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *command)
    transport = StdioTransport(command=command[0], args=command[1:], cwd="/")
    ran = Child(transport, guard, line_limit=1 << 20, limits=ProcessLimits(processes=3))
    await ran.start()
    await ran.exited.wait()
    await ran.stop()
    assert "fork" in ran.stderr_tail()[-1]
    assert (await ran.stdout.read()).count(b"forked") <= 2


@on_loop
async def test_a_tool_lives_within_its_limits(guard: ProcessGuard) -> None:
    """The link of a tool has them, and calls go on as ever."""
    tool = stdio_tool(limits=ProcessLimits(open_files=64))
    link = make_link(tool, guard, max_bytes=MAX_BYTES)
    assert isinstance(link, StdioLink)
    try:
        backend = await connect(link, [Era.LEGACY])
        await backend.request("tools/call", call("echo", text="x"))
        pid = link.child.process.pid
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (64, 64)
        assert link.child._limits == tool.limits
    finally:
        await link.close()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("no-such-command-anywhere", ["not found", "no-such-command-anywhere"]),
        ("/no/such/file", ["not found", "/no/such/file"]),
        (__file__, ["Permission denied", __file__]),
        ("/", ["Permission denied", "'/'"]),
    ],
)
def test_a_command_that_is_at_fault_is_named(command: str, words: list[str], guard: ProcessGuard) -> None:
    """As without limits, and not by an exit status of ``prlimit``."""

    @on_loop
    async def scenario() -> None:
        refused = Child(StdioTransport(command=command), guard, line_limit=1 << 20, limits=LIMITS)
        with pytest.raises(LinkLost) as caught:
            await refused.start()
        for word in words:
            assert word in caught.value.message
        assert caught.value.unsent

    scenario()


@on_loop
async def test_a_command_is_found_where_the_child_looks_for_it(guard: ProcessGuard, tmp_path: Any) -> None:
    """On the declared PATH, or below the working directory."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "hello"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    path = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    for transport in (
        StdioTransport(command="hello", env=path),
        StdioTransport(command="bin/hello", cwd=str(tmp_path)),
    ):
        printed, _ = await output(transport, guard, LIMITS)
        assert printed == b"hello\n"


@on_loop
async def test_a_platform_without_limits_says_so(
    guard: ProcessGuard, without_prlimit: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that is to be limited and cannot be does not live; one without limits does."""
    monkeypatch.setattr(limits_module.sys, "platform", "darwin")
    before = {process.pid for process in descendants()}
    limited = Child(python("input()"), guard, line_limit=1 << 20, limits=LIMITS)
    with pytest.raises(TransportFailure, match="Linux only") as caught:
        await limited.start()
    assert "limit_" in caught.value.message
    assert {process.pid for process in descendants()} <= before
    free = Child(python("input()"), guard, line_limit=1 << 20)
    await free.start()
    assert is_running(free.process.pid)
    await free.stop()


def test_prlimit_is_what_we_test_with() -> None:
    """The tests above mean what they say on a machine with util-linux, as CI's is."""
    assert shutil.which("prlimit")

"""Children that die, hang, flood, lie and multiply, and machines that run out of something: C3 to C8, and C19."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from common.domain.errors import ErrorCode
from common.domain.rules import ProcessLimits
from common.mcp.revisions import Era
from common.processes import ProcessGuard, is_running
from gateway_worker.egress.backend import connect, start
from gateway_worker.egress.link import LinkLost
from tests.support.aio import on_loop, until
from tests.support.backends import MAX_BYTES, descendants, misbehaving, open_files, stdio_tool, text_of
from tests.support.servers.process import REPOSITORY
from tests.support.wait import wait_until
from tests.worker.egress.stdio_links import call, connected, link_to

pytestmark = pytest.mark.chaos_fast

ROUNDS = 4
GONE = 2.0
"""Seconds after which nothing may be left of a child."""


@pytest.fixture(scope="module")
def guard() -> Iterator[ProcessGuard]:
    """One guard, as in a worker."""
    with ProcessGuard(grace=1) as guard:
        yield guard


def linked(calls: int, mode: str, *options: object, timeout: float = 50) -> dict[str, Any]:
    """What ``link_process`` reports of a misbehaving child."""
    argv = [sys.executable, "-m", "tests.chaos.link_process", str(calls), mode, *map(str, options)]
    done = subprocess.run(argv, cwd=REPOSITORY, stdout=subprocess.PIPE, timeout=timeout, check=True)
    report: dict[str, Any] = orjson.loads(done.stdout.splitlines()[-1])
    return report


# -- C3: death ------------------------------------------------------------------------------------------


async def one_death(how: str, when: str, guard: ProcessGuard) -> None:
    """A child that dies at one moment: a typed error at once, without the claim that nothing was sent."""
    link = link_to(misbehaving("dies", "--how", how, "--when", when), guard)
    begun = time.monotonic()
    try:
        if when == "start":
            with pytest.raises(LinkLost) as caught:
                await connect(link, [Era.LEGACY])
            begun = time.monotonic()
        else:
            backend = await connect(link, [Era.LEGACY])
            begun = time.monotonic()
            if when == "idle":
                assert text_of(await backend.request("tools/call", call("echo", text="x"))) == "x"
                await link.closed.wait()
                with pytest.raises(LinkLost) as caught:
                    await backend.request("tools/call", call("echo", text="x"))
            else:
                with pytest.raises(LinkLost) as caught:
                    await backend.request("tools/call", call("echo", text="x"))
        assert time.monotonic() - begun < 1.0
        assert caught.value.code is ErrorCode.TRANSPORT_FAILURE
        assert caught.value.unsent is (when == "idle"), "only a call to one known to be dead was never sent"
        words = {"exit0": "status 0", "exit1": "status 1", "segfault": "signal 11", "kill": "signal 9"}
        assert words[how] in caught.value.message
    finally:
        await link.close()
    assert not is_running(link.child.process.pid)


@pytest.mark.parametrize("when", ["start", "call", "idle"])
@pytest.mark.parametrize("how", ["exit0", "exit1", "segfault", "kill"])
def test_c3_a_child_that_dies(how: str, when: str, guard: ProcessGuard) -> None:
    """Typed error within a second; the next start is a fresh child that works; nothing piles up."""

    @on_loop
    async def scenario() -> None:
        guard.start()
        files, processes = open_files(), len(descendants())
        await asyncio.gather(*(one_death(how, when, guard) for _ in range(ROUNDS)))
        async with connected(stdio_tool(), guard) as (backend, _):
            assert text_of(await backend.request("tools/call", call("echo", text="fresh"))) == "fresh"
        await until(lambda: open_files() <= files, description="descriptors back", shown=open_files)
        assert len(descendants()) == processes

    scenario()


# -- C4: hanging ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "silence"])
def test_c4_a_child_that_hangs_in_a_call(how: str, guard: ProcessGuard) -> None:
    """It ignores the end of its input and SIGTERM: the caller is answered at the deadline, the tree soon gone."""

    @on_loop
    async def scenario() -> None:
        link = link_to(misbehaving("hangs", "--how", how), guard)
        backend = await connect(link, [Era.LEGACY])
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await backend.request("tools/call", call("echo", text="x"))
        assert abs(time.monotonic() - begun - 0.5) < 0.25
        assert link.hangs
        closing = time.monotonic()
        await link.close()
        assert time.monotonic() - closing < GONE
        assert not is_running(link.child.process.pid)

    scenario()


@pytest.mark.parametrize("how", ["stop", "silence"])
def test_c4_a_child_that_hangs_in_initialize(how: str, guard: ProcessGuard) -> None:
    """It is killed within two seconds after ``startup_timeout``; operators see what it said last."""

    @on_loop
    async def scenario() -> None:
        tool = misbehaving("hangs", "--how", how, "--when", "start", startup_timeout=1.0)
        link = link_to(tool, guard)
        begun = time.monotonic()
        with pytest.raises(LinkLost, match="startup_timeout") as caught:
            await start(tool, link, [Era.LEGACY])
        assert time.monotonic() - begun < 1.0 + GONE
        assert "waiting for something" in caught.value.detail
        assert "waiting for something" not in caught.value.message
        assert not is_running(link.child.process.pid)

    scenario()


@on_loop
async def test_c4_a_late_answer_is_dropped(guard: ProcessGuard) -> None:
    """It comes just before the next call's own, and is nobody's."""
    async with connected(misbehaving("late"), guard) as (backend, link):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await backend.request("tools/call", call("echo", text="first"))
        for text in ("second", "third"):
            assert text_of(await backend.request("tools/call", call("echo", text=text))) == text
        assert link.noise >= 1


# -- C5: standard error ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_c5_a_torrent_of_standard_error(tmp_path: Path) -> None:
    """1 GiB: calls succeed meanwhile, the loop is not held up, memory stays, and the log has its bound."""
    log = tmp_path / "debug.log"
    report = linked(20, "stderr_torrent", "--bytes", 1 << 30, f"--debug={log}")
    assert report["outcomes"] == [str(number) for number in range(20)]
    assert report["grown"] <= 16 << 20
    assert report["longest_stop"] < 0.25
    assert report["stderr"][-1] == "the torrent has ended"
    events = [orjson.loads(line) for line in log.read_bytes().splitlines()]
    lines = sum(len(event["line"]) + 1 for event in events if event["event"] == "tool_stderr")
    dropped = sum(event["dropped_bytes"] for event in events if event["event"] == "tool_stderr_dropped")
    assert 0 < lines <= (64 << 10) * (report["seconds"] + 1)
    assert dropped > 900 << 20


def test_c5_no_line_end_before_each_answer() -> None:
    """64 KiB each time, and never an end: calls succeed, memory stays; what has begun is shown, cut."""
    report = linked(200, "stderr_line")
    assert report["outcomes"] == [str(number) for number in range(200)]
    assert report["grown"] <= 16 << 20
    assert report["stderr"] == ["n" * 500]


# -- C6: too much output --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("huge_line", ("--bytes", 64 << 20)),
        ("endless_line", ()),
        ("many_tools", ("--count", 1_000_000)),
    ],
)
def test_c6_output_above_the_bound(mode: str, options: tuple[object, ...]) -> None:
    """The call is told so; the child is ended, so that the next call has another; memory stays within three bounds."""
    report = linked(2, mode, *options)
    assert report["outcomes"] == ["RESPONSE_TOO_LARGE", "TRANSPORT_FAILURE"]
    assert report["grown"] <= 3 * MAX_BYTES
    assert report["longest_stop"] < 0.5


def test_c6_an_answer_of_any_depth() -> None:
    """It is too large for whoever asked; the session goes on."""
    report = linked(3, "deep_answer", "--count", 100_000)
    assert report["outcomes"] == ["RESPONSE_TOO_LARGE"] * 3
    assert report["grown"] <= MAX_BYTES


def test_c6_a_hundred_thousand_notifications() -> None:
    """Each is heard by whom it concerns, the answer comes behind them, and the loop goes on meanwhile."""
    report = linked(1, "notification_flood", "--count", 100_000)
    assert report["outcomes"] == ["0"]
    assert report["heard"] == 66_600, "progress and log messages, not what nobody knows"
    assert report["grown"] <= MAX_BYTES
    assert report["longest_stop"] < 0.25


# -- C7: no protocol ------------------------------------------------------------------------------------


def test_c7_answers_that_nobody_asked_for() -> None:
    """Foreign ids, ids to come, other types, requests, junk, no UTF-8, the answer twice: each call has its own."""
    report = linked(100, "confused")
    assert report["outcomes"] == [str(number) for number in range(100)]
    assert report["noise"] > 900


# -- C8: descendants ------------------------------------------------------------------------------------


def daemons_of(pid_file: Path, count: int) -> list[int]:
    """Wait for all of them."""

    def written() -> list[int]:
        return [int(line) for line in pid_file.read_text().split()] if pid_file.exists() else []

    wait_until(lambda: len(written()) == count, timeout=20, description=f"{count} daemons")
    return written()


def none_of(pids: list[int]) -> Callable[[], bool]:
    """Whether all are gone."""
    return lambda: not any(map(is_running, pids))


@contextmanager
def holder(count: int, server: str, *options: object) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process that holds links to children: its reapers' and children's process ids."""
    argv = [sys.executable, "-m", "tests.chaos.link_holder", str(count), server, *map(str, options)]
    process = subprocess.Popen(argv, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        words = process.stdout.readline().split()
        assert words[:1] == ["held"], words
        yield process, [int(word) for word in words[1:]]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


GREEDY = ("--daemons", 200, "--files", 1000)


@on_loop
async def test_c8_a_child_with_two_hundred_daemons_is_ended(guard: ProcessGuard, tmp_path: Path) -> None:
    """They forked twice and called setsid; the child holds 1,000 files. Closing its link ends them all."""
    pid_file, disk = tmp_path / "pids", tmp_path / "disk"
    tool = stdio_tool("forking", *GREEDY, "--disk", disk, "--pid-file", pid_file)
    async with connected(tool, guard) as (backend, link):
        daemons = daemons_of(pid_file, 200)
        assert text_of(await backend.request("tools/call", call("echo", text="x"))) == "x"
        begun = time.monotonic()
        await link.close()
        assert time.monotonic() - begun < GONE
        assert none_of([*daemons, link.child.process.pid])()


@pytest.mark.parametrize("also", [(), (0,), (1,)], ids=["alone", "with one reaper", "with the other"])
def test_c8_a_killed_worker_leaves_no_daemon(also: tuple[int, ...], tmp_path: Path) -> None:
    """200 of them, all ignoring SIGTERM, two seconds after the death of the worker, and of a reaper with it."""
    pid_file = tmp_path / "pids"
    with holder(1, "forking", *GREEDY, "--stubborn", "--pid-file", pid_file) as (worker, pids):
        *reapers, child = pids
        family = [child, *daemons_of(pid_file, 200)]
        for pid in (*(reapers[number] for number in also), worker.pid):
            os.kill(pid, signal.SIGKILL)
        wait_until(none_of(family), timeout=GONE, description="201 processes to be gone")


@on_loop
async def test_c8_limits_hold(guard: ProcessGuard, tmp_path: Path) -> None:
    """Files and disk end where the tool's limits say; daemons have them too; the tool works."""
    pid_file, disk = tmp_path / "pids", tmp_path / "disk"
    limits = ProcessLimits(open_files=100, file_bytes=1 << 20, memory_bytes=1 << 30)
    options = ("--daemons", 1, "--files", 1000, "--disk", disk, "--pid-file", pid_file)
    tool = stdio_tool("forking", *options, limits=limits)
    async with connected(tool, guard) as (backend, link):
        (daemon,) = daemons_of(pid_file, 1)
        assert text_of(await backend.request("tools/call", call("echo", text="x"))) == "x"
        assert resource.prlimit(daemon, resource.RLIMIT_NOFILE) == (100, 100)
        assert resource.prlimit(daemon, resource.RLIMIT_AS) == (1 << 30, 1 << 30)
        assert resource.prlimit(daemon, resource.RLIMIT_CORE) == (0, 0)
        assert disk.stat().st_size == 1 << 20
        said = "\n".join(link.child.stderr_tail())
        assert "File too large" in said
        assert "Too many open files" in said
    assert none_of([daemon])()


# -- C19: running out -----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["files", "processes"])
def test_c19_a_start_without_means_hurts_itself_alone(what: str) -> None:
    """It is refused with nothing sent; children that live go on; the next start works; nothing is left over."""
    argv = [sys.executable, "-m", "tests.chaos.exhausted", what]
    done = subprocess.run(argv, cwd=REPOSITORY, stdout=subprocess.PIPE, timeout=50, check=True)
    report = orjson.loads(done.stdout)
    refused = [outcome for outcome in report["under"] if outcome != "works"]
    assert len(refused) >= 3
    assert set(refused) == {"refused"}
    words = {"files": "Too many open files", "processes": "Resource temporarily unavailable"}
    assert all(words[what] in message and "/bin/cat" in message for message in report["messages"])
    assert report["steady"]
    assert report["after"] == "works"
    assert (report["files_left"], report["children_left"]) == (0, 0)

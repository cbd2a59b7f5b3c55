"""Health: a tool is really asked, and graded by its answer; asking leaves nothing behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from common.domain.ids import ToolId
from common.domain.rules import HealthRules
from common.domain.tool import Tool, ToolState
from common.mcp.revisions import Era
from common.processes import ProcessGuard, is_running
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from gateway_worker.probe import QUESTIONS
from tests.support.aio import on_loop, until
from tests.support.backends import (
    ERAS,
    EchoLog,
    HttpBackend,
    echo_backend,
    http_backend,
    http_tool,
    misbehaving,
    stdio_tool,
)
from tests.support.servers.echo_core import EchoServer
from tests.support.servers.echo_http import HttpServer
from tests.support.servers.http_wire import Connection, Request
from tests.worker.egress import http_links, stdio_links
from tests.worker.health_cluster import ProbingCluster

ENABLED, DEGRADED, UNAVAILABLE = ToolState.ENABLED, ToolState.DEGRADED, ToolState.UNAVAILABLE
PATIENT = HealthRules(interval=1.0, timeout=1.0, degraded_after=0.9)
"""For an answer that is not slow, also on a busy machine."""
OFTEN = HealthRules(interval=0.1, timeout=0.1, degraded_after=0.09)
"""Where the grade is of no interest."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often and begin at once, so that the tests end soon."""
    monkeypatch.setattr("gateway_worker.health.LOOK_INTERVAL", 0.02)
    monkeypatch.setattr("gateway_worker.health.TIDY_INTERVAL", 0.0)
    monkeypatch.setattr("gateway_worker.health.random.uniform", lambda least, _: least)


@pytest.fixture
def cluster(client: Client, keys: Keys, address: StoreAddress, guard: ProcessGuard) -> ProbingCluster:
    """No tool registered yet."""
    return ProbingCluster(client, keys, address, guard)


def served(handle: Callable[[Connection, Request, str], bool], era: str = "legacy") -> Any:
    """The echo server; ``handle`` is asked first, with the message's method, and says whether it has answered."""
    inner = HttpServer(EchoServer(era=era))

    def dispatch(connection: Connection, request: Request) -> None:
        method = orjson.loads(request.body)["method"] if request.method == "POST" else request.method
        if not handle(connection, request, method):
            inner.handle(connection, request)

    return http_backend(dispatch)


def nothing_is_left(server: HttpBackend) -> Callable[[], bool]:
    """Whether no connection is open and each session that was begun was ended."""
    return lambda: not server.live and len(server.by_verb("DELETE")) == len(server.messages("initialize"))


class Hanging:
    """A backend that does not answer ``ping`` while ``hangs`` is set."""

    def __init__(self) -> None:
        self.hangs = threading.Event()

    def __call__(self, connection: Connection, request: Request, method: str) -> bool:
        if method != "ping" or not self.hangs.is_set():
            return False
        while self.hangs.is_set() and not connection.hung_up(0.05):
            pass
        connection.abort()
        return True


# -- HTTP tools without a session -----------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
def test_an_http_tool_is_asked_in_its_era(era: Era, cluster: ProbingCluster) -> None:
    """``ping`` or ``server/discover``, over a connection that is closed, in a session that is ended."""

    @on_loop
    async def scenario() -> None:
        with echo_backend(era.value) as server:
            cluster.registry.put(http_tool(server.url, health=PATIENT))
            async with cluster.running():
                found = await cluster.settled("remote", ENABLED)
            # The modern era opens with the very question that is then measured.
            assert len(server.messages(QUESTIONS[era])) >= (2 if era is Era.MODERN else 1)
            await until(lambda: not server.live, description="no connection to be left")
            assert len(server.by_verb("DELETE")) == (
                len(server.messages("initialize")) if era is Era.LEGACY else 0
            )
        assert found.latency_ms is not None
        assert 0 < found.latency_ms < 900
        assert (found.since, found.reason) == (found.at, "")

    scenario()


@on_loop
async def test_twenty_probes_leak_nothing(cluster: ProbingCluster) -> None:
    """Neither a connection nor a session at the backend, nor ever more than one session at a time."""
    most, sessions = 0, 0
    counting = threading.Lock()

    def count(connection: Connection, request: Request, method: str) -> bool:
        nonlocal most, sessions
        with counting:
            sessions += {"initialize": 1, "DELETE": -1}.get(method, 0)
            most = max(most, sessions)
        return False

    with served(count) as server:
        cluster.registry.put(http_tool(server.url, health=OFTEN))
        async with cluster.running("n1", "n2"):
            await until(lambda: len(server.messages("ping")) >= 20, description="twenty probes", timeout=30)
            await cluster.quiet()
        await until(nothing_is_left(server), description="nothing to be left", shown=lambda: server.live)
    assert most == 1


@pytest.mark.parametrize("slow", ["ping", "initialize"])
def test_only_the_answer_is_measured(slow: str, cluster: ProbingCluster) -> None:
    """A slow answer makes a tool degraded, a slow way to the question does not."""

    def handle(connection: Connection, request: Request, method: str) -> bool:
        if method == slow:
            time.sleep(0.6)
        return False

    @on_loop
    async def scenario() -> None:
        with served(handle) as server:
            rules = HealthRules(interval=5, timeout=5, degraded_after=0.5)
            cluster.registry.put(http_tool(server.url, health=rules))
            async with cluster.running():
                found = await cluster.settled("remote", DEGRADED if slow == "ping" else ENABLED)
        assert found.latency_ms is not None
        assert (found.latency_ms >= 600) == (slow == "ping")
        assert ("health_degraded_after" in found.reason) == (slow == "ping")

    scenario()


@on_loop
async def test_a_tool_that_hangs_and_comes_back(cluster: ProbingCluster) -> None:
    """Each change of grade is announced and audited once, whoever finds it; ``since`` says when it was."""
    backend = Hanging()
    backend.hangs.set()
    with served(backend) as server:
        version = cluster.registry.put(http_tool(server.url, health=PATIENT))
        async with cluster.running("n1", "n2", "n3"):
            gone = await cluster.settled("remote", UNAVAILABLE)
            again = await cluster.settled("remote", UNAVAILABLE, after=gone.at)
            backend.hangs.clear()
            back = await cluster.settled("remote", ENABLED)
            await cluster.settled("remote", ENABLED, after=back.at)
        await until(lambda: not server.live, description="no connection to be left")
    assert (gone.latency_ms, gone.since, again.since) == (None, gone.at, gone.at)
    assert "health_timeout (1 s)" in gone.reason
    assert back.since == back.at
    assert cluster.transitions() == ["unknown -> unavailable", "unavailable -> enabled"]
    assert cluster.version() == version + 2
    first = cluster.announced()[0]
    assert (first["tool"], first["reason"]) == ("remote", gone.reason)
    assert first["node"] in {"n1", "n2", "n3"}


@on_loop
async def test_a_grade_that_stays_wakes_nobody(cluster: ProbingCluster) -> None:
    """Probe after probe, the registry's version stays, and nothing is audited."""
    with echo_backend("modern") as server:
        version = cluster.registry.put(
            http_tool(server.url, health=HealthRules(interval=0.4, timeout=0.4, degraded_after=0.3))
        )
        async with cluster.running():
            last = await cluster.settled("remote", ENABLED)
            first = last
            for _ in range(4):
                last = await cluster.settled("remote", ENABLED, after=last.at)
    assert (last.since, cluster.version(), cluster.transitions()) == (first.since, version, [])


@pytest.mark.parametrize(
    ("what", "words"),
    [("refuses", "cannot be reached"), ("silent", "startup_timeout"), ("500", "status 500")],
)
def test_a_tool_that_cannot_be_connected(what: str, words: str, cluster: ProbingCluster) -> None:
    """Is unavailable, with what went wrong."""

    def handle(connection: Connection, request: Request, method: str) -> bool:
        if what == "500":
            connection.respond("500 Internal Server Error", b"no", "text/plain")
            return True
        while not connection.hung_up(0.05):
            pass
        connection.abort()
        return True

    @on_loop
    async def scenario() -> None:
        with served(handle) as server:
            url = "http://127.0.0.1:1/mcp" if what == "refuses" else server.url
            cluster.registry.put(http_tool(url, health=PATIENT, startup_timeout=0.2))
            async with cluster.running():
                found = await cluster.settled("remote", UNAVAILABLE)
            await until(lambda: not server.live, description="no connection to be left")
        assert words in found.reason

    scenario()


@on_loop
async def test_an_error_is_an_answer(cluster: ProbingCluster) -> None:
    """A backend that does not know ``ping`` lives."""

    def handle(connection: Connection, request: Request, method: str) -> bool:
        if method != "ping":
            return False
        error = {"code": -32601, "message": "Method not found"}
        answer = {"jsonrpc": "2.0", "id": orjson.loads(request.body)["id"], "error": error}
        connection.respond("200 OK", orjson.dumps(answer))
        return True

    with served(handle) as server:
        cluster.registry.put(http_tool(server.url, health=PATIENT))
        async with cluster.running():
            assert (await cluster.settled("remote", ENABLED)).latency_ms is not None


# -- over open sessions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
def test_an_open_session_of_this_worker_is_asked(era: Era, cluster: ProbingCluster) -> None:
    """No session is begun beside it, and it stays."""

    @on_loop
    async def scenario() -> None:
        with echo_backend(era.value) as server:
            cluster.registry.put(http_tool(server.url, health=PATIENT))
            async with http_links.connected(server, era=era) as (backend, link):
                cluster.sessions.open[ToolId("remote")] = backend
                async with cluster.running():
                    first = await cluster.settled("remote", ENABLED)
                    await cluster.settled("remote", ENABLED, after=first.at)
                assert not link.closed.is_set()
                assert len(server.messages("initialize")) == (1 if era is Era.LEGACY else 0)
                assert len(server.sent(QUESTIONS[era])) >= 2
                if era is Era.MODERN:
                    assert server.connections == 1
                assert server.by_verb("DELETE") == []

    scenario()


@on_loop
async def test_a_session_that_the_backend_forgot_is_no_sign(cluster: ProbingCluster) -> None:
    """An HTTP tool whose session has expired is asked over a connection of the probe's own."""
    inner = HttpServer(EchoServer(era="legacy"))
    with http_backend(inner.handle) as server:
        cluster.registry.put(http_tool(server.url, health=PATIENT))
        async with http_links.connected(server) as (backend, link):
            inner.sessions.clear()
            cluster.sessions.open[ToolId("remote")] = backend
            async with cluster.running():
                await cluster.settled("remote", ENABLED)
            assert link.closed.is_set()
    assert cluster.transitions() == []


@on_loop
async def test_a_silent_child_is_graded_and_lives(cluster: ProbingCluster, echo_log: EchoLog) -> None:
    """Its session stays open: a server that does one thing at a time is silent while it works."""
    tool = misbehaving(
        "silent_after_init",
        env=echo_log.env,
        health=HealthRules(interval=0.3, timeout=0.2, degraded_after=0.1),
    )
    cluster.registry.put(tool)
    async with stdio_links.connected(tool, cluster.guard) as (backend, link):
        cluster.sessions.open[tool.id] = backend
        async with cluster.running():
            found = await cluster.settled("local", UNAVAILABLE)
            await cluster.settled("local", UNAVAILABLE, after=found.at)
        assert not link.closed.is_set()
        (pid,) = echo_log.pids()
        assert is_running(pid)
    assert "health_timeout" in found.reason
    assert cluster.transitions() == ["unknown -> unavailable"]


@on_loop
async def test_a_session_that_ends_under_the_question_is_no_sign(cluster: ProbingCluster) -> None:
    """A stdio tool keeps the grade that it had."""
    tool = stdio_links.scripted(
        "if m['method'] == 'initialize':\n"
        "    say(id=m['id'], result={'protocolVersion': '2025-11-25', 'capabilities': {}, 'serverInfo': {}})\n"
        "elif m['method'] == 'ping':\n"
        "    os._exit(3)"
    )
    tool = Tool(id=tool.id, transport=tool.transport, health=PATIENT)
    cluster.registry.put(tool)
    cluster.put_record(tool.id, DEGRADED)
    async with stdio_links.connected(tool, cluster.guard) as (backend, link):
        cluster.sessions.open[tool.id] = backend
        async with cluster.running():
            await link.closed.wait()
            await cluster.looks()
    known = cluster.known(tool.id)
    assert known is not None
    assert (known.grade, known.at) == (DEGRADED, 1)


# -- stdio tools at rest --------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [None, "exit status 3"])
def test_a_stdio_tool_at_rest_is_not_started(
    error: str | None, cluster: ProbingCluster, echo_log: EchoLog
) -> None:
    """It is as discovery found it."""

    @on_loop
    async def scenario() -> None:
        cluster.registry.put(stdio_tool(env=echo_log.env, health=OFTEN))
        cluster.discovered("local", error)
        async with cluster.running():
            found = await cluster.settled("local", UNAVAILABLE if error else ENABLED)
            found = await cluster.settled("local", found.grade, after=found.at)
        assert (found.latency_ms, found.reason) == (None, error or "")
        assert echo_log.pids() == []

    scenario()


@on_loop
async def test_a_stdio_tool_that_nobody_has_seen_has_no_grade(
    cluster: ProbingCluster, echo_log: EchoLog
) -> None:
    """Until it was discovered; the lease is left for that moment."""
    cluster.registry.put(stdio_tool(env=echo_log.env, health=OFTEN))
    async with cluster.running():
        await cluster.looks(10)
        assert cluster.known("local") is None
        assert cluster.client.exists(cluster.keys.probe_lease(ToolId("local"))) == 0
        cluster.discovered("local")
        await cluster.settled("local", ENABLED)
    assert echo_log.pids() == []


@on_loop
async def test_sessions_elsewhere_are_left_to_their_workers(cluster: ProbingCluster) -> None:
    """A worker without a session says nothing of a stdio tool that others have sessions with."""
    cluster.registry.put(stdio_tool(health=OFTEN))
    cluster.discovered("local")
    sessions = cluster.keys.sessions(ToolId("local"))
    cluster.client.hset(sessions, "acme:alice", "n2 1 1")
    async with cluster.running():
        await cluster.looks(10)
        assert cluster.known("local") is None
        assert cluster.client.exists(cluster.keys.probe_lease(ToolId("local"))) == 0
        cluster.client.delete(sessions)
        await cluster.settled("local", ENABLED)

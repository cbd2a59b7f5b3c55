"""Health: which tools are probed, when, and by whom; faults of ours are no fault of theirs."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from functools import partial
from typing import Any

import orjson
import pytest

from common.domain.ids import NodeId, ToolId
from common.domain.rules import HealthRules
from common.domain.tool import Tool, ToolState
from common.processes import ProcessGuard
from common.registry.lifecycle import Lifecycle
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from gateway_worker.egress.backend import make_link
from gateway_worker.health import MAX_AT_ONCE, Prober
from tests.support.aio import on_loop, until
from tests.support.backends import FixedCatalogue, echo_backend, entry_of, http_backend, http_tool
from tests.support.servers.echo_core import EchoServer
from tests.support.servers.echo_http import HttpServer
from tests.support.servers.http_wire import Connection, Request
from tests.support.tcp_proxy import TcpProxy
from tests.worker.health_cluster import ProbingCluster, Sessions

ENABLED, DEGRADED, UNAVAILABLE = ToolState.ENABLED, ToolState.DEGRADED, ToolState.UNAVAILABLE
PATIENT = HealthRules(interval=1.0, timeout=1.0, degraded_after=0.9)
OFTEN = HealthRules(interval=0.1, timeout=0.1, degraded_after=0.09)
NEVER = HealthRules(interval=0)
REMOTE = ToolId("remote")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, so that the tests end soon."""
    monkeypatch.setattr("gateway_worker.health.LOOK_INTERVAL", 0.02)
    monkeypatch.setattr("gateway_worker.health.TIDY_INTERVAL", 0.0)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with the first look."""
    monkeypatch.setattr("gateway_worker.health.random.uniform", lambda least, _: least)


@pytest.fixture
def cluster(client: Client, keys: Keys, address: StoreAddress, guard: ProcessGuard) -> ProbingCluster:
    """No tool registered yet."""
    return ProbingCluster(client, keys, address, guard)


class Silent:
    """A backend that answers nothing; counts the requests it has in hand, and the most that it had."""

    def __init__(self) -> None:
        self.now = self.most = self.total = 0
        self._counting = threading.Lock()

    def _count(self, change: int) -> None:
        with self._counting:
            self.now += change
            self.total += max(change, 0)
            self.most = max(self.most, self.now)

    def __call__(self, connection: Connection, request: Request) -> None:
        self._count(1)
        while not connection.hung_up(0.05):
            pass
        self._count(-1)
        connection.abort()


# -- when -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [("n1",), ("n1", "n2", "n3")])
def test_a_tool_is_asked_once_an_interval(nodes: tuple[str, ...], cluster: ProbingCluster) -> None:
    """By one worker of all of them; and it is asked again and again."""

    @on_loop
    async def scenario() -> None:
        with echo_backend("legacy") as server:
            cluster.registry.put(http_tool(server.url, health=replace(OFTEN, interval=0.3)))
            begun = time.monotonic()
            async with cluster.running(*nodes):
                await until(lambda: len(server.messages("ping")) >= 6, description="six probes", timeout=30)
            lasted = time.monotonic() - begun
        assert len(server.messages("initialize")) <= lasted / 0.3 + 1

    scenario()


@on_loop
async def test_a_server_that_hangs_is_not_besieged(cluster: ProbingCluster, at_once: None) -> None:
    """The way to it takes longer than the interval: the workers wait for each other's end all the same."""
    backend = Silent()
    with http_backend(backend) as server:
        cluster.registry.put(http_tool(server.url, health=OFTEN, startup_timeout=0.5))
        begun = time.monotonic()
        async with cluster.running("n1", "n2", "n3"):
            await until(lambda: backend.total >= 4, description="some probes", timeout=30)
        assert backend.total <= (time.monotonic() - begun) / 0.5 + 1
        await until(lambda: not server.live, description="no connection to be left")


@on_loop
async def test_the_probes_do_not_come_all_at_once(client: Client, keys: Keys, guard: ProcessGuard) -> None:
    """500 tools have their first one somewhere in the first interval."""
    catalogue = FixedCatalogue(
        *(entry_of(http_tool("http://127.0.0.1:1/", id=ToolId(str(number)))) for number in range(500))
    )
    prober = Prober(
        node=lambda: NodeId("n1"),
        client=None,  # type: ignore[arg-type]
        keys=keys,
        clock=None,  # type: ignore[arg-type]
        catalogue=catalogue,
        serves=lambda _: True,
        links=partial(make_link, guard=guard, max_bytes=1),
        sessions=Sessions(),
    )
    now = time.monotonic()
    prober._look()
    await prober.close()
    waits = sorted(plan.at - now for plan in prober._plans.values())
    assert len(waits) == 500
    # Each tenth of the interval (30 s) has its share: fewer than 20 of 50 expected is less likely than 1 in 10^6.
    assert min(sum(1 for wait in waits if 3 * n <= wait < 3 * n + 3.1) for n in range(10)) >= 20


@on_loop
async def test_at_most_some_at_a_time(cluster: ProbingCluster, at_once: None) -> None:
    """And none waits for ever: those that hang let the others have their turn."""
    backend = Silent()
    hanging = HealthRules(interval=0.2, timeout=0.2, degraded_after=0.1)
    with http_backend(backend) as server, echo_backend("modern") as quick_server:
        for number in range(2 * MAX_AT_ONCE):
            cluster.registry.put(
                http_tool(server.url, id=ToolId(f"a{number:02}"), health=hanging, startup_timeout=0.4)
            )
        cluster.registry.put(http_tool(quick_server.url, id=ToolId("z"), health=PATIENT))
        async with cluster.running():
            await cluster.settled("z", ENABLED)
            await until(lambda: backend.total > 2 * MAX_AT_ONCE, description="all of them to be asked")
            assert len(cluster.probers[0]._running) <= MAX_AT_ONCE
        await until(lambda: not server.live, description="no connection to be left")
    assert MAX_AT_ONCE - 2 <= backend.most <= MAX_AT_ONCE + 2  # a server sees a hang-up a moment late


@on_loop
async def test_the_lease_of_a_dead_worker_runs_out(cluster: ProbingCluster, at_once: None) -> None:
    """While it lasts nobody asks: it says that the tool was asked. Then another does."""
    with echo_backend("modern") as server:
        cluster.registry.put(http_tool(server.url, health=replace(OFTEN, interval=0.2)))
        cluster.client.set(cluster.keys.probe_lease(REMOTE), "dead:0", px=600)
        begun = time.monotonic()
        async with cluster.running("n1", "n2"):
            await until(lambda: server.requests, description="a probe")
            assert time.monotonic() - begun > 0.4


@on_loop
async def test_a_shorter_interval_counts_at_once(cluster: ProbingCluster, at_once: None) -> None:
    """The lease for the definition before lasts an hour, and keeps nobody from asking."""
    with echo_backend("modern") as server:
        cluster.registry.put(http_tool(server.url, health=HealthRules(interval=3600)))
        async with cluster.running():
            first = await cluster.settled("remote", ENABLED)
            assert cluster.client.pttl(cluster.keys.probe_lease(REMOTE)) > 3_000_000
            cluster.registry.put(http_tool(server.url, health=PATIENT))
            await cluster.settled("remote", ENABLED, after=first.at)
            await until(
                lambda: cluster.client.pttl(cluster.keys.probe_lease(REMOTE)) < 1100,
                description="the new lease",
            )


# -- which ----------------------------------------------------------------------------------------------


def switch_off(how: str, tool: Tool, cluster: ProbingCluster) -> None:
    """Make the tool one that is not to be probed: by its definition, its rules, or an operator's word."""
    if how == "definition":
        cluster.registry.put(tool.with_state(ToolState.DISABLED))
    elif how == "interval":
        cluster.registry.put(replace(tool, health=NEVER))
    else:
        Lifecycle(cluster.client, cluster.keys).disable(tool.id)


@pytest.mark.parametrize("how", ["definition", "operator", "interval"])
@pytest.mark.parametrize("begun", [True, False])
def test_a_tool_that_is_not_to_be_probed(
    how: str, begun: bool, cluster: ProbingCluster, at_once: None
) -> None:
    """Is not asked, its old grade goes, and what the operator said of it stays."""

    @on_loop
    async def scenario() -> None:
        with echo_backend("modern") as server:
            tool = http_tool(server.url, health=OFTEN)
            cluster.registry.put(tool)
            cluster.put_record("remote", UNAVAILABLE)
            if not begun:
                switch_off(how, tool, cluster)
            async with cluster.running("n1", "n2"):
                if begun:
                    await until(lambda: server.requests, description="a probe")
                    switch_off(how, tool, cluster)
                await until(lambda: cluster.known("remote") is None, description="the grade to go")
                await cluster.looks()
                asked = len(server.requests)
                await cluster.looks(10)
                assert len(server.requests) == asked
                assert asked > 0 or not begun
        assert cluster.known("remote") is None
        assert cluster.registry.get(REMOTE).enabled == (how == "interval")

    scenario()


@on_loop
async def test_a_tool_that_is_draining_is_asked(cluster: ProbingCluster, at_once: None) -> None:
    """Its sessions go on, and so does their health."""
    with echo_backend("modern") as server:
        cluster.registry.put(http_tool(server.url, health=PATIENT))
        Lifecycle(cluster.client, cluster.keys).drain(REMOTE)
        async with cluster.running():
            await cluster.settled("remote", ENABLED)
    assert cluster.registry.get(REMOTE).draining


@on_loop
async def test_a_tool_switched_on_again_is_asked_again(cluster: ProbingCluster, at_once: None) -> None:
    """It has no new version by that."""
    with echo_backend("modern") as server:
        cluster.registry.put(http_tool(server.url, health=replace(PATIENT, interval=1.5)))
        lifecycle = Lifecycle(cluster.client, cluster.keys)
        lifecycle.disable(REMOTE)
        async with cluster.running():
            await cluster.looks()
            assert server.requests == []
            lifecycle.enable(REMOTE)
            await cluster.settled("remote", ENABLED)


@pytest.mark.parametrize("how", ["definition", "operator"])
def test_a_tool_disabled_while_it_is_asked(how: str, cluster: ProbingCluster, at_once: None) -> None:
    """Keeps no grade by an answer that comes late."""

    @on_loop
    async def scenario() -> None:
        backend = Silent()
        with http_backend(backend) as server:
            tool = http_tool(server.url, health=replace(PATIENT, interval=60), startup_timeout=0.5)
            cluster.registry.put(tool)
            cluster.put_record("remote", ENABLED)
            async with cluster.running():
                await until(lambda: backend.now, description="the question")
                switch_off(how, tool, cluster)
                await cluster.looks()
        assert cluster.known("remote") is None
        assert cluster.transitions() == []

    scenario()


@on_loop
async def test_the_grade_of_a_removed_tool_goes(cluster: ProbingCluster, at_once: None) -> None:
    """One that is registered later under its name begins without."""
    with echo_backend("modern") as server:
        cluster.registry.put(http_tool(server.url, health=OFTEN))
        async with cluster.running():
            await until(lambda: cluster.known("remote"), description="a grade")
            cluster.registry.remove(REMOTE)
            await cluster.looks()
            await until(lambda: cluster.known("remote") is None, description="the grade to go")


@on_loop
async def test_a_tool_that_this_worker_does_not_serve(cluster: ProbingCluster, at_once: None) -> None:
    """Is others' to ask; the grade that they found stays."""
    with echo_backend("modern") as server:
        cluster.registry.put(http_tool(server.url, health=OFTEN))
        cluster.put_record("remote", DEGRADED)
        async with cluster.running(serves=lambda _: False):
            await cluster.looks(10)
        assert server.requests == []
    assert cluster.known("remote") is not None


# -- faults ---------------------------------------------------------------------------------------------


@on_loop
async def test_a_fault_of_ours_is_not_the_tools(
    cluster: ProbingCluster, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its grade stays, and it is asked again."""
    tries = 0

    def broken(*_: object, **__: object) -> Any:
        nonlocal tries
        tries += 1
        raise KeyError("a bug")

    cluster.registry.put(http_tool("http://127.0.0.1:1/", health=OFTEN))
    cluster.put_record("remote", ENABLED)
    with monkeypatch.context() as patch:
        patch.setattr("tests.worker.health_cluster.make_link", broken)
        async with cluster.running():
            await until(lambda: tries >= 3, description="three tries")
            known = cluster.known("remote")
            assert known is not None
            assert (known.grade, known.at) == (ENABLED, 1)


@pytest.mark.parametrize("record", [b"no JSON", b"[]", orjson.dumps({"grade": "splendid", "at": 1})])
def test_a_record_that_nobody_can_read(record: bytes, cluster: ProbingCluster, at_once: None) -> None:
    """Is replaced by the next probe."""

    @on_loop
    async def scenario() -> None:
        with echo_backend("modern") as server:
            cluster.registry.put(http_tool(server.url, health=PATIENT))
            cluster.client.hset(cluster.keys.health, "remote", record)
            async with cluster.running():
                await until(
                    lambda: cluster.client.hget(cluster.keys.health, "remote") != record,
                    description="a new one",
                )
            assert cluster.known("remote") is not None

    scenario()


@on_loop
async def test_redis_is_away_for_a_while(cluster: ProbingCluster, proxy: TcpProxy, at_once: None) -> None:
    """The grades stay as they are; afterwards probing goes on by itself."""
    through = StoreAddress(url=proxy.url, socket_timeout=0.5)
    with echo_backend("modern") as server:
        cluster.registry.put(http_tool(server.url, health=replace(OFTEN, interval=0.2)))
        async with cluster.running(address=through):
            await until(lambda: cluster.known("remote"), description="a grade")
            proxy.refuse()
            proxy.cut()
            await until(lambda: not cluster.probers[0]._running, description="the probe to end")
            last = cluster.known("remote")
            assert last is not None
            asked = len(server.requests)
            proxy.refuse(False)
            await until(
                lambda: (found := cluster.known("remote")) and found.at > last.at, description="another"
            )
            assert len(server.requests) > asked


@on_loop
async def test_closing_ends_what_runs_and_begins_nothing(cluster: ProbingCluster, at_once: None) -> None:
    """The connection goes at once; the tool gets no grade by it."""
    backend = Silent()
    with http_backend(backend) as server:
        cluster.registry.put(http_tool(server.url, health=OFTEN))
        async with cluster.running():
            await until(lambda: backend.now, description="the question")
            begun = time.monotonic()
            await cluster.probers[0].close()
            assert time.monotonic() - begun < 2.0
            await until(lambda: not server.live, description="the connection to go")
            total = backend.total
            await cluster.looks(10)
            assert backend.total == total
    assert cluster.known("remote") is None


@on_loop
async def test_closing_leaves_no_session_at_a_backend(cluster: ProbingCluster, at_once: None) -> None:
    """A probe whose session is about to be opened ends by itself, and ends that."""
    opening = threading.Event()
    inner = HttpServer(EchoServer(era="legacy"))

    def handle(connection: Connection, request: Request) -> None:
        if b'"initialize"' in request.body:
            opening.set()
            time.sleep(0.1)
        inner.handle(connection, request)

    with http_backend(handle) as server:
        cluster.registry.put(http_tool(server.url, health=PATIENT))
        async with cluster.running():
            await until(opening.is_set, description="the session to be opened")
            await cluster.probers[0].close()
            assert (len(server.messages("initialize")), len(server.by_verb("DELETE"))) == (1, 1)
            assert inner.sessions == set()

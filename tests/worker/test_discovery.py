"""Discovery: what a tool offers is learnt in the background, kept up to date, and never stands in anybody's way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from common.domain.ids import NodeId, ToolId
from common.domain.tool import Capabilities, StdioTransport, Tool, ToolState
from common.mcp.revisions import Era
from common.processes import ProcessGuard, is_running
from common.registry.catalogue import Catalogue
from common.registry.registry import Registry
from common.settings import DiscoverySettings
from common.store.client import Client, StoreAddress, connect_async
from common.store.clock import RedisClock
from common.store.keys import Keys
from gateway_worker.discovery import Discovery, list_all, listing_order
from tests.support.aio import ended, on_loop, until
from tests.support.backends import (
    ERAS,
    MAX_BYTES,
    EchoLog,
    HttpBackend,
    echo_backend,
    entry_of,
    http_backend,
    http_tool,
    misbehaving,
    stdio_tool,
)
from tests.support.servers.echo_core import ENTRIES
from tests.support.servers.http_wire import Connection, Request
from tests.worker.egress.http_links import connected, respond

QUICK = DiscoverySettings(ttl=300, timeout=10, era_probe_timeout=2, retry_min=0.05, retry_max=0.4)
NAMES = [entry["name"] for entry in ENTRIES]


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, so that the tests end soon."""
    monkeypatch.setattr("gateway_worker.discovery.LOOK_INTERVAL", 0.02)


class Cluster:
    """A registry in Redis and the discoveries of some workers over it."""

    def __init__(self, client: Client, keys: Keys, address: StoreAddress, guard: ProcessGuard) -> None:
        self.client = client
        self.keys = keys
        self.registry = Registry(client, keys)
        self.catalogue = Catalogue(client, keys)
        self.workers: list[Discovery] = []
        self._address = address
        self._guard = guard
        self.refreshing = True

    @asynccontextmanager
    async def running(
        self,
        *nodes: str,
        settings: DiscoverySettings = QUICK,
        serves: Callable[[ToolId], bool] = lambda _: True,
    ) -> AsyncIterator[None]:
        """Run a worker's discovery per node, over one catalogue that is refreshed all the time."""
        store = connect_async(self._address)
        self.catalogue.refresh()
        self.workers = [
            Discovery(
                node=NodeId(node),
                client=store,
                keys=self.keys,
                clock=RedisClock(),
                catalogue=self.catalogue,
                serves=serves,
                guard=self._guard,
                settings=settings,
                max_bytes=MAX_BYTES,
            )
            for node in nodes or ("n1",)
        ]
        tasks = [asyncio.create_task(worker.run()) for worker in self.workers]
        tasks.append(asyncio.create_task(self._refresh()))
        try:
            yield
        finally:
            for worker in self.workers:
                await worker.close()
            await ended(*tasks)
            await store.aclose()

    async def _refresh(self) -> None:
        while True:
            if self.refreshing:
                await asyncio.to_thread(self.catalogue.refresh)
            await asyncio.sleep(0.01)

    def known(self, tool: str = "local") -> Capabilities | None:
        """What Redis holds."""
        return self.registry.get(ToolId(tool)).known

    async def settled(
        self, condition: Callable[[Capabilities], bool], tool: str = "local", *, what: str
    ) -> Capabilities:
        """Wait until what is known of a tool fulfils a condition."""

        def found() -> Capabilities | None:
            known = self.known(tool)
            return known if known is not None and condition(known) else None

        known = await until(found, timeout=15, description=what, shown=lambda: self.known(tool))
        assert known is not None
        return known

    async def good(self, tool: str = "local") -> Capabilities:
        """Wait for an answer without error."""
        return await self.settled(lambda known: known.error is None, tool, what="a good answer")


@pytest.fixture
def cluster(client: Client, keys: Keys, address: StoreAddress, guard: ProcessGuard) -> Cluster:
    """No tool registered yet."""
    return Cluster(client, keys, address, guard)


def names(known: Capabilities) -> list[Any]:
    """The names of what was listed."""
    return [tool["name"] for tool in known.tools]


# -- what is learnt -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pages", [1, 3, 14])
def test_all_pages_are_listed(pages: int, cluster: Cluster) -> None:
    """In the backend's order, to the last field."""

    @on_loop
    async def scenario() -> None:
        cluster.registry.put(stdio_tool("echo", "--pages", pages))
        async with cluster.running():
            known = await cluster.good()
        assert list(known.tools) == ENTRIES

    scenario()


@pytest.mark.parametrize(
    ("speaks", "eras"),
    [
        ("legacy", {"legacy": "2025-11-25"}),
        ("modern", {"modern": "2026-07-28"}),
        ("both", {"legacy": "2025-11-25", "modern": "2026-07-28"}),
    ],
)
@pytest.mark.parametrize("transport", ["stdio", "http"])
def test_the_eras_are_learnt(transport: str, speaks: str, eras: dict[str, str], cluster: Cluster) -> None:
    """And what else the backend says of itself."""

    @on_loop
    async def scenario() -> None:
        with echo_backend(speaks) as server:
            tool = stdio_tool("echo", "--era", speaks) if transport == "stdio" else http_tool(server.url)
            cluster.registry.put(tool)
            async with cluster.running():
                known = await cluster.good(tool.id)
        assert known.eras == eras
        assert known.server_info == {"name": "echo", "version": "1.0.0"}
        assert known.server_capabilities["tools"] == {"listChanged": True}
        assert known.attempts == 0
        assert names(known) == NAMES

    scenario()


@on_loop
async def lists_in(server: HttpBackend, cluster: Cluster, wanted: list[str | None]) -> None:
    """Discover twice; ``wanted`` are the revisions declared by the requests for the list, in order."""
    cluster.registry.put(http_tool(server.url))
    async with cluster.running():
        first = await cluster.good("remote")
        cluster.registry.refresh(ToolId("remote"))
        again = await cluster.settled(
            lambda k: k.discovered_at > first.discovered_at, "remote", what="a second"
        )
    assert again.eras == first.eras
    listed = [request.headers.get("mcp-protocol-version") for request in server.sent("tools/list")]
    assert listed == wanted


def test_a_backend_of_both_eras_is_listed_in_the_modern_one(cluster: Cluster) -> None:
    """Its newer schema holds the most; at the first time over the connection that asked for the era, later at once."""
    with echo_backend("both") as server:
        lists_in(server, cluster, ["2026-07-28", "2026-07-28"])
        assert len(server.messages("initialize")) == 1
        assert len(server.messages("server/discover")) == 2


def test_a_backend_of_the_legacy_era_is_asked_for_the_other_once(cluster: Cluster) -> None:
    """While it says to be the same server."""
    with echo_backend("legacy") as server:
        lists_in(server, cluster, ["2025-11-25", "2025-11-25"])
        assert len(server.messages("server/discover")) == 1


@on_loop
async def test_a_silent_backend_costs_the_probe_and_nothing_else(cluster: Cluster, echo_log: EchoLog) -> None:
    """Silence to the question of the era means legacy; no child is left."""
    cluster.registry.put(misbehaving("silent_on_discover", env=echo_log.env))
    async with cluster.running(settings=QUICK.model_copy(update={"era_probe_timeout": 0.2})):
        known = await cluster.good()
    assert set(known.eras) == {"legacy"}
    assert len(echo_log.pids()) == 2
    await until(lambda: not any(map(is_running, echo_log.pids())), description="the children to end")


class Changeable:
    """A backend whose eras change while its definition stays."""

    def __init__(self, era: str, version: str) -> None:
        self.become(era, version)

    def become(self, era: str, version: str) -> None:
        """Be upgraded."""
        from tests.support.servers.echo_core import EchoServer
        from tests.support.servers.echo_http import HttpServer

        self._server = EchoServer(era=era, name=f"echo {version}")
        self._http = HttpServer(self._server)

    def handle(self, connection: Connection, request: Request) -> None:
        """Serve as what it is now."""
        self._http.handle(connection, request)


@pytest.mark.parametrize("before", ["legacy", "modern", "both"])
@pytest.mark.parametrize("after", ["legacy", "modern", "both"])
def test_a_backend_that_changes_its_eras(before: str, after: str, cluster: Cluster) -> None:
    """An upgrade behind an unchanged definition is found out by the next discoveries."""

    @on_loop
    async def scenario() -> None:
        backend = Changeable(before, "1")
        with http_backend(backend.handle) as server:
            cluster.registry.put(http_tool(server.url))
            async with cluster.running():
                await cluster.good("remote")
                backend.become(after, "2")
                cluster.registry.refresh(ToolId("remote"))
                known = await cluster.settled(
                    lambda k: k.error is None and k.server_info["name"] == "echo 2",
                    "remote",
                    what="the new server",
                )
        # A backend of both that drops one: the other era's callers are served by translation either way.
        spoken = {"legacy", "modern"} if after == "both" and before != "modern" else {after}
        allowed = [spoken, {"legacy", "modern"}] if before == "both" and after == "modern" else [spoken]
        if before == "modern" and after == "both":
            allowed = [{"modern"}, {"legacy", "modern"}]
        assert set(known.eras) in allowed

    scenario()


# -- what goes wrong ------------------------------------------------------------------------------------


@on_loop
async def test_a_failure_is_shown_and_tried_again_after_a_growing_pause(
    cluster: Cluster, echo_log: EchoLog
) -> None:
    """The error stands at the tool; each pause is longer than the one before, up to the bound."""
    cluster.registry.put(misbehaving("bad_initialize", env=echo_log.env))
    pauses: dict[int, int] = {}
    async with cluster.running():
        for attempt in range(1, 6):
            known = await cluster.settled(lambda k, n=attempt: k.attempts >= n, what=f"attempt {attempt}")
            pauses[known.attempts] = known.retry_at - known.discovered_at
    assert known.error is not None
    assert "protocol version" in known.error
    assert list(pauses) == [1, 2, 3, 4, 5]
    assert pauses[2] > pauses[1]
    assert pauses[3] > pauses[2]
    assert max(pauses.values()) <= 0.4 * 1.2 * 1000
    assert len(echo_log.received("initialize")) <= 6


@on_loop
async def test_the_last_good_answer_stays_in_use(cluster: Cluster, tmp_path: Path) -> None:
    """With the error beside it; a success afterwards takes the error away."""
    broken = {"on": False}
    backend = Changeable("both", "1")

    def handle(connection: Connection, request: Request) -> None:
        if broken["on"]:
            connection.respond("500 Internal Server Error", b"no", "text/plain")
        else:
            backend.handle(connection, request)

    with http_backend(handle) as server:
        cluster.registry.put(http_tool(server.url))
        async with cluster.running():
            good = await cluster.good("remote")
            broken["on"] = True
            cluster.registry.refresh(ToolId("remote"))
            bad = await cluster.settled(lambda k: k.error is not None, "remote", what="the error")
            assert bad.error is not None
            assert "status 500" in bad.error
            assert (bad.tools, bad.eras, bad.server_info) == (good.tools, good.eras, good.server_info)
            broken["on"] = False
            again = await cluster.settled(lambda k: k.error is None, "remote", what="the recovery")
            assert (again.attempts, again.eras) == (0, good.eras)


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("exit_at_start", "exit status 3"),
        ("only_garbage", "no JSON-RPC"),
        ("silent_after_init", "did not list its capabilities in time"),
    ],
)
def test_what_the_error_says(mode: str, words: str, cluster: Cluster) -> None:
    """Enough to know where to look."""

    @on_loop
    async def scenario() -> None:
        cluster.registry.put(misbehaving(mode, startup_timeout=0.7))
        quick = QUICK.model_copy(update={"timeout": 0.2, "era_probe_timeout": 0.2})
        async with cluster.running(settings=quick):
            known = await cluster.settled(lambda k: k.error is not None, what="the error")
        assert known.error is not None
        assert words in known.error

    scenario()


@on_loop
async def test_a_command_that_does_not_exist(cluster: Cluster) -> None:
    """The tool names it."""
    cluster.registry.put(Tool(id=ToolId("local"), transport=StdioTransport(command="/no/such/program")))
    async with cluster.running():
        known = await cluster.settled(lambda k: k.error is not None, what="the error")
    assert known.error is not None
    assert "/no/such/program" in known.error


@on_loop
async def test_a_fault_of_our_own_is_paused_for_too(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever breaks, the backend is not started again and again without a pause."""
    tries: list[float] = []

    def broken(*_: object, **__: object) -> None:
        tries.append(time.monotonic())
        raise KeyError("a bug")

    monkeypatch.setattr("gateway_worker.discovery.make_link", broken)
    cluster.registry.put(stdio_tool())
    async with cluster.running():
        known = await cluster.settled(lambda k: k.attempts >= 4, what="four attempts")
    assert known.error is not None
    assert len(tries) <= 5


# -- when -----------------------------------------------------------------------------------------------


@on_loop
async def test_it_is_asked_once_and_not_again(cluster: Cluster, echo_log: EchoLog) -> None:
    """Before its time has come nobody asks, also while the catalogue has not read the answer yet."""
    cluster.registry.put(stdio_tool("echo", "--era", "modern", env=echo_log.env))
    async with cluster.running():
        cluster.refreshing = False
        await cluster.good()
        looks = 0
        original = cluster.workers[0]._look

        async def counted() -> None:
            nonlocal looks
            looks += 1
            await original()

        cluster.workers[0]._look = counted  # type: ignore[method-assign]
        await until(lambda: looks > 10, description="some more looks")
        cluster.refreshing = True
        await until(lambda: looks > 20, description="some more looks")
    assert len(echo_log.received("tools/list")) == 1


@on_loop
async def test_after_its_time_it_is_asked_again(cluster: Cluster) -> None:
    """``ttl`` is the age at which an answer is out of date."""
    cluster.registry.put(stdio_tool("echo", "--era", "modern"))
    async with cluster.running(settings=QUICK.model_copy(update={"ttl": 0.2})):
        first = await cluster.good()
        again = await cluster.settled(lambda k: k.discovered_at > first.discovered_at, what="a second answer")
    assert again.discovered_at - first.discovered_at >= 200


@on_loop
async def test_a_refresh_that_somebody_asked_for(cluster: Cluster, client: Client, keys: Keys) -> None:
    """Is done at once, and the wish is gone afterwards."""
    cluster.registry.put(stdio_tool("echo", "--era", "modern"))
    async with cluster.running():
        first = await cluster.good()
        cluster.registry.refresh(ToolId("local"))
        await cluster.settled(lambda k: k.discovered_at > first.discovered_at, what="a second answer")
        await until(lambda: not client.hgetall(keys.registry_refresh), description="no wish left")


@on_loop
async def test_a_changed_list_is_read(cluster: Cluster) -> None:
    """When a live session heard its announcement."""
    with echo_backend("modern") as server:
        cluster.registry.put(http_tool(server.url))
        async with cluster.running():
            await cluster.good("remote")
            async with connected(server, era=Era.MODERN) as (backend, _):
                await backend.request("tools/call", {"name": "list_changed", "arguments": {}})
            cluster.workers[0].announce(ToolId("remote"))
            known = await cluster.settled(
                lambda k: len(k.tools) > len(NAMES), "remote", what="the longer list"
            )
    assert names(known)[-1] == "added_1"


@on_loop
async def test_a_changed_definition_is_asked_anew(cluster: Cluster) -> None:
    """What was known belonged to the old one."""
    cluster.registry.put(stdio_tool("echo", "--era", "modern", "--name", "first"))
    async with cluster.running():
        await cluster.good()
        cluster.registry.put(stdio_tool("echo", "--era", "modern", "--name", "second"))
        await cluster.settled(lambda k: k.server_info["name"] == "second", what="the second server")


@on_loop
async def test_who_is_not_asked(cluster: Cluster, echo_log: EchoLog) -> None:
    """A disabled tool, and one that this worker does not serve."""
    disabled = stdio_tool(env=echo_log.env, id=ToolId("disabled")).with_state(ToolState.DISABLED)
    cluster.registry.put(disabled)
    cluster.registry.put(stdio_tool(env=echo_log.env, id=ToolId("foreign")))
    cluster.registry.put(stdio_tool("echo", "--era", "modern", id=ToolId("mine")))
    async with cluster.running(serves=lambda tool: tool != "foreign"):
        await cluster.good("mine")
    assert echo_log.received() == []


@on_loop
async def test_two_workers_do_not_ask_twice(cluster: Cluster, echo_log: EchoLog, client: Client) -> None:
    """One holds the lease; it gives it back."""
    cluster.registry.put(misbehaving("slow_start", "--seconds", "0.3", "--era", "modern", env=echo_log.env))
    async with cluster.running("n1", "n2", "n3"):
        await cluster.good()
        await until(lambda: not client.keys("test:discovery:*"), description="the lease to be given back")
    assert len(echo_log.received("tools/list")) == 1


@on_loop
async def test_a_lease_of_another_is_respected(
    cluster: Cluster, client: Client, keys: Keys, echo_log: EchoLog
) -> None:
    """While it lasts nobody else asks; when it has run out somebody does."""
    client.set(keys.discovery_lease(ToolId("local")), "a dead worker", px=500)
    cluster.registry.put(stdio_tool("echo", "--era", "modern", env=echo_log.env))
    async with cluster.running():
        begun = time.monotonic()
        await cluster.good()
        assert time.monotonic() - begun > 0.3


@on_loop
async def test_a_slow_tool_does_not_hold_up_the_others(cluster: Cluster, quick_stop: None) -> None:
    """Nor does one that never answers."""
    cluster.registry.put(misbehaving("silent", id=ToolId("a-silent")))
    cluster.registry.put(misbehaving("slow_start", "--seconds", "3", id=ToolId("b-slow")))
    cluster.registry.put(stdio_tool("echo", "--era", "modern", id=ToolId("c-quick")))
    async with cluster.running():
        begun = time.monotonic()
        await cluster.good("c-quick")
        assert time.monotonic() - begun < 2.0


@on_loop
async def test_closing_ends_what_runs_and_begins_nothing(
    cluster: Cluster, echo_log: EchoLog, client: Client
) -> None:
    """The children go, the leases too."""
    cluster.registry.put(misbehaving("silent", env=echo_log.env))
    async with cluster.running():
        await until(echo_log.received, description="the child to be asked")
        begun = time.monotonic()
        await cluster.workers[0].close()
        assert time.monotonic() - begun < 3.0
        (pid,) = echo_log.pids()
        assert not is_running(pid)
        assert client.keys("test:discovery:*") == []
        looked = asyncio.Event()
        original = cluster.workers[0]._look

        async def seen() -> None:
            await original()
            looked.set()

        cluster.workers[0]._look = seen  # type: ignore[method-assign]
        await looked.wait()
        assert len(echo_log.pids()) == 1


# -- pure parts -----------------------------------------------------------------------------------------


def pages(*cursors: Any) -> Callable[[Connection, Request], None]:
    """A backend whose pages name these next cursors, one after the other."""
    left = list(cursors)

    def handle(connection: Connection, request: Request) -> None:
        message = orjson.loads(request.body)
        if message["method"] == "server/discover":
            result: dict[str, Any] = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
        else:
            result = {"tools": [{"name": str(len(left))}, "no object"]}
            if left and (following := left.pop(0)) is not None:
                result["nextCursor"] = following
        connection.respond("200 OK", orjson.dumps(respond(request, result)))

    return handle


@pytest.mark.parametrize(
    ("cursors", "requests"),
    [((None,), 1), (("a", "b", None), 3), (("",), 1), (("a", "a", "a"), 2), ((5,), 1), (("a", ""), 2)],
)
def test_where_a_list_ends(cursors: tuple[Any, ...], requests: int) -> None:
    """At a page without a further cursor, with an empty one, with the same again, or with none that is a string."""

    @on_loop
    async def scenario() -> None:
        with http_backend(pages(*cursors)) as server:
            async with connected(server, era=Era.MODERN) as (backend, _):
                items = await list_all(backend, "tools/list", "tools")
            assert len(server.messages("tools/list")) == requests
        assert all(isinstance(item, dict) for item in items)
        assert len(items) == requests

    scenario()


@on_loop
async def test_a_list_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is refused after so many pages."""
    monkeypatch.setattr("gateway_worker.discovery.MAX_PAGES", 5)
    with http_backend(pages(*map(str, range(100)))) as server:
        async with connected(server, era=Era.MODERN) as (backend, _):
            with pytest.raises(Exception, match="more than 5 pages"):
                await list_all(backend, "tools/list", "tools")


@pytest.mark.parametrize("eras", [None, [Era.LEGACY], [Era.MODERN], list(ERAS)])
def test_the_order_for_listing(eras: list[Era] | None) -> None:
    """Modern first where it is known to be spoken; all eras are tried, whatever is known."""
    order = listing_order(entry_of(stdio_tool(), eras=eras).known)
    assert set(order) == set(ERAS)
    assert (order[0] is Era.MODERN) == (eras is not None and Era.MODERN in eras)

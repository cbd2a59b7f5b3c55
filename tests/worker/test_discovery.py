"""Discovery: what a tool offers is learnt in the background, to the last field, in the newest era."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from common.domain.capabilities import Capabilities
from common.domain.ids import ToolId
from common.domain.tool import HttpTransport, Tool
from common.mcp.revisions import Era
from common.processes import is_running
from gateway_worker.discovery import list_all, listing_order
from tests.support.aio import on_loop, until
from tests.support.backends import (
    ERAS,
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
from tests.worker.discovery_cluster import NAMES, QUICK, Changeable, Cluster
from tests.worker.egress.http_links import connected, respond


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, so that the tests end soon."""
    monkeypatch.setattr("gateway_worker.discovery.LOOK_INTERVAL", 0.02)


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
        # Over HTTP the modern era is asked for first, and who speaks it is not asked for the other one.
        assert known.eras == (
            {"modern": eras["modern"]} if transport == "http" and "modern" in eras else eras
        )
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
    """Its newer schema holds the most; over HTTP it is sent no handshake."""
    with echo_backend("both") as server:
        lists_in(server, cluster, ["2026-07-28", "2026-07-28"])
        assert server.messages("initialize") == []
        assert len(server.messages("server/discover")) == 2


def test_a_backend_of_the_legacy_era_is_asked_for_the_other_once(cluster: Cluster) -> None:
    """While it says to be the same server."""
    with echo_backend("legacy") as server:
        lists_in(server, cluster, ["2025-11-25", "2025-11-25"])
        assert len(server.messages("server/discover")) == 1


@on_loop
async def test_a_backend_is_listed_as_for_clients_that_can_be_asked_for_everything(cluster: Cluster) -> None:
    """Some offer a tool only to a client that they can ask what the tool needs; each client is shown the whole list."""
    cluster.registry.put(stdio_tool("inquirer", "legacy"))
    async with cluster.running():
        known = await cluster.good()
    told = orjson.loads(known.instructions or "null")  # it says there what it was told
    assert told == {
        "elicitation": {"form": {}, "url": {}},
        "roots": {},
        "sampling": {"context": {}, "tools": {}},
    }


@on_loop
async def test_a_silent_backend_costs_the_probe_and_nothing_else(cluster: Cluster, echo_log: EchoLog) -> None:
    """Silence to the question of the era means legacy; no child is left."""
    cluster.registry.put(misbehaving("silent_on_discover", env=echo_log.env))
    async with cluster.running(settings=QUICK.model_copy(update={"era_probe_timeout": 0.2})):
        known = await cluster.good()
    assert set(known.eras) == {"legacy"}
    assert len(echo_log.pids()) == 2
    await until(lambda: not any(map(is_running, echo_log.pids())), description="the children to end")


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
        # Who speaks the modern era is not asked for the other one; one that was known by that is asked for the newer.
        both = {"legacy", "modern"} if before == "legacy" else {"modern"}
        assert set(known.eras) == (both if after == "both" else {after})

    scenario()


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
        assert len(items) == 2 * requests

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
@pytest.mark.parametrize("http", [False, True])
def test_the_order_for_listing(eras: list[Era] | None, http: bool) -> None:
    """Modern first where it is known to be spoken, or where nothing is known over HTTP; all eras are tried."""
    tool = Tool(id=ToolId("t"), transport=HttpTransport(url="http://h/mcp")) if http else stdio_tool()
    order = listing_order(entry_of(tool, eras=eras))
    assert set(order) == set(ERAS)
    assert (order[0] is Era.MODERN) == (http if eras is None else Era.MODERN in eras)

"""Negotiation with every kind of backend, and what a request looks like in each pair of eras."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Any

import orjson
import pytest

from common.domain.errors import TransportFailure
from common.domain.invocation import Invocation
from common.domain.tool import Tool
from common.mcp.revisions import Era
from common.processes import ProcessGuard
from gateway_worker.egress.backend import CLIENT_INFO, Backend, connect, make_link, start
from gateway_worker.egress.link import LinkLost, StatusRefused
from tests.support.aio import on_loop
from tests.support.backends import (
    ERAS,
    MAX_BYTES,
    EchoLog,
    HttpBackend,
    echo_backend,
    entry_of,
    http_backend,
    http_tool,
    invocation,
    misbehaving,
    stdio_tool,
)
from tests.support.servers.http_wire import Connection, Request
from tests.worker.egress.http_links import Json, respond

LEGACY, MODERN = Era.LEGACY, Era.MODERN
META = "io.modelcontextprotocol/"


@contextlib.asynccontextmanager
async def opened(tool: Tool, guard: ProcessGuard, *eras: Era) -> AsyncIterator[Backend]:
    """A backend that has been spoken to, in the first of these eras that it knows."""
    backend = await start(tool, make_link(tool, guard, max_bytes=MAX_BYTES), eras)
    try:
        yield backend
    finally:
        await backend.link.close()


# -- negotiation ----------------------------------------------------------------------------------------

TABLE = [
    ("legacy", (LEGACY, MODERN), LEGACY),
    ("legacy", (MODERN, LEGACY), LEGACY),
    ("legacy", (LEGACY,), LEGACY),
    ("legacy", (MODERN,), None),
    ("modern", (LEGACY, MODERN), MODERN),
    ("modern", (MODERN, LEGACY), MODERN),
    ("modern", (LEGACY,), None),
    ("modern", (MODERN,), MODERN),
    ("both", (LEGACY, MODERN), LEGACY),
    ("both", (MODERN, LEGACY), MODERN),
]


async def negotiates(tool: Tool, guard: ProcessGuard, order: tuple[Era, ...], expected: Era | None) -> None:
    """Check one row of the table."""
    if expected is None:
        with pytest.raises(TransportFailure, match="speaks no revision known here"):
            async with opened(tool, guard, *order):
                pass
        return
    async with opened(tool, guard, *order) as backend:
        found = backend.negotiated
        assert (found.era, found.version) == (
            expected,
            {LEGACY: "2025-11-25", MODERN: "2026-07-28"}[expected],
        )
        assert found.server_info == {"name": "echo", "version": "1.0.0"}
        assert found.capabilities["tools"] == {"listChanged": True}
        assert len((await backend.request("tools/list", {}))["tools"]) > 5


@pytest.mark.parametrize(("speaks", "order", "expected"), TABLE)
def test_negotiation_over_stdio(
    speaks: str, order: tuple[Era, ...], expected: Era | None, guard: ProcessGuard
) -> None:
    """The first era of ours that the backend speaks."""
    on_loop(lambda: negotiates(stdio_tool("echo", "--era", speaks), guard, order, expected))()


@pytest.mark.parametrize(("speaks", "order", "expected"), TABLE)
def test_negotiation_over_http(
    speaks: str, order: tuple[Era, ...], expected: Era | None, guard: ProcessGuard
) -> None:
    """The same table."""
    with echo_backend(speaks) as server:
        on_loop(lambda: negotiates(http_tool(server.url), guard, order, expected))()


@on_loop
async def test_a_backend_that_is_silent_to_what_it_does_not_know(guard: ProcessGuard) -> None:
    """Asked legacy first it costs nothing; asked modern alone it costs the whole start, with a clear error."""
    begun = time.monotonic()
    async with opened(misbehaving("silent_on_discover"), guard, LEGACY, MODERN) as backend:
        assert backend.negotiated.era is LEGACY
    assert time.monotonic() - begun < 3.0
    with pytest.raises(TransportFailure, match=r"within startup_timeout \(0.5 s\)"):
        async with opened(misbehaving("silent_on_discover", startup_timeout=0.5), guard, MODERN):
            pass


@on_loop
async def test_only_garbage_is_said_in_the_error(guard: ProcessGuard) -> None:
    """Somebody who configured the wrong program learns that it talks, and not in JSON-RPC."""
    with pytest.raises(TransportFailure, match=r"startup_timeout.*[1-9]\d* lines .* no JSON-RPC"):
        async with opened(misbehaving("only_garbage", startup_timeout=1.0), guard, LEGACY):
            pass


@pytest.mark.parametrize(
    ("era", "words"), [(LEGACY, "initialize with protocol version 'int'"), (MODERN, "no modern revision")]
)
def test_a_wrong_opening(era: Era, words: str, guard: ProcessGuard) -> None:
    """A result of the wrong shape is a typed error that says what was wrong."""

    @on_loop
    async def scenario() -> None:
        with pytest.raises(TransportFailure, match=words):
            async with opened(misbehaving("bad_initialize"), guard, era):
                pass

    scenario()


def opens_with(result: Json) -> AbstractContextManager[HttpBackend]:
    """A backend that answers everything with this result."""
    return http_backend(
        lambda connection, request: (
            connection.respond("200 OK", orjson.dumps(respond(request, result)))
            if request.method == "POST" and b'"id"' in request.body
            else connection.respond("202 Accepted")
        )
    )


@pytest.mark.parametrize("odd", [None, [], "text", 5, {"deep": []}])
def test_odd_members_of_an_opening_are_passed_over(odd: Any, guard: ProcessGuard) -> None:
    """Only the revision matters; the rest is nothing if it has not the right form."""

    @on_loop
    async def scenario() -> None:
        shared = {"_meta": odd, "serverInfo": odd, "capabilities": odd, "instructions": odd}
        for era, member in (
            (LEGACY, {"protocolVersion": "2025-06-18"}),
            (MODERN, {"supportedVersions": ["2026-07-28"]}),
        ):
            with opens_with({**shared, **member}) as server:
                async with opened(http_tool(server.url), guard, era) as backend:
                    found = backend.negotiated
            expected = odd if isinstance(odd, dict) else {}
            assert (found.server_info, found.capabilities) == (expected, expected)
            assert found.instructions == (odd if isinstance(odd, str) else None)

    scenario()


def only_modern_refusing(status: str) -> Callable[[Connection, Request], None]:
    """A modern backend that refuses ``initialize`` in its web framework's own words."""

    def handle(connection: Connection, request: Request) -> None:
        if orjson.loads(request.body)["method"] == "server/discover":
            result = {"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {}}
            connection.respond("200 OK", orjson.dumps(respond(request, result)))
        else:
            connection.respond(status, b"<p>no", "text/html")

    return handle


@pytest.mark.parametrize("status", ["400 Bad Request", "404 Not Found", "405 Method Not Allowed"])
def test_a_refusal_without_json_rpc_means_another_era(status: str, guard: ProcessGuard) -> None:
    """Not every backend refuses in JSON-RPC what it does not speak."""

    @on_loop
    async def scenario() -> None:
        with http_backend(only_modern_refusing(status)) as server:
            async with opened(http_tool(server.url), guard, LEGACY, MODERN) as backend:
                assert backend.negotiated.era is MODERN
            with pytest.raises(TransportFailure, match=f"legacy: .*status {status[:3]}"):
                async with opened(http_tool(server.url), guard, LEGACY):
                    pass

    scenario()


def test_a_backend_that_names_its_revisions_is_asked_again(guard: ProcessGuard) -> None:
    """In one that both know, and not in the other era."""
    asked: list[str] = []

    def handle(connection: Connection, request: Request) -> None:
        asked.append(orjson.loads(request.body)["method"])
        if len(asked) == 1:
            data = {"supported": ["2099-01-01", "2026-07-28"], "requested": "2026-07-28"}
            error = {"code": -32022, "message": "Unsupported protocol version", "data": data}
            body = {"jsonrpc": "2.0", "id": orjson.loads(request.body)["id"], "error": error}
            connection.respond("400 Bad Request", orjson.dumps(body))
        else:
            result = {"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {}}
            connection.respond("200 OK", orjson.dumps(respond(request, result)))

    @on_loop
    async def scenario() -> None:
        with http_backend(handle) as server:
            async with opened(http_tool(server.url), guard, MODERN, LEGACY) as backend:
                assert backend.negotiated.era is MODERN
        assert asked == ["server/discover", "server/discover"]

    scenario()


def only_legacy(modern: str | None) -> Callable[[Connection, Request], None]:
    """A legacy backend that answers what it does not know with this status, or not at all."""
    result = {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "old"}}

    def handle(connection: Connection, request: Request) -> None:
        method = orjson.loads(request.body)["method"] if request.body else request.method
        if method == "initialize":
            connection.respond("200 OK", orjson.dumps(respond(request, result)))
        elif method in ("GET", "DELETE"):
            connection.respond("405 Method Not Allowed")
        elif method == "notifications/initialized":
            connection.respond("202 Accepted", b"")
        elif modern is not None:
            connection.respond(modern, b"<p>no", "text/html")
        else:
            connection.hung_up(5.0)

    return handle


@pytest.mark.parametrize(
    "modern", ["400 Bad Request", "500 Internal Server Error", "422 Unprocessable Content", None]
)
def test_what_a_legacy_backend_does_at_the_modern_question_is_no_matter(
    modern: str | None, guard: ProcessGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may break at it, or be silent: the legacy handshake is tried. Where that was not to be, it is the failure."""
    monkeypatch.setattr("gateway_worker.egress.backend.ERA_PATIENCE", 0.2)

    @on_loop
    async def scenario() -> None:
        with http_backend(only_legacy(modern)) as server:
            async with opened(http_tool(server.url), guard, MODERN, LEGACY) as backend:
                assert (backend.negotiated.era, backend.negotiated.version) == (LEGACY, "2025-06-18")
            if modern is not None:
                with pytest.raises(TransportFailure, match=modern[:3]):
                    async with opened(http_tool(server.url), guard, MODERN):
                        pass

    scenario()


@on_loop
async def test_a_handshake_answered_with_a_modern_revision_means_that_era(guard: ProcessGuard) -> None:
    """Such a backend is spoken to, in the era it names."""
    with opens_with({"protocolVersion": "2026-07-28", "supportedVersions": ["2026-07-28"]}) as server:
        async with opened(http_tool(server.url), guard, LEGACY, MODERN) as backend:
            assert backend.negotiated.era is MODERN
        with pytest.raises(TransportFailure, match="legacy: initialize was answered with 2026-07-28"):
            async with opened(http_tool(server.url), guard, LEGACY):
                pass


@pytest.mark.parametrize("status", ["401 Unauthorized", "429 Too Many Requests", "500 Server Error"])
def test_other_refusals_end_the_negotiation(status: str, guard: ProcessGuard) -> None:
    """A backend that wants a credential, or is broken, is not asked again in another era."""

    @on_loop
    async def scenario() -> None:
        with http_backend(only_modern_refusing(status)) as server:
            with pytest.raises(StatusRefused, match=f"status {status[:3]}"):
                async with opened(http_tool(server.url), guard, LEGACY, MODERN):
                    pass
            assert len(server.requests) == 1

    scenario()


@on_loop
async def test_a_failed_opening_leaves_nothing(guard: ProcessGuard) -> None:
    """The link is closed whatever was raised."""
    tool = misbehaving("exit_at_start")
    link = make_link(tool, guard, max_bytes=MAX_BYTES)
    with pytest.raises(LinkLost):
        await connect(link, ERAS)
    assert link.closed.is_set()


# -- what is sent ---------------------------------------------------------------------------------------

CALLERS_META = {
    META + "protocolVersion": "2026-07-28",
    META + "clientInfo": {"name": "a client", "version": "7"},
    META + "clientCapabilities": {"sampling": {}, "elicitation": {"form": {}}},
    META + "logLevel": "debug",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "vendor.example/kept": {"deep": [1, None]},
}
VENDOR = {name: CALLERS_META[name] for name in ("traceparent", "vendor.example/kept")}


async def sent_for(call: Invocation, backend_era: Era, guard: ProcessGuard, log: EchoLog) -> Json:
    """The params that reach a backend of this era."""
    async with opened(stdio_tool("echo", env=log.env), guard, backend_era) as backend:
        await backend.call(call.method, call.params)
    (received,) = log.received("tools/call")
    params: Json = received["params"]
    return params


@on_loop
async def test_modern_to_modern(guard: ProcessGuard, echo_log: EchoLog) -> None:
    """What the caller says of itself is relayed as it is, with everything else."""
    call = invocation("echo", {"text": "x"}, era=MODERN, meta=CALLERS_META)
    call.params["requestState"] = "opaque"  # type: ignore[index]
    call.params["inputResponses"] = {"k": {"action": "accept"}}  # type: ignore[index]
    assert await sent_for(call, MODERN, guard, echo_log) == call.params


@pytest.mark.parametrize("meta", [None, {}, {"progressToken": "t"}])
def test_modern_to_modern_adds_what_is_missing(
    meta: Json | None, guard: ProcessGuard, echo_log: EchoLog
) -> None:
    """A backend of the modern era requires revision and capabilities; a token is replaced by one of ours."""

    @on_loop
    async def scenario() -> None:
        params = await sent_for(
            invocation("echo", {"text": "x"}, era=MODERN, meta=meta), MODERN, guard, echo_log
        )
        token = {"progressToken": params["_meta"].get("progressToken")} if meta else {}
        assert params["_meta"] == {
            META + "protocolVersion": "2026-07-28",
            META + "clientCapabilities": {},
            META + "clientInfo": CLIENT_INFO,
            **token,
        }
        assert token.get("progressToken") != "t"

    scenario()


@on_loop
async def test_modern_to_legacy(guard: ProcessGuard, echo_log: EchoLog) -> None:
    """The keys of the modern era are taken off, all others stay."""
    call = invocation("echo", {"text": "x"}, era=MODERN, meta=CALLERS_META)
    assert await sent_for(call, LEGACY, guard, echo_log) == {**call.params, "_meta": VENDOR}


@on_loop
async def test_legacy_to_legacy(guard: ProcessGuard, echo_log: EchoLog) -> None:
    """Params as they came."""
    call = invocation("echo", {"text": "x"}, meta=VENDOR)
    assert await sent_for(call, LEGACY, guard, echo_log) == call.params


@on_loop
async def test_legacy_to_modern(guard: ProcessGuard, echo_log: EchoLog) -> None:
    """What the web process has put there of the caller stays; of one that said nothing the gateway says so."""
    declared = {META + "clientCapabilities": {"sampling": {}}}
    call = invocation("echo", {"text": "x"}, meta={**VENDOR, **declared})
    described = {META + "protocolVersion": "2026-07-28", META + "clientInfo": CLIENT_INFO}
    sent = await sent_for(call, MODERN, guard, echo_log)
    assert sent == {**call.params, "_meta": {**VENDOR, **declared, **described}}


@on_loop
async def test_a_caller_that_said_nothing_is_described(guard: ProcessGuard, echo_log: EchoLog) -> None:
    """The protocol wants it with each request."""
    sent = await sent_for(invocation("echo", {"text": "x"}), MODERN, guard, echo_log)
    assert sent["_meta"] == {
        META + "protocolVersion": "2026-07-28",
        META + "clientCapabilities": {},
        META + "clientInfo": CLIENT_INFO,
    }


@pytest.mark.parametrize("caller_era", ERAS)
def test_the_headers_of_a_call_to_a_modern_backend(caller_era: Era, guard: ProcessGuard) -> None:
    """They agree with the body, whoever called; further ones are added, but replace none of these."""

    @on_loop
    async def scenario() -> None:
        with echo_backend() as server:
            async with opened(http_tool(server.url), guard, MODERN) as backend:
                assert backend.routed_by_headers
                headers = {"Mcp-Param-Region": "eu", "mcp-name": "other"}
                call = invocation("echo", {"text": "x"}, era=caller_era)
                await backend.call(call.method, call.params, headers=headers)
            (sent,) = server.sent("tools/call")
        assert sent.headers["mcp-param-region"] == "eu"
        assert sent.headers["mcp-name"] == "echo"
        assert sent.headers["mcp-method"] == "tools/call"
        assert sent.headers["mcp-protocol-version"] == "2026-07-28"

    scenario()


@on_loop
async def test_a_name_that_no_header_can_hold_is_encoded(guard: ProcessGuard) -> None:
    """As the revision prescribes; a name with a line break smuggles no header in."""
    names = {"päivä": "=?base64?cMOkaXbDpA==?=", "a\r\nX-Evil: 1": "=?base64?YQ0KWC1FdmlsOiAx?="}
    result = {"supportedVersions": ["2026-07-28"], "content": []}
    with opens_with(result) as server:
        async with opened(http_tool(server.url), guard, MODERN) as backend:
            for name in names:
                call = invocation(name, era=MODERN)
                await backend.call(call.method, call.params)
        assert [request.headers["mcp-name"] for request in server.sent("tools/call")] == list(names.values())
        assert not any("x-evil" in request.headers for request in server.requests)


@on_loop
async def test_headers_belong_to_modern_http(guard: ProcessGuard) -> None:
    """Neither a legacy backend nor a child is routed by them."""
    with echo_backend() as server:
        async with opened(http_tool(server.url), guard, LEGACY) as backend:
            assert not backend.routed_by_headers
            call = invocation("echo", {"text": "x"}, era=MODERN)
            await backend.call(call.method, call.params)
        (sent,) = server.sent("tools/call")
        assert "mcp-name" not in sent.headers
    async with opened(stdio_tool(), guard, MODERN) as backend:
        assert not backend.routed_by_headers


def test_the_entry_helper() -> None:
    """An entry with eras is one that discovery has been at."""
    assert entry_of(stdio_tool()).known is None
    known = entry_of(stdio_tool(), eras=[MODERN]).known
    assert known is not None
    assert known.eras == {"modern": "2026-07-28"}

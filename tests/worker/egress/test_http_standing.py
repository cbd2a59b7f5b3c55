"""The stream of an HTTP session that belongs to no request: some backends ask there, from the first call on."""

from __future__ import annotations

import threading

import orjson
import pytest

from gateway_worker.egress import http
from tests.support.aio import on_loop
from tests.support.servers.http_wire import Connection, Request
from tests.worker.egress.http_links import Json, call, connected, respond, served

ASKABLE: Json = {"elicitation": {}}


def test_a_call_waits_for_the_stream_on_which_its_client_may_be_asked() -> None:
    """What a backend asks before the stream is there is lost."""
    order: list[str] = []
    called = threading.Event()

    def handle(connection: Connection, request: Request) -> None:
        if request.method == "GET":
            called.wait(0.3)  # a call that does not wait comes meanwhile
            order.append("stream")
            connection.respond("405 Method Not Allowed")
            return
        order.append("call")
        called.set()
        connection.respond("200 OK", orjson.dumps(respond(request, {"content": []})))

    @on_loop
    async def scenario() -> None:
        with served(handle, verbs=["GET"]) as server:
            async with connected(server, capabilities=ASKABLE) as (backend, _):
                await backend.request("tools/call", call("echo", text="x"))

    scenario()
    assert order == ["stream", "call"]


@pytest.mark.parametrize("capabilities", [ASKABLE, {}], ids=["askable", "not askable"])
def test_a_stream_that_is_never_answered_is_waited_for_a_while_at_most(
    capabilities: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not at all for a client that cannot be asked."""
    monkeypatch.setattr(http, "LISTENING_WITHIN", 0.05 if capabilities else 3600.0)
    ended = threading.Event()

    def handle(connection: Connection, request: Request) -> None:
        if request.method == "GET":
            ended.wait(30)
            return
        connection.respond("200 OK", orjson.dumps(respond(request, {"content": []})))

    @on_loop
    async def scenario() -> None:
        with served(handle, verbs=["GET"]) as server:
            async with connected(server, capabilities=capabilities) as (backend, _):
                assert await backend.request("tools/call", call("echo", text="x")) == {"content": []}
            ended.set()

    scenario()

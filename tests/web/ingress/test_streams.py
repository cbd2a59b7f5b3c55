"""Waiting for an answer: when it becomes a stream, what keeps it open, and who has gone in the meantime."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from werkzeug.test import TestResponse

from common.domain.errors import InvocationTimeout
from common.domain.ids import ClientId, TenantId, ToolId
from common.domain.invocation import Caller, ExecutionResult, answer, failed, rpc_failure
from common.mcp.jsonrpc import Request
from common.mcp.revisions import Era
from gateway_web.ingress.disconnect import hung_up
from gateway_web.ingress.requests import McpRequest
from gateway_web.ingress.streams import answer_call, server_timing
from tests.support.fake_worker import TakenCall
from tests.support.wait import wait_until
from tests.web.harness import LEGACY, META, MODERN, Serve, Web, body, events

CALL = {"name": "echo__add", "arguments": {}}
QUICK = {"sse_commit_after": 0.05, "ping_interval": 0.05}


def silent(_call: TakenCall) -> None:
    """A backend that takes its time."""


def progress(call: TakenCall) -> None:
    for number in (1, 2):
        call.notify("notifications/progress", progressToken=5, progress=number)
    call.finish(answer({"done": True}))


def chunks(response: TestResponse) -> Iterator[bytes]:
    """What is written, piece by piece, as it is written."""
    yield from response.iter_encoded()


# -- when it becomes a stream ---------------------------------------------------------------------------


def test_a_notification_that_comes_first_makes_it_a_stream(web: Web, session: str) -> None:
    """Notifications, then the one response, then the end."""
    web.worker.behaviour = progress
    response = web.legacy(session, "tools/call", CALL, id="c")
    assert response.status_code == 200
    assert response.content_type.partition(";")[0] == "text/event-stream"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert events(response.data) == [
        *(
            {
                "jsonrpc": "2.0",
                "method": "notifications/progress",
                "params": {"progressToken": 5, "progress": number},
            }
            for number in (1, 2)
        ),
        {"jsonrpc": "2.0", "id": "c", "result": {"done": True}},
    ]


def test_it_is_the_same_in_the_modern_era(web: Web) -> None:
    """A stream of one request."""
    web.worker.behaviour = progress
    found = events(web.modern("tools/call", CALL, id=7).data)
    assert [message.get("id") for message in found] == [None, None, 7]


def test_an_answer_that_comes_first_is_plain_json(web: Web, session: str) -> None:
    """One body, with its length."""
    response = web.legacy(session, "tools/call", CALL)
    assert response.mimetype == "application/json"
    assert int(response.headers["Content-Length"]) == len(response.data)


def test_text_in_a_stream_stays_on_its_line(web: Web, session: str) -> None:
    """Line breaks of every kind are escaped: no event can be forged from within."""
    nasty = "a\n\nevent: message\ndata: {}\r\n\r\r: x\u2028\u2029\x85"

    def forge(call: TakenCall) -> None:
        call.notify("notifications/progress", message=nasty)
        call.finish(answer({"text": nasty}))

    web.worker.behaviour = forge
    response = web.legacy(session, "tools/call", CALL)
    found = events(response.data)
    assert found[0]["params"]["message"] == found[1]["result"]["text"] == nasty
    assert len(found) == 2
    assert response.data.count(b"\n") == 4 + 2 * 4
    assert b"\r" not in response.data


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (answer({"isError": True}), {"result": {"isError": True}}),
        (rpc_failure({"code": -32601, "message": "no"}), {"error": {"code": -32601, "message": "no"}}),
        (
            failed(InvocationTimeout("late")),
            {"error": {"code": -32009, "message": "late", "data": {"code": "INVOCATION_TIMEOUT"}}},
        ),
    ],
)
@pytest.mark.parametrize("era", Era)
def test_once_it_is_a_stream_every_end_is_an_event(
    web: Web, session: str, era: Era, end: ExecutionResult, expected: dict[str, Any]
) -> None:
    """The status has gone out as 200."""

    def behave(call: TakenCall) -> None:
        call.notify("notifications/progress", progress=1)
        call.finish(end)

    web.worker.behaviour = behave
    response = (
        web.modern("tools/call", CALL) if era is Era.MODERN else web.legacy(session, "tools/call", CALL)
    )
    assert response.status_code == 200
    assert events(response.data)[-1] == {"jsonrpc": "2.0", "id": 1, **expected}


def test_silence_makes_it_a_stream_and_comments_keep_it_open(serve: Serve) -> None:
    """After ``sse_commit_after``; then a comment each ``ping_interval``, until the answer comes."""
    web = serve(web=QUICK)
    session = web.initialize()
    web.worker.behaviour = silent
    response = web.legacy(session, "tools/call", CALL, buffered=False)
    assert response.content_type.startswith("text/event-stream")
    written = chunks(response)
    assert next(written).startswith(b"id: ")
    assert [next(written) for _ in range(3)] == [b": ping\n\n"] * 3
    web.worker.next_call().finish(answer({"late": True}))
    rest = list(written)
    assert [message for message in events(b"".join(rest)) if message != ": ping"] == [
        {"jsonrpc": "2.0", "id": 1, "result": {"late": True}}
    ]
    web.nothing_waits()


def test_a_flood_of_unwanted_logs_is_silence(serve: Serve) -> None:
    """What is left out must not hold back the comments, nor keep a stream from beginning."""
    web = serve(web=QUICK)
    stop = threading.Event()

    def flood(call: TakenCall) -> None:
        while not stop.wait(0.002):
            call.notify("notifications/message", level="debug", data="x")
        call.finish(answer({}))

    web.worker.behaviour = flood
    response = web.modern("tools/call", CALL, buffered=False)
    written = chunks(response)
    first = [next(written) for _ in range(3)]
    stop.set()
    list(written)
    assert first == [b": ping\n\n"] * 3


def test_a_stream_can_begin_at_once(serve: Serve) -> None:
    """With ``sse_commit_after: 0`` the status never waits."""
    web = serve(web={"sse_commit_after": 0, "ping_interval": 15})
    session = web.initialize()
    go = threading.Event()

    def wait(call: TakenCall) -> None:
        go.wait(5)
        call.finish(answer({}))

    web.worker.behaviour = wait
    response = web.legacy(session, "tools/call", CALL, buffered=False)
    written = chunks(response)
    assert next(written).startswith(b"id: ")
    go.set()
    assert events(b"".join(written))[-1]["result"] == {}


def test_a_call_without_a_worker_ends_its_stream(serve: Serve) -> None:
    """At the deadline, as an event."""
    web = serve(web=QUICK)
    session = web.initialize()
    web.worker.behaviour = silent
    found = events(web.legacy(session, "tools/call", {"name": "slow__wait"}).data)
    assert found[0] == ": ping"
    assert found[-1]["error"]["code"] == -32009


# -- who has gone ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", Era)
def test_a_client_that_leaves_a_stream_is_let_go(serve: Serve, era: Era) -> None:
    """In the modern era that cancels its call; in the legacy era the call goes on, until its session is ended."""
    web = serve(web=QUICK)
    session = web.initialize()
    web.worker.behaviour = silent
    response = (
        web.modern("tools/call", CALL, buffered=False)
        if era is Era.MODERN
        else web.legacy(session, "tools/call", CALL, buffered=False)
    )
    written = chunks(response)
    next(written)
    taken = web.worker.next_call()
    response.close()
    written.close()  # type: ignore[attr-defined]
    web.nothing_waits()
    web.gateway.cancel_invocation(taken.invocation.id + "-last")  # type: ignore[arg-type]
    wait_until(lambda: taken.invocation.id + "-last" in web.worker.cancelled, description="all is heard")
    assert (taken.invocation.id in web.worker.cancelled) == (era is Era.MODERN)
    assert web.http.delete("/mcp", headers={"Mcp-Session-Id": session}).status_code == 200
    wait_until(lambda: taken.invocation.id in web.worker.cancelled, description="the session takes it along")


def asking(web: Web, era: Era) -> tuple[Any, McpRequest]:
    """A call begun as the door does, and the request behind it."""
    who = Caller(tenant=TenantId("default"), client=ClientId("default"))
    mcp = McpRequest(
        request=Request(1, "tools/call", {"name": "add"}),
        caller=who,
        tool=ToolId("echo"),
        era=era,
        version=MODERN if era is Era.MODERN else LEGACY,
    )
    return web.gateway.begin(who, ToolId("echo"), "tools/call", {"name": "add"}), mcp


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The server's side of a connection, and the client's."""
    server, client = socket.socketpair()
    with server, client:
        yield server, client


@pytest.mark.parametrize("era", Era)
def test_a_client_that_hangs_up_while_we_wait_is_noticed(
    web: Web, era: Era, connection: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything was written; the modern era's call is cancelled."""
    monkeypatch.setattr("gateway_web.ingress.streams.LOOK", 0.02)
    server, client = connection
    web.worker.behaviour = silent
    call, mcp = asking(web, era)
    client.close()
    response = answer_call(call, mcp, web.gateway.settings.web, {"gunicorn.socket": server})
    assert isinstance(response.body, bytes)
    assert b"hung up" in response.body
    wait_until(
        lambda: web.worker.cancelled == ([call.invocation.id] if era is Era.MODERN else []),
        description="cancelled or not",
    )


def test_a_stream_that_is_never_read_is_let_go(
    web: Web, connection: tuple[socket.socket, socket.socket]
) -> None:
    """The server may close an answer before it has asked for its first piece."""
    web.worker.behaviour = progress
    call, mcp = asking(web, Era.MODERN)
    answer = answer_call(call, mcp, web.gateway.settings.web, {})
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    pieces = answer.send(lambda _status, _headers: None)
    pieces.close()  # type: ignore[attr-defined]
    web.nothing_waits()
    wait_until(lambda: web.worker.cancelled == [call.invocation.id], description="it is cancelled")


def test_a_fault_while_waiting_lets_go(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever breaks: nobody is left waiting."""
    web.worker.behaviour = silent
    call, mcp = asking(web, Era.LEGACY)
    monkeypatch.setattr(call, "next", lambda _timeout: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        answer_call(call, mcp, web.gateway.settings.web, {})
    web.nothing_waits()


def test_an_open_connection_is_not_hung_up(connection: tuple[socket.socket, socket.socket]) -> None:
    """Silent, or with the next request already there."""
    server, client = connection
    assert not hung_up({"gunicorn.socket": server})
    client.send(b"POST /mcp HTTP/1.1\r\n")
    assert not hung_up({"gunicorn.socket": server})
    assert server.recv(4) == b"POST"


@pytest.mark.parametrize("key", ["gunicorn.socket", "werkzeug.socket"])
def test_a_closed_connection_is_hung_up(connection: tuple[socket.socket, socket.socket], key: str) -> None:
    """Closed there, or here."""
    server, client = connection
    client.close()
    assert hung_up({key: server})
    server.close()
    assert hung_up({key: server})


def test_a_reset_connection_is_hung_up() -> None:
    """Over TCP: the client's process was killed with unread data."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        with server:
            server.send(b"unread")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            client.close()
            wait_until(lambda: hung_up({"gunicorn.socket": server}), description="the reset arrives")


def test_a_server_that_shows_no_socket_is_asked_nothing() -> None:
    """Then only a failed write tells."""
    assert not hung_up({})
    assert not hung_up({"gunicorn.socket": None})


# -- timing ---------------------------------------------------------------------------------------------


def test_where_the_time_went() -> None:
    """What the worker did not spend was spent on the way; never less than nothing."""
    result = answer({}, duration_ms=30.0, stages={"session": 10.0, "backend": 19.94})
    assert server_timing(result, 42.0) == "queue;dur=12.0, session;dur=10.0, backend;dur=19.9, total;dur=42.0"
    assert server_timing(answer({}, duration_ms=5.0), 4.0) == "queue;dur=0.0, total;dur=4.0"


def test_a_failure_has_its_times_too(web: Web, session: str) -> None:
    """It is then that people look."""
    web.worker.behaviour = lambda call: call.finish(failed(InvocationTimeout("late"), duration_ms=3))
    response = web.legacy(session, "tools/call", CALL)
    assert body(response)["error"]["code"] == -32009
    assert "total;dur=" in response.headers["Server-Timing"]


def test_wanted_logs_are_told_apart_by_level(web: Web) -> None:
    """Of a modern request that names one."""
    web.worker.behaviour = lambda call: (
        call.notify("notifications/message", level="info", data="x"),
        call.notify("notifications/message"),
        call.finish(answer({})),
    )[0]
    found = events(web.modern("tools/call", CALL, meta={META + "logLevel": "info"}).data)
    assert len(found) == 3

"""The account of a request: its span, its line in the access log, and what other lines say of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import structlog

from common.domain.audit_call import unpacked
from common.domain.errors import TransportFailure
from common.domain.invocation import answer, failed, rpc_failure
from common.telemetry.about import add_facts, current
from common.telemetry.spans import Kind, Span, Tracer
from gateway_web.ingress.account import ACCESS
from tests.support.fake_worker import TakenCall, echo
from tests.support.redis import RedisServer
from tests.support.wait import wait_until
from tests.web.harness import OWN, Web, events, request, serving
from tests.web.peers import SsePeer, Talk, WebSocketPeer, listening

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
CALL = {"name": "echo__add", "arguments": {"a": 1}}
SPANS: list[Span] = []


@pytest.fixture(scope="module", params=["gunicorn", "short way", "flask"])
def traced_web(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[Web]:
    """A web process that records what its clients began, on each way in."""
    with serving(redis_server, OWN, way=request.param, tracer=Tracer(SPANS.append, ratio=0.0)) as web:
        yield web


@pytest.fixture
def web(traced_web: Web) -> Iterator[Web]:
    traced_web.worker.reset()
    SPANS.clear()
    yield traced_web
    traced_web.nothing_waits()


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    """The log of this process, with what the processor adds."""
    capture = structlog.testing.LogCapture()
    processors = structlog.get_config()["processors"]
    kept = list(processors)
    processors[:] = [add_facts, capture]
    yield capture.entries
    processors[:] = kept


def server_span() -> Span:
    return wait_until(
        lambda: next((span for span in SPANS if span.kind is Kind.SERVER), None), description="the span"
    )


def test_a_call_s_message_carries_the_span_of_its_sending(web: Web) -> None:
    """Which is below that of the request, and that below the client's; a stock worker reads it."""
    assert (
        web.modern("tools/call", CALL, meta={"traceparent": PARENT, "tracestate": "a=1"}).status_code == 200
    )
    server = server_span()
    (sending,) = (span for span in SPANS if span.kind is Kind.PRODUCER)
    assert server.parent is not None
    assert f"{server.parent.trace_id:032x}" == TRACE
    assert sending.parent == server.context
    headers = web.worker.next_call().message["headers"]
    assert headers["traceparent"] == sending.context.traceparent
    assert headers["tracestate"] == "a=1"
    assert server.attributes["canalgate.invocation"] == headers["id"]


@pytest.mark.parametrize("parent", [None, PARENT[:-2] + "00", "nonsense", 5, {"x": 1}])
def test_of_what_is_not_recorded_there_is_nothing(web: Web, parent: object) -> None:
    """No span, no header; and ``_meta`` goes on as the client sent it."""
    assert (
        web.modern("tools/call", CALL, meta={} if parent is None else {"traceparent": parent}).status_code
        == 200
    )
    call = web.worker.next_call()
    assert SPANS == []
    assert "traceparent" not in call.message["headers"]
    assert call.invocation.params["_meta"].get("traceparent") == parent


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (answer({"content": []}), ""),
        (answer({"content": [], "isError": True}), "tool_error"),
        (rpc_failure({"code": -32602, "message": "no"}), "-32602"),
        (failed(TransportFailure("gone")), "TRANSPORT_FAILURE"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_how_a_call_ended(web: Web, result: Any, error: str, streamed: bool) -> None:
    """Whole or at the end of a stream, whose span lasts as long."""

    def behave(call: TakenCall) -> None:
        if streamed:
            call.notify("notifications/message", level="error", data="x")
        call.finish(result)

    web.worker.behaviour = behave
    session = web.initialize()
    response = web.legacy(session, "tools/call", CALL, headers={"traceparent": PARENT})
    assert (response.mimetype == "text/event-stream") is streamed
    if streamed:
        assert len(events(response.data)) == 2
    response.close()
    span = server_span()
    assert span.error == error
    assert span.attributes["mcp.session.id"] == session


@pytest.mark.parametrize(
    ("method", "params", "error"),
    [
        ("tools/call", {"name": "nothing"}, "TOOL_NOT_FOUND"),
        ("no/such", {}, "-32601"),
        ("tools/list", {}, ""),
    ],
)
def test_what_is_answered_here_has_a_span_too(
    web: Web, method: str, params: dict[str, Any], error: str
) -> None:
    """Also what is refused."""
    web.modern(method, params, meta={"traceparent": PARENT}).close()
    assert server_span().error == error


def test_the_audit_journal_names_the_trace(web: Web) -> None:
    """That it is recorded in, wherever its context came from."""
    session = web.initialize()
    web.legacy(session, "tools/call", CALL, headers={"traceparent": PARENT}).close()
    message = web.worker.next_call().message
    assert unpacked({"call": message["audit"]})["trace_id"] == TRACE


def test_an_untrusted_client_decides_nothing(redis_server: RedisServer) -> None:
    """Where the settings say so."""
    spans: list[Span] = []
    tracer = Tracer(spans.append, ratio=0.0, trust_client=False)
    with serving(redis_server, OWN, tracer=tracer) as web:
        assert web.modern("tools/call", CALL, meta={"traceparent": PARENT}).status_code == 200
        web.nothing_waits()
    assert spans == []


@pytest.mark.parametrize("door", [SsePeer, WebSocketPeer])
def test_requests_on_one_connection_do_not_mix(web: Web, door: Any, lines: list[Any]) -> None:
    """Several at once on one connection: each has its own trace, and its lines its own facts."""
    if web.way != "short way":
        pytest.skip("the ways in differ for POSTs alone")
    held: list[TakenCall] = []
    web.worker.behaviour = held.append
    logging.getLogger(ACCESS).setLevel(logging.DEBUG)
    try:
        with listening(web) as place:
            talk = Talk(door(place))
            talk.initialize()
            for number in (1, 2, 3):
                meta = {"traceparent": f"00-{number:032x}-b7ad6b7169203331-01"}
                talk.ask("tools/call", {**CALL, "_meta": meta}, number)
            wait_until(lambda: len(held) == 3, description="three calls")
            for call in reversed(held):
                echo(call)
            assert {talk.next()["id"] for _ in range(3)} == {1, 2, 3}
            talk.peer.close()
    finally:
        logging.getLogger(ACCESS).setLevel(logging.NOTSET)
    written = wait_until(
        lambda: (
            found
            if len(found := [line for line in lines if line.get("method") == "tools/call"]) == 3
            else None
        ),
        description="three lines",
    )
    assert {line["request_id"]: int(line["trace_id"], 16) for line in written} == {1: 1, 2: 2, 3: 3}
    assert {line["invocation"] for line in written} == {call.invocation.id for call in held}
    for call in held:
        carried = int(call.message["headers"]["traceparent"].split("-")[1], 16)
        assert carried == call.invocation.request_id


def test_the_context_of_a_post_goes_with_its_message(web: Web) -> None:
    """HTTP+SSE: the answer, and so the span, is made where the stream is."""
    if web.way != "short way":
        pytest.skip("the ways in differ for POSTs to the MCP endpoints alone")
    with listening(web) as place:
        peer = SsePeer(place)
        talk = Talk(peer)
        talk.initialize()
        assert peer.post(orjson.dumps(request("tools/call", CALL, 7)), traceparent=PARENT).status_code == 202
        talk.next()
        peer.close()
    parent = server_span().parent
    assert parent is not None
    assert f"{parent.trace_id:032x}" == TRACE


def test_the_access_log_is_off_unless_its_level_is_set(web: Web, lines: list[Any]) -> None:
    """It costs throughput; then there is one line for each request, with how it ended and how long it took."""
    web.modern("tools/list").close()
    assert [line for line in lines if line["event"] == "request"] == []
    logging.getLogger(ACCESS).setLevel(logging.DEBUG)
    try:
        web.modern("no/such", id="mine").close()
    finally:
        logging.getLogger(ACCESS).setLevel(logging.NOTSET)
    (line,) = (line for line in lines if line["event"] == "request")
    assert (line["method"], line["request_id"], line["outcome"]) == ("no/such", "mine", "-32601")
    assert (line["tenant"], line["client"]) == ("default", "default")
    assert line["duration_ms"] > 0


def test_nothing_of_a_request_is_left_behind_it(web: Web) -> None:
    """The next one on the connection may be somebody else's, and may be refused before anybody knows whose it is."""
    web.modern("tools/call", CALL).close()
    assert current() is None

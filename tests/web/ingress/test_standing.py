"""Streams beside the requests: the GET stream of a session, and ``subscriptions/listen``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from werkzeug.test import TestResponse

from common.domain.ids import McpSessionId, ToolId
from common.domain.tool import StdioTransport, Tool
from common.registry.registry import Registry
from common.sessions.stream import SessionStreams
from tests.support.egress import ANYTHING
from tests.support.wait import wait_until
from tests.web.harness import META, MODERN, Serve, Web, error

QUICK = {"ping_interval": 0.05}


class Stream:
    """An open event stream, read block by block."""

    def __init__(self, response: TestResponse) -> None:
        assert response.status_code == 200, response.text
        assert response.mimetype == "text/event-stream"
        self.response = response
        self._blocks = self._read(response)

    @staticmethod
    def _read(response: TestResponse) -> Iterator[dict[str, str]]:
        pending = ""
        for piece in response.iter_encoded():
            pending += piece.decode()
            *blocks, pending = pending.split("\n\n")
            for block in blocks:
                if not block.startswith(":"):
                    yield dict(
                        line.split(": ", 1) if ": " in line else (line[:-1], "") for line in block.split("\n")
                    )

    def event(self) -> dict[str, str]:
        """The next event, comments left out; fails if the stream ends."""
        return next(self._blocks)

    def message(self) -> Any:
        """The next event's JSON."""
        return orjson.loads(self.event()["data"])

    def ended(self) -> bool:
        """Whether no event follows any more."""
        return next(self._blocks, None) is None

    def close(self) -> None:
        """Hang up."""
        self.response.close()


def standing(web: Web, session: str, last: str | None = None, **headers: str) -> Stream:
    """The GET stream of a session."""
    sent = {"Accept": "text/event-stream", "Mcp-Session-Id": session, **headers}
    if last is not None:
        sent["Last-Event-ID"] = last
    return Stream(web.http.get("/mcp", headers=sent, buffered=False))


def change(web: Web, tool: str = "new") -> None:
    """Register a tool, and wait until the web process knows."""
    before = web.gateway.catalogue.version
    Registry(web.gateway.client, web.gateway.keys, ANYTHING).put(
        Tool(id=ToolId(tool), transport=StdioTransport(command="x"))
    )
    wait_until(lambda: web.gateway.catalogue.version > before, description="the catalogue follows")


def switch_off(web: Web, tool: str) -> None:
    """Take a tool out of the lists."""
    before = web.gateway.catalogue.version
    web.gateway.registry.remove(ToolId(tool))
    wait_until(lambda: web.gateway.catalogue.version > before, description="the catalogue follows")


def test_a_stream_begins_with_a_place_to_come_back_to(serve: Serve) -> None:
    """For clients that know it; others get a comment first."""
    web = serve(web=QUICK)
    stream = standing(web, web.initialize())
    first = stream.event()
    assert first == {"id": "s.0-0", "retry": "1000", "data": ""}
    stream.close()


def test_a_session_hears_what_it_is_told_once(serve: Serve) -> None:
    """In order, each with its id, and from where it was when it comes back."""
    web = serve(web=QUICK)
    session = McpSessionId(web.initialize())
    stream = standing(web, session)
    stream.event()
    streams = web.gateway.session_streams
    for number in range(3):
        streams.append(session, {"jsonrpc": "2.0", "method": f"notifications/{number}"})
    found = [stream.event() for _ in range(3)]
    assert [orjson.loads(event["data"])["method"][-1] for event in found] == ["0", "1", "2"]
    stream.close()
    streams.append(session, {"jsonrpc": "2.0", "method": "notifications/3"})
    again = standing(web, session, found[1]["id"])
    again.event()
    assert [again.message()["method"][-1] for _ in range(2)] == ["2", "3"]
    again.close()


def test_the_newest_stream_takes_over(serve: Serve) -> None:
    """A client whose old connection is dead, without anybody having noticed, is not kept out by it."""
    web = serve(web=QUICK)
    session = McpSessionId(web.initialize())
    old, new = standing(web, session), standing(web, session)
    old.event()
    new.event()
    assert old.ended()
    web.gateway.session_streams.append(session, {"method": "x"})
    assert new.message() == {"method": "x"}
    new.close()


def test_changed_lists_are_announced(serve: Serve) -> None:
    """Those that are others, and no more; a change while nobody listened as soon as somebody does."""
    web = serve(web=QUICK)
    session = web.initialize()
    stream = standing(web, session)
    stream.event()
    wait_until(
        lambda: web.gateway.session_streams.lists_told(McpSessionId(session)) is not None, description="noted"
    )
    switch_off(web, "slow")
    found = {stream.message()["method"] for _ in range(2)}
    assert found == {"notifications/tools/list_changed", "notifications/resources/list_changed"}
    stream.close()
    switch_off(web, "echo")
    again = standing(web, session)
    again.event()
    assert "prompts" in "".join(again.message()["method"] for _ in range(3))
    again.close()


def test_a_tool_that_offers_nothing_changes_nothing(serve: Serve) -> None:
    """Registered, but not reached yet."""
    web = serve(web=QUICK)
    session = McpSessionId(web.initialize())
    stream = standing(web, session)
    stream.event()
    change(web)
    web.gateway.session_streams.append(session, {"method": "behind it"})
    assert stream.message() == {"method": "behind it"}
    stream.close()


def test_an_ended_session_ends_its_stream(serve: Serve) -> None:
    """Deleted, wherever; the next GET is 404."""
    web = serve(web=QUICK)
    session = web.initialize()
    stream = standing(web, session)
    stream.event()
    assert web.http.delete("/mcp", headers={"Mcp-Session-Id": session}).status_code == 200
    assert stream.ended()
    response = web.http.get("/mcp", headers={"Accept": "text/event-stream", "Mcp-Session-Id": session})
    assert response.status_code == 404
    assert len(web.gateway.listeners) == 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Accept": "application/json"}, 406),
        ({"Mcp-Session-Id": "none"}, 404),
        ({"Mcp-Session-Id": ""}, 400),
        ({"MCP-Protocol-Version": MODERN}, 405),
    ],
)
def test_gets_that_are_refused(serve: Serve, headers: dict[str, str], status: int) -> None:
    """Before anything is streamed."""
    web = serve(web=QUICK)
    sent = {"Accept": "text/event-stream", "Mcp-Session-Id": web.initialize(), **headers}
    response = web.http.get("/mcp", headers=sent)
    assert response.status_code == status
    if status == 405:
        assert response.headers["Allow"] == "POST"


@pytest.mark.parametrize(
    "last",
    ["", "x", "s.", "s.1", "s.1-", "s.x-1", "s.1-" + "9" * 30, "s.1 -2", "c.abc.1", "s.9999999999999-0"],
)
def test_a_place_that_is_none_is_the_end(serve: Serve, last: str) -> None:
    """It never breaks the stream, and replays nothing."""
    web = serve(web=QUICK)
    session = McpSessionId(web.initialize())
    web.gateway.session_streams.append(session, {"method": "old"})
    stream = standing(web, session, last)
    stream.event()
    web.gateway.session_streams.append(session, {"method": "new"})
    assert stream.message() == {"method": "new"}
    stream.close()


def test_an_older_client_gets_no_event_without_data(serve: Serve) -> None:
    """It would choke on it."""
    web = serve(web=QUICK)
    response = web.post(
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-06-18",
                "capabilities": {},
                "clientInfo": {"name": "x", "version": "1"},
            },
        }
    )
    session = McpSessionId(response.headers["Mcp-Session-Id"])
    web.gateway.session_streams.hold(session, "somebody")
    stream = standing(web, session)
    raw = next(iter(stream.response.iter_encoded()))
    assert raw == b": ping\n\n"
    stream.close()


def listen(web: Web, wanted: object, identity: object = "sub", **options: Any) -> Stream:
    """A modern subscription."""
    response = web.modern(
        "subscriptions/listen", {"notifications": wanted}, id=identity, buffered=False, **options
    )
    return Stream(response)


def test_a_subscription_says_first_what_it_honours(serve: Serve) -> None:
    """And each of its messages names it."""
    web = serve(web=QUICK)
    stream = listen(web, {"toolsListChanged": True, "promptsListChanged": False, "unknown": True})
    meta = {META + "subscriptionId": "sub"}
    assert stream.message() == {
        "jsonrpc": "2.0",
        "method": "notifications/subscriptions/acknowledged",
        "params": {"notifications": {"toolsListChanged": True}, "_meta": meta},
    }
    switch_off(web, "slow")
    assert stream.message() == {
        "jsonrpc": "2.0",
        "method": "notifications/tools/list_changed",
        "params": {"_meta": meta},
    }
    stream.close()
    wait_until(lambda: len(web.gateway.listeners) == 0, description="nobody listens")


def test_a_subscription_at_one_tool_hears_of_no_other(serve: Serve) -> None:
    """Its lists alone count."""
    web = serve(web=QUICK)
    stream = listen(web, {"toolsListChanged": True}, path="/servers/slow/mcp")
    stream.message()
    switch_off(web, "echo")
    switch_off(web, "slow")
    assert stream.message()["method"] == "notifications/tools/list_changed"
    stream.close()


@pytest.mark.parametrize("wanted", [None, [], "tools", 1])
def test_a_subscription_to_nothing_is_refused(serve: Serve, wanted: object) -> None:
    """The filter is an object."""
    web = serve(web=QUICK)
    assert error(web.modern("subscriptions/listen", {"notifications": wanted})) == (400, -32602)


def test_a_subscription_whose_tool_is_silent_shows_life_and_is_taken_back(serve: Serve) -> None:
    """Nothing is honoured yet, but its client hears that somebody is there; nobody waits on for one that hung up."""
    web = serve(web=QUICK)
    web.worker.behaviour = lambda _call: None
    wanted = {"notifications": {"resourceSubscriptions": ["note://a", "note://b"]}}
    pieces = web.modern(
        "subscriptions/listen", wanted, buffered=False, path="/servers/echo/mcp"
    ).iter_encoded()
    assert next(pieces).startswith(b":")
    pieces.close()  # type: ignore[attr-defined]
    (call,) = web.worker.taken
    wait_until(lambda: web.worker.cancelled == [call.invocation.id], description="it is taken back")
    wait_until(lambda: len(web.gateway.listeners) == 0, description="nobody listens")


def test_streams_of_sessions_are_bounded(serve: Serve) -> None:
    """A session that nobody reads keeps its last messages, and all its keys end with it."""
    web = serve(web=QUICK)
    session = McpSessionId(web.initialize())
    streams: SessionStreams = web.gateway.session_streams
    for number in range(1300):
        streams.append(session, {"n": number})
    found = streams.read(session, "0-0")
    assert 1000 <= len(found) < 1200
    assert orjson.loads(found[-1][1]) == {"n": 1299}

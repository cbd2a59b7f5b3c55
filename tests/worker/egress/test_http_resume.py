"""Event streams that break off: resumed where the backend has numbered its events, in the legacy era only."""

from __future__ import annotations

import orjson
import pytest

from common.mcp.revisions import Era
from gateway_worker.egress.link import LinkLost
from tests.support.aio import on_loop
from tests.support.servers.http_wire import Connection, Request
from tests.worker.egress.http_links import (
    call,
    connected,
    failure_of,
    notification,
    raw_event,
    respond,
    served,
)

# -- resumption -----------------------------------------------------------------------------------------


class Resumable:
    """A backend that hangs up after every event of a call and goes on when asked by number."""

    def __init__(self, steps: int, *, numbered: bool = True, retry: str = "retry: 1\n") -> None:
        self.steps = steps
        self.numbered = numbered
        self.retry = retry
        self.last_ids: list[str] = []
        self._request: Request | None = None

    def handle(self, connection: Connection, request: Request) -> None:
        """The call, and the GETs that resume it."""
        last = request.headers.get("last-event-id")
        if request.method == "GET" and last is None:
            connection.respond("405 Method Not Allowed")
            return
        if last is None:
            self._request = request
        else:
            self.last_ids.append(last)
        assert self._request is not None
        step = int(last or 0) + 1
        done = step > self.steps
        notice = notification("notifications/message", level="info", data=step)
        message = respond(self._request, {"steps": self.steps}) if done else notice
        connection.start_stream()
        number = f"id: {step}\n" if self.numbered else ""
        raw_event(connection, f"{number}{self.retry}data: {orjson.dumps(message).decode()}\n\n")
        if step % 2:
            connection.end_stream()
        else:
            connection.abort()


@on_loop
async def test_a_stream_is_resumed_where_it_broke() -> None:
    """As often as the backend hangs up, by the id of the last event; nothing is lost or told twice."""
    backend_side = Resumable(9)
    heard: list[int] = []
    with served(backend_side.handle, verbs=("GET",)) as server:
        async with connected(server) as (backend, _):
            answer = await backend.request(
                "tools/call", call("x"), on_notification=lambda _, p: heard.append(p["data"])
            )
        resumptions = [request for request in server.by_verb("GET") if "last-event-id" in request.headers]
    assert answer == {"steps": 9}
    assert heard == list(range(1, 10))
    assert backend_side.last_ids == [str(n) for n in range(1, 10)]
    assert all("mcp-session-id" in request.headers for request in resumptions)


@on_loop
async def test_a_stream_without_numbers_is_not_resumed() -> None:
    """Where it broke is not known then."""
    with served(Resumable(3, numbered=False).handle, verbs=("GET",)) as server:
        lost = await failure_of(server)
    assert isinstance(lost, LinkLost)
    assert "without an answer" in lost.message


@on_loop
async def test_the_modern_era_knows_no_resumption() -> None:
    """There is no GET."""
    with served(Resumable(3).handle, verbs=("GET",)) as server:
        lost = await failure_of(server, era=Era.MODERN)
        assert server.by_verb("GET") == []
    assert isinstance(lost, LinkLost)


@on_loop
async def test_a_stream_that_gives_nothing_more_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that only hangs up is not asked for ever."""

    def hang_up(connection: Connection, request: Request) -> None:
        if request.method == "GET" and "last-event-id" not in request.headers:
            connection.respond("405 Method Not Allowed")
            return
        connection.start_stream()
        if request.method == "POST":
            raw_event(connection, "id: 1\nretry: 1\ndata:\n\n")
        connection.end_stream()

    with served(hang_up, verbs=("GET",)) as server:
        lost = await failure_of(server)
        resumptions = [request for request in server.by_verb("GET") if "last-event-id" in request.headers]
    assert isinstance(lost, LinkLost)
    assert 2 <= len(resumptions) <= 10


@on_loop
async def test_a_refused_resumption() -> None:
    """The call fails and says why."""

    def refuse(connection: Connection, request: Request) -> None:
        if request.method == "GET":
            connection.respond("405 Method Not Allowed")
            return
        connection.start_stream()
        raw_event(connection, "id: 1\nretry: 1\ndata:\n\n")
        connection.end_stream()

    with served(refuse, verbs=("GET",)) as server:
        lost = await failure_of(server)
    assert isinstance(lost, LinkLost)
    assert "resume" in lost.message
    assert "405" in lost.message
    assert not lost.unsent


@pytest.mark.parametrize("event_id", ["é🚢", "a b,c", "\x01", "\x7f"])
def test_an_event_id_of_any_characters(event_id: str) -> None:
    """It goes back in UTF-8; one that no header can carry ends the call, with no claim that it was not sent."""
    sent: list[str] = []

    def number_once(connection: Connection, request: Request) -> None:
        last = request.headers.get("last-event-id")
        if request.method == "GET" and last is None:
            connection.respond("405 Method Not Allowed")
            return
        connection.start_stream()
        if last is None:
            raw_event(connection, f"id: {event_id}\nretry: 1\ndata:\n\n")
        else:
            sent.append(last.encode("latin-1").decode())
            raw_event(connection, "data: nonsense\n\n")
        connection.end_stream()

    @on_loop
    async def scenario() -> None:
        with served(number_once, verbs=("GET",)) as server:
            lost = await failure_of(server)
            assert len(server.sent("tools/call")) == 1
        assert isinstance(lost, LinkLost)
        assert not lost.unsent
        assert lost.message == (
            "the tool's answer is no JSON"
            if event_id.isprintable()
            else "the header last-event-id holds a character that HTTP cannot carry"
        )

    scenario()
    assert sent == ([event_id] if event_id.isprintable() else [])

"""Coming back to the stream of a call, at any web process: nothing is missed, nothing comes twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from common.calls import call_stream
from common.calls.client_answers import answerer
from common.domain.ids import InvocationId
from common.domain.invocation import answer
from common.gateway import Gateway
from common.store.client import StoreAddress
from gateway_web.app import create_app
from tests.support.fake_worker import TakenCall
from tests.support.redis import RedisServer
from tests.support.wait import wait_until
from tests.web.harness import LEGACY, OWN, Serve, Web, request

CALL = {"name": "echo__add", "arguments": {}}
QUICK = {"ping_interval": 0.05}
FORM = {"message": "What?", "requestedSchema": {"type": "object"}}
Event = dict[str, str]


class Stream:
    """An open event stream, read event by event."""

    def __init__(self, response: TestResponse) -> None:
        assert response.mimetype == "text/event-stream", response.text
        self._response = response
        self._events = self._read()

    def _read(self) -> Iterator[Event]:
        pending = ""
        for piece in self._response.iter_encoded():
            pending += piece.decode()
            *blocks, pending = pending.split("\n\n")
            for block in blocks:
                if not block.startswith(":"):
                    yield dict(line.split(": ", 1) for line in block.split("\n"))

    def next(self) -> Event:
        """The next event; fails if the stream ends."""
        return next(self._events)

    def rest(self) -> list[Event]:
        """All events up to the end of the stream."""
        return list(self._events)

    def close(self) -> None:
        """Hang up."""
        self._response.close()


def begun(web: Web, session: str, **options: Any) -> tuple[Stream, TakenCall]:
    """A call that has sent one notification, and the stream of its answer behind that."""
    web.worker.behaviour = lambda call: call.notify("notifications/progress", progress=1)
    web.worker.taken.clear()
    stream = Stream(web.legacy(session, "tools/call", CALL, buffered=False, **options))
    return stream, web.worker.next_call()


def came_back(http: FlaskClient, session: str, last: str | None) -> Stream:
    """The stream of a GET."""
    headers = {"Accept": "text/event-stream", "Mcp-Session-Id": session}
    if last is not None:
        headers["Last-Event-ID"] = last
    return Stream(http.get("/mcp", headers=headers, buffered=False))


def progress(events: list[Event]) -> list[Any]:
    """What the notifications and the result among events say."""
    messages = [orjson.loads(event["data"]) for event in events if event["data"]]
    return [
        message["result"] if "result" in message else message["params"].get("progress", message)
        for message in messages
    ]


@contextmanager
def another(web: Web, server: RedisServer) -> Iterator[FlaskClient]:
    """Another web process beside one."""
    with Gateway(web.gateway.settings, StoreAddress(url=server.url(OWN), connect_timeout=1)) as gateway:
        wait_until(
            lambda: gateway.hub.listening and gateway.catalogue.version == web.gateway.catalogue.version,
            description="the second one is ready",
        )
        yield create_app(gateway).test_client()
        wait_until(lambda: gateway.hub.waiting == 0, description="nobody waits there")


def test_a_stream_begins_with_a_place_to_come_back_to(serve: Serve) -> None:
    """Then each event has its own, and the last one says that it is the end."""
    web = serve(web=QUICK)
    stream, call = begun(web, web.initialize())
    call.finish(answer({}))
    name = f"c.{call.invocation.id}."
    first, *events = stream.rest()
    assert first == {"id": name + "0", "retry": "1000", "data": ""}
    assert [event["id"] for event in events] == [name + "1", name + "end"]


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_what_came_behind_an_event_is_given_once(serve: Serve, place: int) -> None:
    """Then what comes, then the result, then the end of the stream."""
    web = serve(web=QUICK)
    session = web.initialize()
    stream, call = begun(web, session)
    name = stream.next()["id"][:-1]
    stream.close()
    for number in (2, 3):
        call.notify("notifications/progress", progress=number)
    again = came_back(web.http, session, f"{name}{place}")
    assert again.next() == {"id": f"{name}{place}", "retry": "1000", "data": ""}
    call.notify("notifications/progress", progress=4)
    call.finish(answer({"done": True}))
    events = again.rest()
    assert progress(events) == [*range(place + 1, 5), {"done": True}]
    assert [event["id"] for event in events] == [f"{name}{n}" for n in (*range(place + 1, 5), "end")]
    web.nothing_waits()


def test_another_web_process_goes_on(serve: Serve, redis_server: RedisServer) -> None:
    """With what was logged, what is sent from now on, and the result, which is told to the first one alone."""
    web = serve(web=QUICK)
    session = web.initialize()
    stream, call = begun(web, session, id="mine")
    last = [stream.next(), stream.next()][-1]["id"]
    with another(web, redis_server) as http:
        call.notify("notifications/progress", progress=2)
        again = came_back(http, session, last)
        again.next()
        call.notify("notifications/progress", progress=3)
        assert progress([again.next(), again.next()]) == [2, 3]
        call.notify("notifications/progress", progress=4)
        call.finish(answer({"done": True}))
        events = again.rest()
        assert progress(events) == [4, {"done": True}]
        assert orjson.loads(events[-1]["data"])["id"] == "mine"
        assert progress(stream.rest()) in ([], [2])  # until it heard that it was taken over


def test_a_call_that_has_ended_meanwhile_gives_its_result(serve: Serve, redis_server: RedisServer) -> None:
    """As often as it is asked for, while the result can be fetched."""
    web = serve(web=QUICK)
    session = web.initialize()
    stream, call = begun(web, session)
    last = stream.next()["id"]
    stream.close()
    call.finish(answer({"done": True}))
    with another(web, redis_server) as http:
        for client in (http, web.http, http):
            assert progress(came_back(client, session, last).rest()) == [1, {"done": True}]


def test_a_question_is_asked_again_only_of_who_has_not_seen_it(serve: Serve) -> None:
    """Whatever the worker repeats; whoever has seen it answers, and the call goes on."""
    web = serve(web=QUICK)
    session = web.initialize()
    stream, call = begun(web, session)
    who = answerer(call.invocation.mcp_session, call.invocation.caller.principal)
    stream.next()
    seen = stream.next()["id"]
    call.ask("q1", "elicitation/create", who=who, **FORM)
    asked = stream.next()
    stream.close()
    unseen = came_back(web.http, session, seen)
    unseen.next()
    assert unseen.next() == asked
    unseen.close()
    again = came_back(web.http, session, asked["id"])
    again.next()
    call.ask("q1", "elicitation/create", who=who, **FORM)
    given = {"jsonrpc": "2.0", "id": "q1", "result": {}}
    assert web.post(given, headers={"Mcp-Session-Id": session}).status_code == 202
    wait_until(lambda: call.answer("q1"), description="the answer")
    call.finish(answer({"done": True}))
    assert progress(again.rest()) == [{"done": True}]


def test_messages_that_are_no_longer_kept_are_told_of(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest and the result come all the same."""
    monkeypatch.setattr(call_stream, "MOST_FRAMES", 2)
    web = serve(web=QUICK)
    session = web.initialize()
    stream, call = begun(web, session)
    last = stream.next()["id"]
    stream.close()
    for number in (2, 3, 4):
        call.notify("notifications/progress", progress=number)
    call.finish(answer({"done": True}))
    told, *rest = progress(came_back(web.http, session, last).rest())
    assert told["method"] == "notifications/message"
    assert told["params"]["level"] == "warning"
    assert told["params"]["data"].startswith("2 earlier messages")
    assert rest == [3, 4, {"done": True}]


def test_only_the_session_that_made_it_can_come_back_to_a_call(serve: Serve) -> None:
    """For any other it is an id that means nothing: the session's own stream, from now on."""
    web = serve(web=QUICK)
    session, stranger = web.initialize(), web.initialize()
    stream, call = begun(web, session)
    last = stream.next()["id"]
    for who, name in (
        (stranger, last),
        (session, "c.00000000-0000-4000-8000-000000000000.0"),
        (session, last[:-1] + "end"),
        (session, last[:-1] + "x"),
        (session, "c."),
    ):
        other = came_back(web.http, who, name)
        assert other.next()["id"].startswith("s.")
        other.close()
    call.finish(answer({}))
    assert progress(stream.rest()) == [1, {}]


def test_a_call_that_waits_for_its_session_is_cancelled_where_it_is_now(
    serve: Serve, redis_server: RedisServer
) -> None:
    """A cancellation finds the process that the client came back to."""
    web = serve(web=QUICK)
    session = web.initialize()
    stream, call = begun(web, session, id=7)
    last = stream.next()["id"]
    with another(web, redis_server) as http:
        again = came_back(http, session, last)
        again.next()
        cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
        assert web.post(cancelled, headers={"Mcp-Session-Id": session}).status_code == 202
        assert orjson.loads(again.rest()[-1]["data"])["error"]["data"]["code"] == "INVOCATION_CANCELLED"
        wait_until(lambda: call.invocation.id in web.worker.cancelled, description="the worker is told")
    stream.close()


def test_clients_of_older_revisions_have_ids_without_an_empty_event(serve: Serve) -> None:
    """They choke on an event without data, and may come back all the same."""
    web = serve(web=QUICK)
    asked = request("initialize", {"protocolVersion": "2025-06-18", "capabilities": {}})
    session = str(web.post(asked).headers["Mcp-Session-Id"])
    headers = {"MCP-Protocol-Version": "2025-06-18"}
    stream, call = begun(web, session, headers=headers)
    first = stream.next()
    assert (progress([first]), first["id"]) == ([1], f"c.{call.invocation.id}.1")
    stream.close()
    call.notify("notifications/progress", progress=2)
    call.finish(answer({}))
    assert progress(came_back(web.http, session, first["id"]).rest()) == [2, {}]


def test_a_stream_of_a_certain_age_is_closed(serve: Serve) -> None:
    """Its client comes back for the rest; the call knows nothing of it."""
    web = serve(web={**QUICK, "stream_max_age": 0.2})
    session = web.initialize()
    stream, call = begun(web, session)
    events = stream.rest()
    assert progress(events) == [1]
    again = came_back(web.http, session, events[-1]["id"])
    assert progress(again.rest()) == []
    call.finish(answer({"done": True}))
    assert progress(came_back(web.http, session, events[-1]["id"]).rest()) == [{"done": True}]
    assert web.worker.cancelled == []


def test_a_plain_answer_leaves_nothing_behind(serve: Serve) -> None:
    """Neither a log nor a record of who holds it."""
    web = serve(web=QUICK)
    session = web.initialize()
    assert web.legacy(session, "tools/call", CALL).mimetype == "application/json"
    name, keys = InvocationId(web.worker.next_call().invocation.id), web.gateway.keys
    assert web.gateway.client.exists(keys.call_stream(name), keys.call_holder(name)) == 0


def test_what_is_kept_of_a_stream_ends_with_the_result(serve: Serve) -> None:
    """By itself."""
    web = serve(web=QUICK)
    stream, call = begun(web, web.initialize())
    stream.next()
    keys, name = web.gateway.keys, call.invocation.id
    for key in (keys.call_stream(name), keys.call_holder(name)):
        left = web.gateway.client.pttl(key)
        assert 0 < left <= (300 + 60 + 4 * 300) * 1000, key
    call.finish(answer({}))
    stream.rest()


def test_without_redis_a_stream_has_no_ids(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could come back to it: it goes on as it is."""
    web = serve(web=QUICK)
    monkeypatch.setattr("common.calls.call.Call.hold", lambda _call: False)
    stream, call = begun(web, web.initialize(), headers={"MCP-Protocol-Version": LEGACY})
    call.finish(answer({}))
    events = stream.rest()
    assert progress(events) == [1, {}]
    assert not any("id" in event for event in events)

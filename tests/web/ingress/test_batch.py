"""Several messages in one POST, which clients of 2025-03-26 may send."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from werkzeug.test import TestResponse

from common.domain.invocation import answer
from gateway_web.ingress.batch import MOST_MESSAGES
from tests.support.fake_worker import TakenCall
from tests.support.wait import wait_until
from tests.web.harness import INITIALIZE, MODERN, Serve, Web, events, notification, request
from tests.web.peers import DOORS, Talk, listening

CALL = {"name": "echo__add", "arguments": {"a": 1}}
BATCHES = "2025-03-26"


def opened(web: Web, version: str = BATCHES) -> str:
    """A session of that revision."""
    response = web.post(request("initialize", {**INITIALIZE, "protocolVersion": version}))
    return response.headers["Mcp-Session-Id"]


def send(web: Web, session: str, messages: object, version: str = BATCHES, **options: bool) -> TestResponse:
    """POST a batch."""
    headers = {"Mcp-Session-Id": session, "MCP-Protocol-Version": version}
    return web.post(messages, headers=headers, **options)


def by_id(messages: Sequence[Any]) -> dict[Any, Any]:
    """The answers among messages."""
    return {message["id"]: message for message in messages if "id" in message}


def test_each_request_is_answered_as_it_is_ready(web: Web) -> None:
    """On one stream, with what the calls say before their ends."""
    waiting: list[TakenCall] = []

    def behaviour(call: TakenCall) -> None:
        waiting.append(call)
        if len(waiting) == 2:
            second, first = sorted(waiting, key=lambda taken: str(taken.invocation.request_id), reverse=True)
            second.notify("notifications/progress", progressToken="p", progress=1)
            second.finish(answer({"content": ["second"]}))
            first.finish(answer({"content": ["first"]}))

    web.worker.behaviour = behaviour
    batch = [
        request("tools/call", CALL, 1),
        request("ping", None, "two"),
        notification("notifications/roots/list_changed"),
        request("tools/call", CALL, 3),
    ]
    response = send(web, opened(web), batch)
    assert response.content_type == "text/event-stream; charset=utf-8"
    found = events(response.data)
    answered = by_id(found)
    assert answered[1]["result"] == {"content": ["first"]}
    assert answered["two"]["result"] == {}
    assert answered[3]["result"] == {"content": ["second"]}
    assert len(found) == 4
    assert [message.get("method") for message in found].index("notifications/progress") < found.index(
        answered[3]
    )
    web.nothing_waits()


def test_what_has_no_answer_is_taken(web: Web) -> None:
    """202, as for one such message."""
    taken: list[TakenCall] = []
    web.worker.behaviour = taken.append
    session = opened(web)
    with web.aside(lambda: send(web, session, [request("tools/call", CALL, 7)])):
        wait_until(lambda: taken, description="the call runs")
        cancel = notification("notifications/cancelled", {"requestId": 7})
        response = send(web, session, [notification("notifications/initialized"), cancel])
        assert (response.status_code, response.data) == (202, b"")
        wait_until(lambda: taken[0].invocation.id in web.worker.cancelled, description="it is cancelled")
        taken[0].finish(answer({}))


@pytest.mark.parametrize(
    ("element", "identity", "code"),
    [
        (1, None, -32600),
        ([], None, -32600),
        ({"jsonrpc": "2.0", "id": 1.5, "method": "ping"}, None, -32600),
        ({"jsonrpc": "2.0", "id": "x"}, "x", -32600),
        (request("nonsense", None, "x"), "x", -32601),
        (request("initialize", INITIALIZE, "x"), "x", -32600),
        (request("tools/call", {"name": "nobody"}, "x"), "x", -32602),
    ],
)
def test_what_is_wrong_with_one_does_not_concern_the_others(
    web: Web, element: object, identity: object, code: int
) -> None:
    """Each is answered for itself."""
    found = by_id(events(send(web, opened(web), [element, request("ping", None, 2)]).data))
    assert found[identity]["error"]["code"] == code
    assert found[2]["result"] == {}


def test_an_id_that_is_under_way_is_refused(web: Web) -> None:
    """An answer could not be told from the other's."""
    taken: list[TakenCall] = []
    web.worker.behaviour = taken.append
    batch = [request("tools/call", CALL, 1), request("ping", None, 1)]
    stream = send(web, opened(web), batch, buffered=False).iter_encoded()
    (refused,) = events(next(stream))
    assert refused["error"]["code"] == -32600
    wait_until(lambda: taken, description="the call runs")
    taken[0].finish(answer({}))
    assert [message["result"] for message in events(b"".join(stream))] == [{}]


@pytest.mark.parametrize("batch", [[], [request("ping")] * (MOST_MESSAGES + 1)])
def test_a_batch_of_none_or_of_too_many_is_refused(web: Web, batch: object) -> None:
    """As one message that is none."""
    response = send(web, opened(web), batch)
    assert response.status_code == 400
    assert response.json is not None
    assert response.json["error"]["code"] == -32600


@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25"])
def test_other_revisions_have_none(web: Web, version: str) -> None:
    """They are told so."""
    response = send(web, opened(web, version), [request("ping")], version)
    assert response.status_code == 400
    assert b"batches are not supported" in response.data


def test_the_modern_era_has_none(web: Web) -> None:
    """Nor a session to look one up in."""
    response = web.post([request("ping")], headers={"MCP-Protocol-Version": MODERN})
    assert response.status_code == 400
    assert b"batches are not supported" in response.data


@pytest.mark.parametrize(("version", "status"), [(None, 200), (BATCHES, 200), ("2025-06-18", 400)])
def test_without_sessions_the_header_tells_the_revision(
    serve: Serve, version: str | None, status: int
) -> None:
    """A client that names none has the one that has batches (2025-06-18, "Protocol Version Header")."""
    web = serve(web={"stateless": True})
    headers = {} if version is None else {"MCP-Protocol-Version": version}
    assert web.post([request("ping")], headers=headers).status_code == status


def test_a_client_that_hangs_up_cancels_nothing(web: Web) -> None:
    """A legacy client says so itself."""
    taken: list[TakenCall] = []
    web.worker.behaviour = taken.append
    batch = [request("tools/call", CALL, 1), request("ping", None, 2)]
    response = send(web, opened(web), batch, buffered=False)
    written = response.iter_encoded()
    next(written)
    wait_until(lambda: taken, description="the call runs")
    response.close()
    written.close()  # type: ignore[attr-defined]
    web.nothing_waits()
    assert web.worker.cancelled == []
    taken[0].finish(answer({}))


@pytest.mark.parametrize("door", DOORS)
def test_on_a_connection_of_both_directions(door: str, serve: Serve) -> None:
    """A batch is heard message by message; before there is a session there is none."""
    with listening(serve()) as place:
        talk = Talk(DOORS[door](place))
        talk.peer.raw(orjson.dumps([request("ping")]))
        assert talk.next()["error"]["code"] == -32600
        talk.answer("initialize", {**INITIALIZE, "protocolVersion": BATCHES}, "init")
        talk.peer.raw(orjson.dumps([request("ping", None, 1), 1, request("tools/list", None, 2)]))
        first, second, third = (talk.next() for _ in range(3))
        assert first["result"] == {}
        assert second["error"]["code"] == -32600
        assert third["result"]["tools"]
        talk.peer.close()


def test_nobody_can_come_back_to_the_stream_of_a_batch(web: Web) -> None:
    """It is several calls' at once: none of them keeps a log for that, and no event has an id."""
    taken: list[TakenCall] = []

    def behaviour(call: TakenCall) -> None:
        taken.append(call)
        call.notify("notifications/progress", progressToken="p", progress=1)
        call.finish(answer({}))

    web.worker.behaviour = behaviour
    response = send(web, opened(web), [request("tools/call", CALL, 1), request("tools/call", CALL, 2)])
    assert by_id(events(response.data)).keys() == {1, 2}
    assert b"id: " not in response.data
    assert [call.invocation.resumable_until for call in taken] == [None, None]

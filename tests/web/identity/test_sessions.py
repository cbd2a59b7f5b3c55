"""S3: a session is no credential, and is its principal's alone; and open streams end with their credential."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from simple_websocket import ConnectionClosed
from werkzeug.test import TestResponse

from common.audit.journal import Journal
from common.identity.api_keys import ApiKeys
from tests.support.servers.issuer import AUDIENCE, Issuer, jwk
from tests.support.wait import wait_until
from tests.web.harness import LEGACY, META_FIELDS, Serve, Web, body, notification, request
from tests.web.peers import SsePeer, Talk, WebSocketPeer, listening

ISSUER = Issuer(keys=[jwk("ES256", "k1")])
PING = orjson.dumps(request("ping"))


@pytest.fixture
def web(serve: Serve, tmp_path: Path) -> Web:
    """Callers by token or key; streams are looked at often."""
    file = tmp_path / "keys.json"
    file.write_bytes(orjson.dumps({"keys": ISSUER.keys}))
    token = {
        "issuer": ISSUER.name,
        "jwks": str(file),
        "audience": [AUDIENCE],
        "tenant_claim": "tenant",
        "leeway": 0,
    }
    identity = {"resolver": ["api_key", "jwt"], "jwt": token, "recheck_interval": 0.1, "cache_ttl": 1}
    return serve(identity=identity, tenants={"listed": ["acme", "other"]}, web={"ping_interval": 0.2})


def by(**claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {ISSUER.token(**claims)}"}


STRANGERS = {
    "another tenant": {"tenant": "other"},
    "another client": {"client_id": "other"},
    "another subject": {"sub": "bob"},
    "ids that run together": {"tenant": "acme", "client_id": "bot:ann", "sub": "x"},
}
OPERATIONS: dict[str, Callable[[Web, str, dict[str, str]], TestResponse]] = {
    "ping": lambda web, session, who: web.legacy(session, "ping", headers=who),
    "list": lambda web, session, who: web.legacy(session, "tools/list", headers=who),
    "call": lambda web, session, who: web.legacy(
        session, "tools/call", {"name": "echo__add", "arguments": {}}, headers=who
    ),
    "notification": lambda web, session, who: web.post(
        notification("notifications/initialized"), headers={"Mcp-Session-Id": session, **who}
    ),
    "answer": lambda web, session, who: web.post(
        {"jsonrpc": "2.0", "id": "x", "result": {}}, headers={"Mcp-Session-Id": session, **who}
    ),
    "stream": lambda web, session, who: web.http.get(
        "/mcp", headers={"Mcp-Session-Id": session, "Accept": "text/event-stream", **who}
    ),
    "delete": lambda web, session, who: web.http.delete("/mcp", headers={"Mcp-Session-Id": session, **who}),
}


def noted(web: Web) -> list[dict[str, str]]:
    found = [record.fields for record in Journal(web.gateway.client, web.gateway.keys).newest(100)]
    return [dict(fields) for fields in found if fields["kind"] == "identity_failure"]


def counted(web: Web) -> int:
    """How many failures that comes to."""
    return sum(int(fields["detail"].rpartition("x")[2]) for fields in noted(web))


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_session_is_its_principals_alone(web: Web, stranger: str) -> None:
    """Others are told what they are told of one that is not there, and it is audited; the owner notices nothing."""
    session = web.initialize(headers=by())
    for name, operation in OPERATIONS.items():
        who = by(**STRANGERS[stranger])
        theirs, absent = operation(web, session, who), operation(web, "x" * 32, who)
        assert theirs.status_code == absent.status_code == 404, name
        assert theirs.data == absent.data, name
    assert OPERATIONS["ping"](web, session, by()).status_code == 200
    wait_until(lambda: counted(web) == len(OPERATIONS), description="the audit")
    assert {fields["reason"] for fields in noted(web)} == {"session_of_another"}
    assert {fields["tenant"] for fields in noted(web)} == {STRANGERS[stranger].get("tenant", "acme")}


def test_the_owner_may_come_with_another_token(web: Web) -> None:
    """Of the same principal; an older one works no longer than it is good."""
    session = web.initialize(headers=by(jti="one"))
    for scope in ("a", "b"):
        assert OPERATIONS["ping"](web, session, by(jti="two", scope=scope)).status_code == 200
    assert OPERATIONS["ping"](web, session, {}).status_code == 401
    assert OPERATIONS["ping"](web, session, by(exp=int(time.time()) - 1)).status_code == 401


def test_a_session_that_was_ended_is_nobodys(web: Web) -> None:
    """Its owner's neither; and an id that a client makes up opens none."""
    session = web.initialize(headers=by())
    assert OPERATIONS["delete"](web, session, by()).status_code == 200
    for name, operation in OPERATIONS.items():
        assert operation(web, session, by()).status_code == 404, name
    chosen = "chosen-by-the-attacker-0123456789"
    response = web.post(
        request("initialize", {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {}}),
        headers={"Mcp-Session-Id": chosen, **by()},
    )
    assert response.headers["Mcp-Session-Id"] != chosen
    assert OPERATIONS["ping"](web, chosen, by()).status_code == 404


def test_an_sse_connection_is_its_principals_alone(web: Web) -> None:
    """POSTs of others are refused like those to one that is not there."""
    with listening(web) as place, closing(SsePeer(place, **by())) as peer:
        for claims in STRANGERS.values():
            response = peer.post(PING, **by(**claims))
            assert response.status_code == 404
        assert peer.post(PING).status_code == 202
        assert peer.next()["id"] == 1
    wait_until(lambda: counted(web) == len(STRANGERS), description="the audit")


# -- streams ----------------------------------------------------------------------------------------------


class Get:
    """The GET stream of a session."""

    def __init__(self, web: Web, place: str, who: dict[str, str]) -> None:
        session = web.initialize(headers=who)
        self._http = httpx.Client(timeout=10)
        self._stream = self._http.stream(
            "GET",
            f"http://{place}/mcp",
            headers={"Mcp-Session-Id": session, "Accept": "text/event-stream", **who},
        )
        self._response = self._stream.__enter__()
        assert self._response.status_code == 200

    def ended(self) -> bool:
        until = time.monotonic() + 10
        return all(time.monotonic() < until for _ in self._response.iter_bytes())

    def close(self) -> None:
        self._stream.__exit__(None, None, None)
        self._http.close()


class Listen(Get):
    """``subscriptions/listen``."""

    def __init__(self, web: Web, place: str, who: dict[str, str]) -> None:
        self._http = httpx.Client(timeout=10)
        params = {"notifications": {"toolsListChanged": True}, "_meta": META_FIELDS}
        headers = {
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "subscriptions/listen",
            **who,
        }
        self._stream = self._http.stream(
            "POST", f"http://{place}/mcp", json=request("subscriptions/listen", params), headers=headers
        )
        self._response = self._stream.__enter__()
        assert self._response.status_code == 200


def sse(web: Web, place: str, who: dict[str, str]) -> Any:
    return SsePeer(place, **who)


def websocket(web: Web, place: str, who: dict[str, str]) -> Any:
    peer = WebSocketPeer(place, **who)
    Talk(peer).initialize()
    return peer


STREAMS: dict[str, Callable[[Web, str, dict[str, str]], Any]] = {
    "get": Get,
    "listen": Listen,
    "sse": sse,
    "websocket": websocket,
}


@pytest.fixture
def place(web: Web) -> Iterator[str]:
    with listening(web) as found:
        yield found


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_ends_when_its_key_is_revoked(web: Web, place: str, kind: str) -> None:
    """At once, for the change is told; a stream of another key stands."""
    service = ApiKeys(web.gateway.client, web.gateway.keys)
    record, key = service.issue(tenant="acme", client="bot", actor="test")
    _, other = service.issue(tenant="acme", client="other", actor="test")
    with (
        closing(STREAMS[kind](web, place, {"X-API-Key": key})) as stream,
        closing(STREAMS[kind](web, place, {"X-API-Key": other})),
    ):
        wait_until(lambda: len(watches(web)) == 2, description="both to be watched")
        service.revoke(record.id, actor="test")
        begun = time.monotonic()
        assert stream.ended()
        assert time.monotonic() - begun < 5
        wait_until(lambda: len(watches(web)) == 1, description="one to be left")
    wait_until(lambda: len(watches(web)) == 0, description="none to be left")
    wait_until(lambda: len(web.gateway.listeners) == 0, description="nobody to listen")


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_ends_when_its_token_expires(web: Web, place: str, kind: str) -> None:
    """Although nobody sends anything."""
    with closing(STREAMS[kind](web, place, by(exp=int(time.time()) + 2))) as stream:
        begun = time.monotonic()
        assert stream.ended()
        assert time.monotonic() - begun < 6


def test_a_websocket_is_told_why(web: Web, place: str) -> None:
    """Code 1008, policy violation."""
    service = ApiKeys(web.gateway.client, web.gateway.keys)
    record, key = service.issue(tenant="acme", client="bot", actor="test")
    with closing(websocket(web, place, {"X-API-Key": key})) as peer:
        service.revoke(record.id, actor="test")
        with pytest.raises(ConnectionClosed) as closed:
            peer.socket.receive(timeout=10)
        assert int(closed.value.reason) == 1008


def test_where_everybody_is_the_same_nothing_is_watched(serve: Serve) -> None:
    """It would cost a thread for nothing."""
    web = serve(web={"ping_interval": 0.2})
    with listening(web) as place, closing(Get(web, place, {})):
        assert len(watches(web)) == 0


def watches(web: Web) -> Any:
    """Those of the application."""
    return web.app.config["CANALGATE_IDENTITY"].watches


def test_a_refused_call_tells_nothing_of_the_session(web: Web) -> None:
    """The body for a stranger is that for nobody's session."""
    session = web.initialize(headers=by())
    refused = body(OPERATIONS["ping"](web, session, by(sub="bob")))
    assert refused["error"]["data"] == {"code": "SESSION_NOT_FOUND"}

"""HTTP+SSE: the address that the stream names, and who may POST to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import httpx
import orjson
import pytest

from common.domain.errors import StoreUnavailable
from common.domain.invocation import Caller
from common.gateway import Gateway
from common.sessions import connections
from common.store.client import StoreAddress
from common.store.shared import UNKNOWN
from gateway_web.app import create_app
from gateway_web.ingress.duplex import Duplex
from tests.support.redis import RedisServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait import wait_until
from tests.web.harness import OWN, Serve, Web, request
from tests.web.peers import SsePeer, Talk, listening

PING = orjson.dumps(request("ping"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are kept ten times a second."""
    monkeypatch.setattr(connections, "KEEP_EVERY", 0.1)


@pytest.fixture
def web(serve: Serve) -> Web:
    """With quick pings."""
    return serve(web={"ping_interval": 0.1, "max_body_bytes": 2000})


@pytest.fixture
def place(web: Web) -> Iterator[str]:
    """Where it listens."""
    with listening(web) as found:
        yield found


@pytest.fixture
def peer(place: str) -> Iterator[SsePeer]:
    """An open connection."""
    with closing(SsePeer(place)) as found:
        yield found


@pytest.mark.parametrize(("tool", "path"), [("", "/messages"), ("echo", "/servers/echo/messages")])
def test_the_first_event_names_the_address(place: str, tool: str, path: str) -> None:
    """With a name that nobody can guess."""
    with closing(SsePeer(place, tool)) as peer:
        before, _, name = peer.address.partition("?session_id=")
        assert before == path
        assert len(name) == 32


def test_a_message_reaches_the_stream_from_any_web_process(
    web: Web, peer: SsePeer, redis_server: RedisServer
) -> None:
    """Also from one that knows nothing of the connection."""
    address = StoreAddress(url=redis_server.url(OWN))
    with Gateway(web.gateway.settings, address) as other:
        posted = (
            create_app(other).test_client().post(peer.address, data=PING, content_type="application/json")
        )
    assert (posted.status_code, posted.data) == (202, b"Accepted")
    assert peer.next() == {"jsonrpc": "2.0", "id": 1, "result": {}}


def test_a_stranger_is_not_heard(serve: Serve) -> None:
    """Another principal, another endpoint, an unknown or no name: all look alike."""
    web = serve(identity={"resolver": "header"}, tenants={"allow_unlisted": True})
    headers = {"X-Tenant-Id": "t", "X-Client-Id": "mine"}
    with listening(web) as place, closing(SsePeer(place, **headers)) as peer:
        refused = [
            peer.post(PING, **{"X-Client-Id": "another"}),
            *(
                peer._http.post(
                    f"http://{place}{path}", content=PING, headers={"Content-Type": "application/json"}
                )
                for path in (
                    "/servers/echo" + peer.address,
                    "/messages?session_id=x",
                    "/messages",
                    peer.address + "&session_id=x",
                )
            ),
        ]
        found = [(response.status_code, response.json()["error"]["message"]) for response in refused]
        assert found == [(404, connections.GONE)] * 5
        peer.raw(PING)
        assert peer.next()["id"] == 1


def test_nobody_gets_in_unnamed(serve: Serve) -> None:
    """The stream and the POST each say who calls."""
    web = serve(identity={"resolver": "header"}, tenants={"allow_unlisted": True})
    assert web.http.get("/sse", headers={"Accept": "text/event-stream"}).status_code == 401
    assert web.post(PING, "/messages?session_id=x").status_code == 401


@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (PING, "text/plain", 415),
        (
            b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":"%s"}}' % (b"x" * 2000),
            "application/json",
            413,
        ),
    ],
)
def test_what_is_no_message_is_refused_at_the_post(
    peer: SsePeer, data: bytes, kind: str, status: int
) -> None:
    """And the connection stands."""
    refused = peer.post(data, **{"Content-Type": kind})
    assert refused.status_code == status
    assert refused.json()["error"]["code"] < 0
    peer.raw(PING)
    assert peer.next()["id"] == 1


def test_an_endpoint_that_is_none_has_no_stream(web: Web) -> None:
    """Nor has a GET that does not take one."""
    headers = {"Accept": "text/event-stream"}
    assert web.http.get("/servers/nothing/sse", headers=headers).status_code == 404
    assert web.http.get("/sse", headers={"Accept": "application/json"}).status_code == 406
    assert web.http.post("/sse").status_code == 405
    assert web.http.get("/messages").status_code == 405


def test_a_connection_ends_with_its_stream(web: Web, peer: SsePeer) -> None:
    """Nobody can POST to it any more, and nothing of it stays."""
    url = peer.address
    peer.close()
    wait_until(lambda: web.post(PING, url).status_code == 404, description="the connection is known no more")
    assert web.gateway.client.keys("*connection*") == []


def test_a_quiet_stream_is_kept_alive(web: Web, peer: SsePeer) -> None:
    """It says so to the client, and in Redis."""
    name = peer.address.rpartition("=")[2]
    key = web.gateway.keys.connection(name)
    web.gateway.client.pexpire(key, 5_000)
    wait_until(lambda: web.gateway.client.pttl(key) > 50_000, description="its lease is renewed")


def test_a_connection_that_redis_has_lost_ends(web: Web, peer: SsePeer) -> None:
    """Its client opens another one; what it sent would get lost otherwise."""
    name = peer.address.rpartition("=")[2]
    web.gateway.client.delete(web.gateway.keys.connection(name))
    assert peer.ended()


def test_a_holder_that_does_not_keep_up_is_spared(
    web: Web, peer: SsePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender hears when to try again; what waits is not lost."""
    name = peer.address.rpartition("=")[2]
    monkeypatch.setattr(web.gateway.connections, "take", lambda *_: [])
    for _ in range(connections.MOST_WAITING):
        peer.raw(PING)
    refused = peer.post(PING)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    assert web.gateway.client.llen(web.gateway.keys.connection_inbox(name)) == connections.MOST_WAITING
    monkeypatch.undo()
    for _ in range(connections.MOST_WAITING):
        assert peer.next()["id"] == 1


def test_a_connection_is_kept_while_its_messages_are_taken_slowly(
    web: Web, peer: SsePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes them may wait for a client that reads slowly."""
    held, hear = threading.Event(), Duplex.hear

    def slowly(duplex: Duplex, raw: bytes, caller: Caller) -> None:
        held.wait(60)
        hear(duplex, raw, caller)

    monkeypatch.setattr(Duplex, "hear", slowly)
    peer.raw(PING)
    key = web.gateway.keys.connection(peer.address.rpartition("=")[2])
    web.gateway.client.pexpire(key, 5_000)
    wait_until(lambda: web.gateway.client.pttl(key) > 50_000, description="its lease is renewed")
    held.set()
    assert peer.next()["id"] == 1


def test_messages_whose_answer_from_redis_is_lost_are_heard_all_the_same(
    web: Web, peer: SsePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once: they were accepted."""
    take, lost = web.gateway.connections.take, threading.Event()

    def losing(name: str, heard: int) -> list[connections.Posted]:
        found = take(name, heard)
        if found and not lost.is_set():
            lost.set()
            raise StoreUnavailable("the connection to Redis broke", outcome=UNKNOWN)
        return found

    monkeypatch.setattr("gateway_web.ingress.http_sse.AGAIN", 0.05)
    monkeypatch.setattr(web.gateway.connections, "take", losing)
    peer.raw(PING)
    assert peer.next()["id"] == 1
    assert lost.is_set()
    peer.raw(orjson.dumps(request("ping", None, 2)))
    assert peer.next()["id"] == 2


def test_a_redis_that_is_away_is_waited_for(
    serve: Serve, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The POST is refused meanwhile; the connection and its session go on afterwards."""
    monkeypatch.setattr("gateway_web.ingress.duplex.AGAIN", 0.05)
    monkeypatch.setattr("gateway_web.ingress.http_sse.AGAIN", 0.05)
    web = serve(
        f"redis://127.0.0.1:{proxy.port}/{OWN}",
        web={"ping_interval": 0.1},
        metrics={"allowed": ["127.0.0.1"]},
    )
    with listening(web) as place, closing(SsePeer(place)) as peer:
        talk = Talk(peer)
        talk.initialize()
        proxy.refuse()
        proxy.cut()
        assert peer.post(PING).status_code == 503
        assert httpx.get(f"http://{place}/sse", timeout=10).status_code == 503
        assert web.gateway.figures is not None
        assert sum(web.gateway.figures._counts["canalgate_streams"].values()) == 1
        proxy.refuse(False)
        wait_until(lambda: peer.post(PING).status_code == 202, description="Redis is back")
        assert peer.next()["id"] == 1
        assert talk.answer("tools/list", None, 2)["id"] == 2

"""WebSocket: who is let in, and how a connection ends."""

from __future__ import annotations

import base64
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from types import SimpleNamespace
from typing import cast

import orjson
import pytest
from simple_websocket import ConnectionClosed, Server

from common.domain.errors import Unauthenticated
from common.domain.ids import ClientId, TenantId
from common.domain.invocation import Caller, answer
from common.ports import RequestFacts
from common.settings import IdentitySettings
from gateway_web.identity import load_identity
from gateway_web.ingress.changes import ListDigests
from gateway_web.ingress.duplex import Duplex
from gateway_web.ingress.outbox import Outbox
from gateway_web.ingress.websocket import WebSocketDoor
from tests.support.fake_worker import TakenCall
from tests.support.wait import wait_until
from tests.web.harness import INITIALIZE, META_FIELDS, Serve, Web, request
from tests.web.peers import Talk, WebSocketPeer, listening

CALL = {"name": "echo__add", "arguments": {}}
PING = orjson.dumps(request("ping"))
UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": base64.b64encode(b"k" * 16).decode(),
}


@pytest.fixture
def web(serve: Serve) -> Web:
    """With quick pings."""
    return serve(web={"ping_interval": 0.2, "max_body_bytes": 2000})


@pytest.fixture
def place(web: Web) -> Iterator[str]:
    """Where it listens."""
    with listening(web) as found:
        yield found


@pytest.fixture
def peer(place: str) -> Iterator[WebSocketPeer]:
    """An open connection."""
    with closing(WebSocketPeer(place)) as found:
        yield found


def shake_hands(place: str, path: str = "/ws", **headers: str | None) -> tuple[int, dict[str, str], bytes]:
    """Ask for an upgrade; status, headers and what follows them. A header that is None is left out."""
    sent = {"Host": place, **UPGRADE, **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = [f"{name}: {value}" for name, value in sent.items() if value is not None]
    host, _, port = place.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall("\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode())
        raw = b""
        while b"\r\n\r\n" not in raw and (piece := sock.recv(4096)):
            raw += piece
    head, _, rest = raw.partition(b"\r\n\r\n")
    first, *others = head.decode().split("\r\n")
    found = dict(line.lower().split(": ", 1) for line in others)
    return int(first.split()[1]), found, rest


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Host": "evil.example"}, 421),
        ({"Sec_WebSocket_Version": "8"}, 426),
        ({"Sec_WebSocket_Version": None}, 426),
        ({"Upgrade": None}, 426),
        ({"Sec_WebSocket_Key": None}, 400),
        ({"Sec_WebSocket_Key": "short"}, 400),
        ({"Sec_WebSocket_Key": "ü" * 4}, 400),
        ({"Sec_WebSocket_Protocol": "chat"}, 400),
        ({"Sec_WebSocket_Protocol": ",,"}, 400),
        ({}, 101),
        ({"Sec_WebSocket_Protocol": "chat, mcp"}, 101),
        ({"X_Odd": "\x7fü", "Sec_WebSocket_Extensions": "permessage-deflate"}, 101),
    ],
)
def test_the_handshake(place: str, headers: Mapping[str, str | None], status: int) -> None:
    """What is refused is refused before the upgrade."""
    found, _, _ = shake_hands(place, **headers)
    assert found == status


def test_what_was_agreed_upon(place: str) -> None:
    """The subprotocol ``mcp`` if it was offered; no compression."""
    offered = {"Sec_WebSocket_Protocol": "mcp", "Sec_WebSocket_Extensions": "permessage-deflate"}
    _, agreed, _ = shake_hands(place, **offered)
    assert agreed["sec-websocket-protocol"] == "mcp"
    assert "sec-websocket-extensions" not in agreed
    _, agreed, _ = shake_hands(place)
    assert "sec-websocket-protocol" not in agreed
    assert shake_hands(place, Upgrade=None)[1]["upgrade"] == "websocket"


def test_an_endpoint_that_is_none(place: str) -> None:
    """Is told before the upgrade."""
    assert shake_hands(place, "/servers/nothing/ws")[0] == 404


def test_nobody_gets_in_unnamed(serve: Serve) -> None:
    """Who calls is asked before the upgrade."""
    with listening(serve(identity={"resolver": "header"}, tenants={"allow_unlisted": True})) as place:
        assert shake_hands(place)[0] == 401
        assert shake_hands(place, X_Tenant_Id="t", X_Client_Id="c")[0] == 101


class Fickle:
    """A resolver that says what its test wants."""

    client: str | None = "first"

    def __init__(self, settings: IdentitySettings) -> None:
        """As the port says."""

    def resolve(self, request: RequestFacts) -> Caller:
        """Whoever it is now."""
        if Fickle.client is None:
            raise Unauthenticated("expired")
        return Caller(tenant=TenantId("default"), client=ClientId(Fickle.client))


@pytest.mark.parametrize("later", ["second", None])
def test_who_calls_is_asked_with_each_message(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, later: str | None
) -> None:
    """A caller who may no longer call, or is another one, is cut off (1008, policy violation)."""
    monkeypatch.setattr(Fickle, "client", "first")
    web = serve(identity={"resolver": f"{__name__}:Fickle"})
    with listening(web) as place, closing(WebSocketPeer(place)) as peer:
        peer.raw(PING)
        assert peer.next()["id"] == 1
        monkeypatch.setattr(Fickle, "client", later)
        peer.raw(PING)
        assert closed_with(peer) == 1008


def closed_with(peer: WebSocketPeer) -> int:
    """The code with which the server ends the connection."""
    try:
        found = peer.socket.receive(timeout=10)
    except ConnectionClosed as closed:
        return int(closed.reason)
    raise AssertionError(f"the connection stands: {found!r}")


def test_messages_are_text(peer: WebSocketPeer) -> None:
    """Binary ones end the connection (1003, unsupported data)."""
    peer.socket.send(PING)
    assert closed_with(peer) == 1003


def test_a_message_that_is_too_large_ends_the_connection(peer: WebSocketPeer) -> None:
    """1009, as ``web.max_body_bytes`` says."""
    peer.raw(b"x" * 2001)
    assert closed_with(peer) == 1009


@pytest.mark.parametrize("data", [b"{", b"[]", b"nonsense", b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}'])
def test_what_is_no_message_is_answered(peer: WebSocketPeer, data: bytes) -> None:
    """The connection stands."""
    peer.raw(data)
    refused = peer.next()
    assert (refused["id"], refused["error"]["code"]) in [(None, -32700), (None, -32600)]
    peer.raw(PING)
    assert peer.next()["id"] == 1


def test_a_client_that_does_not_answer_pings_is_cut_off(web: Web, place: str) -> None:
    """Within two of them. One that does may be quiet for as long as it likes."""
    with closing(WebSocketPeer(place)) as quiet, open_socket(place) as dead:
        received = b""
        while piece := dead.recv(4096):
            received += piece
        assert b"\x88" in received  # a close frame
        assert quiet.socket.connected
        quiet.raw(PING)
        assert quiet.next()["id"] == 1
    wait_until(lambda: web.gateway.hub.waiting == 0, description="nothing stays")


def test_a_client_that_never_reads_is_cut_off(serve: Serve) -> None:
    """Its calls are let go of; others go on meanwhile, and nothing piles up for it."""
    web = serve(web={"ping_interval": 30, "write_timeout": 0.5})
    large = answer({"content": ["x" * 1_000_000]})
    taken: list[TakenCall] = []

    def behaviour(call: TakenCall) -> None:
        taken.append(call)
        call.finish(large)

    web.worker.behaviour = behaviour
    with listening(web) as place, closing(WebSocketPeer(place)) as other, open_socket(place) as deaf:
        deaf.sendall(frame(request("initialize", INITIALIZE)))
        for number in range(20):
            deaf.sendall(frame(request("tools/call", CALL, number)))
        talk = Talk(other)
        assert talk.answer("ping", None, "o")["id"] == "o"
        wait_until(lambda: len(taken) == 20, description="it calls")
        wait_until(lambda: len(web.gateway.listeners) == 0, timeout=20, description="it is cut off")
        assert talk.answer("ping", None, "p")["id"] == "p"
    wait_until(lambda: web.gateway.hub.waiting == 0, description="its calls are let go of")


def open_socket(place: str) -> socket.socket:
    """A connection that takes little, and nothing by itself."""
    host, _, port = place.partition(":")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(10)
    sock.connect((host, int(port)))
    lines = [f"{name}: {value}" for name, value in {"Host": place, **UPGRADE}.items()]
    sock.sendall("\r\n".join(["GET /ws HTTP/1.1", *lines, "", ""]).encode())
    while b"\r\n\r\n" not in sock.recv(4096, socket.MSG_PEEK):
        pass
    return sock


def frame(message: object) -> bytes:
    """A text frame of a client (RFC 6455, 5.2), with a mask that changes nothing."""
    data = orjson.dumps(message).ljust(126)  # shorter ones have another form
    return b"\x81\xfe" + len(data).to_bytes(2, "big") + b"\0\0\0\0" + data


def test_a_client_that_floods_has_to_wait(serve: Serve) -> None:
    """Each message is answered, in order; nothing is lost."""
    web = serve()
    with listening(web) as place, open_socket(place) as sock:
        sock.sendall(b"".join(frame(request("ping", None, number)) for number in range(2000)))
        received, wanted = b"", b'"id":1999,"result":{}}'
        while wanted not in received:
            piece = sock.recv(65536)
            assert piece, received[-100:]
            received += piece
    assert received.count(b'"result":{}') == 2000
    wait_until(lambda: web.gateway.hub.waiting == 0, description="nothing stays")


def test_a_client_that_leaves_without_reading_is_let_go_of(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when what waits for it had filled up, and whoever takes its messages waits for room."""
    outboxes: list[Outbox] = []

    def small() -> Outbox:
        outboxes.append(Outbox(bound=1000))
        return outboxes[-1]

    monkeypatch.setattr("gateway_web.ingress.duplex.Outbox", small)
    with listening(web := serve()) as place, open_socket(place) as sock:
        sock.sendall(frame(request("initialize", INITIALIZE)))
        sock.settimeout(1)
        with suppress(TimeoutError):
            while True:
                sock.sendall(frame(request("tools/list")))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        sock.close()
        wait_until(lambda: len(web.gateway.listeners) == 0, description="it is let go of")
        assert outboxes[0].closed


def test_a_message_that_is_too_large_ends_the_connection_in_the_midst_of_a_write(serve: Serve) -> None:
    """The library wakes its reader before the connection has ended, and never again."""
    web = serve(web={"ping_interval": 30, "max_body_bytes": 2000})
    calls: list[TakenCall] = []
    web.worker.behaviour = calls.append
    with listening(web) as place, open_socket(place) as sock:
        sock.sendall(frame(request("initialize", INITIALIZE)))
        sock.sendall(frame(request("tools/call", CALL, 1)))
        wait_until(lambda: calls, description="it calls")
        calls[0].finish(answer({"content": ["x" * 8_000_000]}))
        while b"xxx" not in sock.recv(1000):
            pass  # it is not being written yet
        sock.sendall(frame({"x": "x" * 3000}))
        while sock.recv(65536):
            pass
        wait_until(lambda: len(web.gateway.listeners) == 0, description="it is let go of")


def test_a_client_whose_messages_wait_need_not_answer_pings(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pong is behind them."""
    hear = Duplex.hear

    def slowly(duplex: Duplex, raw: bytes, caller: Caller) -> None:
        never.wait(0.01)
        hear(duplex, raw, caller)

    never = threading.Event()
    monkeypatch.setattr(Duplex, "hear", slowly)
    with listening(serve(web={"ping_interval": 0.1})) as place, closing(WebSocketPeer(place)) as peer:
        for _ in range(300):
            peer.raw(PING)
        for _ in range(300):
            assert peer.next()["id"] == 1


def test_nothing_is_read_before_what_came_earlier_is_taken(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing piles up here for a client that floods."""
    held = threading.Event()
    monkeypatch.setattr(Duplex, "hear", lambda *_: held.wait(60))
    with listening(serve()) as place, open_socket(place) as sock:
        sock.settimeout(1)
        with pytest.raises(TimeoutError):
            sock.sendall(frame({"x": "x" * 1000}) * 16_000)
        held.set()


def test_nothing_is_heard_behind_the_end(serve: Serve) -> None:
    """A client that goes on after the close frame: its calls would run, and nobody would answer them."""
    web = serve(web={"ping_interval": 30})
    taken: list[TakenCall] = []
    web.worker.behaviour = taken.append
    with listening(web) as place, open_socket(place) as sock:
        sock.sendall(frame(request("initialize", INITIALIZE)))
        session = wait_until(
            lambda: web.gateway.client.keys("*:mcp-session:*"),
            description="the session is there",
        )
        web.gateway.client.delete(*session)
        web.gateway.listeners.call_all()
        while b"\x88" not in sock.recv(4096):
            pass  # not closed yet
        for number in range(20):
            with suppress(OSError):
                sock.sendall(frame(request("tools/call", {**CALL, "_meta": META_FIELDS}, number)))
        while True:
            try:
                if not sock.recv(4096):
                    break
            except ConnectionError:
                break
    wait_until(lambda: len(web.gateway.listeners) == 0, description="it is let go of")
    assert taken == []


def test_a_connection_that_has_ended_takes_no_message(web: Web) -> None:
    """What was read before the end and not taken is nobody's any more; the end was said already."""
    heard: list[bytes] = []
    ws = SimpleNamespace(connected=False, input_buffer=["{}"], pong_received=False)
    duplex = SimpleNamespace(outbox=Outbox(), hear=lambda raw, _caller: heard.append(raw))
    door = WebSocketDoor(web.gateway, load_identity(web.gateway), ListDigests(web.gateway))
    facts = RequestFacts(headers={}, remote_address="127.0.0.1", path="/ws")
    door._take(cast("Server", ws), cast("Duplex", duplex), facts)
    assert (heard, ws.input_buffer) == ([], ["{}"])
    ws.connected = True
    door._take(cast("Server", ws), cast("Duplex", duplex), facts)
    assert (heard, ws.input_buffer) == ([b"{}"], [])

"""Clients on one connection that carries both directions, by either door; the web program in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import httpx
import orjson
from simple_websocket import Client, ConnectionClosed
from werkzeug.serving import make_server

from tests.web.harness import INITIALIZE, META_FIELDS, Web, notification, request

PATIENCE = 10.0
"""Seconds that a message may take."""


class Peer(Protocol):
    """A client's end of the connection."""

    def raw(self, data: bytes) -> None:
        """Send what need not be a message."""

    def next(self) -> Any:
        """The next message for the client; fails if none comes."""

    def ended(self) -> bool:
        """Whether the server ends the connection without another message."""

    def close(self) -> None:
        """Hang up."""


class Talk:
    """What a client says, whichever the door."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message."""
        self.peer.raw(orjson.dumps(message))

    def ask(self, method: str, params: object = None, identity: object = 1) -> None:
        """Send a request of the legacy era."""
        self.send(request(method, params, identity))

    def ask_modern(self, method: str, params: Mapping[str, Any] | None = None, identity: object = 1) -> None:
        """Send a request of the modern era."""
        self.send(request(method, {**(params or {}), "_meta": META_FIELDS}, identity))

    def tell(self, method: str, params: object = None) -> None:
        """Send a notification."""
        self.send(notification(method, params))

    def next(self) -> Any:
        """The next message."""
        return self.peer.next()

    def answer(self, method: str, params: object = None, identity: object = 1) -> Any:
        """Ask, and take what comes next."""
        self.ask(method, params, identity)
        return self.next()

    def initialize(self) -> Any:
        """Open the session; what the server says of itself."""
        found = self.answer("initialize", INITIALIZE, "init")
        assert found["id"] == "init", found
        self.tell("notifications/initialized")
        return found["result"]


@contextmanager
def listening(web: Web) -> Iterator[str]:
    """Serve on a port; ``host:port``."""
    server = make_server("127.0.0.1", 0, web.app, threaded=True)
    server.daemon_threads = True  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class SsePeer:
    """By HTTP+SSE. ``posts`` is the address of the web process that gets the POSTs."""

    def __init__(self, place: str, tool: str = "", *, posts: str | None = None, **headers: str) -> None:
        self._http = httpx.Client(timeout=PATIENCE, headers=headers)
        self._close = ExitStack()
        path = f"/servers/{tool}/sse" if tool else "/sse"
        self._stream = self._close.enter_context(
            self._http.stream("GET", f"http://{place}{path}", headers={"Accept": "text/event-stream"})
        )
        assert self._stream.status_code == 200, self._stream.read()
        self._events = self._read()
        kind, self.address = next(self._events)
        assert kind == "endpoint"
        self.url = f"http://{posts or place}{self.address}"

    def _read(self) -> Iterator[tuple[str, str]]:
        kind = ""
        for line in self._stream.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield kind, line.removeprefix("data: ")

    def post(self, data: bytes, **headers: str) -> httpx.Response:
        """POST to the connection's address."""
        return self._http.post(
            self.url, content=data, headers={"Content-Type": "application/json", **headers}
        )

    def raw(self, data: bytes) -> None:
        """As the protocol says."""
        response = self.post(data)
        assert (response.status_code, response.text) == (202, "Accepted"), response.text

    def next(self) -> Any:
        """As the protocol says."""
        kind, data = next(self._events)
        assert kind == "message"
        return orjson.loads(data)

    def ended(self) -> bool:
        """As the protocol says."""
        return next(self._events, None) is None

    def close(self) -> None:
        """As the protocol says."""
        self._close.close()
        self._http.close()


class WebSocketPeer:
    """By WebSocket."""

    def __init__(self, place: str, tool: str = "", **headers: str) -> None:
        path = f"/servers/{tool}/ws" if tool else "/ws"
        self.socket = Client(f"ws://{place}{path}", subprotocols=["mcp"], headers=headers)

    def raw(self, data: bytes) -> None:
        """As the protocol says."""
        self.socket.send(data.decode())

    def next(self) -> Any:
        """As the protocol says."""
        found = self.socket.receive(timeout=PATIENCE)
        assert isinstance(found, str), found
        return orjson.loads(found)

    def ended(self) -> bool:
        """As the protocol says."""
        try:
            return self.socket.receive(timeout=PATIENCE) is None
        except ConnectionClosed:
            return True

    def close(self) -> None:
        """As the protocol says."""
        if self.socket.connected:
            self.socket.close()


DOORS: dict[str, Callable[..., SsePeer | WebSocketPeer]] = {"sse": SsePeer, "websocket": WebSocketPeer}

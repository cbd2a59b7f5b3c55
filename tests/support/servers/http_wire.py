"""HTTP/1.1 with keep-alive on plain sockets, one thread a connection: enough for a backend under test.

Written out rather than taken from ``http.server``, which takes twice as long to import, parses headers slowly
and cannot be made to break off in the middle of an answer.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable

HEAD_LIMIT = 64 * 1024


class Request:
    """One request as read from the wire; header names are in lower case."""

    def __init__(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.body = body


class Connection:
    """One client connection: reads requests, writes one response to each."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.open = True
        self._buffer = b""

    def read_request(self) -> Request | None:
        """Return the next request; None when the client closed the connection."""
        while b"\r\n\r\n" not in self._buffer:
            data = self.sock.recv(65536)
            if not data or len(self._buffer) > HEAD_LIMIT:
                return None
            self._buffer += data
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
        }
        return Request(method, path, headers, self._read_body(headers))

    def _read_body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            parts = []
            while size := int(self._read_line(), 16):
                parts.append(self._read_exactly(size))
                self._read_line()
            self._read_line()
            return b"".join(parts)
        return self._read_exactly(int(headers.get("content-length", "0")))

    def _read_line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._receive()
        line, self._buffer = self._buffer.split(b"\r\n", 1)
        return line

    def _read_exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._receive()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _receive(self) -> None:
        data = self.sock.recv(1 << 20)
        if not data:
            raise ConnectionResetError("the client left in the middle of a request")
        self._buffer += data

    def respond(
        self,
        status: str,
        body: bytes = b"",
        kind: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> None:
        """Send a whole response; ``status`` is the code and the phrase."""
        fields = {
            "Content-Length": str(len(body)),
            **({"Content-Type": kind} if body else {}),
            **(headers or {}),
        }
        self.sock.sendall(_head(status, fields) + body)

    def start_stream(self, headers: dict[str, str] | None = None) -> None:
        """Begin a ``text/event-stream`` response, sent in chunks."""
        fields = {
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-cache",
            "Transfer-Encoding": "chunked",
        }
        self.sock.sendall(_head("200 OK", {**fields, **(headers or {})}))

    def send_event(self, data: bytes) -> None:
        """Send one SSE event of one line."""
        event = b"event: message\r\ndata: " + data + b"\r\n\r\n"
        self.sock.sendall(b"%x\r\n%s\r\n" % (len(event), event))

    def end_stream(self) -> None:
        """End the response; the connection can be used again."""
        self.sock.sendall(b"0\r\n\r\n")

    def abort(self) -> None:
        """Close in the middle of whatever is being sent."""
        self.open = False
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def hung_up(self, wait: float) -> bool:
        """Wait up to ``wait`` seconds for the client to close its side; a pipelined request is not that."""
        try:
            readable, _, _ = select.select([self.sock], [], [], wait)
            return bool(readable) and self.sock.recv(1, socket.MSG_PEEK) == b""
        except (OSError, ValueError):
            return True


def _head(status: str, fields: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def listen(host: str, port: int, handle: Callable[[Connection, Request], None]) -> None:
    """Serve for ever; prints ``listening http://HOST:PORT/mcp`` once bound (port 0 picks a free one)."""
    with socket.create_server((host, port), backlog=512) as listener:
        print(f"listening http://{host}:{listener.getsockname()[1]}/mcp", flush=True)
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_serve, args=(Connection(sock), handle), daemon=True).start()


def _serve(connection: Connection, handle: Callable[[Connection, Request], None]) -> None:
    # A client that goes away is normal here: its thread just ends.
    with connection.sock, contextlib.suppress(OSError):
        while connection.open and (request := connection.read_request()) is not None:
            handle(connection, request)

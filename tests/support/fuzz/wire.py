"""Sends raw bytes to a gateway and reads one answer, on connections that are kept where that says anything."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from tests.support.fuzz.grammar import Case
from tests.support.fuzz.readings import incomplete
from tests.support.mcp import RawClient

PATIENCE = 60.0
QUIET = 0.3
"""Seconds without an answer after which a request that may be incomplete is ended."""
_SESSION = re.compile(rb"@session of ([0-9-]+) at ([a-z]*)@")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back; ``status`` is 0 if the connection was closed without a word."""

    status: int
    kind: str
    body: bytes
    seconds: float
    messages: tuple[bytes, ...] = ()
    """JSON: the body, or the events of a stream that were read."""
    ended: bool = False
    """Whether the request was cut short by us, since nothing came."""


class Lane:
    """One sender, one request after the other."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sock: socket.socket | None = None
        self._buffer = b""
        self._ended = False
        self._sessions: dict[str, str] = {}

    def send(self, case: Case) -> tuple[bytes, Answer]:
        """Send a case; returns the bytes that were sent, and the answer."""
        raw = _SESSION.sub(
            lambda found: self._session(found[1].decode(), found[2].decode()).encode(), case.raw
        )
        if self._sock is None or not case.framed:
            self.close()
            self._sock = socket.create_connection(("127.0.0.1", self._port), PATIENCE)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begun = time.monotonic()
        with contextlib.suppress(OSError):  # refused before all of it was sent: the answer says why
            self._sock.sendall(raw)
            if not case.framed and incomplete(raw):
                self._end()
        try:
            answer = self._answer(begun, raw.partition(b" ")[0], whole=case.framed)
        except (OSError, ValueError) as error:
            answer = Answer(status=0, kind="", body=repr(error).encode(), seconds=time.monotonic() - begun)
        if not case.framed or answer.status in (0, 400, 408, 413, 415, 421, 505) or b": close" in raw.lower():
            self.close()
        if b"SESSION_NOT_FOUND" in answer.body or b"DELETE" in raw:
            self._sessions.clear()
        return raw, answer

    def close(self) -> None:
        """Close the connection."""
        if self._sock is not None:
            self._sock.close()
        self._sock, self._buffer, self._ended = None, b"", False

    def _end(self) -> None:
        """Say that nothing more comes."""
        assert self._sock is not None
        self._ended = True
        self._sock.shutdown(socket.SHUT_WR)

    def _session(self, revision: str, endpoint: str) -> str:
        key = f"{revision} {endpoint}"
        if key not in self._sessions:
            path = f"/servers/{endpoint}/mcp" if endpoint else "/mcp"
            client = RawClient(f"http://127.0.0.1:{self._port}{path}")
            answer = client.open(protocolVersion=revision)
            assert answer.status_code == 200, answer.text
            self._sessions[key] = client.session or ""
        return self._sessions[key]

    # -- reading ------------------------------------------------------------------------------------------

    def _answer(self, begun: float, verb: bytes, *, whole: bool) -> Answer:
        head = self._head(whole=whole)
        if head is None:
            return Answer(status=0, kind="", body=b"", seconds=time.monotonic() - begun, ended=self._ended)
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        fields = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        kind = fields.get("content-type", "").partition(";")[0]
        if kind == "text/event-stream":
            body = b"".join(self._first_events(standing=verb == b"GET"))
            self.close()
            lines_with_data = (line for line in body.split(b"\n") if line.startswith(b"data: "))
            messages = (
                () if body.startswith(b"event: endpoint") else tuple(line[6:] for line in lines_with_data)
            )
        else:
            body = b"" if verb == b"HEAD" or status in (202, 204) else self._body(fields)
            messages = (body,) if kind == "application/json" else ()
        if fields.get("connection", "").lower() == "close":
            self.close()
        seconds = time.monotonic() - begun
        return Answer(
            status=status, kind=kind, body=body, seconds=seconds, messages=messages, ended=self._ended
        )

    def _head(self, *, whole: bool) -> bytes | None:
        while True:
            while b"\r\n\r\n" not in self._buffer:
                if not self._more(QUIET if not whole and not self._ended else None):
                    return None
            head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
            if not head.startswith(b"HTTP/1.1 100"):
                return head

    def _body(self, fields: dict[str, str]) -> bytes:
        if fields.get("transfer-encoding", "").lower() == "chunked":
            return b"".join(self._chunks())
        return self._exactly(int(fields.get("content-length", "0")))

    def _chunks(self) -> Iterator[bytes]:
        while True:
            while b"\r\n" not in self._buffer:
                self._need()
            size, self._buffer = self._buffer.split(b"\r\n", 1)
            piece = self._exactly(int(size, 16))
            self._exactly(2)
            if not piece:
                return
            yield piece

    def _first_events(self, *, standing: bool) -> Iterator[bytes]:
        """Up to the first event with a message; a standing stream begins with an event without one, or a comment."""
        for piece in self._chunks():
            yield piece
            if b"data:" in piece or standing:
                return

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._need()
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def _need(self) -> None:
        if not self._more(None):
            raise ConnectionResetError("closed in the middle of an answer")

    def _more(self, quiet: float | None) -> bool:
        assert self._sock is not None
        self._sock.settimeout(PATIENCE if quiet is None else quiet)
        try:
            data = self._sock.recv(1 << 16)
        except TimeoutError:
            if quiet is None:
                raise
            self._end()
            return True
        self._buffer += data
        return bool(data)


def problem_of_message(raw: bytes) -> str | None:
    """Why this is no JSON-RPC message that a server sends; None if it is one."""
    try:
        message = orjson.loads(raw)
    except orjson.JSONDecodeError as fault:
        return f"no JSON: {fault}"
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        return "no JSON-RPC"
    if "method" in message:
        return None if "id" not in message and isinstance(message["method"], str) else "a request"
    identified = "id" in message and isinstance(message["id"], str | int | None) and message["id"] is not True
    error = message.get("error")
    if not identified or ("result" in message) == ("error" in message):
        return "neither a result nor an error, or without an id"
    if "result" in message:
        return None if isinstance(message["result"], dict) else "a result that is no object"
    fine = (
        isinstance(error, dict) and type(error.get("code")) is int and isinstance(error.get("message"), str)
    )
    return None if fine else "an error without code and message"

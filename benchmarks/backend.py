"""The backend under every benchmark: a trivial MCP server with one tool, ``echo``, over stdio or HTTP.

The tool answers at once, or after ``wait`` seconds; over stdio it sends ``beats`` progress notifications meanwhile.
Standard library only and both eras, so that any peer may start it as a child under any interpreter:
``python benchmarks/backend.py stdio`` or ``python benchmarks/backend.py http --port 9000``. ``--sdk`` serves
the same tool through the official SDK's server instead, which is what an ordinary Python backend costs.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import os
import select
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if not __package__:  # started as a file: a peer gives it neither a package nor a working directory
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.tally import Tally

MODERN_VERSION = "2026-07-28"
MODERN_META_KEY = "io.modelcontextprotocol/protocolVersion"
LEGACY_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
_CACHE_HINTS = {"ttlMs": 60_000, "cacheScope": "public"}
_INFO = {"name": "benchmark-backend", "version": "1"}
_TOOLS = [
    {
        "name": "echo",
        "description": "Return the text.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "wait": {"type": "number"},
                "beats": {"type": "integer"},
            },
            "required": ["text"],
        },
    }
]

Message = dict[str, Any]


class EchoServer:
    """The protocol of the backend, without any transport."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally

    def answer(self, message: Message) -> Message | None:
        """Return the response to ``message``, or None for what wants no response."""
        if message.get("method") != "tools/call":
            self.tally.bump_other()
        if "method" not in message or "id" not in message:
            return None
        params = message.get("params") or {}
        result = self._result(message["method"], params)
        if result is None:
            error = {"code": -32601, "message": f"no method {message['method']}"}
            return {"jsonrpc": "2.0", "id": message["id"], "error": error}
        if MODERN_META_KEY in params.get("_meta", {}):
            result["resultType"] = "complete"
        return {"jsonrpc": "2.0", "id": message["id"], "result": result}

    def _result(self, method: str, params: Message) -> Message | None:
        match method:
            case "tools/call":
                self.tally.bump()
                text = params.get("arguments", {}).get("text", "")
                return {"content": [{"type": "text", "text": text}], "isError": False}
            case "initialize":
                wanted = params.get("protocolVersion")
                version = wanted if wanted in LEGACY_VERSIONS else LEGACY_VERSIONS[-1]
                return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": _INFO}
            case "server/discover":
                return {"supportedVersions": [MODERN_VERSION], "capabilities": {"tools": {}}, **_CACHE_HINTS}
            case "tools/list":
                return {"tools": _TOOLS, **_CACHE_HINTS}
            case "ping":
                return {}
        return None


def wait_of(message: Message) -> float:
    """Return for how many seconds ``message`` wants its answer held back."""
    if message.get("method") != "tools/call":
        return 0.0
    return float(message["params"].get("arguments", {}).get("wait", 0.0))


class Agenda:
    """Lines to be written later, and who is told when the last line of a call is due."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._lines: list[tuple[float, int, bytes, bool]] = []
        self._serial = 0

    def add(self, message: Message, answer: bytes, wait: float) -> None:
        """Put down the answer to ``message``, and the progress notifications that it wants before."""
        now = time.monotonic()
        params = message["params"]
        token = params.get("_meta", {}).get("progressToken")
        beats = int(params["arguments"].get("beats", 0)) if token is not None else 0
        for beat in range(beats):
            self._put(now + beat * wait / beats, _encode(_progress(token, beat, beats)), last=False)
        self._tally.hold()
        self._put(now + wait, answer, last=True)

    def _put(self, due: float, line: bytes, *, last: bool) -> None:
        self._serial += 1
        heapq.heappush(self._lines, (due, self._serial, line + b"\n", last))

    def seconds_left(self) -> float | None:
        """Return the time until something is due; None if nothing ever is."""
        return max(0.0, self._lines[0][0] - time.monotonic()) if self._lines else None

    def take_due(self) -> list[bytes]:
        """Return the lines whose time has come."""
        due, now = [], time.monotonic()
        while self._lines and self._lines[0][0] <= now:
            _, _, line, last = heapq.heappop(self._lines)
            due.append(line)
            if last:
                self._tally.release()
        return due


def _progress(token: str | int, beat: int, beats: int) -> Message:
    params = {"progressToken": token, "progress": beat + 1, "total": beats}
    return {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}


def serve_stdio(server: EchoServer) -> None:
    """Answer lines on stdin until it ends. All lines of one read leave in one write."""
    pending = b""
    agenda = Agenda(server.tally)
    while True:
        out: list[bytes] = []
        left = agenda.seconds_left()
        if left is None or select.select([0], [], [], left)[0]:
            chunk = os.read(0, 1 << 16)
            if not chunk:
                return
            *lines, pending = (pending + chunk).split(b"\n")
            messages = [json.loads(line) for line in lines if line.strip()]  # noqa: TID251
            out = [_line_for(server, agenda, message) for message in messages]
        _write_all(b"".join(out + agenda.take_due()))


def _line_for(server: EchoServer, agenda: Agenda, message: Message) -> bytes:
    """Return what to write at once for ``message``, which may be nothing."""
    answer = server.answer(message)
    if answer is None:
        return b""
    wait = wait_of(message)
    if wait > 0:
        agenda.add(message, _encode(answer), wait)
        return b""
    return _encode(answer) + b"\n"


def _write_all(out: bytes) -> None:
    while out:
        out = out[os.write(1, out) :]


def _encode(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


class _HttpConnection(asyncio.Protocol):
    """One keep-alive connection; understands just the HTTP that MCP clients send (bodies with a length)."""

    def __init__(self, server: EchoServer) -> None:
        self._server = server
        self._pending = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._pending += data
        self._write(b"".join(self._responses()))

    def _write(self, out: bytes) -> None:
        if out and self._transport is not None:
            self._transport.write(out)

    def _responses(self) -> Iterator[bytes]:
        while (end := self._pending.find(b"\r\n\r\n")) >= 0:
            head = self._pending[:end]
            length = _content_length(head)
            if length is None:
                yield _http(b"411 Length Required")
                self._pending = b""
                return
            if len(self._pending) < end + 4 + length:
                return
            body = self._pending[end + 4 : end + 4 + length]
            self._pending = self._pending[end + 4 + length :]
            yield self._respond(head, body)

    def _respond(self, head: bytes, body: bytes) -> bytes:
        verb = head.split(b" ", 1)[0]
        if verb == b"DELETE":
            return _http(b"200 OK")
        if verb != b"POST":
            return _http(b"405 Method Not Allowed", b"Allow: POST, DELETE\r\n")
        message: Message = json.loads(body)  # noqa: TID251
        answer = self._server.answer(message)
        if answer is None:
            return _http(b"202 Accepted")
        extra = b"Content-Type: application/json\r\n"
        if message["method"] == "initialize":
            extra += b"Mcp-Session-Id: " + uuid.uuid4().hex.encode() + b"\r\n"
        response = _http(b"200 OK", extra, _encode(answer))
        if (wait := wait_of(message)) > 0:
            self._server.tally.hold()
            asyncio.get_running_loop().call_later(wait, self._release, response)
            return b""
        return response

    def _release(self, response: bytes) -> None:
        self._server.tally.release()
        self._write(response)


def _content_length(head: bytes) -> int | None:
    """Return the length of the body, 0 without one, None for a chunked body."""
    lower = head.lower()
    if b"\r\ntransfer-encoding:" in lower:
        return None
    at = lower.find(b"\r\ncontent-length:")
    return int(lower[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0


def _http(status: bytes, extra: bytes = b"", body: bytes = b"") -> bytes:
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, extra, len(body), body)


async def serve_http(server: EchoServer, port: int) -> None:
    """Serve on 127.0.0.1 until cancelled (port 0: a free one); print ``listening PORT`` once it serves."""
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: _HttpConnection(server), "127.0.0.1", port)
    print(f"listening {listener.sockets[0].getsockname()[1]}", flush=True)
    await listener.serve_forever()


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description="The benchmark's trivial MCP backend.")
    parser.add_argument("transport", choices=("stdio", "http"))
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tally", type=Path, help="directory to count calls in")
    parser.add_argument("--sdk", action="store_true", help="serve through the official SDK's server")
    options = parser.parse_args()
    tally = Tally(options.tally)
    if options.sdk:
        from benchmarks import sdk_backend

        sdk_backend.serve(options.transport, options.port, tally)
    elif options.transport == "stdio":
        serve_stdio(EchoServer(tally))
    else:
        asyncio.run(serve_http(EchoServer(tally), options.port))


if __name__ == "__main__":
    main()

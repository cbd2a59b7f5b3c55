"""A receiver of webhooks that does for each request what it was told to do."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from common.domain.audit_chain import SealedRecord


@dataclass(slots=True)
class Receiver:
    """``answers`` are what the next requests meet: a status, or ``hang``, ``close``, ``half`` (of an answer); then 204.

    ``down`` is the status of all while it is not 0; ``most`` is the largest body that is not answered with 413.
    """

    url: str = ""
    answers: deque[int | str] = field(default_factory=deque)
    down: int = 0
    most: int = 1 << 30
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    """All that came whole, whatever it was answered."""
    taken: list[SealedRecord] = field(default_factory=list)
    """What was answered with 2xx, or was to be: a receiver's first sight of each number."""
    doubled: int = 0
    ending: threading.Event = field(default_factory=threading.Event)

    def take(self, body: bytes) -> None:
        for line in body.splitlines(keepends=True):
            record = SealedRecord.from_line(line)
            if self.taken and record.seq <= self.taken[-1].seq:
                self.doubled += 1
            else:
                self.taken.append(record)

    @property
    def numbers(self) -> list[int]:
        return [record.seq for record in self.taken]


@contextmanager
def webhook_receiver(context: Any = None) -> Iterator[Receiver]:
    """``context`` is that of a TLS server."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            what = receiver.answers.popleft() if receiver.answers else (receiver.down or 204)
            if what == "close":
                # In the middle of the body.
                self.rfile.read(length // 2)
                self.close_connection = True
                return
            body = self.rfile.read(length)
            receiver.requests.append((dict(self.headers), body))
            if what == "hang":
                receiver.ending.wait(30)
                self.close_connection = True
                return
            if what == "half":
                receiver.take(body)
                self.send_response(200)
                self.send_header("Content-Length", "100")
                self.end_headers()
                self.wfile.write(b"half")
                self.close_connection = True
                return
            assert isinstance(what, int)
            status = 413 if length > receiver.most else what
            if 200 <= status < 300:
                receiver.take(body)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    scheme = "http"
    if context is not None:
        server.socket, scheme = context.wrap_socket(server.socket, server_side=True), "https"
    receiver.url = f"{scheme}://127.0.0.1:{server.server_address[1]}/audit"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.ending.set()
        server.shutdown()
        thread.join()
        server.server_close()

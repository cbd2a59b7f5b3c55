"""Backends that misbehave over Streamable HTTP: ``python misbehaving_http.py --mode MODE [--only METHOD]``.

With ``--only tools/call`` just the POSTs of that method misbehave; the rest is served as ``echo_http`` does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

if not __package__:  # run as a file: make the repository importable
    sys.path[0] = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))

from tests.support.servers import echo_core, echo_http, http_wire
from tests.support.servers.echo_core import DECODER, EchoServer
from tests.support.servers.echo_http import HttpServer
from tests.support.servers.http_wire import Connection, Request

ELSEWHERE = "/elsewhere"
Behaviour = Callable[[Connection, Request], None]


class MisbehavingHttp:
    """Sends a request to its mode, or to the well-behaved server if ``--only`` does not name its method."""

    def __init__(self, inner: HttpServer, *, mode: str, only: str | None, location: str) -> None:
        self.inner = inner
        self.only = only
        self.location = location
        self._behave: Behaviour = getattr(self, mode)
        self._used_sessions: set[str] = set()

    def handle(self, connection: Connection, request: Request) -> None:
        """Answer one HTTP request, wrongly if it is the mode's turn."""
        method = method_of(request)
        if request.path == ELSEWHERE:
            # Whoever followed the redirect: served, and to be seen in ECHO_LOG.
            echo_core.record(followed=request.path, headers=request.headers)
            request.path = "/mcp"
            self.inner.handle(connection, request)
        elif self.only is not None and method != self.only:
            self.inner.handle(connection, request)
        else:
            echo_core.record(misbehaved=method, headers=request.headers)
            self._behave(connection, request)

    def html(self, connection: Connection, _: Request) -> None:
        """Answer 200 with a web page, as a captive portal or a wrong URL does."""
        connection.respond(
            "200 OK", b"<!doctype html><title>Sign in</title><p>Sign in", "text/html; charset=utf-8"
        )

    def redirect(self, connection: Connection, _: Request) -> None:
        """Answer 307 to ``--location``."""
        connection.respond("307 Temporary Redirect", headers={"Location": self.location})

    def status_500(self, connection: Connection, _: Request) -> None:
        """Answer 500 in plain text."""
        connection.respond("500 Internal Server Error", b"Internal Server Error", "text/plain")

    def status_401(self, connection: Connection, _: Request) -> None:
        """Answer 401 with a challenge."""
        challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        connection.respond("401 Unauthorized", b'{"error":"invalid_token"}', headers=challenge)

    def status_429(self, connection: Connection, _: Request) -> None:
        """Answer 429 and ask for 7 seconds."""
        connection.respond("429 Too Many Requests", b"slow down", "text/plain", {"Retry-After": "7"})

    def hang(self, connection: Connection, _: Request) -> None:
        """Send the headers of an event stream, then nothing until the client leaves."""
        connection.start_stream()
        while not connection.hung_up(1.0):
            pass
        connection.abort()

    def session_expired(self, connection: Connection, request: Request) -> None:
        """Serve one ``tools/call`` a session; afterwards the session is unknown (404)."""
        session = request.headers.get("mcp-session-id", "")
        if session in self._used_sessions:
            echo_http.refuse(connection, "404 Not Found", echo_core.INVALID_REQUEST, "Session not found")
            return
        if method_of(request) == "tools/call":
            self._used_sessions.add(session)
        self.inner.handle(connection, request)

    def cut_sse(self, connection: Connection, request: Request) -> None:
        """Answer ``tools/call`` with a stream that breaks off before the response; serve the rest."""
        if method_of(request) != "tools/call":
            self.inner.handle(connection, request)
            return
        connection.start_stream()
        notice = {"level": "info", "logger": "echo", "data": "about to break"}
        message = {"jsonrpc": "2.0", "method": "notifications/message", "params": notice}
        connection.send_event(echo_core.encode(message))
        connection.abort()


MODES = ("html", "redirect", "status_500", "status_401", "status_429", "hang", "session_expired", "cut_sse")


def method_of(request: Request) -> str | None:
    """Return the JSON-RPC method of a POST; None for anything else."""
    try:
        message = DECODER.decode(request.body.decode())
    except ValueError:
        return None
    return message.get("method") if isinstance(message, dict) else None


def main() -> None:
    """Parse the command line and serve."""
    parser = echo_http.parser(__doc__)
    parser.add_argument("--mode", choices=MODES, required=True)
    parser.add_argument("--only", help="the one JSON-RPC method that misbehaves; default all")
    parser.add_argument("--location", default=ELSEWHERE, help="redirect: where to")
    options = parser.parse_args()
    # A session can only expire in the legacy era.
    era = "legacy" if options.mode == "session_expired" else options.era
    inner = HttpServer(EchoServer(era=era, pages=options.pages, name=options.mode), always_stream=options.sse)
    server = MisbehavingHttp(inner, mode=options.mode, only=options.only, location=options.location)
    http_wire.listen(options.host, options.port, server.handle)


if __name__ == "__main__":
    main()

"""``echo_core`` over Streamable HTTP: ``python echo_http.py --port N --era legacy|modern|both [--sse]``.

Legacy requests need the ``Mcp-Session-Id`` that ``initialize`` gave out. Modern ones are checked against
their ``MCP-Protocol-Version``, ``Mcp-Method`` and ``Mcp-Name`` headers, and end when the client hangs up.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import uuid

if not __package__:  # run as a file: make the repository importable
    sys.path[0] = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))

from tests.support.servers import echo_core, http_wire
from tests.support.servers.echo_core import DECODER, META, MODERN, EchoServer, Exchange, Json
from tests.support.servers.http_wire import Connection, Request

HEADER_MISMATCH = -32020
LEGACY_REFUSAL = -32000
DISCONNECT_POLL = 0.05
NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


class HttpServer:
    """One endpoint, ``/mcp``."""

    def __init__(self, server: EchoServer, *, always_stream: bool = False) -> None:
        self.server = server
        self.always_stream = always_stream
        self.sessions: set[str] = set()
        self._standing: dict[str, Connection] = {}
        server.announce = self.announce

    def handle(self, connection: Connection, request: Request) -> None:
        """Answer one HTTP request."""
        if request.path.split("?", 1)[0] != "/mcp":
            connection.respond("404 Not Found")
        elif request.method == "POST":
            self.post(connection, request)
        elif self.server.era == "modern" or self._is_modern(request):
            connection.respond("405 Method Not Allowed", headers={"Allow": "POST"})
        elif request.headers.get("mcp-session-id") not in self.sessions:
            refuse(connection, "404 Not Found", echo_core.INVALID_REQUEST, "Session not found")
        elif request.method == "GET":
            self.stand(connection, request)
        else:
            self.sessions.discard(request.headers["mcp-session-id"])
            connection.respond("200 OK")

    def stand(self, connection: Connection, request: Request) -> None:
        """Hold a legacy client's standing stream open until it leaves."""
        session = request.headers["mcp-session-id"]
        connection.start_stream()
        self._standing[session] = connection
        while not connection.hung_up(1.0) and session in self.sessions:
            pass
        self._standing.pop(session, None)
        connection.abort()

    def announce(self, message: Json) -> None:
        """Send a notification on every standing stream."""
        for session, connection in list(self._standing.items()):
            try:
                connection.send_event(echo_core.encode(message))
            except OSError:
                self._standing.pop(session, None)

    def post(self, connection: Connection, request: Request) -> None:
        """Answer one JSON-RPC message."""
        try:
            message = DECODER.decode(request.body.decode())
        except ValueError as error:
            refuse(connection, "400 Bad Request", echo_core.PARSE_ERROR, f"Parse error: {error}")
            return
        if not isinstance(message, dict):
            refuse(
                connection, "400 Bad Request", echo_core.INVALID_REQUEST, "One JSON-RPC message is expected"
            )
            return
        echo_core.record(received=message, headers=request.headers)
        modern = self._is_modern(request)
        if not (self._modern_accepted if modern else self._legacy_accepted)(connection, request, message):
            return
        scope = "" if modern else request.headers.get("mcp-session-id", "")
        if "id" not in message or "method" not in message:
            self.server.notified(message, scope)
            connection.respond("202 Accepted")
        else:
            self.respond(connection, request, message, modern=modern, scope=scope)

    @staticmethod
    def _is_modern(request: Request) -> bool:
        version = request.headers.get("mcp-protocol-version")
        return version is not None and version not in echo_core.LEGACY_REVISIONS

    def _legacy_accepted(self, connection: Connection, request: Request, message: Json) -> bool:
        session = request.headers.get("mcp-session-id")
        if message.get("method") == "initialize" or self.server.era == "modern" or session in self.sessions:
            return True
        status = "404 Not Found" if session else "400 Bad Request"
        refuse(connection, status, echo_core.INVALID_REQUEST, "Missing or unknown session", message.get("id"))
        return False

    def _modern_accepted(self, connection: Connection, request: Request, message: Json) -> bool:
        if self.server.era == "legacy":
            # What today's legacy servers say; it must not be mistaken for a modern error.
            refuse(
                connection,
                "400 Bad Request",
                LEGACY_REFUSAL,
                "Unsupported protocol version",
                message.get("id"),
            )
            return False
        problem = header_problem(request, message)
        if problem is not None:
            refuse(connection, "400 Bad Request", HEADER_MISMATCH, problem, message.get("id"))
        return problem is None

    def respond(
        self, connection: Connection, request: Request, message: Json, *, modern: bool, scope: str
    ) -> None:
        """Answer a request with JSON, or with a stream from its first notification on."""
        answer = Answer(connection, stream=self.always_stream and message["method"] == "tools/call")
        exchange = Exchange(message, answer.notify, modern=modern, headers=request.headers)
        # Modern ids are unique only per client, so the connection tells them apart.
        exchange.scope = scope or f"connection-{id(connection)}"
        self.server.admit(exchange)
        watcher = None
        if modern and (
            message["method"] == "subscriptions/listen" or exchange.params.get("name") in echo_core.BLOCKING
        ):
            watcher = threading.Thread(target=self._watch, args=(connection, exchange, answer), daemon=True)
            watcher.start()
        response = self.server.answer(exchange)
        answer.finished.set()
        if watcher is not None:
            watcher.join()
        if response is None:
            answer.end_empty()
        else:
            status = modern_status(response) if modern else "200 OK"
            answer.end(response, status, self._opened(message, response))

    def _opened(self, message: Json, response: Json) -> dict[str, str]:
        """Return the session header of an ``initialize`` response."""
        if message["method"] != "initialize" or "error" in response:
            return {}
        session = uuid.uuid4().hex
        self.sessions.add(session)
        return {"Mcp-Session-Id": session}

    @staticmethod
    def _watch(connection: Connection, exchange: Exchange, answer: Answer) -> None:
        """Cancel a modern request when its client hangs up (2026-07-28, Streamable HTTP, cancellation)."""
        while not answer.finished.wait(DISCONNECT_POLL):
            if connection.hung_up(0):
                echo_core.record(disconnected=exchange.request_id)
                exchange.cancelled.set()
                connection.open = False
                return


class Answer:
    """The one HTTP response to a request: JSON, or an event stream once a notification was sent."""

    def __init__(self, connection: Connection, *, stream: bool) -> None:
        self.connection = connection
        self.finished = threading.Event()
        self._streaming = False
        self._sending = threading.Lock()
        if stream:
            self._start()

    def _start(self) -> None:
        if not self._streaming:
            self._streaming = True
            self.connection.start_stream()

    def notify(self, message: Json) -> None:
        """Send a notification on this response."""
        with self._sending:
            self._start()
            self.connection.send_event(echo_core.encode(message))

    def end(self, response: Json, status: str, headers: dict[str, str]) -> None:
        """Send the JSON-RPC response and end."""
        if self._streaming:
            self.connection.send_event(echo_core.encode(response))
            self.connection.end_stream()
        else:
            self.connection.respond(status, echo_core.encode(response), headers=headers)

    def end_empty(self) -> None:
        """End without a response: the request was cancelled."""
        if self._streaming:
            self.connection.end_stream()
        else:
            self.connection.respond("202 Accepted")


def modern_status(response: Json) -> str:
    """Return the HTTP status that 2026-07-28 asks for (Streamable HTTP, sending messages to the server)."""
    code = response.get("error", {}).get("code")
    if code == echo_core.METHOD_NOT_FOUND:
        return "404 Not Found"
    return "400 Bad Request" if code == echo_core.UNSUPPORTED_VERSION else "200 OK"


def header_problem(request: Request, message: Json) -> str | None:
    """Return why the headers of a modern request contradict its body; None if they do not."""
    parameters = message.get("params") or {}
    expected = {
        "mcp-protocol-version": (parameters.get("_meta") or {}).get(META + "protocolVersion"),
        "mcp-method": message.get("method"),
    }
    if message.get("method") in NAMED_BY:
        expected["mcp-name"] = parameters.get(NAMED_BY[message["method"]])
    if "id" not in message:
        expected = {"mcp-protocol-version": MODERN}
    for name, value in expected.items():
        if request.headers.get(name) != value:
            return f"Header {name} is {request.headers.get(name)!r}, the body says {value!r}"
    return None


def refuse(connection: Connection, status: str, code: int, message: str, request_id: object = None) -> None:
    """Send a JSON-RPC error with an HTTP status."""
    body = {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}}
    connection.respond(status, echo_core.encode(body))


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return the command line that all HTTP servers here share."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--host", default="127.0.0.1")
    found.add_argument("--port", type=int, default=0)
    found.add_argument("--era", choices=("legacy", "modern", "both"), default="both")
    found.add_argument("--pages", type=int, default=1)
    found.add_argument("--name", default="echo")
    found.add_argument("--sse", action="store_true", help="answer every tools/call with an event stream")
    return found


def main() -> None:
    """Parse the command line and serve."""
    arguments = parser(__doc__).parse_args()
    server = EchoServer(era=arguments.era, pages=arguments.pages, name=arguments.name)
    http_wire.listen(arguments.host, arguments.port, HttpServer(server, always_stream=arguments.sse).handle)


if __name__ == "__main__":
    main()

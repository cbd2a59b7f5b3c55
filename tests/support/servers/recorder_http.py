"""``recorder_core`` over Streamable HTTP: ``python recorder_http.py --port N --era legacy|modern|both [--sse]``."""

from __future__ import annotations

import os
import sys

if not __package__:  # run as a file: make the repository importable
    sys.path[0] = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))

from tests.support.servers import http_wire, recorder_core
from tests.support.servers.echo_core import Exchange, Json
from tests.support.servers.echo_http import HttpServer, parser
from tests.support.servers.http_wire import Connection, Request
from tests.support.servers.recorder_core import BrokenOff, Recorder


class HttpRecorder(Recorder):
    """Its sessions are those of the legacy era; the modern era has none."""

    def marker(self, exchange: Exchange) -> str | None:
        """The MCP session that the request names."""
        return None if exchange.modern else exchange.headers.get("mcp-session-id")


class RecorderOverHttp(HttpServer):
    """Breaking off means that the connection is closed without an answer."""

    def __init__(self, recorder: HttpRecorder, *, always_stream: bool) -> None:
        super().__init__(recorder, always_stream=always_stream)
        self._recorder = recorder

    def handle(self, connection: Connection, request: Request) -> None:
        """Answer one HTTP request."""
        try:
            super().handle(connection, request)
        except BrokenOff:
            connection.abort()

    def _opened(self, message: Json, response: Json) -> dict[str, str]:
        headers = super()._opened(message, response)
        if headers:
            self._recorder.opened("legacy", headers["Mcp-Session-Id"])
        return headers


def main() -> None:
    """Parse the command line and serve."""
    arguments = parser(__doc__).parse_args()
    recorder_core.delayed_start()
    recorder_core.take_time_apart()
    server = RecorderOverHttp(HttpRecorder(era=arguments.era), always_stream=arguments.sse)
    http_wire.listen(arguments.host, arguments.port, server.handle)


if __name__ == "__main__":
    main()

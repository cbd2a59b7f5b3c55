"""``echo_core`` over stdio: ``python echo.py --era legacy|modern|both --pages N``."""

from __future__ import annotations

import argparse
import os
import sys
import threading

if not __package__:  # run as a file: make the repository importable
    sys.path[0] = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))

from tests.support.servers import echo_core
from tests.support.servers.echo_core import DECODER, EchoServer, Exchange, Json


class StdioServer:
    """Newline-delimited JSON-RPC on file descriptors 0 and 1."""

    def __init__(self, server: EchoServer) -> None:
        self.server = server
        self._writing = threading.Lock()

    def serve(self) -> None:
        """Read until standard input ends."""
        self.server.announce = self.send
        for line in sys.stdin.buffer:
            self.received(line)

    def send(self, message: Json) -> None:
        """Write one message as one line."""
        self.send_bytes(echo_core.encode(message) + b"\n")

    def send_bytes(self, data: bytes) -> None:
        """Write raw bytes; a client that is gone ends this process."""
        view = memoryview(data)
        with self._writing:
            try:
                while view:
                    view = view[os.write(1, view) :]
            except BrokenPipeError:
                os._exit(0)

    def received(self, line: bytes) -> None:
        """Answer one line; a tool that takes time is answered from a thread."""
        try:
            message = DECODER.decode(line.decode())
        except ValueError as error:
            detail = {"code": echo_core.PARSE_ERROR, "message": f"Parse error: {error}"}
            self.send({"jsonrpc": "2.0", "id": None, "error": detail})
            return
        echo_core.record(received=message)
        if "id" not in message:
            self.server.notified(message)
        elif "method" in message:
            self.request(message)

    def request(self, message: Json) -> None:
        """Answer one request, now or from a thread."""
        exchange = Exchange(message, self.send, modern=echo_core.is_modern(message))
        self.server.admit(exchange)
        slow = exchange.params.get("name") in echo_core.BLOCKING or exchange.method == "subscriptions/listen"
        if slow:
            threading.Thread(target=self.respond, args=(exchange,), daemon=True).start()
        else:
            self.respond(exchange)

    def respond(self, exchange: Exchange) -> None:
        """Compute and send the response, if there is one."""
        response = self.server.answer(exchange)
        if response is not None:
            self.send(response)


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--era", choices=("legacy", "modern", "both"), default="both")
    parser.add_argument("--pages", type=int, default=1)
    parser.add_argument("--name", default="echo")
    arguments = parser.parse_args()
    StdioServer(EchoServer(era=arguments.era, pages=arguments.pages, name=arguments.name)).serve()
    os._exit(0)  # threads of blocked calls must not keep the process


if __name__ == "__main__":
    main()

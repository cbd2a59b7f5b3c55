"""An Open Policy Agent's data API, with real Rego behind it, which can also be made to misbehave.

Source: https://www.openpolicyagent.org/docs/rest-api, "Get a Document (with Input)".
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson
import regopy

REGO = """
package canalgate
import rego.v1

allow if { input.tenant == "acme"; input.method == "tools/call" }

decision := {"allow": true, "rule": "reads"} if startswith(input.name, "read")
decision := {"allow": false, "reason": "only reads", "rule": "writes"} if not startswith(input.name, "read")
default plain := false
plain if input.arguments.amount <= 10
"""


class Opa:
    """``asked`` are the questions so far. ``mode``: None, or how it fails."""

    def __init__(self, rego: str) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.connections = 0
        self.mode: str | None = None
        self.go_on = threading.Event()
        """Ends all hanging."""
        self._rego = rego
        self._lock = threading.Lock()
        self.url = ""

    def answer(self, path: str, given: dict[str, Any]) -> dict[str, Any]:
        """The document at a path of the data API; without ``result`` if it is undefined."""
        with self._lock:
            interpreter = regopy.Interpreter()
            interpreter.add_module("policy", self._rego)
            interpreter.set_input(given["input"])
            found = str(interpreter.query(f"x = {path.removeprefix('/v1/').replace('/', '.')}"))
        return {} if found == "undefined" else {"result": orjson.loads(found)["bindings"]["x"]}


_WRONG: dict[str, tuple[int, bytes]] = {
    "500": (500, b'{"code": "internal_error", "result": true}'),
    "garbage": (200, b"<html>"),
    "list": (200, b"[true]"),
    "odd": (200, b'{"result": "yes"}'),
    "odd object": (200, b'{"result": {"allow": 1}}'),
    "large": (200, b'{"result": true, "x": "' + b"a" * 200_000 + b'"}'),
}
"""Answers that are none."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    opa: Opa

    def setup(self) -> None:
        super().setup()
        self.opa.connections += 1

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        opa = self.opa
        given = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
        opa.asked.append(given["input"])
        opa.headers.append({name.lower(): value for name, value in self.headers.items()})
        match opa.mode:
            case "hang":
                opa.go_on.wait(30)
                self._send(200, b"{}")
            case "drip":
                self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                while not opa.go_on.wait(0.05):
                    try:
                        self.wfile.write(b"X-A: b\r\n")
                        self.wfile.flush()
                    except OSError:
                        return
            case "redirect":
                self.send_response(307)
                self.send_header("Location", self.path)
                self.send_header("Content-Length", "0")
                self.end_headers()
            case "cut":
                self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"result"')
                self.close_connection = True
            case None:
                self._send(200, orjson.dumps(opa.answer(self.path, given)))
            case mode:
                self._send(*_WRONG[mode])

    def _send(self, status: int, body: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            pass  # whoever asked has gone


FAILING = ("hang", "drip", "redirect", "cut", *_WRONG)


@contextmanager
def running_opa(rego: str = REGO) -> Iterator[Opa]:
    """One on a free port; ``url`` is that of its data."""
    opa = Opa(rego)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"opa": opa}))
    server.daemon_threads = True
    opa.url = f"http://127.0.0.1:{server.server_address[1]}/v1/data/canalgate"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield opa
    finally:
        opa.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()

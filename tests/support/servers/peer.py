"""The client end of a stdio server of this directory, for tests that look at single messages."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from tests.support.servers.process import server_command

Json = dict[str, Any]
MODERN = "2026-07-28"
META = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
INITIALIZE: Json = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "t", "version": "1"},
}


class StdioPeer:
    """The client end of a stdio server's pipes, line by line."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.popen = popen
        self._selector = selectors.DefaultSelector()
        assert popen.stdout is not None
        self._selector.register(popen.stdout, selectors.EVENT_READ)
        self._buffer = b""

    def send(self, method: str, request_id: int | None = None, **params: Any) -> None:
        """Write a request, or a notification if it has no id."""
        message: Json = {"jsonrpc": "2.0", "method": method, "params": params}
        if request_id is not None:
            message["id"] = request_id
        assert self.popen.stdin is not None
        self.popen.stdin.write(orjson.dumps(message) + b"\n")
        self.popen.stdin.flush()

    def line(self, timeout: float = 10.0) -> bytes:
        """Return the next line; fail if none comes in time, or at the end of the output."""
        end = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            if not self._selector.select(max(0.0, end - time.monotonic())):
                raise TimeoutError(f"no line within {timeout} s")
            assert self.popen.stdout is not None
            data = os.read(self.popen.stdout.fileno(), 1 << 20)
            if not data:
                raise EOFError
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def message(self, timeout: float = 10.0) -> Json:
        """Return the next line as JSON."""
        found: Json = orjson.loads(self.line(timeout))
        return found

    def call(self, name: str, request_id: int = 9, **arguments: Any) -> None:
        """Write a legacy ``tools/call``."""
        self.send("tools/call", request_id, name=name, arguments=arguments)

    def quiet_for(self, seconds: float) -> bool:
        """Whether nothing at all is printed for this long."""
        return not self._buffer and not self._selector.select(seconds)


@contextlib.contextmanager
def stdio(
    name: str,
    *arguments: object,
    env: Mapping[str, str] | None = None,
    stderr: int | None = subprocess.DEVNULL,
) -> Iterator[StdioPeer]:
    """Start a stdio server of ``tests/support/servers`` and kill its process group at the end."""
    popen = subprocess.Popen(
        server_command(name, *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**os.environ, **(env or {})},
        start_new_session=True,
    )
    try:
        yield StdioPeer(popen)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()
        for pipe in (popen.stdin, popen.stdout, popen.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def logged(path: Path) -> list[Json]:
    """Return the entries of an ``ECHO_LOG``."""
    return [orjson.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []

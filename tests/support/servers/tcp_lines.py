"""MCP over TCP, one message a line: each connection is the standard streams of a process of its own."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress


class TcpLinesServer:
    """A listener, and the processes behind its connections."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.processes: list[subprocess.Popen[bytes]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def options(self) -> dict[str, object]:
        """For ``examples.tcp_transport``."""
        return {"host": "127.0.0.1", "port": self.port}

    @property
    def living(self) -> int:
        """Connections that stand."""
        return sum(process.poll() is None for process in self.processes)

    def kill(self) -> None:
        """End all connections at once."""
        for process in self.processes:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Take no more, and end those there are."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.kill()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    process = subprocess.Popen(self._command, stdin=connection, stdout=connection)
                    self.processes.append(process)


@contextmanager
def running_tcp_lines(command: Sequence[str]) -> Iterator[TcpLinesServer]:
    """A server of this command."""
    server = TcpLinesServer(command)
    try:
        yield server
    finally:
        server.close()

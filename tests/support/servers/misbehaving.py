"""Backends that misbehave over stdio: ``python misbehaving.py --mode MODE``. The modes are in ``MODES``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time

if not __package__:  # run as a file: make the repository importable
    sys.path[0] = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))

from tests.support.servers.echo import StdioServer
from tests.support.servers.echo_core import EchoServer, Exchange, Json

GARBAGE = b'Loading model...\n{"jsonrpc": "2.0", "id": \n[WARN] \xff\xfe not JSON\n\n42\n'
FLOOD = b"stderr noise " * 80 + b"\n"


class Misbehaving(StdioServer):
    """The well-behaved server; each mode overrides one thing."""

    def __init__(self, server: EchoServer, options: argparse.Namespace) -> None:
        super().__init__(server)
        self.options = options


class ExitAtStart(Misbehaving):
    """Exits with status 3 before reading anything."""

    def serve(self) -> None:
        """Complain on standard error and leave."""
        print("fatal: no configuration found", file=sys.stderr, flush=True)
        os._exit(3)


class GarbageStdout(Misbehaving):
    """Prints lines that are no JSON-RPC, at the start and before every valid answer."""

    def serve(self) -> None:
        """Print garbage first."""
        self.send_bytes(GARBAGE)
        super().serve()

    def send(self, message: Json) -> None:
        """Print garbage, then the message."""
        self.send_bytes(GARBAGE)
        super().send(message)


class OnlyGarbage(GarbageStdout):
    """Prints garbage where an answer should be."""

    def send(self, message: Json) -> None:
        """Print garbage instead of the message."""
        self.send_bytes(GARBAGE)


class Silent(Misbehaving):
    """Reads everything, answers nothing."""

    def request(self, message: Json) -> None:
        """Say nothing."""


class SilentAfterInit(Misbehaving):
    """Answers ``initialize`` and ``server/discover``, then nothing."""

    def request(self, message: Json) -> None:
        """Answer what opens a connection only."""
        if message["method"] in {"initialize", "server/discover"}:
            super().request(message)


class WrongIds(Misbehaving):
    """Answers ``tools/call`` under an id that nobody used."""

    def respond(self, exchange: Exchange) -> None:
        """Change the id of the response to a call."""
        response = self.server.answer(exchange)
        if response is not None:
            wrong = f"wrong-{exchange.request_id}"
            self.send({**response, "id": wrong} if exchange.method == "tools/call" else response)


class IgnoresSigterm(Misbehaving):
    """Works, but stays when told to go: neither SIGTERM nor the end of standard input ends it."""

    def serve(self) -> None:
        """Serve, then stay."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        super().serve()
        while True:
            time.sleep(60)


class StderrFlood(Misbehaving):
    """Writes about 1 MiB to standard error before every answer; blocks if nobody reads it."""

    def send(self, message: Json) -> None:
        """Flood, then answer."""
        for _ in range(1024):
            os.write(2, FLOOD)
        super().send(message)


class HugeLine(Misbehaving):
    """Answers ``tools/call`` with one line of ``--bytes`` bytes."""

    def respond(self, exchange: Exchange) -> None:
        """Put a huge text into the answer of a call."""
        if exchange.method == "tools/call":
            exchange.params = {"name": "big", "arguments": {"bytes": self.options.bytes}}
        super().respond(exchange)


class SlowStart(Misbehaving):
    """Works, but begins to read only after ``--seconds``."""

    def serve(self) -> None:
        """Sleep first."""
        time.sleep(self.options.seconds)
        super().serve()


class SilentOnDiscover(Misbehaving):
    """A legacy server that never answers what it does not know, such as ``server/discover``."""

    def request(self, message: Json) -> None:
        """Swallow the probe of a modern client."""
        if message["method"] != "server/discover":
            super().request(message)


class BadInitialize(Misbehaving):
    """Answers ``initialize`` and ``server/discover`` with results of the wrong shape."""

    def request(self, message: Json) -> None:
        """Break what opens a connection."""
        if message["method"] in {"initialize", "server/discover"}:
            broken = {
                "protocolVersion": 5,
                "supportedVersions": "all",
                "capabilities": [],
                "serverInfo": None,
            }
            self.send({"jsonrpc": "2.0", "id": message["id"], "result": broken})
        else:
            super().request(message)


class SpawnsGrandchild(Misbehaving):
    """Forks a child that sleeps for ever in the same process group; its pid goes to ``--pid-file``."""

    def serve(self) -> None:
        """Fork, then serve."""
        pid = os.fork()
        if pid == 0:
            # It keeps the pipes: killing only the server leaves readers without an end of file.
            while True:
                signal.pause()
        with open(self.options.pid_file + ".new", "w", encoding="ascii") as written:
            written.write(str(pid))
        os.replace(self.options.pid_file + ".new", self.options.pid_file)
        super().serve()


MODES: dict[str, type[Misbehaving]] = {
    "exit_at_start": ExitAtStart,
    "garbage_stdout": GarbageStdout,
    "only_garbage": OnlyGarbage,
    "silent": Silent,
    "silent_after_init": SilentAfterInit,
    "wrong_ids": WrongIds,
    "ignores_sigterm": IgnoresSigterm,
    "stderr_flood": StderrFlood,
    "huge_line": HugeLine,
    "slow_start": SlowStart,
    "silent_on_discover": SilentOnDiscover,
    "bad_initialize": BadInitialize,
    "spawns_grandchild": SpawnsGrandchild,
}
LEGACY_ONLY = frozenset({"silent_on_discover"})


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=sorted(MODES), required=True)
    parser.add_argument("--era", choices=("legacy", "modern", "both"))
    parser.add_argument("--seconds", type=float, default=3.0, help="slow_start: how long")
    parser.add_argument("--bytes", type=int, default=32 << 20, help="huge_line: how long")
    parser.add_argument("--pid-file", default="grandchild.pid", help="spawns_grandchild: where its pid goes")
    options = parser.parse_args()
    era = options.era or ("legacy" if options.mode in LEGACY_ONLY else "both")
    MODES[options.mode](EchoServer(era=era, name=options.mode), options).serve()
    os._exit(0)


if __name__ == "__main__":
    main()

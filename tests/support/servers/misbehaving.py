"""Backends that misbehave over stdio: ``python misbehaving.py --mode MODE``. The modes are in ``MODES``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time

if not __package__:  # run as a file: make the repository importable
    sys.path[0] = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))

from tests.support.servers.echo import StdioServer
from tests.support.servers.echo_core import EchoServer, Exchange, Json, encode

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


class Dies(Misbehaving):
    """Ends in the way of ``--how`` when ``--when`` comes: in ``initialize``, in a call, or idle after a call."""

    def request(self, message: Json) -> None:
        """Answer, or end."""
        moment = {"initialize": "start", "tools/call": "call"}.get(message["method"])
        if moment == self.options.when:
            self.end()
        super().request(message)
        if moment == "call" and self.options.when == "idle":
            self.end()

    def end(self) -> None:
        """Exit with a status, or by a signal."""
        if self.options.how.startswith("exit"):
            os._exit(int(self.options.how.removeprefix("exit")))
        os.kill(os.getpid(), signal.SIGSEGV if self.options.how == "segfault" else signal.SIGKILL)


class Hangs(Misbehaving):
    """Ignores SIGTERM; in ``initialize`` or in a call (``--when``) it stops itself, or just never answers."""

    def serve(self) -> None:
        """Serve, then stay."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("waiting for something", file=sys.stderr, flush=True)
        super().serve()
        while True:
            time.sleep(60)

    def request(self, message: Json) -> None:
        """Answer what does not hang."""
        moment = {"initialize": "start", "tools/call": "call"}.get(message["method"])
        if moment != self.options.when:
            super().request(message)
        elif self.options.how == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)


class Late(Misbehaving):
    """Answers a call of ``echo`` only when the next one comes, and then both."""

    def __init__(self, server: EchoServer, options: argparse.Namespace) -> None:
        super().__init__(server, options)
        self.held: list[Json] = []

    def request(self, message: Json) -> None:
        """Hold the first call back."""
        if message["method"] == "tools/call" and not self.held:
            self.held.append(message)
            return
        if message["method"] == "tools/call":
            super().request(self.held[0])
        super().request(message)


class StderrLine(Misbehaving):
    """Writes 64 KiB without a line end to standard error before every answer."""

    def send(self, message: Json) -> None:
        """Write, then answer."""
        os.write(2, b"n" * 65536)
        super().send(message)


class StderrTorrent(Misbehaving):
    """Writes ``--bytes`` bytes of lines to standard error as fast as it can, while it works."""

    def serve(self) -> None:
        """Write from a thread; say so at the end, in the last line."""
        threading.Thread(target=self.pour, daemon=True).start()
        super().serve()

    def pour(self) -> None:
        """Write it all."""
        piece = FLOOD * 64
        for _ in range(self.options.bytes // len(piece)):
            view = memoryview(piece)
            while view:
                view = view[os.write(2, view) :]
        os.write(2, b"the torrent has ended\n")


class EndlessLine(Misbehaving):
    """Answers a call with a line that never ends."""

    def respond(self, exchange: Exchange) -> None:
        """Write for ever."""
        while exchange.method == "tools/call":
            self.send_bytes(b"x" * 65536)
        super().respond(exchange)


class NotificationFlood(Misbehaving):
    """Sends ``--count`` notifications before the answer of a call: progress, log messages, and unknown ones."""

    def respond(self, exchange: Exchange) -> None:
        """Flood, then answer."""
        if exchange.method == "tools/call":
            token = exchange.params.get("_meta", {}).get("progressToken", "none")
            kinds: list[Json] = [
                {"method": "notifications/progress", "params": {"progressToken": token, "progress": 1}},
                {"method": "notifications/message", "params": {"level": "info", "data": "x"}},
                {"method": "notifications/whatever", "params": {}},
            ]
            lines = b"".join(encode({"jsonrpc": "2.0", **kind}) + b"\n" for kind in kinds)
            for _ in range(self.options.count // 300):
                self.send_bytes(lines * 100)
        super().respond(exchange)


class DeepAnswer(Misbehaving):
    """Answers a call with a result nested ``--count`` deep."""

    def respond(self, exchange: Exchange) -> None:
        """Nest."""
        if exchange.method != "tools/call":
            super().respond(exchange)
            return
        deep = b"[" * self.options.count + b"]" * self.options.count
        head = b'{"jsonrpc":"2.0","id":%d,"result":{"content":' % exchange.request_id
        self.send_bytes(head + deep + b"}}\n")


class ManyTools(Misbehaving):
    """Lists ``--count`` tools in one answer."""

    def respond(self, exchange: Exchange) -> None:
        """List them."""
        if exchange.method != "tools/list":
            super().respond(exchange)
            return
        tool = b'{"name":"t%07d","inputSchema":{"type":"object"}},'
        self.send_bytes(b'{"jsonrpc":"2.0","id":%d,"result":{"tools":[' % exchange.request_id)
        for begin in range(0, self.options.count, 1000):
            self.send_bytes(b"".join(tool % number for number in range(begin, begin + 1000)))
        self.send_bytes(b"{}]}}\n")


class Confused(Misbehaving):
    """Answers before every right answer what nobody asked: foreign ids, ids to come, requests, and no UTF-8."""

    def respond(self, exchange: Exchange) -> None:
        """Confuse, answer, and answer again."""
        right = self.server.answer(exchange)
        if right is None:
            return
        number = exchange.request_id
        wrong: Json = {"content": [{"type": "text", "text": "somebody else's"}]}
        for other in (
            number + 1,
            number + 2,
            number + 1000,
            str(number),
            float(number),
            -number,
            None,
            [number],
        ):
            self.send({"jsonrpc": "2.0", "id": other, "result": wrong})
        self.send({"jsonrpc": "2.0", "id": 1, "method": "sampling/createMessage", "params": {"messages": []}})
        self.send({"jsonrpc": "2.0", "id": number, "method": "roots/list"})
        self.send_bytes(b'{"jsonrpc":"2.0","id":%d,"result":{"content":"\xff\xfe"}\n' % (number + 1))
        self.send_bytes(b'id: %d\x00\n{"id":%d}{"id":%d,"result":{}}\n' % (number, number, number))
        self.send(right)
        self.send({"jsonrpc": "2.0", "id": number, "result": wrong})


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
    "dies": Dies,
    "hangs": Hangs,
    "late": Late,
    "stderr_line": StderrLine,
    "stderr_torrent": StderrTorrent,
    "endless_line": EndlessLine,
    "notification_flood": NotificationFlood,
    "deep_answer": DeepAnswer,
    "many_tools": ManyTools,
    "confused": Confused,
}
LEGACY_ONLY = frozenset({"silent_on_discover"})


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=sorted(MODES), required=True)
    parser.add_argument("--era", choices=("legacy", "modern", "both"))
    parser.add_argument("--seconds", type=float, default=3.0, help="slow_start: how long")
    parser.add_argument("--bytes", type=int, default=32 << 20, help="huge_line, stderr_torrent: how many")
    parser.add_argument("--count", type=int, default=100_000, help="floods and lists: how many; how deep")
    parser.add_argument("--when", default="call", help="dies, hangs: start, call or idle")
    parser.add_argument(
        "--how", default="kill", help="dies: exit0, exit1, segfault, kill; hangs: stop, silence"
    )
    parser.add_argument("--pid-file", default="grandchild.pid", help="spawns_grandchild: where its pid goes")
    options = parser.parse_args()
    era = options.era or ("legacy" if options.mode in LEGACY_ONLY else "both")
    MODES[options.mode](EchoServer(era=era, name=options.mode), options).serve()
    os._exit(0)


if __name__ == "__main__":
    main()

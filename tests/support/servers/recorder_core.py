"""A backend that writes down what it is asked: ``recorder.py`` serves it over stdio, ``recorder_http.py`` over HTTP.

Each event is one JSON line appended to ``RECORDER_LOG``, with ``pid``, ``at`` (monotonic seconds, one clock for all
processes of the machine), ``wall`` and ``tool`` (``RECORDER_TOOL``):

``opened``     a session begins: ``marker``, ``era``, and ``ancestors``, the pids above this process
``got``        a call arrived: ``marker``, ``count`` (calls of the session), and what its arguments say of its caller:
               ``call``, ``tenant``, ``client``, ``era``
``done``       it is about to be answered. ``cancelled``: it was taken back. ``broke``: it fails without an answer

``marker`` names one session: the process over stdio, the MCP session over HTTP; ``None`` for the modern era over HTTP,
which has none. ``RECORDER_CONTROL`` names a file with one word that is read at each call: ``up``, or ``down``, in which
every ``act`` ends without an answer. ``RECORDER_START_DELAY`` holds back the start by so many seconds.
"""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from pathlib import Path

from tests.support.servers import echo_core
from tests.support.servers.echo_core import EchoServer, Exchange, Json, text, tool

ENTRIES = [
    tool("act", call="string", ms="number"),
    tool("stateful", call="string"),
    tool("crash", call="string", how="string"),
    tool("hang", call="string"),
]
TAKES_TIME = frozenset({"act", "hang"})


def record(event: str, **fields: object) -> None:
    """Append one line to ``RECORDER_LOG``; does nothing without it."""
    path = os.environ.get("RECORDER_LOG")
    if not path:
        return
    entry = {
        "event": event,
        "at": time.monotonic(),
        "wall": time.time(),
        "pid": own_pid(),
        "tool": os.environ.get("RECORDER_TOOL", ""),
        **fields,
    }
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, json.dumps(entry, separators=(",", ":")).encode() + b"\n")
    finally:
        os.close(descriptor)


def own_pid() -> int:
    """This process's id as the machine knows it, also inside a pid namespace with the machine's ``/proc``."""
    try:
        return int(os.readlink("/proc/self"))
    except (OSError, ValueError):
        return os.getpid()


def ancestors() -> list[int]:
    """The processes above this one, nearest first."""
    found: list[int] = []
    pid = own_pid()
    while pid > 1:
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            break
        pid = int(stat.rpartition(b")")[2].split()[1])
        found.append(pid)
    return found


def down() -> bool:
    """Whether the control file says that calls fail."""
    path = os.environ.get("RECORDER_CONTROL")
    try:
        return path is not None and Path(path).read_text().strip() == "down"
    except OSError:
        return False


class BrokenOff(Exception):
    """The call ends without an answer: the transport is to break it off."""


class Recorder(EchoServer):
    """The tools of the recorder. A subclass of the transport says what breaking off means there."""

    def __init__(self, *, era: str = "both", name: str = "recorder") -> None:
        super().__init__(era=era, name=name)
        self.entries = list(ENTRIES)
        self._counts: dict[str | None, int] = {}
        self._marker = uuid.uuid4().hex

    def marker(self, exchange: Exchange) -> str | None:
        """The session that an exchange belongs to: over stdio this process."""
        return self._marker

    def opened(self, era: str, marker: str | None) -> None:
        """Write down that a session began."""
        record("opened", marker=marker, era=era, ancestors=ancestors())

    def _got(self, exchange: Exchange) -> Json:
        marker = self.marker(exchange)
        self._counts[marker] = self._counts.get(marker, 0) + 1
        told = {
            "call": str(exchange.arguments["call"]),
            "tenant": exchange.arguments.get("tenant"),
            "client": exchange.arguments.get("client"),
            "era": exchange.arguments.get("era"),
            "marker": marker,
            "count": self._counts[marker],
        }
        record("got", **told)
        return told

    def _tool_act(self, exchange: Exchange) -> Json:
        """Take ``ms`` milliseconds, tell of ``steps`` on the way, answer with what was asked."""
        told = self._got(exchange)
        seconds = float(exchange.arguments.get("ms", 0)) / 1000
        steps, token = int(exchange.arguments.get("steps", 0)), exchange.meta.get("progressToken")
        for step in range(steps):
            exchange.cancelled.wait(seconds / steps)
            if token is not None and not exchange.cancelled.is_set():
                self._notify(exchange, "notifications/progress", progressToken=token, progress=step + 1)
        if not steps:
            exchange.cancelled.wait(seconds)
        if down():
            record("broke", **told)
            raise BrokenOff
        return self._ended(exchange, told)

    def _tool_stateful(self, exchange: Exchange) -> Json:
        """Answer at once with the number of calls that this session has had."""
        return self._ended(exchange, self._got(exchange))

    def _tool_hang(self, exchange: Exchange) -> Json:
        """Answer only to a cancellation."""
        told = self._got(exchange)
        exchange.cancelled.wait()
        return self._ended(exchange, told)

    def _tool_crash(self, exchange: Exchange) -> Json:
        """End the whole process: ``exit``, ``kill`` or ``segv``."""
        told = self._got(exchange)
        record("broke", **told)
        how = exchange.arguments.get("how")
        if how in {"kill", "segv"}:
            os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGSEGV)
        os._exit(3)

    @staticmethod
    def _ended(exchange: Exchange, told: Json) -> Json:
        record("cancelled" if exchange.cancelled.is_set() else "done", **told)
        return text(json.dumps(told))


def take_time_apart() -> None:
    """Let the transports run the tools that take time beside the others, as they do with the echo server's."""
    echo_core.BLOCKING = echo_core.BLOCKING | TAKES_TIME


def delayed_start() -> None:
    """Hold back the start, if the environment says so."""
    time.sleep(float(os.environ.get("RECORDER_START_DELAY", "0")))

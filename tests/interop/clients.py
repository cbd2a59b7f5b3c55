"""The clients, one interface: each plays a script of steps against a URL (``scenario.mjs`` has the format)."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio
import orjson

from tests.interop import client_py
from tests.interop.client_inspector import play_inspector
from tests.interop.install import InteropPaths
from tests.interop.steps import ANSWERS, SCENARIOS, Json, Step

Play = Callable[[str, Json], Json]
Door = Literal["mcp", "sse", "ws"]

PLAY_TIMEOUT = 120.0
LEGACY = "2025-11-25"
MODERN = "2026-07-28"
INSPECTED = frozenset({"list", "call", "resource", "prompt"})
"""What a program can do that ends after each operation and cannot be asked anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """How a client comes in, the revision it ends up with at a gateway that serves all of them, what it can do."""

    program: str
    option: str
    revision: str
    door: Door = "mcp"
    can: frozenset[str] = frozenset(SCENARIOS)
    brief: bool = False
    """Whether it does only the first thing of each kind: a program started for each of them takes its time."""
    direct: str = ""
    """The client that stands for it where there is no such door, or no such revision: straight at a backend."""

    def url(self, of_tool: str) -> str:
        """The URL of its door, from that of the door for Streamable HTTP."""
        url = of_tool.removesuffix("mcp") + self.door
        return url.replace("http", "ws", 1) if self.door == "ws" else url

    @property
    def modern(self) -> bool:
        """Whether it speaks the modern era."""
        return self.revision == MODERN


CLIENTS: dict[str, Client] = {
    "python-auto": Client(program="python", option="auto", revision=MODERN),
    "python-legacy": Client(program="python", option="legacy", revision=LEGACY),
    "python-2026-07-28": Client(program="python", option="2026-07-28", revision=MODERN, direct="python-auto"),
    "python-sse": Client(
        program="python", option="legacy", revision=LEGACY, door="sse", direct="python-legacy"
    ),
    "ts-v1": Client(program="client_v1.mjs", option="http", revision=LEGACY),
    "ts-v1-sse": Client(program="client_v1.mjs", option="sse", revision=LEGACY, door="sse", direct="ts-v1"),
    "ts-v1-ws": Client(program="client_v1.mjs", option="ws", revision=LEGACY, door="ws", direct="ts-v1"),
    "ts-v2-legacy": Client(program="client_v2.mjs", option="legacy", revision=LEGACY),
    "ts-v2-auto": Client(program="client_v2.mjs", option="auto", revision=MODERN),
    "inspector": Client(program="inspector", option="legacy", revision=LEGACY, can=INSPECTED, brief=True),
    "inspector-auto": Client(
        program="inspector", option="auto", revision=MODERN, can=frozenset({"list", "call"}), brief=True
    ),
}


class NodeClient:
    """A TypeScript client that stays, so that only the first script waits for its start."""

    def __init__(self, command: list[str], log: Path) -> None:
        with log.open("wb") as sink:
            self._popen = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink
            )
        self._log = log
        self._selector = selectors.DefaultSelector()
        assert self._popen.stdout is not None
        self._selector.register(self._popen.stdout, selectors.EVENT_READ)
        self._buffer = b""

    def play(self, url: str, script: Json) -> Json:
        """Hand over a script and wait for what came of it; fail if the client died or could not connect."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(orjson.dumps({**script, "url": url}) + b"\n")
        self._popen.stdin.flush()
        played: Json = orjson.loads(self._line())
        assert "steps" in played, f"{self._popen.args!r} could not play at {url}: {played}"
        return played

    def _line(self) -> bytes:
        end = time.monotonic() + PLAY_TIMEOUT
        assert self._popen.stdout is not None
        while b"\n" not in self._buffer:
            ready = self._selector.select(max(0.0, end - time.monotonic()))
            data = os.read(self._popen.stdout.fileno(), 1 << 20) if ready else b""
            assert data, (
                f"{self._popen.args!r} said nothing (status {self._popen.poll()}): {self._log.read_text()}"
            )
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def close(self) -> None:
        """End it."""
        self._selector.close()
        self._popen.kill()
        self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            with contextlib.suppress(BrokenPipeError):
                assert pipe is not None
                pipe.close()


class Players:
    """All clients, each started when it is first wanted."""

    def __init__(self, paths: InteropPaths, directory: Path) -> None:
        self._paths = paths
        self._directory = directory
        self._running: dict[str, NodeClient] = {}

    def play(self, name: str, url: str, steps: list[Step]) -> Json:
        """Let a client do these steps at ``url``."""
        client = CLIENTS[name]
        script = {"answers": ANSWERS, "steps": [step.as_json() for step in steps]}
        if client.program == "python":
            mode: client_py.Mode = client.option  # type: ignore[assignment]
            return anyio.run(client_py.play, url, script, mode)
        if client.program == "inspector":
            return play_inspector(self._paths, url, script, client.option)
        if name not in self._running:
            command = [self._paths.node, str(self._paths.script(client.program)), client.option]
            self._running[name] = NodeClient(command, self._directory / f"{name}.log")
        return self._running[name].play(url, script)

    def close(self) -> None:
        """End all that were started."""
        for client in self._running.values():
            client.close()


@contextlib.contextmanager
def all_players(paths: InteropPaths, directory: Path) -> Iterator[Players]:
    """The clients, and their end."""
    players = Players(paths, directory)
    try:
        yield players
    finally:
        players.close()

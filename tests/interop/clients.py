"""The six clients, one interface: each lists all tools of a URL and makes some calls."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import anyio
import orjson

from tests.interop import client_py
from tests.interop.install import InteropPaths

Json = dict[str, Any]
Play = Callable[[InteropPaths, str, list[Json]], Json]

NODE_TIMEOUT = 60.0
LEGACY = "2025-11-25"
MODERN = "2026-07-28"


def play_python(mode: client_py.Mode) -> Play:
    """Return the Python SDK in this mode."""

    def play(_: InteropPaths, url: str, calls: list[Json]) -> Json:
        return anyio.run(client_py.play, url, calls, mode)

    return play


def play_v1(paths: InteropPaths, url: str, calls: list[Json]) -> Json:
    """Run the TypeScript SDK 1.x."""
    return run_node(paths.node, str(paths.client_v1), url, orjson.dumps(calls).decode())


def play_v2(mode: str) -> Play:
    """Return the TypeScript SDK 2.x in this mode."""

    def play(paths: InteropPaths, url: str, calls: list[Json]) -> Json:
        return run_node(paths.node, str(paths.client_v2), url, orjson.dumps(calls).decode(), mode)

    return play


def run_node(*command: str) -> Json:
    """Run a client and return the line it printed; fail with all its output if it could not connect."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=NODE_TIMEOUT, check=False)
    assert done.returncode == 0, f"{command[1]} failed: {done.stdout}{done.stderr}"
    played: Json = orjson.loads(done.stdout)
    return played


# Client -> how to run it, and the revision it has to end up with on a gateway that serves all of them.
CLIENTS: dict[str, tuple[Play, str]] = {
    "python-auto": (play_python("auto"), MODERN),
    "python-legacy": (play_python("legacy"), LEGACY),
    "python-2026-07-28": (play_python("2026-07-28"), MODERN),
    "ts-v1": (play_v1, LEGACY),
    "ts-v2-legacy": (play_v2("legacy"), LEGACY),
    "ts-v2-auto": (play_v2("auto"), MODERN),
}

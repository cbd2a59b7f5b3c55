"""What is measured: the backend itself, the gateway, and what a peer must offer to stand beside them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import yaml

from benchmarks.desk import Desk, Transport
from benchmarks.processes import free_port
from benchmarks.wire import Endpoint, Era

REPOSITORY = Path(__file__).resolve().parent.parent
GATEWAY = "canalgate"
EARLIER = "earlier"
"""The gateway from another checkout: see :func:`earlier`."""
NOTHING_SET: Mapping[str, Any] = {}
BOTH_ERAS = frozenset(Era)
LEGACY_ONLY = frozenset({Era.LEGACY})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipe:
    """A server that is spoken to over stdio, without HTTP: the command that starts it."""

    command: Sequence[str]


Access = Endpoint | Pipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One row of the table.

    ``start`` sets everything up at a desk and returns how to reach the echo tool, by the transport that leads
    to the backend. It raises `UnavailableError` or `StartError` where that cannot be.
    """

    name: str
    version: str
    setup: str
    start: Callable[[Desk], Mapping[Transport, Access]]
    eras: frozenset[Era] = BOTH_ERAS
    is_backend: bool = False


def _start_direct(desk: Desk) -> Mapping[Transport, Access]:
    port = free_port()
    desk.start_http_backend(port)
    return {
        Transport.STDIO: Pipe(command=desk.stdio_command()),
        Transport.HTTP: Endpoint(port=port),
    }


def _start_gateway(
    desk: Desk, tree: Path = REPOSITORY, settings: Mapping[str, Any] = NOTHING_SET
) -> Mapping[Transport, Access]:
    command, *args = desk.stdio_command()
    config = {
        **settings,
        "tools": {
            "stdio": {"command": command, "args": args},
            "http": {"url": desk.start_http_backend(free_port())},
        },
    }
    file = desk.folder / "canalgate.yaml"
    file.write_text(yaml.safe_dump(config))
    port = free_port()
    up = ["up", "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
    env = {"CANALGATE_STATE_DIR": str(desk.folder / "state"), "PYTHONPATH": str(tree)}
    process = desk.spawn(GATEWAY, [*_gateway_command(), *up], env=env)
    process.wait_for(lambda: "\nready" in f"\n{process.log_text()}", "the line `ready`")
    return {transport: Endpoint(port=port, path=f"/servers/{transport}/mcp") for transport in Transport}


def _gateway_command() -> list[str]:
    script = Path(sys.executable).with_name(GATEWAY)
    if script.is_file():
        return [str(script)]
    if found := shutil.which(GATEWAY):
        return [found]
    return [sys.executable, "-c", "from gateway_web.cli import main; main()"]


def own_targets(settings: Mapping[str, Any] = NOTHING_SET) -> list[Target]:
    """Return the backend itself and the gateway, with these settings beside its tools."""
    from common import __version__

    told = f", {orjson.dumps(settings).decode()}" if settings else ""

    return [
        Target(
            name="direct",
            version="-",
            setup="no gateway: the load client speaks to the backend itself",
            start=_start_direct,
            is_backend=True,
        ),
        Target(
            name=GATEWAY,
            version=__version__,
            setup="`canalgate up`, one web process, one worker process, embedded server, no identity" + told,
            start=partial(_start_gateway, settings=settings),
        ),
    ]


def earlier(tree: Path) -> Target:
    """Return the gateway as it stands in another checkout, run by this one's Python and packages."""
    return Target(
        name=EARLIER,
        version=tree.name,
        setup=f"`{GATEWAY} up` of another checkout ({tree.name})",
        start=partial(_start_gateway, tree=tree),
    )

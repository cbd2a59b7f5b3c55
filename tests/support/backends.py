"""Tools on the backend servers of ``servers/``, and calls to them: what the worker's tests begin with."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import psutil

from common.domain.capabilities import Capabilities
from common.domain.ids import ClientId, InvocationId, TenantId, ToolId
from common.domain.invocation import Caller, Invocation
from common.domain.tool import HttpTransport, Origin, StdioTransport, Tool
from common.mcp.revisions import LATEST_LEGACY, LATEST_MODERN, Era
from common.registry.records import Entry, definition_from_json, definition_to_json
from tests.support.servers import http_wire
from tests.support.servers.echo_core import EchoServer
from tests.support.servers.echo_http import HttpServer
from tests.support.servers.http_wire import Connection, Request
from tests.support.servers.peer import Json, logged
from tests.support.servers.process import server_command

MAX_BYTES = 8 << 20
VERSIONS = {Era.LEGACY: LATEST_LEGACY, Era.MODERN: LATEST_MODERN}
ERAS = tuple(Era)
Handle = Callable[[Connection, Request], None]

# -- stdio ----------------------------------------------------------------------------------------------


def stdio_transport(
    server: str = "echo", *arguments: object, env: Mapping[str, str] | None = None, cwd: str | None = None
) -> StdioTransport:
    """The child ``servers/<server>.py`` with these arguments."""
    command, *args = server_command(server, *arguments)
    return StdioTransport(command=command, args=tuple(args), env=dict(env or {}), cwd=cwd)


def stdio_tool(
    server: str = "echo", *arguments: object, env: Mapping[str, str] | None = None, **fields: Any
) -> Tool:
    """A tool on such a child; ``fields`` are those of :class:`Tool`."""
    return Tool(
        **{"id": ToolId("local"), "transport": stdio_transport(server, *arguments, env=env), **fields}
    )


def misbehaving(mode: str, *arguments: object, **fields: Any) -> Tool:
    """A tool on ``servers/misbehaving.py``."""
    return stdio_tool("misbehaving", "--mode", mode, *arguments, **fields)


class EchoLog:
    """The ``ECHO_LOG`` of backends: what they were sent."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def env(self) -> dict[str, str]:
        """What a tool's environment needs for it."""
        return {"ECHO_LOG": str(self.path)}

    def entries(self) -> list[Json]:
        """Every line."""
        return logged(self.path)

    def received(self, method: str | None = None) -> list[Json]:
        """The messages received, of one method or all."""
        messages = [entry["received"] for entry in self.entries() if "received" in entry]
        return [message for message in messages if method in (None, message.get("method"))]

    def pids(self) -> list[int]:
        """The processes that wrote, in order of their first line."""
        return list(dict.fromkeys(entry["pid"] for entry in self.entries()))


def descendants() -> list[psutil.Process]:
    """Living processes below this one, zombies not counted."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if _lives(process)]


def open_files() -> int:
    """File descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# -- HTTP -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class HttpBackend:
    """An HTTP server in threads of this process: counts its connections, remembers what it was asked."""

    url: str
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    live: set[socket.socket] = field(default_factory=set)

    def messages(self, method: str | None = None) -> list[Json]:
        """The JSON-RPC messages POSTed, of one method or all."""
        found = [orjson.loads(request.body) for request in self.requests if request.method == "POST"]
        return [message for message in found if method in (None, message.get("method"))]

    def sent(self, method: str) -> list[Request]:
        """The POSTs with messages of one method."""
        posts = [request for request in self.requests if request.method == "POST"]
        return [post for post in posts if orjson.loads(post.body).get("method") == method]

    def by_verb(self, verb: str) -> list[Request]:
        """The requests with this HTTP method."""
        return [request for request in self.requests if request.method == verb]


@contextlib.contextmanager
def http_backend(handle: Handle) -> Iterator[HttpBackend]:
    """Serve ``handle`` on a free port of loopback, one thread a connection."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        backend = HttpBackend(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp")

        def recorded(connection: Connection, request: Request) -> None:
            backend.requests.append(request)
            handle(connection, request)

        def serve(connection: Connection) -> None:
            try:
                http_wire._serve(connection, recorded)
            finally:
                backend.live.discard(connection.sock)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    backend.connections += 1
                    backend.live.add(sock)
                    threading.Thread(target=serve, args=(Connection(sock),), daemon=True).start()

        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        try:
            yield backend
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            acceptor.join(5)
            for sock in list(backend.live):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def echo_backend(era: str = "both", *, pages: int = 1, sse: bool = False) -> Iterator[HttpBackend]:
    """``echo_http`` in this process (never call ``kill_me`` on it)."""
    with http_backend(HttpServer(EchoServer(era=era, pages=pages), always_stream=sse).handle) as backend:
        yield backend


def http_tool(url: str, *, headers: Mapping[str, str] | None = None, **fields: Any) -> Tool:
    """A tool at a URL."""
    transport = HttpTransport(url=url, headers=dict(headers or {}))
    return Tool(**{"id": ToolId("remote"), "transport": transport, **fields})


# -- calls ----------------------------------------------------------------------------------------------


def entry_of(
    tool: Tool,
    *,
    version: int = 1,
    eras: Sequence[Era] | None = None,
    definitions: Sequence[Mapping[str, Any]] = (),
) -> Entry:
    """The catalogue's entry of a tool; with ``eras`` as if discovery had found that it speaks those."""
    known = None
    if eras is not None:
        known = Capabilities(
            tool_version=version,
            discovered_at=1,
            eras={era.value: VERSIONS[era] for era in eras},
            tools=tuple(definitions),
        )
    registered = definition_from_json(definition_to_json(tool, Origin.RUNTIME), version)
    return Entry(registered=replace(registered, tool=tool), capabilities=known)


class FixedCatalogue:
    """A catalogue that holds what a test puts into it."""

    def __init__(self, *entries: Entry) -> None:
        self._entries = {entry.id: entry for entry in entries}
        self.unreadable: frozenset[str] = frozenset()

    def put(self, entry: Entry) -> None:
        """Add or replace an entry."""
        self._entries[entry.id] = entry

    def get(self, tool: ToolId) -> Entry | None:
        """The entry of a tool, or None."""
        return self._entries.get(tool)

    def entries(self) -> tuple[Entry, ...]:
        """All of them."""
        return tuple(self._entries.values())


def invocation(
    name: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    tool: str = "local",
    era: Era = Era.LEGACY,
    tenant: str = "acme",
    client: str = "alice",
    subject: str = "",
    scopes: Iterable[str] = (),
    seconds: float = 30.0,
    meta: Mapping[str, Any] | None = None,
    method: str = "tools/call",
) -> Invocation:
    """A ``tools/call``; ``seconds`` are left until its deadline."""
    params: Json = {"name": name, "arguments": dict(arguments or {})}
    if meta is not None:
        params["_meta"] = dict(meta)
    return Invocation(
        id=InvocationId(str(uuid4())),
        caller=Caller(
            tenant=TenantId(tenant), client=ClientId(client), subject=subject, scopes=frozenset(scopes)
        ),
        tool=ToolId(tool),
        method=method,
        params=params,
        version=VERSIONS[era],
        deadline=int((time.time() + seconds) * 1000),
    )


def text_of(result: Mapping[str, Any] | None) -> str:
    """The text of a tool result's first block."""
    assert result is not None
    return str(result["content"][0]["text"])

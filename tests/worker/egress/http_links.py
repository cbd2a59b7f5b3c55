"""Links to HTTP backends of a test, and the pieces from which such a backend is scripted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any

import orjson
import pytest

from common.domain.tool import HttpTransport
from common.mcp.revisions import Era
from gateway_worker.egress.backend import Backend, connect
from gateway_worker.egress.http import HttpLink
from tests.support.backends import MAX_BYTES, Handle, HttpBackend, http_backend
from tests.support.servers import echo_core
from tests.support.servers.echo_core import EchoServer
from tests.support.servers.echo_http import HttpServer
from tests.support.servers.http_wire import Connection, Request

Json = dict[str, Any]


@asynccontextmanager
async def connected(
    server: HttpBackend,
    *,
    era: Era = Era.LEGACY,
    max_bytes: int = MAX_BYTES,
    headers: Mapping[str, str] | None = None,
    capabilities: Mapping[str, Any] | None = None,
) -> AsyncIterator[tuple[Backend, HttpLink]]:
    """A backend that has been spoken to, and told what the client can be asked, and its link."""
    transport = HttpTransport(url=server.url, headers=dict(headers or {}))
    link = HttpLink(transport, connect_timeout=2.0, max_bytes=max_bytes)
    try:
        yield await connect(link, [era], capabilities or {}), link
    finally:
        await link.close()


def call(name: str, token: Any = None, **arguments: Any) -> Json:
    """Params of a ``tools/call``."""
    params: Json = {"name": name, "arguments": arguments}
    return params if token is None else {**params, "_meta": {"progressToken": token}}


def served(
    handle: Handle,
    *,
    era: str = "both",
    also: Callable[[Json], bool] = lambda _: False,
    verbs: Sequence[str] = (),
) -> AbstractContextManager[HttpBackend]:
    """The echo server, but ``tools/call``, the messages named by ``also`` and the ``verbs`` go to ``handle``."""
    inner = HttpServer(EchoServer(era=era))

    def dispatch(connection: Connection, request: Request) -> None:
        message = orjson.loads(request.body) if request.method == "POST" else {}
        mine = request.method in verbs or message.get("method") == "tools/call" or (message and also(message))
        (handle if mine else inner.handle)(connection, request)

    return http_backend(dispatch)


def respond(request: Request, result: Json) -> Json:
    """The response to a request."""
    return {"jsonrpc": "2.0", "id": orjson.loads(request.body)["id"], "result": result}


def notification(method: str, **params: Any) -> Json:
    """A notification."""
    return {"jsonrpc": "2.0", "method": method, "params": params}


def event(connection: Connection, message: Json, *, event_id: str | None = None) -> None:
    """Send one event, numbered if there is an ``event_id``."""
    if event_id is None:
        connection.send_event(echo_core.encode(message))
    else:
        raw_event(connection, f"id: {event_id}\ndata: {orjson.dumps(message).decode()}\n\n")


def raw_event(connection: Connection, text: str) -> None:
    """Send any text as a chunk of a stream."""
    data = text.encode()
    connection.sock.sendall(b"%x\r\n%s\r\n" % (len(data), data))


async def failure_of(server: HttpBackend, *, era: Era = Era.LEGACY, max_bytes: int = 1 << 20) -> Exception:
    """What a call raises; the link must still be of use, or closed and saying so, afterwards."""
    async with connected(server, era=era, max_bytes=max_bytes) as (backend, _):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - the callers look at it
            await backend.request("tools/call", call("echo", text="x"))
    return caught.value

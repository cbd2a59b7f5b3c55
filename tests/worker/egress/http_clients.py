"""The worker's HTTP client by itself, for tests of what goes over the wire."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from gateway_worker.egress.http_pool import HttpClient
from tests.support.servers.raw_http import RawConnection, Script, ok

LIMIT = 1 << 20


def open_sockets() -> int:
    """Sockets of this process."""
    found = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
    return found


@asynccontextmanager
async def client_to(
    url: str, headers: Mapping[str, str] | None = None, *, connect_timeout: float = 5.0
) -> AsyncIterator[HttpClient]:
    """A client that is closed at the end."""
    client = HttpClient(url, headers or {}, connect_timeout=connect_timeout)
    try:
        yield client
    finally:
        client.close()


async def fetched(client: HttpClient, body: bytes | None = b"{}", verb: str = "POST") -> tuple[int, bytes]:
    """Status and body of one exchange."""
    with await client.send(verb, client.fields, body) as response:
        return response.status, await response.body(LIMIT)


def saying(*pieces: bytes) -> Script:
    """Answer every request with these pieces, and keep the connection."""

    async def script(connection: RawConnection) -> None:
        while True:
            await connection.request()
            await connection.send(*pieces)

    return script


def saying_once(*pieces: bytes) -> Script:
    """Answer one request with these pieces and close."""

    async def script(connection: RawConnection) -> None:
        await connection.request()
        await connection.send(*pieces)

    return script


def held(gate: asyncio.Event, arrived: Callable[[], object]) -> Script:
    """Answer when the gate is open."""

    async def script(connection: RawConnection) -> None:
        while True:
            _, body = await connection.request()
            arrived()
            await gate.wait()
            await connection.send(ok(body))

    return script

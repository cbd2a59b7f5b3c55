"""The load client over Streamable HTTP: sessions, lanes, windows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import StrEnum
from typing import Protocol

from benchmarks.figures import Window
from benchmarks.http1 import BadHttpError, Response, ResponseParser, last_message
from benchmarks.lane import CALL_TIMEOUT, Lane, run_lanes
from benchmarks.recorder import Recorder
from benchmarks.wire import (
    BadAnswerError,
    Endpoint,
    Era,
    Spread,
    call_ids,
    check_echo,
    http_calls,
    initialize_message,
    initialized_message,
    post,
    session_headers,
)


class SessionMode(StrEnum):
    """Legacy era: one MCP session for all lanes (one busy client), or one for each lane (many clients)."""

    SHARED = "shared"
    LANE = "lane"


class Runner(Protocol):
    """Lanes that are open and warm."""

    async def run(self, seconds: float) -> Window:
        """Call for ``seconds`` and return what was seen."""


class Load(Protocol):
    """Something that can put load on one target."""

    def open(self, concurrency: int) -> AbstractAsyncContextManager[Runner]:
        """Open ``concurrency`` lanes; leaving the context closes them."""


async def exchange(endpoint: Endpoint, request: bytes) -> Response:
    """Send one request on a connection of its own and return the response.

    Raises:
        BadHttpError: no complete response came within `CALL_TIMEOUT`, or it was malformed.
    """
    parser = ResponseParser()
    try:
        async with asyncio.timeout(CALL_TIMEOUT):
            reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.port)
            try:
                writer.write(request)
                while data := await reader.read(1 << 16):
                    if response := parser.feed(data):
                        return response
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        raise BadHttpError(f"no response: {error!r}") from error
    if response := parser.end():
        return response
    raise BadHttpError("the connection ended without a response")


async def open_session(endpoint: Endpoint) -> str | None:
    """Do the legacy opening and return the session id, None if the server gives none.

    Raises:
        BadHttpError: the server refused.
    """
    opened = await exchange(endpoint, post(endpoint, initialize_message(), {}))
    message = last_message(opened)
    if opened.status != 200 or not isinstance(message, dict) or "result" not in message:
        raise BadHttpError(f"initialize was answered {opened.status}: {opened.body[:200]!r}")
    session_id = opened.headers.get("mcp-session-id")
    await exchange(endpoint, post(endpoint, initialized_message(), session_headers(session_id)))
    return session_id


async def close_session(endpoint: Endpoint, session_id: str) -> None:
    """End the session; a server that refuses to is left alone, as the specification allows."""
    request = post(endpoint, b"", session_headers(session_id)).replace(b"POST ", b"DELETE ", 1)
    try:
        await exchange(endpoint, request)
    except BadHttpError as error:
        print(f"  note: session {session_id[:16]} was not ended: {error}")


class _HttpRunner:
    def __init__(self, load: HttpLoad, lanes: list[Lane]) -> None:
        self._load = load
        self._lanes = lanes

    async def run(self, seconds: float) -> Window:
        return await run_lanes(self._lanes, Recorder(self._load.ids, seconds), ramp=self._load.ramp)


class HttpLoad:
    """Load on one server, at one of its endpoints or going round over several."""

    def __init__(self, *endpoints: Endpoint, era: Era, mode: SessionMode, ramp: float = 0.0) -> None:
        """``ramp`` spreads the first calls of the lanes over that many seconds."""
        self._endpoints = endpoints
        self._era = era
        self._mode = mode
        self.ramp = ramp
        self.ids = call_ids()

    async def probe(self) -> None:
        """Make one call to each endpoint.

        Raises:
            BadHttpError, BadAnswerError: it was not answered with its echo.
        """
        for endpoint in self._endpoints:
            await self._probe(endpoint)

    async def _probe(self, endpoint: Endpoint) -> None:
        session_id = await open_session(endpoint) if self._era is Era.LEGACY else None
        call_id = next(self.ids)
        request = http_calls(endpoint, self._era, session_id).render(call_id)
        try:
            response = await exchange(endpoint, request)
            try:
                check_echo(last_message(response), call_id)
            except BadAnswerError as error:
                raise BadAnswerError(f"HTTP {response.status}: {error}") from error
        finally:
            if session_id is not None:
                await close_session(endpoint, session_id)

    @asynccontextmanager
    async def open(self, concurrency: int) -> AsyncIterator[Runner]:
        """Open the lanes.

        Raises:
            BadHttpError: a session could not be opened. OSError, TimeoutError: a lane could not connect.
        """
        groups = [(it, await self._open_sessions(it, concurrency)) for it in self._endpoints]
        lanes = [
            Lane(self._endpoints[0], Spread([http_calls(it, self._era, ids[number]) for it, ids in groups]))
            for number in range(concurrency)
        ]
        try:
            await asyncio.gather(*(lane.connect() for lane in lanes))
            yield _HttpRunner(self, lanes)
        finally:
            for lane in lanes:
                lane.close()
            open_sessions = [(at, session_id) for at, ids in groups for session_id in set(ids) if session_id]
            await asyncio.gather(*(close_session(at, session_id) for at, session_id in open_sessions))

    async def _open_sessions(self, endpoint: Endpoint, concurrency: int) -> list[str | None]:
        if self._era is Era.MODERN:
            return [None] * concurrency
        if self._mode is SessionMode.SHARED:
            return [await open_session(endpoint)] * concurrency
        return list(await asyncio.gather(*(open_session(endpoint) for _ in range(concurrency))))

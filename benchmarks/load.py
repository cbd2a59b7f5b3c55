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
        return await run_lanes(self._lanes, Recorder(self._load.ids, seconds))


class HttpLoad:
    """Load on one endpoint."""

    def __init__(self, endpoint: Endpoint, *, era: Era, mode: SessionMode) -> None:
        self._endpoint = endpoint
        self._era = era
        self._mode = mode
        self.ids = call_ids()

    async def probe(self) -> None:
        """Make one call.

        Raises:
            BadHttpError, BadAnswerError: it was not answered with its echo.
        """
        session_id = await open_session(self._endpoint) if self._era is Era.LEGACY else None
        call_id = next(self.ids)
        request = http_calls(self._endpoint, self._era, session_id).render(call_id)
        try:
            response = await exchange(self._endpoint, request)
            try:
                check_echo(last_message(response), call_id)
            except BadAnswerError as error:
                raise BadAnswerError(f"HTTP {response.status}: {error}") from error
        finally:
            if session_id is not None:
                await close_session(self._endpoint, session_id)

    @asynccontextmanager
    async def open(self, concurrency: int) -> AsyncIterator[Runner]:
        """Open the lanes.

        Raises:
            BadHttpError: a session could not be opened. OSError, TimeoutError: a lane could not connect.
        """
        sessions = await self._open_sessions(concurrency)
        lanes = [Lane(self._endpoint, http_calls(self._endpoint, self._era, it)) for it in sessions]
        try:
            await asyncio.gather(*(lane.connect() for lane in lanes))
            yield _HttpRunner(self, lanes)
        finally:
            for lane in lanes:
                lane.close()
            await asyncio.gather(*(close_session(self._endpoint, it) for it in set(sessions) if it))

    async def _open_sessions(self, concurrency: int) -> list[str | None]:
        if self._era is Era.MODERN:
            return [None] * concurrency
        if self._mode is SessionMode.SHARED:
            return [await open_session(self._endpoint)] * concurrency
        return list(await asyncio.gather(*(open_session(self._endpoint) for _ in range(concurrency))))

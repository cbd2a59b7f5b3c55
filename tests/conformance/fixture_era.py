"""Servers of one era only, as most are: the SDK's server speaks both, so one of them is kept from it.

What is refused is refused as real servers of that era do, for a client finds out by the refusal.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import anyio
import mcp_types as types
from anyio.streams.memory import MemoryObjectReceiveStream
from mcp.shared.message import SessionMessage
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

Era = Literal["legacy", "modern", "both"]
VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
Received = SessionMessage | Exception


def refusal(era: Era, *, modern: bool) -> types.ErrorData | None:
    """Why a server of ``era`` refuses a request of the other one; None if it does not."""
    if era == "both" or modern == (era == "modern"):
        return None
    if modern:
        return types.ErrorData(code=types.METHOD_NOT_FOUND, message="Method not found")
    data = {"supported": list(MODERN_PROTOCOL_VERSIONS), "requested": "initialize"}
    return types.ErrorData(
        code=types.UNSUPPORTED_PROTOCOL_VERSION, message="Unsupported protocol version", data=data
    )


@asynccontextmanager
async def only_era(era: Era, read: Any, write: Any) -> AsyncIterator[MemoryObjectReceiveStream[Received]]:
    """What comes over stdio, less the requests of the other era, which are answered here."""
    passed, kept = anyio.create_memory_object_stream[Received]()

    async def relay() -> None:
        async with passed:
            async for item in read:
                message = item.message if isinstance(item, SessionMessage) else None
                error = None
                if isinstance(message, types.JSONRPCRequest):
                    error = refusal(era, modern=VERSION_KEY in ((message.params or {}).get("_meta") or {}))
                if error is None or not isinstance(message, types.JSONRPCRequest):
                    await passed.send(item)
                else:
                    answer = types.JSONRPCError(jsonrpc="2.0", id=message.id, error=error)
                    await write.send(SessionMessage(answer))

    async with anyio.create_task_group() as group:
        group.start_soon(relay)
        yield kept
        group.cancel_scope.cancel()


class OnlyEra:
    """An HTTP server that refuses the other era with 400."""

    def __init__(self, app: ASGIApp, era: Era) -> None:
        self._app = app
        self._era = era

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the server do so."""
        error = None
        if scope["type"] == "http":
            named = dict(scope["headers"]).get(b"mcp-protocol-version", b"").decode("latin-1")
            error = refusal(self._era, modern=bool(named) and named not in HANDSHAKE_PROTOCOL_VERSIONS)
        if error is None:
            await self._app(scope, receive, send)
            return
        body = {"jsonrpc": "2.0", "id": None, "error": error.model_dump(exclude_none=True)}
        await JSONResponse(body, status_code=400)(scope, receive, send)

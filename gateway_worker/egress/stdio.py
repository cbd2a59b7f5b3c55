"""MCP over a child's standard streams: one JSON-RPC message a line, many requests under way at once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any

import orjson
import structlog

from common.domain.errors import GatewayError, ResponseTooLarge
from gateway_worker.egress.link import (
    NO_HEADERS,
    LinkLost,
    OnNotification,
    ProgressTokens,
    RpcError,
    answer_to_backend,
    noise_words,
)
from gateway_worker.egress.process import Child

log = structlog.get_logger(__name__)


def _ignore(_method: str, _params: dict[str, Any]) -> None:
    """Nobody listens."""


class StdioLink:
    """See :class:`~gateway_worker.egress.link.Link`."""

    def __init__(self, child: Child) -> None:
        self.closed = asyncio.Event()
        self.on_notification: OnNotification = _ignore
        self.child = child
        self.noise = 0
        self._ids = itertools.count(1)
        self._pending: dict[int, tuple[asyncio.Future[dict[str, Any]], OnNotification | None]] = {}
        self._tokens = ProgressTokens()
        self._reader: asyncio.Task[None] | None = None
        self._error: GatewayError | None = None

    async def open(self) -> None:
        """Start the child. Raises :class:`TransportFailure`."""
        await self.child.start()
        self._reader = asyncio.create_task(self._read(), name=f"stdout-{self.child.process.pid}")

    async def request(
        self,
        method: str,
        params: dict[str, Any],
        *,
        headers: Mapping[str, str] = NO_HEADERS,  # noqa: ARG002 - the Link's signature
        on_notification: OnNotification | None = None,
    ) -> dict[str, Any]:
        """Send a request and wait for its result."""
        if self.closed.is_set():
            raise self._lost(unsent=True)
        request_id = next(self._ids)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = (future, on_notification)
        try:
            outgoing = self._tokens.outgoing(request_id, params)
            await self._send({"jsonrpc": "2.0", "id": request_id, "method": method, "params": outgoing})
            return await future
        except asyncio.CancelledError:
            await self._cancel(method, request_id)
            raise
        finally:
            del self._pending[request_id]
            self._tokens.done(request_id)

    async def notify(
        self,
        method: str,
        params: dict[str, Any],
        *,
        headers: Mapping[str, str] = NO_HEADERS,  # noqa: ARG002 - the Link's signature
    ) -> None:
        """Send a notification."""
        await self._send({"jsonrpc": "2.0", "method": method, "params": params})

    async def close(self) -> None:
        """End the child."""
        self.closed.set()
        await self.child.stop()
        if self._reader is not None:
            await asyncio.wait([self._reader])

    async def _send(self, message: dict[str, Any]) -> None:
        stdin = self.child.stdin
        try:
            stdin.write(orjson.dumps(message) + b"\n")
            await stdin.drain()
        except (ConnectionError, RuntimeError) as error:
            # The pipe may have taken the bytes before it broke: no claim that nothing was sent.
            raise self._lost(unsent=False) from error

    async def _cancel(self, method: str, request_id: int) -> None:
        """Tell the backend that nobody waits; ``initialize`` must not be cancelled (lifecycle rules)."""
        if self.closed.is_set() or method == "initialize":
            return
        params = {"requestId": request_id, "reason": "the caller no longer waits"}
        try:
            async with asyncio.timeout(1.0):
                await self.notify("notifications/cancelled", params)
        except (LinkLost, TimeoutError) as error:
            log.debug("cancellation_not_delivered", error=str(error))

    async def _read(self) -> None:
        try:
            while line := await self._line():
                self._receive(line)
            self._error = LinkLost(await self.child.end_words())
        except ResponseTooLarge as error:
            self._error = error
        finally:
            self.closed.set()
            for future, _ in self._pending.values():
                if not future.done():
                    future.set_exception(self._lost(unsent=False))
            await self.child.stop()

    async def _line(self) -> bytes:
        try:
            return await self.child.stdout.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            return b"" if not error.partial.strip() else error.partial
        except asyncio.LimitOverrunError as error:
            raise ResponseTooLarge(
                "the tool sent a line above the bound (runtime.max_result_bytes)"
            ) from error

    def _receive(self, line: bytes) -> None:
        try:
            message = orjson.loads(line)
        except orjson.JSONDecodeError:
            message = None
        if not isinstance(message, dict):
            if line.strip():
                self.noise += 1
            return
        if "method" not in message:
            self._resolve(message)
        elif "id" in message:
            # Fire and forget: a backend that asks and then stops reading must not stop our reading.
            self.child.stdin.write(orjson.dumps(answer_to_backend(message)) + b"\n")
        else:
            self._notified(str(message["method"]), message.get("params") or {})

    def _resolve(self, message: dict[str, Any]) -> None:
        entry = self._pending.get(message["id"]) if isinstance(message.get("id"), int) else None
        if entry is None or entry[0].done():
            self.noise += 1
            return
        error, result = message.get("error"), message.get("result")
        if isinstance(error, dict):
            entry[0].set_exception(RpcError(error))
        elif isinstance(result, dict):
            entry[0].set_result(result)
        else:
            entry[0].set_exception(LinkLost("the tool's answer has neither a result nor an error object"))

    def _notified(self, method: str, params: dict[str, Any]) -> None:
        """Hand a notification to the request it belongs to.

        Progress names its request. A log message does not (MCP has no such field over stdio): it goes to the
        youngest call that listens, which is the right one whenever one call is under way.
        """
        if method == "notifications/progress":
            found = self._tokens.incoming(params)
            entry = self._pending.get(found[0]) if found else None
            if found and entry and entry[1]:
                entry[1](method, found[1])
            return
        if method == "notifications/message":
            for _, listener in reversed(self._pending.values()):
                if listener is not None:
                    listener(method, params)
                    return
        self.on_notification(method, params)

    def _lost(self, *, unsent: bool) -> GatewayError:
        if isinstance(self._error, ResponseTooLarge):
            return ResponseTooLarge(self._error.message)
        reason = self._error.message if self._error else "the tool's process does not read its input"
        return LinkLost(reason + noise_words(self.noise), unsent=unsent)

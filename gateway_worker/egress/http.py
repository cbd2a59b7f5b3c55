"""MCP over Streamable HTTP: one POST a request, answered by JSON or by an event stream of its own.

Specification: MCP 2025-11-25 and 2026-07-28, "Transports", "Streamable HTTP".
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import httpx
import orjson
import structlog

from common.domain.errors import ResponseTooLarge
from common.domain.tool import HttpTransport
from common.mcp.revisions import Era
from gateway_worker.egress.link import (
    NO_HEADERS,
    LinkLost,
    OnNotification,
    ProgressTokens,
    RpcError,
    answer_to_backend,
)
from gateway_worker.egress.sse import ServerSentEvent, events

log = structlog.get_logger(__name__)

JSON = "application/json"
EVENT_STREAM = "text/event-stream"
SESSION_ID = "mcp-session-id"
RESUME_ATTEMPTS = 5
RESUME_DELAY = 1.0
CLOSE_TIMEOUT = 2.0
POOL = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=30.0)


def _ignore(_method: str, _params: dict[str, Any]) -> None:
    """Nobody listens."""


class HttpLink:
    """See :class:`~gateway_worker.egress.link.Link`. ``era`` is set by the negotiation."""

    def __init__(self, transport: HttpTransport, *, connect_timeout: float, max_bytes: int) -> None:
        """``connect_timeout`` is in seconds; ``max_bytes`` bounds one answer."""
        self.closed = asyncio.Event()
        self.on_notification: OnNotification = _ignore
        self.era = Era.LEGACY
        self.noise = 0
        self._url = transport.url
        self._max_bytes = max_bytes
        self._ids = itertools.count(1)
        self._tokens = ProgressTokens()
        self._session_id: str | None = None
        self._version: str | None = None
        self._background: set[asyncio.Task[None]] = set()
        # Proxies and credentials from the environment stay out: where a tool lives is said in its definition.
        self._client = httpx.AsyncClient(
            headers=dict(transport.headers),
            timeout=httpx.Timeout(None, connect=connect_timeout),
            limits=POOL,
            follow_redirects=False,
            trust_env=False,
        )

    async def open(self) -> None:
        """Nothing to do: the first request connects."""

    def use_session(self, version: str) -> None:
        """After a legacy handshake: name the revision on every request, and hear what belongs to none."""
        self._version = version
        self._spawn(self._listen())

    async def request(
        self,
        method: str,
        params: dict[str, Any],
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        on_notification: OnNotification | None = None,
    ) -> dict[str, Any]:
        """Send a request and wait for its result."""
        if self.closed.is_set():
            raise LinkLost("the tool's session has ended", unsent=True)
        request_id = next(self._ids)
        outgoing = self._tokens.outgoing(request_id, params)
        message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": outgoing}
        try:
            return await self._exchange(message, headers, on_notification or self.on_notification)
        except asyncio.CancelledError:
            # Modern: the closed stream is the cancellation. Legacy: it has to be said.
            if self.era is Era.LEGACY and method != "initialize":
                self._spawn(self._cancelled(request_id))
            raise
        finally:
            self._tokens.done(request_id)

    async def notify(
        self, method: str, params: dict[str, Any], *, headers: Mapping[str, str] = NO_HEADERS
    ) -> None:
        """Send a notification; the backend's status matters to nobody, a broken way does."""
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        async with self._post(message, headers) as response:
            await response.aclose()

    async def close(self) -> None:
        """End the session at the backend and close all connections."""
        self.closed.set()
        for task in self._background:
            task.cancel()
        if self._session_id is not None:
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self._client.delete(self._url, headers=self._headers(NO_HEADERS))
            except (httpx.HTTPError, TimeoutError) as error:
                log.debug("backend_session_not_ended", error=repr(error))
        await self._client.aclose()

    # -- one exchange -----------------------------------------------------------------------------------

    async def _exchange(
        self, message: dict[str, Any], headers: Mapping[str, str], listener: OnNotification
    ) -> dict[str, Any]:
        async with self._post(message, headers) as response:
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if not response.is_success:
                await self._refused(response, kind)
            if message["method"] == "initialize":
                self._session_id = response.headers.get(SESSION_ID)
            if kind == JSON:
                return _result(_parsed(await self._body(response)))
            if kind == EVENT_STREAM:
                return await self._streamed(response, message["id"], listener)
        raise LinkLost(f"the tool's URL answered with {kind or 'no content type'}, which is no MCP")

    @asynccontextmanager
    async def _post(
        self, message: dict[str, Any], headers: Mapping[str, str]
    ) -> AsyncIterator[httpx.Response]:
        try:
            async with self._client.stream(
                "POST", self._url, content=orjson.dumps(message), headers=self._headers(headers)
            ) as response:
                yield response
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise LinkLost("the tool's URL cannot be reached: connection failed", unsent=True) from error
        except httpx.InvalidURL as error:
            raise LinkLost("the tool's URL is not a valid URL", unsent=True) from error
        except httpx.HTTPError as error:
            raise LinkLost(f"the connection to the tool broke: {type(error).__name__}") from error

    def _headers(self, extra: Mapping[str, str]) -> dict[str, str]:
        headers = {"content-type": JSON, "accept": f"{JSON}, {EVENT_STREAM}"}
        if self._session_id is not None:
            headers[SESSION_ID] = self._session_id
        if self._version is not None:
            headers["mcp-protocol-version"] = self._version
        return {**headers, **extra}

    async def _refused(self, response: httpx.Response, kind: str) -> NoReturn:
        """Raise what a status outside 2xx means."""
        if kind == JSON:
            try:
                message = _parsed(await self._body(response))
            except LinkLost:
                message = {}
            if isinstance(message.get("error"), dict) and not self._expired(response):
                raise RpcError(message["error"])
        if self._expired(response):
            self.closed.set()
            raise LinkLost("the tool's session has ended", unsent=True)
        if response.is_redirect:
            raise LinkLost(f"the tool's URL redirects (status {response.status_code}); give its final URL")
        raise LinkLost(f"the tool's URL answered with status {response.status_code}")

    def _expired(self, response: httpx.Response) -> bool:
        """404 to a session id says that the session is gone, and that the request was not handled."""
        return response.status_code == 404 and self._session_id is not None

    async def _body(self, response: httpx.Response) -> bytes:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > self._max_bytes:
                raise ResponseTooLarge("the tool's answer is above the bound (runtime.max_result_bytes)")
        return bytes(body)

    # -- event streams ----------------------------------------------------------------------------------

    async def _streamed(
        self, response: httpx.Response, request_id: int, listener: OnNotification
    ) -> dict[str, Any]:
        """Read until the answer, resuming where the backend hung up after it had numbered its events."""
        last_id, delay = None, RESUME_DELAY
        stream = events(response.aiter_bytes(), limit=self._max_bytes)
        for _ in range(RESUME_ATTEMPTS):
            try:
                async for event in stream:
                    last_id = event.id if event.id is not None else last_id
                    delay = event.retry / 1000 if event.retry is not None else delay
                    answer = self._event(event, request_id, listener)
                    if answer is not None:
                        return _result(answer)
            except httpx.HTTPError as error:
                if last_id is None:
                    raise LinkLost(f"the tool's stream broke: {type(error).__name__}") from error
            if last_id is None:
                break
            await asyncio.sleep(delay)
            stream = self._resumed(last_id)
        raise LinkLost("the tool's stream ended without an answer")

    async def _resumed(self, last_id: str) -> AsyncIterator[ServerSentEvent]:
        headers = self._headers({"accept": EVENT_STREAM, "last-event-id": last_id})
        async with self._client.stream("GET", self._url, headers=headers) as response:
            if not response.is_success:
                raise LinkLost(f"the tool refused to resume its stream: status {response.status_code}")
            async for event in events(response.aiter_bytes(), limit=self._max_bytes):
                yield event

    def _event(
        self, event: ServerSentEvent, request_id: int | None, listener: OnNotification
    ) -> dict[str, Any] | None:
        """Handle one event; return the message if it is the answer to ``request_id``."""
        if not event.data:
            return None
        message = _parsed(event.data.encode())
        if "method" not in message:
            return message if request_id is not None and message.get("id") == request_id else None
        if "id" in message:
            self._spawn(self._answer(answer_to_backend(message)))
            return None
        params = message.get("params") or {}
        if message["method"] == "notifications/progress":
            found = self._tokens.incoming(params)
            if found is None:
                return None
            params = found[1]
        listener(str(message["method"]), params)
        return None

    async def _listen(self) -> None:
        """The stream of what belongs to no request; a backend without one says 405, and that is that."""
        headers = {"accept": EVENT_STREAM}
        while not self.closed.is_set():
            try:
                async with self._client.stream("GET", self._url, headers=self._headers(headers)) as response:
                    if not response.is_success:
                        return
                    async for event in events(response.aiter_bytes(), limit=self._max_bytes):
                        self._event(event, None, self.on_notification)
            except (httpx.HTTPError, ResponseTooLarge, LinkLost) as error:
                log.debug("backend_stream_broke", error=repr(error))
            await asyncio.sleep(RESUME_DELAY)

    async def _answer(self, message: dict[str, Any]) -> None:
        async with self._post(message, NO_HEADERS) as response:
            await response.aclose()

    async def _cancelled(self, request_id: int) -> None:
        params = {"requestId": request_id, "reason": "the caller no longer waits"}
        await self.notify("notifications/cancelled", params)

    def _spawn(self, work: Any) -> None:
        """Run beside the requests. A fault there is the next request's to find: it is only logged."""

        async def run() -> None:
            try:
                await work
            except (LinkLost, httpx.HTTPError) as error:
                log.debug("backend_aside_failed", error=str(error))

        task = asyncio.create_task(run())
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        message = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise LinkLost("the tool's answer is no JSON") from error
    if not isinstance(message, dict):
        raise LinkLost("the tool's answer is no JSON-RPC message")
    return message


def _result(message: dict[str, Any]) -> dict[str, Any]:
    error, result = message.get("error"), message.get("result")
    if isinstance(error, dict):
        raise RpcError(error)
    if not isinstance(result, dict):
        raise LinkLost("the tool's answer has neither a result nor an error object")
    return result

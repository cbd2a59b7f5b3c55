"""MCP over Streamable HTTP: one POST a request, answered by JSON or by an event stream of its own.

Specification: MCP 2025-11-25 and 2026-07-28, "Transports", "Streamable HTTP".
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import cache
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
    StatusRefused,
    answer_to_backend,
)
from gateway_worker.egress.sse import ServerSentEvent, events

log = structlog.get_logger(__name__)

JSON = "application/json"
EVENT_STREAM = "text/event-stream"
SESSION_ID = "mcp-session-id"
RESUME_ATTEMPTS = 5
"""Times in a row that a stream may be resumed without a new event."""
RESUME_DELAY, RESUME_DELAY_LEAST = 1.0, 0.05
CLOSE_TIMEOUT = 2.0
REST_TIMEOUT, REST_BYTES = 1.0, 65536
"""How much of an answer is read on after what was wanted of it, so that its connection can be used again."""
POOL = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=30.0)


def _ignore(_method: str, _params: dict[str, Any]) -> None:
    """Nobody listens."""


@cache
def _tls(*, needed: bool) -> ssl.SSLContext:
    """One context for all links: reading the trust store takes 0.1 s, in which the loop stands still."""
    return httpx.create_ssl_context(trust_env=False) if needed else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


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
        self._listeners: dict[int, OnNotification] = {}
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
            verify=_tls(needed=transport.url.startswith("https:")),
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
        self._listeners[request_id] = on_notification or _ignore
        try:
            return await self._exchange(message, headers)
        except asyncio.CancelledError:
            # Modern: the closed stream is the cancellation. Legacy: it has to be said.
            # A link that is being closed ends the whole session instead: a connection begun now would outlive it.
            if self.era is Era.LEGACY and method != "initialize" and not self.closed.is_set():
                self._spawn(self._cancelled(request_id))
            raise
        finally:
            del self._listeners[request_id]
            self._tokens.done(request_id)

    async def notify(
        self, method: str, params: dict[str, Any], *, headers: Mapping[str, str] = NO_HEADERS
    ) -> None:
        """Send a notification; the backend's status matters to nobody, a broken way does."""
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        async with self._post(message, headers):
            pass

    async def close(self) -> None:
        """End the session at the backend and close all connections."""
        self.closed.set()
        await self._end_background()
        session_id, headers = self._session_id, self._headers(NO_HEADERS)
        self._session_id = None
        if session_id is not None:
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self._client.delete(self._url, headers=headers)
            except (httpx.HTTPError, TimeoutError) as error:
                log.debug("backend_session_not_ended", error=repr(error))
        # Once more: calls that ended meanwhile have left the rest of their answers to be read.
        await self._end_background()
        await self._client.aclose()

    async def _end_background(self) -> None:
        while self._background:
            for task in self._background:
                task.cancel()
            await asyncio.wait(list(self._background))

    # -- one exchange -----------------------------------------------------------------------------------

    async def _exchange(self, message: dict[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
        async with self._post(message, headers) as (response, chunks):
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if not response.is_success:
                await self._refused(response, chunks, kind)
            if message["method"] == "initialize":
                self._session_id = response.headers.get(SESSION_ID)
            if kind == JSON:
                return _result(_answer_to(message["id"], _parsed(await self._body(chunks))))
            if kind == EVENT_STREAM:
                return await self._streamed(chunks, message["id"])
        raise LinkLost(f"the tool's URL answered with {kind or 'no content type'}, which is no MCP")

    @asynccontextmanager
    async def _post(
        self, message: dict[str, Any], headers: Mapping[str, str]
    ) -> AsyncIterator[tuple[httpx.Response, AsyncIterator[bytes]]]:
        """Send a message; the answer and its body, of which what is left unread is read in the background."""
        try:
            request = self._client.build_request(
                "POST", self._url, content=orjson.dumps(message), headers=self._headers(headers)
            )
            response = await self._client.send(request, stream=True)
            chunks = response.aiter_raw()
            try:
                _refuse_encoded(response)
                yield response, chunks
            except Exception:
                self._release(response, chunks)
                raise
            except BaseException:
                # Modern: the closed connection is the cancellation, so not a byte more is read.
                await response.aclose()
                raise
            self._release(response, chunks)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise LinkLost("the tool's URL cannot be reached: connection failed", unsent=True) from error
        except httpx.InvalidURL as error:
            raise LinkLost("the tool's URL is not a valid URL", unsent=True) from error
        except httpx.HTTPError as error:
            raise LinkLost(f"the connection to the tool broke: {type(error).__name__}") from error
        except RuntimeError as error:
            # httpx says so in this way when the link was closed in the meantime.
            if not self.closed.is_set():
                raise
            raise LinkLost("the tool's session was closed") from error

    def _release(self, response: httpx.Response, chunks: AsyncIterator[bytes]) -> None:
        if not response.is_closed:
            self._spawn(_read_rest(response, chunks))

    def _headers(self, extra: Mapping[str, str]) -> dict[str, str]:
        # Answers are bounded by their size as it comes: what unpacks to a thousand times that is not asked for.
        headers = {"content-type": JSON, "accept": f"{JSON}, {EVENT_STREAM}", "accept-encoding": "identity"}
        if self._session_id is not None:
            headers[SESSION_ID] = self._session_id
        if self._version is not None:
            headers["mcp-protocol-version"] = self._version
        return {**headers, **extra}

    async def _refused(self, response: httpx.Response, chunks: AsyncIterator[bytes], kind: str) -> NoReturn:
        """Raise what a status outside 2xx means."""
        if self._expired(response):
            self.closed.set()
            raise LinkLost("the tool's session has ended", unsent=True)
        if kind == JSON:
            try:
                message = _parsed(await self._body(chunks))
            except LinkLost:
                message = {}
            if isinstance(message.get("error"), dict):
                raise RpcError(message["error"])
        raise StatusRefused(response.status_code, retry_after=_seconds(response.headers.get("retry-after")))

    def _expired(self, response: httpx.Response) -> bool:
        """404 to a session id says that the session is gone, and that the request was not handled."""
        return response.status_code == 404 and self._session_id is not None

    async def _body(self, chunks: AsyncIterator[bytes]) -> bytes:
        body = bytearray()
        async for chunk in chunks:
            body += chunk
            if len(body) > self._max_bytes:
                raise ResponseTooLarge("the tool's answer is above the bound (runtime.max_result_bytes)")
        return bytes(body)

    # -- event streams ----------------------------------------------------------------------------------

    async def _streamed(self, chunks: AsyncIterator[bytes], request_id: int) -> dict[str, Any]:
        """Read until the answer, resuming where a legacy backend hung up after it had numbered its events."""
        last_id, delay, attempts = "", RESUME_DELAY, 0
        stream = events(chunks, limit=self._max_bytes)
        while True:
            try:
                async with aclosing(stream):
                    async for event in stream:
                        last_id = event.id if event.id is not None else last_id
                        delay = event.retry / 1000 if event.retry is not None else delay
                        attempts = 0
                        answer = self._event(event, request_id)
                        if answer is not None:
                            return _result(answer)
            except httpx.HTTPError as error:
                if not last_id:
                    raise LinkLost(f"the tool's stream broke: {type(error).__name__}") from error
            # The modern era knows no resumption.
            if not last_id or attempts >= RESUME_ATTEMPTS or self.era is Era.MODERN:
                raise LinkLost("the tool's stream ended without an answer")
            attempts += 1
            await asyncio.sleep(max(delay, RESUME_DELAY_LEAST))
            stream = self._resumed(last_id)

    async def _resumed(self, last_id: str) -> AsyncGenerator[ServerSentEvent, None]:
        headers = self._headers({"accept": EVENT_STREAM, "last-event-id": last_id})
        async with self._client.stream("GET", self._url, headers=headers) as response:
            if not response.is_success:
                raise LinkLost(f"the tool refused to resume its stream: status {response.status_code}")
            _refuse_encoded(response)
            async with aclosing(events(response.aiter_raw(), limit=self._max_bytes)) as stream:
                async for event in stream:
                    yield event

    def _event(self, event: ServerSentEvent, request_id: int | None) -> dict[str, Any] | None:
        """Handle one event; return the message if it is the answer to ``request_id``."""
        if not event.data:
            return None
        message = _parsed(event.data.encode())
        if "method" not in message:
            return message if request_id is not None and message.get("id") == request_id else None
        method, params = message["method"], message.get("params")
        if not isinstance(method, str) or not isinstance(params, dict | None):
            log.debug("backend_message_ignored", method=repr(method)[:100])
        elif "id" in message:
            self._spawn(self._answer(answer_to_backend(message)))
        else:
            self._notified(method, params or {}, request_id)
        return None

    def _notified(self, method: str, params: dict[str, Any], request_id: int | None) -> None:
        """Hand a notification to whom it belongs: progress to the call it names, a changed list to no call."""
        listener = self.on_notification
        if method == "notifications/progress":
            found = self._tokens.incoming(params)
            if found is None:
                return
            listener, params = self._listeners.get(found[0], _ignore), found[1]
        elif request_id is not None and not method.endswith("/list_changed"):
            listener = self._listeners.get(request_id, _ignore)
        listener(method, params)

    async def _listen(self) -> None:
        """The stream of what belongs to no request; a backend without one says 405, and that is that."""
        headers = {"accept": EVENT_STREAM}
        while not self.closed.is_set():
            try:
                async with self._client.stream("GET", self._url, headers=self._headers(headers)) as response:
                    if not response.is_success:
                        return
                    _refuse_encoded(response)
                    async with aclosing(events(response.aiter_raw(), limit=self._max_bytes)) as stream:
                        async for event in stream:
                            self._event(event, None)
            except (httpx.HTTPError, ResponseTooLarge, LinkLost) as error:
                log.debug("backend_stream_broke", error=repr(error))
            await asyncio.sleep(RESUME_DELAY)

    async def _answer(self, message: dict[str, Any]) -> None:
        async with self._post(message, NO_HEADERS):
            pass

    async def _cancelled(self, request_id: int) -> None:
        params = {"requestId": request_id, "reason": "the caller no longer waits"}
        await self.notify("notifications/cancelled", params)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run beside the requests. A fault there is the next request's to find: it is only logged.

        Nothing begins once the link is closing: a connection opened then would be closed by nobody.
        """
        if self.closed.is_set():
            work.close()
            return

        async def run() -> None:
            try:
                await work
            except (LinkLost, httpx.HTTPError) as error:
                log.debug("backend_aside_failed", error=str(error))

        task = asyncio.create_task(run())
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        # A task cancelled before its first step has not begun the work, which must not lie about then.
        task.add_done_callback(lambda _: work.close())


async def _read_rest(response: httpx.Response, chunks: AsyncIterator[bytes]) -> None:
    """Only a connection that was read to the end of its answer serves another request; bounded."""
    left = REST_BYTES
    try:
        async with asyncio.timeout(REST_TIMEOUT):
            async for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    break
    except TimeoutError:
        log.debug("backend_holds_its_answer_open")
    finally:
        await response.aclose()


def _refuse_encoded(response: httpx.Response) -> None:
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise LinkLost(
            f"the tool's URL answered with content encoding {encoding[:40]!r}, which was not asked for"
        )


def _seconds(retry_after: str | None) -> int | None:
    """The header's value if it is a number of seconds; a date is not worth the trouble."""
    return int(retry_after) if retry_after and retry_after.isascii() and retry_after.isdigit() else None


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        message = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise LinkLost("the tool's answer is no JSON") from error
    if not isinstance(message, dict):
        raise LinkLost("the tool's answer is no JSON-RPC message")
    return message


def _answer_to(request_id: int, message: dict[str, Any]) -> dict[str, Any]:
    """The message itself; an answer to another request means that the connection is out of step."""
    if message.get("id") != request_id and not (message.get("id") is None and "error" in message):
        raise LinkLost("the tool answered another request than it was sent")
    return message


def _result(message: dict[str, Any]) -> dict[str, Any]:
    error, result = message.get("error"), message.get("result")
    if isinstance(error, dict):
        raise RpcError(error)
    if not isinstance(result, dict):
        raise LinkLost("the tool's answer has neither a result nor an error object")
    return result

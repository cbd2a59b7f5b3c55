"""MCP over Streamable HTTP: one POST a request, answered by JSON or by an event stream of its own.

Specification: MCP 2025-11-25 and 2026-07-28, "Transports", "Streamable HTTP".
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any, NoReturn

import orjson
import structlog

from common.domain.egress import STRICT, EgressRules
from common.domain.errors import ResponseTooLarge
from common.domain.tool import HttpTransport
from common.mcp.revisions import Era
from gateway_worker.egress.asked import Asked
from gateway_worker.egress.http1 import ConnectionLost, Response
from gateway_worker.egress.http_answers import (
    AN_ANSWER,
    RESUME_DELAY,
    RESUME_DELAY_LEAST,
    Place,
    answer_to,
    in_utf8,
    parsed,
    refuse_encoded,
    result_of,
    seconds_of,
)
from gateway_worker.egress.http_pool import HttpClient
from gateway_worker.egress.link import (
    NO_HEADERS,
    NO_META,
    AnswerTooLarge,
    Gate,
    GateShut,
    LinkLost,
    OnNotification,
    OnRequest,
    OnSettled,
    RequestMeta,
    RpcError,
    StatusRefused,
    always_open,
    refuse_request,
)
from gateway_worker.egress.sse import EventParser, ServerSentEvent

log = structlog.get_logger(__name__)

JSON = "application/json"
EVENT_STREAM = "text/event-stream"
SESSION_ID = "mcp-session-id"
RESUME_ATTEMPTS = 5
"""Times in a row that a stream may be resumed without a new event."""
CLOSE_TIMEOUT = 2.0
LISTENING_WITHIN = 1.0
"""Seconds that a backend has to open the stream of what belongs to no request, before the first call goes on."""
_OF_NO_REQUEST = ("/list_changed", "resources/updated")
"""Ends of the names of notifications that belong to no call, on whatever stream they come."""


def _ignore(_method: str, _params: dict[str, Any]) -> None:
    """Nobody listens."""


class HttpLink:
    """See :class:`~gateway_worker.egress.link.Link`. ``era`` is set by the negotiation."""

    def __init__(
        self,
        transport: HttpTransport,
        *,
        connect_timeout: float,
        max_bytes: int,
        gate: Gate = always_open,
        rules: EgressRules = STRICT,
        meta: Mapping[str, Any] = NO_META,
    ) -> None:
        """``connect_timeout`` is in seconds; ``max_bytes`` bounds one answer; ``gate`` is asked before each write.

        ``rules`` say where connections may lead; ``meta`` goes with each request.

        Raises :class:`LinkLost` for a URL or headers that HTTP cannot carry.
        """
        self.closed = asyncio.Event()
        self.on_notification: OnNotification = _ignore
        self.on_request: OnRequest = refuse_request
        self.era = Era.LEGACY
        self.noise = 0
        self._max_bytes = max_bytes
        self._ids = itertools.count(1)
        self._meta = RequestMeta(meta)
        self._listeners: dict[int, tuple[OnNotification, OnRequest | None]] = {}
        self._asked = Asked(lambda message: self._spawn(self._answer(message)), gate)
        self._session_id: str | None = None
        self._listening = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()
        self._client = HttpClient(
            transport.url,
            transport.headers,
            connect_timeout=connect_timeout,
            gate=gate,
            judge=partial(rules.refusal, local=transport.local),
            tls=transport.tls,
        )
        self._fields = self._client.fields.extended(
            {"content-type": JSON, "accept": f"{JSON}, {EVENT_STREAM}"}
        )

    async def open(self) -> None:
        """Nothing to do: the first request connects."""

    def use_session(self, version: str) -> None:
        """After a legacy handshake: name the revision on every request, and hear what belongs to none."""
        self._fields = self._fields.extended({"mcp-protocol-version": version})
        self._spawn(self._listen())

    async def heard(self) -> None:
        """Wait until what belongs to no request can be heard, or is known not to be: some backends ask there.

        What a backend says before is lost. One that leaves its stream unanswered is not waited for long.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LISTENING_WITHIN):
                await self._listening.wait()

    async def request(
        self,
        method: str,
        params: dict[str, Any],
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        on_notification: OnNotification | None = None,
        on_request: OnRequest | None = None,
        on_settled: OnSettled | None = None,  # noqa: ARG002 - a late answer would come on a stream that is closed
        principal: str = "",  # noqa: ARG002 - the stream tells whose a message is
    ) -> dict[str, Any]:
        """Send a request and wait for its result."""
        if self.closed.is_set():
            raise LinkLost("the tool's session has ended", unsent=True)
        request_id = next(self._ids)
        outgoing = self._meta.outgoing(request_id, params)
        message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": outgoing}
        self._listeners[request_id] = on_notification or _ignore, on_request
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
            self._meta.done(request_id)

    async def notify(
        self, method: str, params: dict[str, Any], *, headers: Mapping[str, str] = NO_HEADERS
    ) -> None:
        """Send a notification; the backend's status matters to nobody, a broken way does."""
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        with await self._post(message, headers):
            pass

    async def close(self) -> None:
        """End the session at the backend and close all connections."""
        self.closed.set()
        self._asked.close()
        try:
            await self._end_background()
            await self._end_session()
            # Once more: calls that ended meanwhile may have begun something aside.
            await self._end_background()
        finally:
            self._client.close()

    async def _end_session(self) -> None:
        ended, self._session_id = self._session_id, None
        if ended is None:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                # Also behind a shut gate: this session of the backend's is this link's alone, whoever owns ours by now.
                with await self._client.send("DELETE", self._fields, gated=False):
                    pass
        except (LinkLost, TimeoutError) as error:
            log.debug("backend_session_not_ended", error=repr(error))

    async def _end_background(self) -> None:
        while self._background:
            for task in self._background:
                task.cancel()
            await asyncio.wait(list(self._background))

    # -- one exchange -----------------------------------------------------------------------------------

    async def _exchange(self, message: dict[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
        with await self._post(message, headers) as response:
            refuse_encoded(response)
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if not response.success:
                await self._refused(response, kind)
            if message["method"] == "initialize":
                self._begin_session(response.headers.get(SESSION_ID))
            if kind == JSON:
                return result_of(answer_to(message["id"], await self._answered(response)))
            if kind == EVENT_STREAM:
                return await self._streamed(response, message["id"])
            # Any other status of success may say that the backend has just begun.
            answered = response.status == 200
        what = kind or "no content type"
        raise LinkLost(f"the tool's URL answered with {what}, which is no MCP", answered=answered)

    async def _answered(self, response: Response) -> dict[str, Any]:
        try:
            raw = await response.body(self._max_bytes)
        except ResponseTooLarge as error:
            raise AnswerTooLarge(error.message) from error
        return parsed(raw, answered=True)

    async def _post(self, message: dict[str, Any], headers: Mapping[str, str]) -> Response:
        return await self._client.send("POST", self._fields.extended(headers), orjson.dumps(message))

    async def _get(self, headers: Mapping[str, str]) -> Response:
        return await self._client.send("GET", self._fields.extended({"accept": EVENT_STREAM, **headers}))

    def _begin_session(self, session_id: str | None) -> None:
        self._session_id = session_id
        if session_id is not None:
            self._fields = self._fields.extended({SESSION_ID: session_id})

    async def _refused(self, response: Response, kind: str) -> NoReturn:
        """Raise what a status outside 2xx means."""
        if self._expired(response):
            self.closed.set()
            raise LinkLost("the tool's session has ended", unsent=True)
        if kind == JSON:
            try:
                message = parsed(await response.body(self._max_bytes))
            except LinkLost:
                message = {}
            if isinstance(message.get("error"), dict):
                raise RpcError(message["error"], status=response.status)
        raise StatusRefused(response.status, retry_after=seconds_of(response.headers.get("retry-after")))

    def _expired(self, response: Response) -> bool:
        """404 to a session id says that the session is gone, and that the request was not handled."""
        return response.status == 404 and self._session_id is not None

    # -- event streams ----------------------------------------------------------------------------------

    async def _streamed(self, response: Response, request_id: int) -> dict[str, Any]:
        """Read until the answer, resuming where a legacy backend hung up after it had numbered its events."""
        place, stream = Place(), response
        while True:
            try:
                with stream:
                    answer = await self._read_until(stream, place, request_id)
                if answer is not None:
                    return result_of(answer)
            except ConnectionLost as error:
                if not place.last_id:
                    raise LinkLost(f"the tool's stream broke: {error.message}") from error
            stream = await self._resumed(place)

    async def _read_until(
        self, stream: Response, place: Place, request_id: int | None
    ) -> dict[str, Any] | None:
        """Handle events up to the answer to ``request_id``; None if the stream ends before."""
        refuse_encoded(stream)
        parser = EventParser(limit=self._max_bytes)
        try:
            while data := await stream.read():
                for event in parser.feed(data):
                    place.pass_by(event)
                    answer = self._event(event, request_id)
                    if answer is not None:
                        return answer
        except ResponseTooLarge as error:
            if AN_ANSWER.match(parser.beginning):
                raise AnswerTooLarge(error.message) from error
            raise
        return None

    async def _resumed(self, place: Place) -> Response:
        """The stream from ``place`` on. Raises :class:`LinkLost` that never says ``unsent``: the call was sent.

        Behind a shut gate it waits, and that counts as no attempt.
        """
        while True:
            # The modern era knows no resumption.
            if not place.last_id or place.attempts >= RESUME_ATTEMPTS or self.era is Era.MODERN:
                raise LinkLost("the tool's stream ended without an answer")
            place.attempts += 1
            await asyncio.sleep(max(place.delay, RESUME_DELAY_LEAST))
            try:
                response = await self._get({"last-event-id": in_utf8(place.last_id)})
            except GateShut:
                if self.closed.is_set():
                    raise LinkLost("the tool's session was closed") from None
                place.attempts -= 1
                continue
            except ConnectionLost as error:
                log.debug("backend_stream_not_resumed", error=error.message)
                continue
            if response.success:
                return response
            with response:
                raise LinkLost(f"the tool refused to resume its stream: status {response.status}")

    def _event(self, event: ServerSentEvent, request_id: int | None) -> dict[str, Any] | None:
        """Handle one event; return the message if it is the answer to ``request_id``."""
        if not event.data:
            return None
        message = parsed(event.data.encode())
        if "method" not in message:
            return message if request_id is not None and message.get("id") == request_id else None
        method, params = message["method"], message.get("params")
        if not isinstance(method, str) or not isinstance(params, dict | None):
            log.debug("backend_message_ignored", method=repr(method)[:100])
        elif "id" in message:
            own = self._listeners.get(request_id, (_ignore, None))[1] if request_id is not None else None
            self._asked.ask(message, own or self.on_request)
        else:
            self._notified(method, params or {}, request_id)
        return None

    def _notified(self, method: str, params: dict[str, Any], request_id: int | None) -> None:
        """Hand a notification to whom it belongs: progress to the call it names, a changed list to no call."""
        listener = self.on_notification
        if method == "notifications/cancelled":
            self._asked.withdraw(params)
            return
        if method == "notifications/progress":
            found = self._meta.incoming(params)
            if found is None:
                return
            listener, params = self._listeners.get(found[0], (_ignore, None))[0], found[1]
        elif request_id is not None and not method.endswith(_OF_NO_REQUEST):
            listener = self._listeners.get(request_id, (_ignore, None))[0]
        listener(method, params)

    async def _listen(self) -> None:
        """The stream of what belongs to no request; a backend without one says 405, and that is that."""
        while not self.closed.is_set():
            try:
                with await self._get({}) as stream:
                    self._listening.set()
                    if not stream.success:
                        return
                    await self._read_until(stream, Place(), None)
            except (LinkLost, ResponseTooLarge) as error:
                log.debug("backend_stream_broke", error=repr(error))
            self._listening.set()
            await asyncio.sleep(RESUME_DELAY)

    async def _answer(self, message: dict[str, Any]) -> None:
        with await self._post(message, NO_HEADERS):
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
            except (LinkLost, orjson.JSONEncodeError) as error:
                # The latter: a request's id that is nested deeper than orjson writes.
                log.debug("backend_aside_failed", error=str(error))

        task = asyncio.create_task(run())
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        # A task cancelled before its first step has not begun the work, which must not lie about then.
        task.add_done_callback(lambda _: work.close())

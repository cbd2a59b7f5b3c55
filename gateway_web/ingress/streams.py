"""Waiting for a call: a plain answer if the end comes first, an event stream if anything else does.

The stream is committed to when the first notification comes, or after ``web.sse_commit_after`` seconds of
silence; until then an error can still have its HTTP status. From then on each event of a client that may come back
has an id (``resumption.py``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import structlog

from common.calls.replies import Frame, Moved, Notification, ServerRequest
from common.domain.errors import InvocationCancelled, StoreUnavailable
from common.domain.ids import InvocationId
from common.domain.invocation import ExecutionResult, failed
from common.gateway import Call
from common.mcp.jsonrpc import dumps, result_response
from common.mcp.revisions import Era, at_least
from common.mcp.translate import META_SERVER_INFO
from common.settings import WebSettings
from gateway_web.http import HttpAnswer
from gateway_web.ingress.answers import error_message, json_response, result_answer, result_message
from gateway_web.ingress.disconnect import hung_up
from gateway_web.ingress.events import PING, POLLING_SINCE, STREAM_HEADERS, event, place_to_return
from gateway_web.ingress.requests import SERVER_INFO, McpRequest

log = structlog.get_logger(__name__)

PROGRESS = "notifications/progress"
LOOK = 0.5
"""Seconds between two looks at whether the client is still there."""
EVENT_PREFIX, END = "c.", "end"
"""How the event ids of a call's stream begin, and what stands for a place in the one of the result."""
GONE = failed(InvocationCancelled("the client hung up"))


def answer_call(call: Call, mcp: McpRequest, web: WebSettings, environ: Mapping[str, Any]) -> HttpAnswer:
    """Wait for a call and answer it."""
    stream = CallStream(call, mcp, partial(hung_up, environ))
    try:
        first = stream.next(web.sse_commit_after)
    except BaseException:
        call.close()
        raise
    if isinstance(first, ServerRequest) and mcp.era is Era.MODERN:
        try:
            return json_response(stream.input_required(first))
        except BaseException:
            stream.close()
            raise
    if isinstance(first, ExecutionResult):
        call.close()
        stream.account(first)
        answer = result_answer(first, mcp.request.id, mcp.era, mcp.request.method)
        answer.headers["Server-Timing"] = server_timing(first, call.age_ms)
        return answer
    # A generator that is closed before its first step runs nothing, not even its `finally`: hence `on_close`.
    return HttpAnswer(
        body=stream.events(first, web),
        headers=dict(STREAM_HEADERS),
        on_close=stream.close,
    )


def server_timing(result: ExecutionResult, total: float) -> str:
    """Where the time went, in milliseconds (W3C "Server Timing"): queue, session, backend, total."""
    stages = {"queue": max(0.0, total - result.duration_ms), **result.stages, "total": total}
    return ", ".join(f"{name};dur={value:.1f}" for name, value in stages.items())


def event_id(invocation: InvocationId, place: int | str) -> str:
    """The id of the event for a frame, by its place in the call's log; it names the stream as well."""
    return f"{EVENT_PREFIX}{invocation}.{place}"


class CallStream:
    """The frames of one call, with an eye on the client: ``gone`` tells whether it still listens."""

    def __init__(self, call: Call, mcp: McpRequest, gone: Callable[[], bool]) -> None:
        self._call = call
        self._mcp = mcp
        self._gone = gone
        self._ended = False
        self._place: int | str | None = None
        """Of the message that was given last; None if nobody can come back behind it."""

    def next(self, silence: float) -> Frame | None:
        """The next frame for the client, or None after ``silence`` seconds. Ends early if the client hangs up."""
        end = time.monotonic() + silence
        while True:
            frame = self._call.next(min(LOOK, max(0.0, end - time.monotonic())))
            if frame is not None and self._wanted(frame):
                return frame
            if frame is None and self._gone():
                return self._abandon()
            if frame is None and time.monotonic() >= end:
                return None

    def messages(self, first: Frame | None, silence: float) -> Iterator[dict[str, Any] | None]:
        """What the client is sent, from ``first`` on and up to the call's end; None after ``silence`` seconds.

        Raises :class:`StoreUnavailable` if something was missed and cannot be read: it must not be left out.
        """
        frame = first
        try:
            while not isinstance(frame, Moved):
                message = None if frame is None else self._message(frame)
                yield message
                if self._ended:
                    return
                frame = self.next(silence)
        finally:
            self.close()

    def events(self, first: Frame | None, web: WebSettings, *, after: int | None = None) -> Iterator[bytes]:
        """The messages as events, with ids if the client may come back.

        It has come back for what is behind the place ``after``, if that is given. Without Redis one that may come back
        is left to do so; to any other one that is the end.
        """
        version = self._mcp.version
        held = after is not None or self._call.hold()
        silence, end = web.ping_interval, math.inf
        if held and web.stream_max_age and at_least(version, POLLING_SINCE):
            silence, end = min(silence, web.stream_max_age), time.monotonic() + web.stream_max_age
        if held:
            yield place_to_return(version, event_id(self._call.invocation.id, after or 0))
        try:
            for message in self.messages(first, silence):
                if message is None:
                    yield PING
                else:
                    yield event(dumps(message), name=self._event_id() if held else None)
                if time.monotonic() >= end:
                    return
        except StoreUnavailable as error:
            log.info("call_stream_broke", error=error.message)
            if not held:
                yield event(dumps(error_message(error, self._mcp.request.id)))

    def _event_id(self) -> str | None:
        return None if self._place is None else event_id(self._call.invocation.id, self._place)

    def _message(self, frame: Notification | ServerRequest | ExecutionResult) -> dict[str, Any]:
        self._place = END if isinstance(frame, ExecutionResult) else frame.place
        if isinstance(frame, Notification):
            return self._notification(frame.message)
        if isinstance(frame, ServerRequest):
            if self._mcp.era is Era.MODERN:
                return self.input_required(frame)
            return {"jsonrpc": "2.0", "id": frame.id, "method": frame.method, "params": dict(frame.params)}
        self._ended = True
        self.account(frame)
        return result_message(frame, self._mcp.request.id, self._mcp.era, self._mcp.request.method)

    def _notification(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A notification, under this request's progress token: the call may have begun with an earlier one's."""
        meta = self._mcp.params.get("_meta")
        token = meta.get("progressToken") if isinstance(meta, dict) else None
        if token is None or self._mcp.era is Era.LEGACY or message.get("method") != PROGRESS:
            return dict(message)
        return {**message, "params": {**(message.get("params") or {}), "progressToken": token}}

    def input_required(self, asked: ServerRequest) -> dict[str, Any]:
        """The answer to a modern client that is asked something: its call waits for the client to come again.

        From here on nobody listens for the call; whoever resumes it does (2026-07-28, "Multi round-trip requests").
        """
        state = self._call.request_state([asked.id])
        self._ended = True
        self._call.close()
        request = {"method": asked.method, "params": dict(asked.params)}
        result = {
            "resultType": "input_required",
            "inputRequests": {asked.id: request},
            "requestState": state,
            "_meta": {META_SERVER_INFO: SERVER_INFO},
        }
        return result_response(self._mcp.request.id, result)

    def account(self, result: ExecutionResult) -> None:
        """Enter how the call ended into the account of its request."""
        if self._mcp.account is not None:
            self._mcp.account.result(result)

    def close(self) -> None:
        """Let go of the call. If its end was not sent, nobody reads any more."""
        if not self._ended:
            self._ended = True
            self.account(self._abandon())
        self._call.close()

    def _abandon(self) -> ExecutionResult:
        """Nobody reads any more. In the modern era that cancels the call; in the legacy era only its session can."""
        if self._mcp.era is Era.MODERN:
            self._call.cancel()
        else:
            self._call.leave()
        return GONE

    def _wanted(self, frame: Frame) -> bool:
        if not isinstance(frame, Notification):
            return True
        if self._mcp.era is Era.MODERN and frame.message.get("method") == "notifications/cancelled":
            return False  # a modern client was asked nothing that could be taken back
        if frame.message.get("method") != "notifications/message":
            return True
        return self._mcp.wants_log((frame.message.get("params") or {}).get("level"))

"""Several messages in one POST, as the one revision that has batches lets a client send them.

What is answered is answered on one stream, each request as it is ready.

Source: 2025-03-26, "Base protocol", "Batching", and "Transports", "Sending Messages to the Server"; JSON-RPC 2.0, 6.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import structlog

from common.domain.errors import GatewayError
from common.gateway import Call
from common.mcp.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    JsonRpcError,
    Message,
    Request,
    dumps,
    result_response,
)
from gateway_web.http import HttpAnswer
from gateway_web.ingress.answers import error_message
from gateway_web.ingress.events import PING, STREAM_HEADERS, event
from gateway_web.ingress.outbox import Outbox
from gateway_web.ingress.requests import McpRequest
from gateway_web.ingress.under_way import UnderWay

log = structlog.get_logger(__name__)

BATCH_VERSION = "2025-03-26"
MOST_MESSAGES = 100
"""Of one batch."""

Begin = Callable[[Request], tuple[McpRequest, Call | dict[str, Any]]]


def answer_batch(
    messages: Sequence[Message | JsonRpcError],
    begin: Begin,
    aside: Callable[[Message], None],
    *,
    gone: Callable[[], bool],
    silence: float,
) -> HttpAnswer:
    """Take the messages: ``begin`` what has an answer, and take ``aside`` what has none.

    ``gone`` tells whether the client has hung up. ``silence`` is in seconds: the pause between two comments on a
    stream that says nothing else.
    """
    for message in messages:
        if not isinstance(message, Request | JsonRpcError):
            aside(message)
    asked = [message for message in messages if isinstance(message, Request | JsonRpcError)]
    if not asked:
        return HttpAnswer(status=202)
    batch = Batch(asked, begin, gone, silence)
    return HttpAnswer(body=batch.events(), headers=dict(STREAM_HEADERS), on_close=batch.close)


class Batch:
    """The messages of a batch that have an answer."""

    def __init__(
        self,
        asked: Sequence[Request | JsonRpcError],
        begin: Begin,
        gone: Callable[[], bool],
        silence: float,
    ) -> None:
        self._asked = asked
        self._begin = begin
        self._silence = silence
        self._outbox = Outbox()
        self._unanswered = len(asked)
        self._lock = threading.Lock()
        self._under_way = UnderWay(
            self._outbox,
            silence=silence,
            gone=lambda: self._outbox.closed or gone(),
            on_end=self._answered,
        )

    def events(self) -> Iterator[bytes]:
        """Every answer, and what the calls say before theirs."""
        # On a thread of its own: it waits while the client reads slowly.
        threading.Thread(target=self._take, name="batch", daemon=True).start()
        try:
            while not self._outbox.closed:
                message = self._outbox.get(self._silence)
                if message is not None:
                    yield event(message)
                elif not self._outbox.closed:
                    yield PING
        finally:
            self.close()

    def close(self) -> None:
        """Nobody reads any more. As with a single request, that cancels nothing (2025-03-26, "Sending Messages")."""
        self._outbox.close()

    def _take(self) -> None:
        for message in self._asked:
            if self._outbox.closed:
                return
            if isinstance(message, JsonRpcError):
                self._answer(error_message(message, message.request_id))
            else:
                self._request(message)

    def _request(self, request: Request) -> None:
        try:
            if request.id in self._under_way:
                raise JsonRpcError(INVALID_REQUEST, "Invalid request: a request with this id is under way")
            if request.method == "initialize":
                raise JsonRpcError(INVALID_REQUEST, "Invalid request: initialize is never part of a batch")
            mcp, found = self._begin(request)
        except (JsonRpcError, GatewayError) as error:
            self._answer(error_message(error, request.id))
        except Exception:
            log.exception("message_broke")
            self._answer(error_message(JsonRpcError(INTERNAL_ERROR, "Internal error"), request.id))
        else:
            if isinstance(found, Call):
                self._under_way.call(found, mcp)
            else:
                self._answer(result_response(request.id, found))
                if mcp.account is not None:
                    mcp.account.close()

    def _answer(self, message: dict[str, Any]) -> None:
        self._outbox.put(dumps(message))
        self._answered()

    def _answered(self) -> None:
        with self._lock:
            self._unanswered -= 1
            if not self._unanswered:
                self._outbox.end()

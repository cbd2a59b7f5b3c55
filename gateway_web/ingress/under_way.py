"""Requests of one client that are under way together, and whose answers go out as they are ready."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import structlog

from common.calls.unread import SharedBound
from common.domain.errors import GatewayError
from common.gateway import Call
from common.mcp.jsonrpc import INTERNAL_ERROR, JsonRpcError, dumps
from gateway_web.ingress.account import Account
from gateway_web.ingress.answers import error_message
from gateway_web.ingress.outbox import Outbox
from gateway_web.ingress.requests import McpRequest
from gateway_web.ingress.streams import CallStream

log = structlog.get_logger(__name__)

MOST_UNREAD = 16 * 1024 * 1024
"""Bytes of the calls of one connection that may wait to be handed out, beside what waits in its outbox."""

RequestId = str | int


@dataclass(eq=False, slots=True)
class _Running:
    """What it still says after ``cancelled`` is not sent."""

    messages: Iterator[dict[str, Any] | None]
    let_go: Callable[[], None]
    cancel: Callable[[], None]
    account: Account | None
    cancelled: bool = False


class UnderWay:
    """Each has a thread of its own, which fills the outbox."""

    def __init__(
        self,
        outbox: Outbox,
        *,
        silence: float,
        gone: Callable[[], bool] | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        """``silence`` is how many seconds a call may say nothing until its client is looked after.

        ``gone`` tells whether the client has gone; without it one has when its outbox is closed. ``on_end`` is called
        after each request that has been answered, or cancelled.
        """
        self._outbox = outbox
        self._silence = silence
        self._gone = gone or (lambda: outbox.closed)
        self._on_end = on_end
        self._running: dict[RequestId, _Running] = {}
        self._unread = SharedBound(MOST_UNREAD)

    @property
    def full(self) -> bool:
        """Whether as much waits to be handed out as may (:data:`MOST_UNREAD`): the client does not read."""
        return self._unread.full

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._running

    def call(self, call: Call, mcp: McpRequest) -> None:
        """Send what a call says, up to its end."""
        call.share(self._unread)
        stream = CallStream(call, mcp, self._gone)
        messages = stream.messages(None, self._silence)
        self.run(mcp.request.id, messages, stream.close, call.cancel, mcp.account)

    def run(
        self,
        request_id: RequestId,
        messages: Iterator[dict[str, Any] | None],
        let_go: Callable[[], None],
        cancel: Callable[[], None],
        account: Account | None = None,
    ) -> None:
        """Send the messages, and let go of what is behind them; ``cancel`` ends that early.

        The ``account`` of the request is closed then.
        """
        running = _Running(messages, let_go, cancel, account)
        self._running[request_id] = running
        threading.Thread(
            target=self._answer, args=(request_id, running), name="under-way", daemon=True
        ).start()

    def cancel(self, request_id: RequestId) -> None:
        """The client wants no answer any more."""
        running = self._running.get(request_id)
        if running is not None:
            running.cancelled = True
            running.cancel()

    def cancel_all(self) -> None:
        """The client has gone."""
        for request_id in list(self._running):
            self.cancel(request_id)

    def _answer(self, request_id: RequestId, running: _Running) -> None:
        """Send what a request is answered with, up to its end, which is an answer in any case."""
        if running.account is not None:
            running.account.enter()
        try:
            for message in running.messages:
                if running.cancelled or self._outbox.closed:
                    break
                if message is not None:
                    self._outbox.put(dumps(message))
        except (JsonRpcError, GatewayError) as error:
            self._fail(request_id, running, error)
        except Exception:
            log.exception("answer_broke")
            self._fail(request_id, running, JsonRpcError(INTERNAL_ERROR, "Internal error"))
        finally:
            del self._running[request_id]
            try:
                running.let_go()
            finally:
                if running.account is not None:
                    running.account.close()
                if self._on_end is not None:
                    self._on_end()

    def _fail(self, request_id: RequestId, running: _Running, error: JsonRpcError | GatewayError) -> None:
        if running.account is not None:
            running.account.failed(error)
        if not running.cancelled:
            self._outbox.put(dumps(error_message(error, request_id)))

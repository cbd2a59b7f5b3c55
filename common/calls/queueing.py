"""The stage that puts a call on its tool's queue, and that takes back what may stand there although it was refused."""

from __future__ import annotations

import time
from collections import deque
from typing import NoReturn, Protocol

import structlog

from common.calls.admission import (
    Admission,
    Admitted,
    Order,
    QueueAtBound,
    QueueBounds,
    RateExceeded,
    SessionChanged,
    SessionGone,
    Verdict,
    refusal_of,
)
from common.calls.call import Call
from common.calls.contract import task_message
from common.calls.head import head_of
from common.calls.leave import leave_of
from common.domain.errors import GatewayError, InvalidRequest, StoreUnavailable
from common.domain.ids import InvocationId, ToolId, queue_of
from common.domain.invocation import Invocation
from common.domain.quota import Quota
from common.domain.session import McpSession, SessionClaim
from common.domain.tool import Tool
from common.registry.records import Entry
from common.settings import Settings
from common.store.client import store_errors
from common.store.clock import RedisClock
from common.store.keys import Keys
from common.store.shared import UNKNOWN, SharedConnection
from common.telemetry import conventions as names
from common.telemetry.spans import Kind, Span
from common.tenants.rates import Buckets, FullBuckets, of_call
from common.tenants.view import Tenants

log = structlog.get_logger(__name__)

TELL_EVERY = 10.0
"""Seconds between two lines in the log about the same full queue."""
MOST_DOUBTFUL = 10_000
"""So many calls are taken back at a time that may be queued in vain; of more the earliest run."""
TOLD_AT_ONCE = 1000
"""So many of them the workers are told of in one step."""


class SessionRecords(Protocol):
    """What this process remembers of MCP sessions; the store confirms it in the step in which it admits a call."""

    def claim(self, session: McpSession) -> SessionClaim:
        """What the store has to confirm."""

    def relearn(self, session: McpSession, raw: bytes) -> McpSession:
        """Remember another record of a session. Raises :class:`SessionNotFound` if it is another one's now."""

    def gone(self, session: McpSession) -> NoReturn:
        """The store has none: remember it no longer. Raises :class:`SessionNotFound`."""


class Queueing:
    """One a process. Fails closed: without Redis' answer no call counts as queued."""

    def __init__(
        self,
        connection: SharedConnection,
        keys: Keys,
        settings: Settings,
        clock: RedisClock,
        sessions: SessionRecords,
        tenants: Tenants,
        full: FullBuckets,
        *,
        reply: str,
    ) -> None:
        """``reply`` is the channel on which this process hears of its calls; ``full`` knows buckets that are full."""
        self._admission = Admission(connection, keys)
        self._connection = connection
        self._keys = keys
        self._settings = settings
        self._tenants = tenants
        self._full = full
        self._clock = clock
        self._sessions = sessions
        self._reply = reply
        self._told_full: dict[ToolId, float] = {}
        self._doubtful: deque[tuple[InvocationId, int]] = deque(maxlen=MOST_DOUBTFUL)

    def put(self, call: Call, entry: Entry, span: Span | None = None) -> None:
        """Put the call on its tool's queue; :attr:`Call.session` is then as it stood at that moment.

        The message of a request that is traced carries a span below its ``span``.

        Raises :class:`InvalidRequest` for what is no JSON, the :class:`GatewayError` of what Redis refuses, and
        :class:`StoreUnavailable`. A Redis that takes the message and whose answer is lost leaves us not knowing. The
        caller is told so (STORE_UNAVAILABLE with ``outcome: unknown``, which is no invitation to try again), and the
        call is taken back (:meth:`take_back`).
        """
        if span is None:
            self._put(call, entry, None)
            return
        sending = _sending(call.invocation, span)
        try:
            self._put(call, entry, sending)
        except GatewayError as error:
            sending.refused(error)
            raise
        finally:
            sending.end()

    def _put(self, call: Call, entry: Entry, sending: Span | None) -> None:
        tool, queue = entry.tool, queue_of(entry.id)
        quota = self._tenants.quota_of(call.invocation.caller.tenant)
        buckets = self._buckets(call.invocation, tool, quota)
        message = self._message(call.invocation, entry, quota, sending)
        bounds = QueueBounds(max_length=tool.queue_max_length, max_age=tool.queue_max_age)
        while True:
            session = call.session
            order = Order(
                queue=queue,
                message=message,
                bounds=bounds,
                session=None if session is None else self._sessions.claim(session),
                may_create=not entry.draining,
                circuit_probes=tool.circuit.probes,
                buckets=buckets,
                most_events=self._settings.audit.bound,
            )
            asked = time.monotonic()
            verdict = self._admit(call.invocation, order)
            if isinstance(verdict, Admitted):
                return
            if not isinstance(verdict, SessionGone | SessionChanged):
                if isinstance(verdict, QueueAtBound):
                    self._tell_full(tool.id, verdict)
                if isinstance(verdict, RateExceeded):
                    raise self._full.refused(buckets[verdict.which], verdict.wait, asked)
                raise refusal_of(verdict, tool.id, bounds)
            assert session is not None  # noqa: S101 - no other has a session to lose
            if isinstance(verdict, SessionGone):
                self._sessions.gone(session)
            call.session = self._sessions.relearn(session, verdict.record)

    def take_back(self) -> None:
        """Tell the workers of calls that may be queued in vain; to be called again and again, until their deadlines.

        Each time of the next :data:`TOLD_AT_ONCE`, in one step: replies wait meanwhile. A worker that takes one up
        after it has heard that does not begin it. Raises :class:`StoreUnavailable`.
        """
        step = [self._doubtful.popleft() for _ in range(min(len(self._doubtful), TOLD_AT_ONCE))]
        if not step:
            return
        try:
            with store_errors("taking calls back"):
                channel, names = self._keys.cancel_channel, [invocation for invocation, _ in step]
                self._connection.run("publish_all", [channel], names)
        finally:
            # Nobody may have heard it: a worker that is not there yet, or not yet again.
            self._doubtful.extend(found for found in step if self._clock.left(found[1]) > 0)

    def _buckets(self, invocation: Invocation, tool: Tool, quota: Quota) -> Buckets:
        """Those that the call counts in. Raises :class:`Throttled` if one is known to be full."""
        if tool.requests_per_minute is None and not quota.rated:
            return ()
        caller, method, params = invocation.caller, invocation.method, invocation.params
        buckets = of_call(self._keys, quota, tool, caller, method, params)
        self._full.check(buckets)
        return buckets

    def _message(self, invocation: Invocation, entry: Entry, quota: Quota, sending: Span | None) -> bytes:
        head = head_of(
            invocation,
            entry.tool,
            reply=self._reply,
            leave=leave_of(entry, invocation),
            quota=quota,
        )
        try:
            trace = None if sending is None else sending.headers()
            return task_message(
                invocation,
                head,
                prefix=self._keys.prefix,
                audited=self._settings.audit.calls,
                seals=self._keys.seals,
                trace=trace,
            )
        except TypeError as error:
            raise InvalidRequest(f"params cannot be written as JSON: {error}", field="params") from error

    def _admit(self, invocation: Invocation, order: Order) -> Verdict:
        try:
            verdict = self._admission.admit(order)
        except StoreUnavailable as error:
            if error.data.get("outcome") == UNKNOWN:
                self._doubtful.appendleft((invocation.id, invocation.deadline))
            raise
        self._clock.correct(verdict.now)
        return verdict

    def _tell_full(self, tool: ToolId, verdict: QueueAtBound) -> None:
        """Log that calls of a tool are refused; once in a while, for there may be thousands."""
        now = time.monotonic()
        if now - self._told_full.get(tool, float("-inf")) >= TELL_EVERY:
            self._told_full[tool] = now
            log.warning(
                "queue_full",
                tool=tool,
                waiting=verdict.length,
                oldest_ms=verdict.age,
                drained_per_second=verdict.drained,
            )


def _sending(invocation: Invocation, span: Span) -> Span:
    """The span of the admission, below that of the request; what the message carries names it as its sender."""
    queue = queue_of(invocation.tool)
    attributes = {
        names.MESSAGING_SYSTEM: "celery",
        names.MESSAGING_OPERATION: "send",
        names.MESSAGING_TYPE: "send",
        names.DESTINATION: queue,
        names.MESSAGE_ID: invocation.id,
    }
    return span.child(f"send {queue}", Kind.PRODUCER, attributes)

"""Who waits here for the requests of MCP sessions, and word to all web processes that some of them are taken back.

A cancellation, and the end of a session, may come to another web process than the one that waits for the call: so it is
published, and each process looks among its own. A session's end is published after its record is gone, and a call is
remembered here before it is admitted, which that record decides: a call that was still admitted is found by whoever
hears of the end. Nothing of this costs a call a round trip.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import orjson
import structlog

from common.domain.errors import InvocationCancelled, StoreUnavailable
from common.domain.ids import InvocationId, McpSessionId
from common.domain.invocation import Invocation
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.shared import SharedConnection

log = structlog.get_logger(__name__)

BY_CALLER = "the caller cancelled the request"
BY_SESSION = "the MCP session was ended"
MOST_LEFT = 10_000
"""So many calls are kept whose clients hung up; of more the earliest are forgotten and run to their deadlines."""


class Awaited(Protocol):
    """A call that somebody in this process waits for."""

    @property
    def invocation(self) -> Invocation:
        """What was asked."""

    def abandon(self, error: InvocationCancelled) -> None:
        """Give whoever waits this end."""


@dataclass(frozen=True, slots=True, eq=False)
class _Left:
    """A call whose client hung up without taking it back: a worker may be at it yet. It is kept without arguments."""

    invocation: Invocation

    def abandon(self, error: InvocationCancelled) -> None:
        """Nobody waits."""


class Cancellations:
    """One instance a process. Degrades throughout: what Redis does not pass on, others do not hear of."""

    def __init__(self, connection: SharedConnection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._lock = threading.Lock()
        self._sessions: dict[McpSessionId, dict[InvocationId, Awaited]] = {}
        self._left: deque[_Left] = deque()

    @property
    def remembered(self) -> int:
        """Number of calls with a session that somebody waits for."""
        with self._lock:
            return sum(map(len, self._sessions.values())) - len(self._left)

    def remember(self, call: Awaited) -> None:
        """Find this call from now on. Must happen before it is admitted; a call without a session is not kept."""
        session = call.invocation.mcp_session
        if session is not None:
            with self._lock:
                calls = self._sessions.setdefault(session, {})
                if isinstance(left := calls.get(call.invocation.id), _Left):
                    self._left.remove(left)  # its client has come back
                calls[call.invocation.id] = call

    def leave(self, call: Awaited) -> None:
        """Nobody waits for this call any more, and it goes on: it may still be cancelled (:meth:`expire` ends that)."""
        session, name = call.invocation.mcp_session, call.invocation.id
        if session is None:
            return
        with self._lock:
            calls = self._sessions.get(session, {})
            if calls.get(name) is not call:
                return
            calls[name] = left = _Left(replace(call.invocation, params={}))
            self._left.append(left)
            if len(self._left) > MOST_LEFT:
                self._drop(self._left.popleft())

    def expire(self, is_over: Callable[[int], bool]) -> None:
        """Forget those that were left and whose deadline is over; ``is_over`` is asked for it (ms of Redis time)."""
        with self._lock:
            for _ in range(len(self._left)):
                left = self._left.popleft()
                if is_over(left.invocation.deadline):
                    self._drop(left)
                else:
                    self._left.append(left)

    def forget(self, call: Awaited) -> None:
        """Find this call no longer; one that was left is still found."""
        with self._lock:
            self._drop(call)

    def _drop(self, call: Awaited) -> None:
        """Needs the lock."""
        session, name = call.invocation.mcp_session, call.invocation.id
        calls = None if session is None else self._sessions.get(session)
        if session is None or calls is None or calls.get(name) is not call:
            return
        del calls[name]
        if not calls:
            del self._sessions[session]

    # -- out --------------------------------------------------------------------------------------------

    def cancel_request(self, session: McpSessionId, request_id: str | int) -> None:
        """Cancel a request of a session, whichever process waits for it; without Redis only if this one does."""
        self._announce(orjson.dumps({"session": session, "request_id": request_id}))

    def cancel_session(self, session: McpSessionId) -> None:
        """Cancel all calls of a session whose record is gone, as above."""
        self._announce(orjson.dumps({"session": session, "ended": True}))

    def tell_workers(self, invocations: Iterable[InvocationId]) -> None:
        """Tell the workers that nobody waits for these calls any more; unheard, they run to their deadlines."""
        names = list(invocations)
        try:
            with store_errors("cancelling calls"):
                for name in names:
                    self._connection.command("PUBLISH", self._keys.cancel_channel, name)
        except StoreUnavailable as error:
            log.warning("cancellation_not_sent", invocations=names, error=str(error))

    def _announce(self, notice: bytes) -> None:
        try:
            with store_errors("announcing a cancellation"):
                self._connection.command("PUBLISH", self._keys.cancel_request_channel, notice)
        except StoreUnavailable as error:
            log.warning("cancellation_not_announced", error=str(error))
            self.hear(notice)

    # -- in ---------------------------------------------------------------------------------------------

    def hear(self, notice: bytes) -> None:
        """Cancel those of this process's calls that a notice means. Raises for one that cannot be read."""
        wanted = orjson.loads(notice)
        ended = wanted.get("ended") is True
        request_id = None if ended else wanted["request_id"]
        with self._lock:
            calls = list(self._sessions.get(wanted["session"], {}).values())
        meant = [call for call in calls if ended or _is_request(call, request_id)]
        if not meant:
            return
        for call in meant:
            call.abandon(InvocationCancelled(BY_SESSION if ended else BY_CALLER))
        self.tell_workers(call.invocation.id for call in meant)


def _is_request(call: Awaited, request_id: object) -> bool:
    """Whether the call has this JSON-RPC id, where 7 and "7" are two."""
    return request_id is not None and call.invocation.request_id == request_id

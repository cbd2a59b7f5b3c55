"""Refused calls in the journal: each is counted, and they cannot fill it.

The first refusal of a kind (tenant, client, tool, method, code) within a second is written at once and in full. Those
that follow within it are counted, and written as one event with their number. So whoever is refused a thousand times a
second costs two events a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import structlog

from common.audit.journal import audit_command
from common.domain.audit import AuditEvent, EventKind
from common.domain.audit_call import REFUSED_AS, capability_of, trace_of
from common.domain.errors import GatewayError, StoreUnavailable
from common.domain.invocation import Caller
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.scripts import Arg
from common.telemetry import about

log = structlog.get_logger(__name__)

SPAN = 1.0
"""Seconds within which refusals of a kind are counted together."""
MOST_KINDS = 100
"""So many kinds are told apart within a span; what is beyond is counted by its code alone."""


class Refusals:
    """One a process. Degrades: what Redis does not take is counted, and written with the next span."""

    def __init__(self, send: Callable[[tuple[Arg, ...]], object], keys: Keys) -> None:
        """``send`` runs one command, and raises :class:`StoreUnavailable`."""
        self._send = send
        self._keys = keys
        self._lock = threading.Lock()
        self._seen: dict[AuditEvent, tuple[AuditEvent, int]] = {}
        """Kind -> the last event of it, and how many are not written yet."""
        self._span_ends = time.monotonic() + SPAN

    def note(self, event: AuditEvent) -> None:
        """A call was refused, or what an operator asked for."""
        kind = replace(event, capability="", request_id="", trace_id="", reason="")
        if event.kind is EventKind.POLICY_DECISION:
            kind = replace(kind, actor="")  # a tenant may have any number of subjects
        with self._lock:
            first = kind not in self._seen
            if first and len(self._seen) >= MOST_KINDS:
                first, kind = (
                    False,
                    AuditEvent(kind=event.kind, outcome=event.outcome, error_code=event.error_code),
                )
                event = kind
            _, waiting = self._seen.get(kind, (event, 0))
            self._seen[kind] = (event, waiting if first else waiting + 1)
        if first and not self._written(event):
            with self._lock:
                last, waiting = self._seen.get(kind, (event, 0))
                self._seen[kind] = (last, waiting + 1)

    def tick(self, *, at_once: bool = False) -> None:
        """To be called about once a second, and ``at_once`` before the end: write what was counted."""
        if time.monotonic() < self._span_ends and not at_once:
            return
        self._span_ends = time.monotonic() + SPAN
        with self._lock:
            seen, self._seen = self._seen, {}
        for kind, (event, waiting) in seen.items():
            if waiting and not self._written(replace(event, count=str(waiting))):
                with self._lock:
                    last, more = self._seen.get(kind, (event, 0))
                    self._seen[kind] = (last, more + waiting)

    def _written(self, event: AuditEvent) -> bool:
        try:
            with store_errors("recording a refusal"):
                self._send(audit_command(self._keys, event))
        except StoreUnavailable as error:
            log.debug("refusal_not_recorded", cause=repr(error.__cause__))
            return False
        return True


def refusal_event(
    caller: Caller,
    tool: str,
    method: str,
    params: Mapping[str, Any],
    error: GatewayError,
    *,
    request_id: str | int | None = None,
    private: bool = False,
) -> AuditEvent:
    """What the journal is told of a call that was refused before it was on its queue.

    ``private`` as for :func:`~common.domain.audit_call.capability_of`.
    """
    outcome = str(error.data.get("outcome") or REFUSED_AS.get(error.meaning.status, "error"))
    return AuditEvent(
        kind=EventKind.POLICY_DECISION,
        actor=caller.subject,
        tool=tool,
        tenant=caller.tenant,
        client=caller.client,
        method=method,
        capability=capability_of(method, params, private=private),
        request_id="" if request_id is None else str(request_id),
        trace_id=about.trace_id() or trace_of(params),
        outcome=outcome,
        error_code=error.code.value,
        reason=f"{error.message} ({error.note})" if error.note else error.message,
    )

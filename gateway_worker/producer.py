"""Calls that did not come through a web process: they get the head and the place in the queue that all calls have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from common.calls.admission import Order, QueueBounds
from common.calls.contract import opened_argument, task_body, task_message
from common.calls.head import MEMBER, Head, head_of
from common.calls.leave import leave_of
from common.domain.audit_call import MEMBER as AUDIT
from common.domain.audit_call import call_text
from common.domain.errors import InvalidRequest, ToolNotFound
from common.domain.ids import ToolId, queue_of
from common.domain.invocation import Invocation, invocation_from_wire
from common.mcp.revisions import LATEST_LEGACY
from common.registry.records import Entry
from common.settings import Settings
from common.store.clock import RedisClock
from common.store.keys import Keys
from common.store.sealing import unsealed
from gateway_worker.message import TaskMessage


class Producer:
    """Makes messages with heads of what stock Celery producers send."""

    def __init__(
        self,
        keys: Keys,
        clock: RedisClock,
        entry: Callable[[ToolId], Entry | None],
        settings: Settings,
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._entry = entry
        self._settings = settings
        self._timeout_ms = int(settings.runtime.request_timeout * 1000)

    def adopted(self, message: TaskMessage, payload: Mapping[str, Any]) -> tuple[Entry, bytes]:
        """The tool and the message with its head.

        Raises :class:`GatewayError`: :class:`InvalidRequest` for what is no invocation, or one in another tool's queue,
        :class:`ToolNotFound`.
        """
        payload = opened_argument(payload, message.id, message.queue, self._keys)
        entry, invocation, head = self._read(payload, message.id, message.reply_to)
        if message.queue != queue_of(invocation.tool):
            raise InvalidRequest(
                f"a call of tool {invocation.tool!r} goes to the queue {queue_of(invocation.tool)}",
                field="tool",
            )
        envelope = {name: value for name, value in message.envelope.items() if name not in (MEMBER, AUDIT)}
        private = self._keys.seals is not None
        told = {AUDIT: call_text(invocation, private=private)} if self._settings.audit.calls else {}
        try:
            if self._keys.seals is not None:
                envelope |= self._sealed_body(invocation, head, message.envelope)
            return entry, orjson.dumps({MEMBER: head.text(), **told, **envelope})
        except orjson.JSONEncodeError as error:
            raise InvalidRequest("the message is nested too deeply", field="message") from error

    def fresh(
        self, payload: object, task_id: str, trace: Mapping[str, str] | None = None
    ) -> tuple[Entry, Order]:
        """The order of a delayed call that is due, which goes on with its trace.

        Raises :class:`GatewayError` as :meth:`adopted` does.
        """
        if self._keys.seals is not None and not self._keys.seals.accept_plain:
            raise unsealed()
        entry, invocation, head = self._read(payload, task_id, "")
        message = task_message(
            invocation,
            head,
            prefix=self._keys.prefix,
            audited=self._settings.audit.calls,
            seals=self._keys.seals,
            trace=trace,
        )
        tool = entry.tool
        bounds = QueueBounds(max_length=tool.queue_max_length, max_age=tool.queue_max_age)
        return entry, Order(
            queue=head.queue,
            message=message,
            bounds=bounds,
            may_create=not entry.draining,
            circuit_probes=tool.circuit.probes,
            most_events=self._settings.audit.bound,
        )

    def _sealed_body(self, invocation: Invocation, head: Head, envelope: Mapping[str, Any]) -> dict[str, Any]:
        """The body in the place of the producer's own, which nobody sealed."""
        return {
            "body": task_body(invocation, head.queue, self._keys.seals),
            "properties": {**envelope["properties"], "body_encoding": "utf-8"},
        }

    def _read(self, payload: object, task_id: str, reply_to: str) -> tuple[Entry, Invocation, Head]:
        invocation = invocation_from_wire(
            payload,
            task_id=task_id,
            default_version=LATEST_LEGACY,
            default_deadline=self._clock.now() + self._timeout_ms,
        )
        if invocation.deadline < 0:
            # No script reads such a head, so the call would be tried for ever.
            raise InvalidRequest(
                "deadline must be milliseconds of Redis time, not negative", field="deadline"
            )
        entry = self._entry(invocation.tool)
        if entry is None:
            raise ToolNotFound(f"no tool {invocation.tool!r} is registered")
        prefix = self._keys.reply_prefix
        ours = reply_to.startswith(prefix) and reply_to.removeprefix(prefix).isalnum()
        head = head_of(
            invocation,
            entry.tool,
            reply=reply_to if ours else "",
            leave=leave_of(entry, invocation),
            tenant_max_sessions=self._settings.max_sessions_of(invocation.caller.tenant),
        )
        return entry, invocation, head

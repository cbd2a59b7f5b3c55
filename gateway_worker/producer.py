"""Calls that did not come through a web process: they get the head and the place in the queue that all calls have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from common.calls.admission import Order, QueueBounds
from common.calls.contract import opened_argument, task_body, task_message
from common.calls.head import MEMBER, Head, head_of
from common.calls.leave import leave_of
from common.control.reload import Commit
from common.domain.audit_call import MEMBER as AUDIT
from common.domain.audit_call import call_text
from common.domain.errors import GatewayError, InvalidRequest, ToolNotFound
from common.domain.ids import ToolId, queue_of
from common.domain.invocation import Invocation, invocation_from_wire
from common.domain.quota import Quota
from common.domain.rules import MAX_SECONDS
from common.mcp.revisions import LATEST_LEGACY
from common.registry.records import Entry
from common.settings import Settings
from common.settings.changes import SettingsChanges
from common.store.clock import RedisClock
from common.store.keys import Keys
from common.store.sealing import unsealed
from common.tenants.rates import Buckets, of_call
from common.tenants.view import Tenants
from gateway_worker.judging import Judging
from gateway_worker.message import TaskMessage


class Producer:
    """Makes messages with heads of what stock Celery producers send."""

    def __init__(
        self,
        keys: Keys,
        clock: RedisClock,
        entry: Callable[[ToolId], Entry | None],
        settings: Settings,
        tenants: Tenants,
        judging: Judging | None = None,
        on_refused: Callable[[Invocation, GatewayError], None] | None = None,
    ) -> None:
        """Without ``judging`` nobody is asked about calls. ``on_refused`` is told of those that must not run."""
        self._judging = judging
        self._on_refused = on_refused
        self._keys = keys
        self._clock = clock
        self._entry = entry
        self._settings = settings
        self._tenants = tenants

    def prepare(self, changes: SettingsChanges) -> Commit:
        """What lets other settings hold, of those who judge as well. Raises :class:`ConfigurationError`."""
        judged = None if self._judging is None else self._judging.prepare(changes)

        def commit() -> None:
            self._settings = changes.settings
            if judged is not None:
                judged()

        return commit

    async def judged(self, payload: object, task_id: str, queue: str | None = None) -> None:
        """Ask policy about a call that no web process has asked about. Raises :class:`GatewayError` if it refuses.

        ``queue`` is where its message lies, whose payload may be sealed; None for one that lies in none.
        """
        if self._judging is not None and self._judging.wanted:
            invocation = self._invocation(self._opened(payload, task_id, queue), task_id)
            await self._judging.authorise(invocation, left=self._clock.left(invocation.deadline))

    def refused(self, payload: object, task_id: str, error: GatewayError, queue: str | None = None) -> None:
        """A call must not run. Of what is no call nobody knows whose it was: that is not told; ``queue`` as above."""
        if self._on_refused is None:
            return
        try:
            invocation = self._invocation(self._opened(payload, task_id, queue), task_id)
        except GatewayError:
            return
        self._on_refused(invocation, error)

    def _opened(self, payload: object, task_id: str, queue: str | None) -> object:
        if queue is None or not isinstance(payload, Mapping):
            return payload
        return opened_argument(payload, task_id, queue, self._keys)

    def _invocation(self, payload: object, task_id: str) -> Invocation:
        return invocation_from_wire(
            payload,
            task_id=task_id,
            default_version=LATEST_LEGACY,
            default_deadline=self._clock.now() + int(self._settings.runtime.request_timeout * 1000),
        )

    def adopted(self, message: TaskMessage, payload: Mapping[str, Any]) -> tuple[Entry, bytes, Buckets]:
        """The tool, the message with its head, and the buckets of the rates that the call counts for.

        Raises :class:`GatewayError`: :class:`InvalidRequest` for what is no invocation, or one in another tool's queue,
        :class:`ToolNotFound`, :class:`Forbidden` for a tenant that may not call.
        """
        payload = opened_argument(payload, message.id, message.queue, self._keys)
        entry, invocation, head, quota = self._read(payload, message.id, message.reply_to)
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
            adopted = orjson.dumps({MEMBER: head.text(), **told, **envelope})
        except orjson.JSONEncodeError as error:
            raise InvalidRequest("the message is nested too deeply", field="message") from error
        return entry, adopted, self._buckets(entry, invocation, quota)

    def _buckets(self, entry: Entry, invocation: Invocation, quota: Quota) -> Buckets:
        caller, method, params = invocation.caller, invocation.method, invocation.params
        return of_call(self._keys, quota, entry.tool, caller, method, params)

    def fresh(
        self, payload: object, task_id: str, trace: Mapping[str, str] | None = None
    ) -> tuple[Entry, Order]:
        """The order of a delayed call that is due, which goes on with its trace.

        Raises :class:`GatewayError` as :meth:`adopted` does.
        """
        if self._keys.seals is not None and not self._keys.seals.accept_plain:
            raise unsealed()
        entry, invocation, head, quota = self._read(payload, task_id, "")
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
            buckets=self._buckets(entry, invocation, quota),
            most_events=self._settings.audit.bound,
        )

    def _sealed_body(self, invocation: Invocation, head: Head, envelope: Mapping[str, Any]) -> dict[str, Any]:
        """The body in the place of the producer's own, which nobody sealed."""
        return {
            "body": task_body(invocation, head.queue, self._keys.seals),
            "properties": {**envelope["properties"], "body_encoding": "utf-8"},
        }

    def _read(self, payload: object, task_id: str, reply_to: str) -> tuple[Entry, Invocation, Head, Quota]:
        invocation = self._invocation(payload, task_id)
        if not 0 <= invocation.deadline <= self._clock.now() + MAX_SECONDS * 1000:
            # Of a head with another one scripts can make no time to live, so the call would be tried for ever.
            raise InvalidRequest(
                f"deadline must be milliseconds of Redis time, at most {MAX_SECONDS:.0f} seconds from now",
                field="deadline",
            )
        entry = self._entry(invocation.tool)
        if entry is None:
            raise ToolNotFound(f"no tool {invocation.tool!r} is registered")
        quota = self._tenants.authorise(invocation.caller.tenant)
        prefix = self._keys.reply_prefix
        ours = reply_to.startswith(prefix) and reply_to.removeprefix(prefix).isalnum()
        head = head_of(
            invocation,
            entry.tool,
            reply=reply_to if ours else "",
            leave=leave_of(entry, invocation),
            quota=quota,
        )
        return entry, invocation, head, quota

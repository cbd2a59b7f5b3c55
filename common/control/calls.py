"""The calls there are now: those that wait for a worker, and those that workers hold.

What is read of a message is its beginning, in which there are no arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Any

from common.audit.journal import Journal
from common.calls.head import head_from_text, parts_of
from common.domain.audit import AuditEvent, EventKind
from common.domain.errors import FormatTooNew, InvalidRequest, InvocationNotFound
from common.domain.ids import InvocationId, NodeId, ToolId, queue_of
from common.store.client import Client, store_errors
from common.store.keys import Keys
from common.store.scripts import run

PEEKED = 2048
"""Bytes that are read of each message."""
STEP = 100
"""Messages that one step reads: Redis serves others in between."""
MOST = 10_000
"""Most calls of one tool that are looked through; what is beyond waits in its queue for long."""
_STAMP = re.compile(rb'\{"enqueued_at":(\d+),"circuit":\d+,"canalgate":"([^"]*)"')
_METHOD = re.compile(rb'\\"method\\":\\"([A-Za-z/_]{1,64})\\"')


class CallState(StrEnum):
    """Where a call is."""

    WAITING = "waiting"
    """In its tool's queue, or on the direct list of the node that owns its session."""
    RUNNING = "running"
    """A node has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCall:
    """One call. Times are in seconds: ``age`` since it was queued, ``left`` until its deadline (below 0: it is over).

    ``node`` is the node that runs it, or for whose session it waits; empty if any may take it. ``tenant`` and
    ``client`` are empty for a call of a pool, ``method`` where it cannot be read.
    """

    id: InvocationId
    tool: ToolId
    state: CallState
    node: str
    tenant: str
    client: str
    mcp_session: str
    method: str
    attempt: int
    age: float
    left: float


class LiveCalls:
    """Reads and cancels. Fails closed: without Redis each method raises ``StoreUnavailable``.

    Calls come and go while they are read: one may be missing that moved meanwhile, and none is told twice.
    """

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def of_tool(self, tool: ToolId) -> list[LiveCall]:
        """The tool's calls, the oldest first."""
        with store_errors("reading calls"):
            seconds, micros = self._client.time()
            listed: Any = self._client.zrange(self._keys.nodes, 0, -1)
        nodes = [name.decode() for name in listed]
        now, queue = seconds * 1000 + micros // 1000, queue_of(tool)
        found: dict[InvocationId, LiveCall] = {}
        places = [
            *((self._keys.unacked(NodeId(node)), CallState.RUNNING, node) for node in nodes),
            *((self._keys.direct(NodeId(node), queue), CallState.WAITING, node) for node in nodes),
            (queue, CallState.WAITING, ""),
        ]
        for key, state, node in places:
            for beginning in islice(self._beginnings(key), MOST):
                call = _read(beginning, tool, state, node, now)
                if call is not None:
                    found.setdefault(call.id, call)
        return sorted(found.values(), key=lambda call: -call.age)

    def cancel(self, call: InvocationId, *, tools: list[ToolId], actor: str) -> LiveCall:
        """Take a call of one of these tools back, whoever waits for it: it ends with INVOCATION_CANCELLED.

        Raises :class:`InvocationNotFound` if there is none of this id now.
        """
        if not call:
            raise InvalidRequest("the id of a call must not be empty", field="id")
        found = next((live for tool in tools for live in self.of_tool(tool) if live.id == call), None)
        if found is None:
            raise InvocationNotFound("no call of this id is under way")
        event = AuditEvent(
            kind=EventKind.INVOCATION_CANCELLED,
            actor=actor,
            tool=found.tool,
            tenant=found.tenant,
            client=found.client,
            node=found.node,
            detail=call,
        )
        Journal(self._client, self._keys).record(event)
        with store_errors("cancelling a call"):
            self._client.publish(self._keys.cancel_channel, call)
        return found

    def _beginnings(self, key: str) -> Iterator[bytes]:
        place: Any = "0"
        while True:
            with store_errors("reading calls"):
                place, flat = run(self._client, "calls_peek", [key], [place, STEP, PEEKED])
            yield from flat[1::2]
            if place == b"0":
                return


def _read(beginning: bytes, tool: ToolId, state: CallState, node: str, now: int) -> LiveCall | None:
    """A call from the beginning of its message; None for another tool's, and for what has no head of ours."""
    found = _STAMP.match(beginning)
    if found is None:
        return None
    try:
        head = head_from_text(found[2].decode())
    except (FormatTooNew, InvalidRequest, UnicodeDecodeError):
        return None
    if head.queue != queue_of(tool):
        return None
    tenant, client, mcp_session = parts_of(head.session)
    method = _METHOD.search(beginning, found.end())
    return LiveCall(
        id=head.id,
        tool=tool,
        state=state,
        node=node,
        tenant=tenant,
        client=client,
        mcp_session=mcp_session,
        method="" if method is None else method[1].decode(),
        attempt=head.attempt,
        age=max(0, now - int(found[1])) / 1000,
        left=(head.deadline - now) / 1000,
    )

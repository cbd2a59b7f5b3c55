"""A call as this worker holds it, from the fetched message to the commands of its end."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from common.calls.contract import encoded_result, result_frame, result_record
from common.calls.head import Head
from common.domain.audit_call import MEMBER as AUDIT
from common.domain.audit_call import end_text
from common.domain.errors import WorkerLost
from common.domain.ids import InvocationId, NodeId
from common.domain.invocation import ExecutionResult, failed
from common.store.keys import Keys
from common.store.sealing import Seals
from common.telemetry.about import About
from common.telemetry.spans import Span
from gateway_worker.message import TaskMessage

_PACKED = re.compile(r"[!-~]{1,8000}")
Arguments = tuple[str, str, str, str, str, bytes, bytes, int, str, str]
"""What ``finish.lua`` takes for each call; first the delivery tag."""


class Taken(NamedTuple):
    """A message that was fetched and recorded as begun by ``node``.

    ``verdict`` is that of ``fetch.lua``; ``token`` the fencing token of the session, None if it has to be asked for:
    the answer of the fetch was lost.
    """

    node: NodeId
    tag: str
    raw: bytes
    queue: str
    verdict: bytes
    token: int | None

    def __repr__(self) -> str:
        """Without the message, which may hold a secret."""
        return f"Taken(node={self.node!r}, tag={self.tag!r}, queue={self.queue!r}, verdict={self.verdict!r})"


@dataclass(slots=True, kw_only=True)
class Held:
    """A call that this worker has begun, and the record that is its right to answer.

    ``cold`` says that its session had to start first, so that it is noted when it is sent (``sent``); whatever was
    fetched together with its session (``fetch.lua``) is so from the first. ``at_backend`` says that something of it may
    have been sent. ``resumable_until`` is that of the invocation; ``logged`` says that there is a log of its frames.
    ``about`` is what its log lines carry, with its span.
    """

    taken: Taken
    head: Head
    message: TaskMessage
    cold: bool = False
    sent: bool = False
    at_backend: bool = False
    resumable_until: int | None = None
    logged: bool = False
    about: About | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Of one whose fetch had no answer nobody has heard whether its session was claimed."""
        self.cold = self.cold or self.taken.verdict in (b"claimed", b"recovered")

    @property
    def node(self) -> NodeId:
        return self.taken.node

    @property
    def tag(self) -> str:
        return self.taken.tag

    @property
    def span(self) -> Span | None:
        """Its span; None if it is not traced."""
        return None if self.about is None else self.about.span


class End(NamedTuple):
    """The end of a call, as ``finish.lua`` takes it; ``held`` and ``result`` for whoever is told what came of it."""

    held: Held
    result: ExecutionResult
    record: bytes
    frame: bytes
    told: str
    """What the journal is told."""

    @property
    def node(self) -> NodeId:
        return self.held.node

    @property
    def queue(self) -> str:
        return self.held.head.queue

    @property
    def size(self) -> int:
        """Bytes of what it carries."""
        return len(self.record) + len(self.frame)

    def arguments(self) -> Arguments:
        """What the script wants to know of it."""
        return _arguments(
            self.held.tag, self.held.head, self.record, self.frame, cold=self.held.cold, told=self.told
        )

    def bare(self) -> BareEnd:
        """The same without the call."""
        return BareEnd(self.node, self.size, self.arguments())


class BareEnd(NamedTuple):
    """An end whose call this worker knows no more: nobody here is told what comes of it."""

    node: NodeId
    size: int
    parts: Arguments

    @property
    def queue(self) -> str:
        return self.parts[2]

    def arguments(self) -> Arguments:
        """What the script wants to know of it."""
        return self.parts


def end_of(held: Held, result: ExecutionResult, seals: Seals | None = None) -> End:
    """The end of a call that has a head. Raises ``orjson.JSONEncodeError`` for a result that cannot be written."""
    told = end_text(call_told(held.message.envelope), result, attempt=held.head.attempt)
    return End(held, result, *_written(held.head, result, seals), told)


def lost_end(node: NodeId, tag: str, head: Head, message: TaskMessage) -> BareEnd:
    """The end of a call that the node has a record of, and knows nothing else."""
    result = failed(WorkerLost("Redis was restarted, and what came of the call is unknown"))
    record, frame = _written(head, result)
    told = end_text(call_told(message.envelope), result, attempt=head.attempt)
    return BareEnd(node, len(record) + len(frame), _arguments(tag, head, record, frame, cold=True, told=told))


def call_told(envelope: Mapping[str, Any]) -> str:
    """What the journal is told of the call that a message is for; empty for one that is not audited."""
    told = envelope.get(AUDIT)
    # Whoever may write to the queue may write anything here, and finish.lua must be able to take it apart.
    return told if isinstance(told, str) and _PACKED.fullmatch(told) else ""


def _written(head: Head, result: ExecutionResult, seals: Seals | None = None) -> tuple[bytes, bytes]:
    """Record and frame of a result."""
    encoded = encoded_result(result, head.id, seals)
    record = result_record(
        head.id,
        result,
        done_at=datetime.now(UTC).isoformat(),
        encoded=encoded,
        sealed=seals is not None,
    )
    return record, result_frame(head.id, result, encoded=encoded) if head.reply else b""


def _arguments(tag: str, head: Head, record: bytes, frame: bytes, *, cold: bool, told: str) -> Arguments:
    return tag, head.id, head.queue, head.session, head.reply, record, frame, int(cold), told, head.permits


def end_of_message(
    message: TaskMessage, result: ExecutionResult, keys: Keys, *, ttl: float
) -> list[tuple[Any, ...]]:
    """The commands that end what has no head: the result for whoever asks, the frame for whoever waits."""
    encoded = encoded_result(result, message.id, keys.seals)
    record = result_record(
        message.id,
        result,
        done_at=datetime.now(UTC).isoformat(),
        encoded=encoded,
        sealed=keys.seals is not None,
    )
    key = keys.result(InvocationId(message.id))
    commands: list[tuple[Any, ...]] = [("SET", key, record, "PX", int(ttl * 1000))]
    if message.reply_to.startswith(keys.reply_prefix):
        commands.append(("PUBLISH", message.reply_to, result_frame(message.id, result, encoded=encoded)))
    else:
        commands.append(("PUBLISH", key, record))
    return commands

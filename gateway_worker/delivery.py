"""A call as this worker holds it, from the fetched message to the commands of its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from common.calls.contract import encoded_result, result_frame, result_record
from common.calls.head import Head
from common.domain.ids import InvocationId, NodeId
from common.domain.invocation import ExecutionResult
from common.store.keys import Keys
from gateway_worker.message import TaskMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A message that was fetched and recorded as begun by ``node``.

    ``verdict`` is that of ``fetch.lua``; ``token`` the fencing token of the session, None if it has to be asked for:
    the answer of the fetch was lost.
    """

    node: NodeId
    tag: str
    raw: bytes = field(repr=False)
    queue: str
    verdict: bytes
    token: int | None


@dataclass(slots=True, kw_only=True)
class Held:
    """A call that this worker has begun, and the record that is its right to answer.

    ``cold`` says that its session had to start first, so that it is noted when it is sent (``sent``).
    """

    taken: Taken
    head: Head
    message: TaskMessage
    cold: bool = False
    sent: bool = False

    @property
    def node(self) -> NodeId:
        return self.taken.node

    @property
    def tag(self) -> str:
        return self.taken.tag


class End(NamedTuple):
    """The end of a call, as ``finish.lua`` takes it; ``held`` and ``result`` for whoever is told what came of it."""

    held: Held
    result: ExecutionResult
    record: bytes
    frame: bytes

    def arguments(self) -> tuple[str | bytes | int, ...]:
        """What the script wants to know of it."""
        head = self.held.head
        return (
            self.held.tag,
            head.id,
            head.queue,
            head.session,
            head.reply,
            self.record,
            self.frame,
            int(self.held.cold),
        )


def end_of(held: Held, result: ExecutionResult) -> End:
    """The end of a call that has a head. Raises ``orjson.JSONEncodeError`` for a result that cannot be written."""
    encoded = encoded_result(result)
    call = held.head.id
    record = result_record(call, result, done_at=datetime.now(UTC).isoformat(), encoded=encoded)
    frame = result_frame(call, result, encoded=encoded) if held.head.reply else b""
    return End(held, result, record, frame)


def end_of_message(
    message: TaskMessage, result: ExecutionResult, keys: Keys, *, ttl: float
) -> list[tuple[Any, ...]]:
    """The commands that end what has no head: the result for whoever asks, the frame for whoever waits."""
    encoded = encoded_result(result)
    record = result_record(message.id, result, done_at=datetime.now(UTC).isoformat(), encoded=encoded)
    key = keys.result(InvocationId(message.id))
    commands: list[tuple[Any, ...]] = [("SET", key, record, "PX", int(ttl * 1000))]
    if message.reply_to.startswith(keys.reply_prefix):
        commands.append(("PUBLISH", message.reply_to, result_frame(message.id, result, encoded=encoded)))
    else:
        commands.append(("PUBLISH", key, record))
    return commands

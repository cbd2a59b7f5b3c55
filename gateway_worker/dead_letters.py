"""What becomes of a poisoned message: its sender is told, and it goes to the dead letters."""

from __future__ import annotations

import structlog

from common.calls.dead_letters import dead_letter_command
from common.domain.ids import NodeId
from common.domain.invocation import failed
from common.store.keys import Keys
from gateway_worker.message import PoisonMessage, Sender, TaskMessage, sender_of
from gateway_worker.nodes import end_of_call
from gateway_worker.outbox import Command, Outbox

log = structlog.get_logger(__name__)


class DeadLetterBox:
    """Takes a node's poisoned messages. Nothing of their contents but the ids is logged."""

    def __init__(self, node: NodeId, keys: Keys, outbox: Outbox, *, result_ttl: float) -> None:
        self._node = node
        self._keys = keys
        self._outbox = outbox
        self._result_ttl = result_ttl

    def put(self, tag: str, raw: bytes, queue: str, poison: PoisonMessage) -> None:
        """Answer whoever waits for it, then move it from this node's record to the dead letters."""
        sender = sender_of(raw)
        self._tell(sender, queue, poison)
        self._outbox.put(self._letter(sender, queue, poison, tag=tag))

    def put_unrecorded(self, raw: bytes, poison: PoisonMessage) -> None:
        """The same for a message of a dead node, whose record is gone already."""
        sender = sender_of(raw)
        self._tell(sender, "", poison)
        self._outbox.put(self._letter(sender, "", poison, message=raw))

    def closing(self, tag: str, message: TaskMessage, poison: PoisonMessage) -> Command:
        """Takes the place of the acknowledgement of a call that was begun, and turned out to be none."""
        sender = Sender(id=message.id, task=message.task)
        return self._letter(sender, message.queue, poison, tag=tag)

    def _tell(self, sender: Sender, queue: str, poison: PoisonMessage) -> None:
        if sender.id:
            lost = TaskMessage(
                id=sender.id, task=sender.task, queue=queue, reply_to=sender.reply_to, headers={}, envelope={}
            )
            self._outbox.put(*end_of_call(lost, failed(poison), self._keys, ttl=self._result_ttl))

    def _letter(
        self, sender: Sender, queue: str, poison: PoisonMessage, *, tag: str = "", message: bytes = b""
    ) -> Command:
        facts = {"reason": poison.reason.value, "detail": poison.message, "queue": queue, "node": self._node}
        facts |= {"task": sender.task, "task_id": sender.id}
        log.error(
            "dead_letter", reason=facts["reason"], detail=poison.message, queue=queue, invocation=sender.id
        )
        return dead_letter_command(self._keys, self._node, facts, tag=tag, message=message)

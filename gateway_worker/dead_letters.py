"""What becomes of a poisoned message: its sender is told, and it goes to the dead letters."""

from __future__ import annotations

import structlog

from common.calls.dead_letters import dead_letter_command
from common.domain.invocation import failed
from common.store.keys import Keys
from gateway_worker.delivery import Taken, end_of_message
from gateway_worker.message import PoisonMessage, Sender, TaskMessage, sender_of
from gateway_worker.outbox import Command, Outbox

log = structlog.get_logger(__name__)


class DeadLetterBox:
    """Takes a node's poisoned messages. Nothing of their contents but the ids is logged."""

    def __init__(self, keys: Keys, outbox: Outbox, *, result_ttl: float) -> None:
        self._keys = keys
        self._outbox = outbox
        self._result_ttl = result_ttl

    def put(self, taken: Taken, poison: PoisonMessage) -> None:
        """Answer whoever waits for it, then move it from its node's record to the dead letters."""
        sender = sender_of(taken.raw)
        if sender.id:
            lost = TaskMessage(
                id=sender.id,
                task=sender.task,
                queue=taken.queue,
                reply_to=sender.reply_to,
                headers={},
                envelope={},
            )
            self._outbox.put(*end_of_message(lost, failed(poison.told), self._keys, ttl=self._result_ttl))
        self._outbox.put(self._letter(taken, sender, poison, tag=taken.tag))

    def keep(self, taken: Taken, message: TaskMessage, poison: PoisonMessage) -> None:
        """A letter of a call that was begun, and turned out to be none; it has its end already."""
        sender = Sender(id=message.id, task=message.task)
        self._outbox.put(self._letter(taken, sender, poison, message=taken.raw))

    def _letter(
        self, taken: Taken, sender: Sender, poison: PoisonMessage, *, tag: str = "", message: bytes = b""
    ) -> Command:
        facts = {
            "reason": poison.reason.value,
            "detail": poison.message,
            "queue": taken.queue,
            "node": taken.node,
            "task": sender.task,
            "task_id": sender.id,
        }
        log.error(
            "dead_letter",
            reason=facts["reason"],
            detail=poison.message,
            queue=taken.queue,
            invocation=sender.id,
        )
        return dead_letter_command(
            self._keys, taken.node, facts, tag=tag, message=message, recorded=taken.raw
        )

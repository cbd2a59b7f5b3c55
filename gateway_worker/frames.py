"""What is sent along while a call runs, to whoever waits for it; and logged, if its client may come back for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import structlog

from common.calls.call_stream import frame_script
from common.calls.contract import FRAME, frame_of, notification_payload
from common.store.keys import Keys
from common.store.scripts import script
from gateway_worker.delivery import Held
from gateway_worker.outbox import Outbox

log = structlog.get_logger(__name__)


class Frames:
    """One a worker. Belongs to its event loop."""

    def __init__(self, keys: Keys, outbox: Outbox, *, result_ttl: float) -> None:
        """``result_ttl`` is in seconds."""
        self._keys = keys
        self._outbox = outbox
        self._result_ttl_ms = int(result_ttl * 1000)

    def notify(self, held: Held, method: str, params: Mapping[str, Any]) -> None:
        """Send a notification; one that cannot be written is left out."""
        try:
            payload = self._keys.sealed(notification_payload(method, params), FRAME, held.head.id)
        except orjson.JSONEncodeError as error:
            # Nested deeper than orjson writes. Whoever hands us a notification has other callers' messages at hand.
            log.warning("notification_not_sendable", invocation=held.head.id, error=str(error))
            return
        self._outbox.put_notification(frame_command(self._keys, held, payload))

    def end(self, held: Held) -> None:
        """The call has ended: what it sent along can be fetched for as long as its result."""
        if held.logged:
            self._outbox.put(("PEXPIRE", self._keys.call_stream(held.head.id), self._result_ttl_ms))


def frame_command(keys: Keys, held: Held, payload: bytes, *, again: bool = False) -> tuple[Any, ...]:
    """The command that sends a frame. One that is sent ``again`` stands in the log already."""
    head = held.head
    if held.resumable_until is None:
        return ("PUBLISH", head.reply, frame_of(head.id, payload))
    held.logged = True
    named, args = frame_script(
        keys, head.id, payload, reply=head.reply, until=held.resumable_until, again=again
    )
    return ("EVALSHA", script("call_frame").sha, len(named), *named, *args)

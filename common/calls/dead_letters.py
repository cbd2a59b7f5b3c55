"""Dead letters: messages of tool queues that no worker can run, kept for a person to look at.

A message is a dead letter when nobody can read from it which call is meant. A call that can be read and is refused
(an unknown tool, a missing tenant) is answered like any other and needs no letter.

The newest :data:`MOST_LETTERS` are kept, and of each message at most :data:`KEPT_BYTES`: together never more than
64 MiB of Redis. A message may hold the arguments of a call, so it is shown only on request and never logged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from common.audit.journal import audit_command
from common.domain.audit import AuditEvent, EventKind
from common.domain.errors import InvalidRequest, PayloadUnreadable
from common.domain.ids import NodeId
from common.store.client import Client, store_errors
from common.store.keys import Keys
from common.store.scripts import script
from common.store.sealing import BEGINNING

MOST_LETTERS = 1000
KEPT_BYTES = 64 * 1024
"""Of a larger message the first and the last half of this are kept, with its full size and SHA-1."""
FACT_LENGTH = 300
"""Longest name of a task or an id that is taken over from a message, in characters."""
LETTER = "letter"
"""What is sealed under the name of the queue."""
ID_FORM = "[0-9]{1,20}-[0-9]{1,20}"
_ID = re.compile(ID_FORM)


class Reason(StrEnum):
    """Why a message cannot be run."""

    OVERSIZED = "oversized"
    """Larger than any message of ours can be: it was cut before it left Redis."""
    NOT_JSON = "not_json"
    NOT_CELERY = "not_celery"
    """JSON, but no envelope of Celery's protocol 2 (protocol 1, missing headers)."""
    UNKNOWN_TASK = "unknown_task"
    """No worker has a task of this name."""
    BAD_BODY = "bad_body"
    """The body is no task body of protocol 2 in JSON (another serialiser, compressed, damaged)."""
    BAD_INVOCATION = "bad_invocation"
    """The argument of ``gateway.invoke`` is no invocation, or its head is none."""
    NEWER_FORMAT = "newer_format"
    """A newer release wrote it than the worker that took it; whoever waited was told FORMAT_TOO_NEW."""
    REFUSED = "refused"
    """Celery's own path, which takes delayed and foreign tasks, could not read it."""
    NOT_BEGUN = "not_begun"
    """The worker that took it failed over it, by a fault of its own; its log says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message that could not be run, and what is known of it. ``sha1`` is that of the whole message."""

    id: str
    at: datetime
    reason: str
    detail: str
    queue: str
    node: str
    task: str
    task_id: str
    size: int
    sha1: str
    message: bytes = field(repr=False)

    @property
    def truncated(self) -> bool:
        """True if ``message`` is only the beginning and the end of it."""
        return len(self.message) < self.size


class DeadLetters:
    """What the dead letters of one gateway hold. Raises :class:`StoreUnavailable` if Redis does not answer."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._key = keys.dead_letters

    def newest(self, most: int, *, before: str | None = None) -> list[DeadLetter]:
        """The newest first; only those older than the id ``before``. Raises :class:`InvalidRequest` if it is none."""
        upto = "+" if before is None else f"({checked_letter_id(before)}"
        with store_errors("reading dead letters"):
            found: Any = self._client.xrevrange(self._key, max=upto, count=most)
        return [_letter(self._keys, *entry) for entry in found]

    def get(self, letter_id: str) -> DeadLetter | None:
        """One letter, or None. Raises :class:`InvalidRequest` for what is no id."""
        wanted = checked_letter_id(letter_id)
        with store_errors("reading a dead letter"):
            found: Any = self._client.xrange(self._key, min=wanted, max=wanted)
        return _letter(self._keys, *found[0]) if found else None

    def read(self, letter_id: str, *, actor: str) -> DeadLetter | None:
        """The same for somebody who will see the message: recorded before he does. Raises as :meth:`get`."""
        found = self.get(letter_id)
        if found is not None:
            with store_errors("recording who reads a dead letter"):
                self._client.execute_command(  # type: ignore[no-untyped-call]
                    *audit_command(self._keys, _event(EventKind.DEAD_LETTER_READ, found, actor))
                )
        return found

    def drop(self, letter_id: str, *, actor: str) -> bool:
        """Remove a letter for good; False if there is none of this id. Raises :class:`InvalidRequest` as above.

        Race: two who drop the same one at the same time are both recorded, and one of them is told that it was gone.
        """
        found = self.get(letter_id)
        if found is None:
            return False
        with (
            store_errors("dropping a dead letter"),
            self._client.pipeline(transaction=True) as pipe,
        ):
            pipe.xdel(self._key, letter_id)
            pipe.execute_command(  # type: ignore[no-untyped-call]
                *audit_command(self._keys, _event(EventKind.DEAD_LETTER_DROPPED, found, actor))
            )
            return bool(pipe.execute()[0])

    def count(self) -> int:
        """How many there are."""
        with store_errors("counting dead letters"):
            return int(self._client.xlen(self._key))


def dead_letter_command(
    keys: Keys,
    node: NodeId,
    facts: Mapping[str, str],
    *,
    tag: str = "",
    message: bytes = b"",
    recorded: bytes = b"",
) -> tuple[str | bytes | int, ...]:
    """The command that makes a dead letter of what ``node`` recorded under ``tag``, and acknowledges it.

    A call that was counted, as its head shows, is counted no more. With ``tag`` it may be sent again: a second letter
    is never made. For a message that is recorded nowhere any more give ``message`` instead; sent twice, that one makes
    two letters. ``recorded`` is the message under the tag: where payloads are sealed, a sealed copy takes its place, as
    its sender may have sealed nothing. The command carries its script along instead of a digest, so that it also
    works on a Redis that has forgotten its scripts.
    """
    told = [part for name, value in facts.items() for part in (name, value[:FACT_LENGTH])]
    source = script("dead_letter").source
    where = (keys.dead_letters, keys.unacked(node))
    kept = (
        b""
        if keys.seals is None
        else keys.seals.seal(_cut(message or recorded), LETTER, facts["queue"][:FACT_LENGTH])
    )
    args = (keys.begin, node, tag, message, MOST_LETTERS, KEPT_BYTES, kept)
    return ("EVAL", source, len(where), *where, *args, *told)


def checked_letter_id(letter_id: str) -> str:
    """The id, which looks like one. Raises :class:`InvalidRequest`."""
    if not _ID.fullmatch(letter_id):
        raise InvalidRequest("the id of a dead letter looks like 1763831000000-0; list them", field="id")
    return letter_id


def _event(kind: EventKind, letter: DeadLetter, actor: str) -> AuditEvent:
    """Names alone: what stands in the message may hold arguments, and so may what its sender called its task."""
    return AuditEvent(kind=kind, actor=actor, reason=letter.reason, detail=f"{letter.id} of {letter.queue}")


def _cut(message: bytes) -> bytes:
    """What is kept of a message, as ``dead_letter.lua`` cuts it."""
    if message[:1] == b"\xff":
        message = message.partition(b"\n")[2]
    half = KEPT_BYTES // 2
    return message if len(message) <= KEPT_BYTES else message[:half] + message[-half:]


def _opened(keys: Keys, message: bytes, queue: str) -> bytes:
    """A message as it was; one that cannot be opened here is shown as it lies there."""
    if keys.seals is None or not message.startswith(BEGINNING):
        return message
    try:
        return keys.seals.open(message, LETTER, queue)
    except PayloadUnreadable:
        return message


def _letter(keys: Keys, raw_id: bytes, fields: Mapping[bytes, bytes]) -> DeadLetter:
    name = raw_id.decode()
    known: dict[str, Any] = {
        fact: fields.get(fact.encode(), b"").decode(errors="replace")
        for fact in ("reason", "detail", "queue", "node", "task", "task_id", "sha1")
    }
    at = datetime.fromtimestamp(int(name.partition("-")[0]) / 1000, UTC)
    size = int(fields.get(b"size", b"0"))
    message = _opened(keys, fields.get(b"message", b""), known["queue"])
    return DeadLetter(id=name, at=at, size=size, message=message, **known)

"""The journal, a stream in Redis.

Its newest :data:`MOST_EVENTS` events are kept (and up to a few hundred more, since Redis trims by the block). Where an
event tells of a change in Redis, the script that makes the change writes the event in the same step; everything else
is written with :func:`audit_command` or :meth:`Journal.record`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.domain.audit import AuditEvent, AuditRecord, event_fields
from common.domain.errors import InvalidRequest
from common.store.client import Client, store_errors
from common.store.keys import Keys

MOST_EVENTS = 100_000


def audit_command(keys: Keys, event: AuditEvent) -> tuple[str | int, ...]:
    """The command that records an event, for a pipeline. Sent twice, it makes two records."""
    return ("XADD", keys.audit, "MAXLEN", "~", MOST_EVENTS, "*", *event_fields(event))


class Journal:
    """The journal of one gateway. Fails closed: without Redis each method raises ``StoreUnavailable``."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def record(self, event: AuditEvent) -> str:
        """Write an event; return the id of its record."""
        with store_errors("writing the audit journal"):
            command = audit_command(self._keys, event)
            written: bytes = self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        return written.decode()

    def newest(self, most: int) -> list[AuditRecord]:
        """The newest events, the newest first. Raises :class:`InvalidRequest` for a number below 1."""
        if most < 1:
            raise InvalidRequest("the number of events must be 1 or more", field="most")
        with store_errors("reading the audit journal"):
            found: Any = self._client.xrevrange(self._keys.audit, count=most)
        return [_record(*entry) for entry in found]


def _record(raw_id: bytes, fields: Mapping[bytes, bytes]) -> AuditRecord:
    name = raw_id.decode()
    told = {key.decode(errors="replace"): value.decode(errors="replace") for key, value in fields.items()}
    return AuditRecord(id=name, at=int(name.partition("-")[0]), fields=told)

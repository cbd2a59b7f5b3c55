"""The journal, a stream in Redis.

Where an event tells of a change in Redis, the script that makes the change writes the event in the same step;
everything else is written with :func:`audit_command` or :meth:`Journal.record`. Whoever writes never trims: the keeper
does (:mod:`common.audit.keeper`), behind what every sink has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from common.domain.audit import AuditEvent, AuditRecord, event_fields
from common.domain.audit_call import unpacked
from common.domain.errors import InvalidRequest
from common.store.client import Client, store_errors
from common.store.keys import Keys

PAGE = 1000
"""Records that are read at a time."""
LOOK_AGAIN = 0.2
"""Seconds between two looks of a subscriber whose connection had nothing new."""

Chosen = Callable[[AuditRecord], bool]


def audit_command(keys: Keys, event: AuditEvent) -> tuple[str | int, ...]:
    """The command that records an event, for a pipeline. Sent twice, it makes two records."""
    return ("XADD", keys.audit, "*", *event_fields(event))


@dataclass(frozen=True, slots=True)
class LookBack:
    """Records, the newest first, and the id behind which one looks on; None if there is nothing older."""

    records: list[AuditRecord]
    further: str | None


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

    def newest(
        self, most: int, *, since: int | None = None, chosen: Chosen = lambda _record: True
    ) -> list[AuditRecord]:
        """The newest events, the newest first; only those not before ``since`` (Redis ms) that ``chosen`` takes.

        It reads until it has so many, and so the whole journal where ``chosen`` takes few; :meth:`look_back` does not.
        Raises :class:`InvalidRequest` for a number below 1.
        """
        return self.look_back(most, since=since, chosen=chosen).records

    def look_back(
        self,
        most: int,
        *,
        since: int | None = None,
        before: str | None = None,
        chosen: Chosen = lambda _record: True,
        most_read: int | None = None,
    ) -> LookBack:
        """As :meth:`newest`, but ``most_read`` records are read at most, in whole thousands.

        ``before`` is the id of the record behind which, on the way back, it goes on. Raises :class:`InvalidRequest` for
        a number below 1.
        """
        if most < 1:
            raise InvalidRequest("the number of events must be 1 or more", field="most")
        found: list[AuditRecord] = []
        first, read = "-" if since is None else str(since), 0
        while True:
            last = "+" if before is None else f"({before}"
            with store_errors("reading the audit journal"):
                page: Any = self._client.xrevrange(self._keys.audit, last, first, count=PAGE)
            records = [record_of(*entry) for entry in page]
            found += [record for record in records if chosen(record)]
            if len(found) > most:
                return LookBack(found[:most], found[most - 1].id)
            if len(records) < PAGE:
                return LookBack(found, None)
            before, read = records[-1].id, read + PAGE
            if len(found) == most or (most_read is not None and read >= most_read):
                return LookBack(found, before)

    def after(self, last: str, most: int = PAGE) -> list[AuditRecord]:
        """The records behind the one with the id ``last``, the oldest first; ``0`` is before all of them."""
        with store_errors("reading the audit journal"):
            found: Any = self._client.xrange(self._keys.audit, f"({last}", "+", count=most)
        return [record_of(*entry) for entry in found]

    def newest_id(self) -> str:
        """The id of the newest record; ``0-0`` if there is none."""
        with store_errors("reading the audit journal"):
            found: Any = self._client.xrevrange(self._keys.audit, count=1)
        return found[0][0].decode() if found else "0-0"

    def subscribe(
        self,
        last: str = "$",
        *,
        chosen: Chosen = lambda _record: True,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Iterator[AuditRecord]:
        """Every record behind the one with the id ``last`` (``$``: from now on), as they come, while they are wanted.

        A subscriber that comes back gives the id of the last record it had. What the journal holds no more by then is
        not told: sinks are what may not miss anything. ``wanted`` is asked at least once a second.
        """
        at = self.newest_id() if last == "$" else last
        while wanted():
            records = self.after(at)
            for record in records:
                at = record.id
                if chosen(record):
                    yield record
            if not records:
                self._wait(at)

    def _wait(self, last: str) -> None:
        """Wait for something behind ``last``, for a second at most."""
        begun = time.monotonic()
        with store_errors("waiting for the audit journal"):
            found = self._client.xread({self._keys.audit: last}, count=1, block=1000)
        if not found and time.monotonic() - begun < LOOK_AGAIN:
            time.sleep(LOOK_AGAIN)


def record_of(raw_id: bytes, raw: Mapping[bytes, bytes]) -> AuditRecord:
    """What stands in the stream, as readers see it."""
    name, told = raw_id.decode(), texts(raw)
    return AuditRecord(id=name, at=int(name.partition("-")[0]), fields=unpacked(told))


def texts(raw: Mapping[bytes, bytes]) -> dict[str, str]:
    """The fields of an entry as text."""
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in raw.items()}

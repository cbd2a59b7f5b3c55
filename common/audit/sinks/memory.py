"""Records in memory: for tests, and for programs that embed the keeper."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from common.domain.audit_chain import SealedRecord
from common.settings.audit_sinks import MemoryOptions


class MemorySink:
    """Implements :class:`common.ports.AuditSink`; holds the newest records, in their order."""

    def __init__(self, options: MemoryOptions) -> None:
        self.records: deque[SealedRecord] = deque(maxlen=options.most)

    @property
    def last(self) -> SealedRecord | None:
        """The newest record."""
        return self.records[-1] if self.records else None

    def write(self, records: Sequence[SealedRecord]) -> int:
        """Hold them."""
        last = self.records[-1].seq if self.records else 0
        self.records.extend(record for record in records if record.seq > last)
        return self.records[-1].seq if self.records else 0

    def close(self) -> None:
        """Nothing is let go: whoever made it may read it."""

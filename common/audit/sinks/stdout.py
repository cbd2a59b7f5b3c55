"""Records on standard output, one JSON object a line, for whatever collects that."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from common.domain.audit_chain import SealedRecord
from common.settings.audit_sinks import StdoutOptions


class StdoutSink:
    """Implements :class:`common.ports.AuditSink`. Safe is what was written: the rest is the collector's."""

    def __init__(self, _options: StdoutOptions) -> None:
        self._last = 0

    def write(self, records: Sequence[SealedRecord]) -> int:
        """Write them; whoever reads the output may hold this up."""
        fresh = [record for record in records if record.seq > self._last]
        if fresh:
            sys.stdout.buffer.write(b"".join(record.line() for record in fresh))
            sys.stdout.buffer.flush()
            self._last = fresh[-1].seq
        return self._last

    def close(self) -> None:
        """Nothing is held."""

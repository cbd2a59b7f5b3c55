"""A sink of one's own: the audit journal in a SQLite file.

    audit:
      sinks:
        - {type: "examples.sqlite_sink:SqliteSink", name: sqlite, options: {path: /var/lib/canalgate/audit.db}}

`tests/common/audit/test_contract.py` holds it to what every sink must do.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from common.domain.audit_chain import SealedRecord


class SqliteSink:
    """Implements ``common.ports.AuditSink``."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        # The sink is made in one thread and used in another, never in two at a time.
        self._database = sqlite3.connect(options["path"], check_same_thread=False)
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS audit (seq INTEGER PRIMARY KEY, id TEXT, event TEXT, prev TEXT, hash TEXT)"
        )
        self._safe = 0

    def write(self, records: Sequence[SealedRecord]) -> int:
        """A batch is one transaction; a number that is there already is left alone."""
        if records:
            with self._database:
                self._database.executemany(
                    "INSERT OR IGNORE INTO audit VALUES (?, ?, ?, ?, ?)",
                    [(r.seq, r.id, json.dumps(dict(r.event)), r.prev, r.hash) for r in records],
                )
            self._safe = records[-1].seq
        return self._safe

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

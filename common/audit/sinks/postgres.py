"""Records as rows of a PostgreSQL table, a batch in one transaction. It needs the extra ``canalgate[postgres]``.

The number is the key: what comes again changes nothing. What stands under a number and is another record is never
passed over: the sink fails until somebody has looked at it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import orjson
import structlog

from common.domain.audit_chain import SealedRecord
from common.domain.errors import ConfigurationError
from common.settings.audit_sinks import PostgresOptions

log = structlog.get_logger(__name__)

LAST_WITHIN = 2.0
"""Seconds."""
PAGE = 1000
"""Rows that are read at a time."""
CREATE = """CREATE TABLE IF NOT EXISTS {table} (
  seq bigint PRIMARY KEY,
  id text NOT NULL,
  time timestamptz GENERATED ALWAYS AS (to_timestamp(split_part(id, '-', 1)::double precision / 1000)) STORED,
  event json NOT NULL,
  prev text NOT NULL,
  hash text NOT NULL
)"""
"""``json`` and not ``jsonb``, which refuses the character U+0000: a caller can put it into a name."""
INSERT = """INSERT INTO {table} (seq, id, event, prev, hash)
  SELECT s, i, e::json, p, h
  FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[]) AS given (s, i, e, p, h)
  ON CONFLICT (seq) DO NOTHING"""
THERE = "SELECT count(*) FROM {table} JOIN unnest(%s::bigint[], %s::text[]) AS given (s, h) ON seq = s AND hash = h"
_ROWS = "SELECT seq, id, event::text, prev, hash FROM {table}"
NEWEST = f"{_ROWS} ORDER BY seq DESC LIMIT 1"
ALL = f"{_ROWS} ORDER BY seq"
_DURABLE = (
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)
"""A commit that the server may forget is not safe."""


class OtherRecords(Exception):
    """The table holds other records under the same numbers: it belongs to another journal, or was changed."""


class PostgresSink:
    """Implements :class:`common.ports.AuditSink`. Safe is what is committed. Belongs to one thread at a time."""

    def __init__(self, options: PostgresOptions) -> None:
        """Connects to nothing yet. Raises :class:`ConfigurationError` without the package."""
        _psycopg()
        self._options = options
        self._connection: Any = None
        self._safe = 0

    @cached_property
    def last(self) -> SealedRecord | None:
        """The last record in the table as it was first asked for; None if there is none, or no answer soon.

        The keeper asks before it begins, while its lease runs: hence a thread, and no longer wait.
        """
        found: list[SealedRecord] = []
        asking = threading.Thread(target=lambda: found.extend(_newest(self._options)), daemon=True)
        asking.start()
        asking.join(LAST_WITHIN)
        return found[0] if found else None

    def write(self, records: Sequence[SealedRecord]) -> int:
        """Insert them in one transaction. Raises psycopg's errors, and :class:`OtherRecords`."""
        if records:
            with self._connected() as connection, connection.transaction():
                self._insert(connection, records)
            self._safe = records[-1].seq
        return self._safe

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _insert(self, connection: Any, records: Sequence[SealedRecord]) -> None:
        numbers, digests = [record.seq for record in records], [record.hash for record in records]
        connection.execute(
            _named(INSERT, self._options.table),
            (
                numbers,
                [record.id for record in records],
                [orjson.dumps(dict(record.event)).decode() for record in records],
                [record.prev for record in records],
                digests,
            ),
        )
        found = connection.execute(_named(THERE, self._options.table), (numbers, digests)).fetchone()
        if found[0] != len(records):
            raise OtherRecords(f"the table holds other records between {numbers[0]} and {numbers[-1]}")

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """The connection, made anew after any failure."""
        try:
            if self._connection is None:
                self._connection = _connect(self._options)
                with self._connection.transaction():
                    self._connection.execute(_DURABLE)
                    if self._options.create:
                        self._connection.execute(_named(CREATE, self._options.table))
            yield self._connection
        except BaseException:
            self.close()
            raise


def stored(options: PostgresOptions) -> Iterator[SealedRecord]:
    """All records of the table in the order of their numbers, a page at a time. Raises psycopg's errors."""
    with _connect(options) as connection, connection.cursor(name="canalgate_audit") as cursor:
        cursor.itersize = PAGE
        cursor.execute(_named(ALL, options.table))
        for row in cursor:
            yield _record(row)


def _newest(options: PostgresOptions) -> list[SealedRecord]:
    try:
        with _connect(options) as connection:
            row = connection.execute(_named(NEWEST, options.table)).fetchone()
    except _psycopg().Error as error:
        # No table yet, or no server: what it lacks is delivered, and what it has is not passed over.
        log.info("audit_sink_not_asked", error=type(error).__name__)
        return []
    return [] if row is None else [_record(row)]


def _connect(options: PostgresOptions) -> Any:
    seconds = max(1, round(options.timeout))
    connection = _psycopg().connect(
        str(options.url),
        connect_timeout=seconds,
        tcp_user_timeout=seconds * 1000,
        keepalives_idle=seconds,
        application_name="canalgate-audit",
    )
    connection.execute(
        "SELECT set_config('statement_timeout', %s, false)", (str(round(options.timeout * 1000)),)
    )
    connection.commit()
    return connection


def _record(row: Sequence[Any]) -> SealedRecord:
    seq, name, event, prev, digest = row
    return SealedRecord(int(seq), name, orjson.loads(event), prev, digest)


def _named(statement: str, table: str) -> Any:
    """The statement for this table."""
    sql = _psycopg().sql
    return sql.SQL(statement).format(table=sql.Identifier(*table.split(".")))


def _psycopg() -> Any:
    try:
        import psycopg
        import psycopg.sql
    except ImportError as error:
        raise ConfigurationError(
            "audit.sinks: the sink postgres needs the package psycopg: install canalgate[postgres]",
            field="audit.sinks",
        ) from error
    return psycopg

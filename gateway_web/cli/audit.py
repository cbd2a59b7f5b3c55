"""``canalgate audit``: what happened to tools, sessions and calls, and who did it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from common.audit.journal import MOST_EVENTS, Journal
from common.domain.audit import AuditRecord
from gateway_web.cli.output import for_terminal, out, say_json
from gateway_web.cli.where import store

_FIRST = frozenset({"kind", "at"})


def audit(
    most: Annotated[
        int, typer.Option("-n", "--most", min=1, max=MOST_EVENTS, help="How many, the newest first.")
    ] = 50,
    config: Annotated[Path | None, typer.Option("--config", help="Settings file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002
) -> None:
    """Print the newest events of the audit journal, one a line."""
    where = store(config)
    records = Journal(where.client, where.keys).newest(most)
    if as_json:
        say_json([{**record.fields, "id": record.id, "at": _time(record)} for record in records])
        return
    for record in records:
        out.print(for_terminal(_line(record)))


def _line(record: AuditRecord) -> str:
    told = [f"{name}={value}" for name, value in record.fields.items() if name not in _FIRST and value]
    return " ".join([_time(record), record.kind, *told])


def _time(record: AuditRecord) -> str:
    return datetime.fromtimestamp(record.at / 1000, UTC).isoformat(timespec="milliseconds")

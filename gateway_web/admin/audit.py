"""``/admin/v1/audit``: what happened, page by page, and as it happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog
from flask import Response, request
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.models.tag import Tag

from common.audit.chain_store import ChainStore
from common.audit.journal import Journal
from common.domain.audit import AuditRecord
from common.domain.audit_chain import START, id_key, is_id
from common.domain.errors import InvalidRequest, StoreUnavailable
from common.identity.operators import Role
from common.mcp.jsonrpc import dumps
from gateway_web.admin.answers import answer
from gateway_web.admin.models import AuditEntry, AuditFilter, AuditPage, AuditQuery, StreamHeaders
from gateway_web.admin.paging import decoded, encoded
from gateway_web.admin.plane import Plane
from gateway_web.admin.session import acting_as, still_acting_as
from gateway_web.ingress.disconnect import hung_up
from gateway_web.ingress.events import PING, RETRY_MS, STREAM_HEADERS, event

log = structlog.get_logger(__name__)

TAG = Tag(name="audit", description="The audit journal.")
STREAM = {
    "description": "Server-sent events.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}
MOST_READ = 10_000
"""Records that one page looks at: a rare filter must not read a whole journal within one request."""
LOOK = 0.3
"""Seconds between two looks at a journal that had nothing new. No connection to Redis is held meanwhile."""


def add_audit(api: APIBlueprint, gateway: Plane) -> None:
    """Give the API the routes of the journal."""
    journal, chain = Journal(gateway.client, gateway.keys), ChainStore(gateway.client, gateway.keys)

    @api.get("/audit", tags=[TAG], responses={200: AuditPage})
    def list_events(query: AuditQuery) -> Response:
        """List the events that Redis still holds, the newest first.

        A page looks at 10,000 of them at most: where few are asked for it may have few items, or none, and a cursor all
        the same.
        """
        acting_as(Role.VIEWER)
        before = None if query.cursor is None else _place(decoded(query.cursor), "query.cursor")
        since = None if query.since is None else int(query.since.timestamp() * 1000)
        found = journal.look_back(
            query.limit, since=since, before=before, chosen=chosen_by(query), most_read=MOST_READ
        )
        cursor = None if found.further is None else encoded(found.further)
        return answer(AuditPage(items=[_entry(record) for record in found.records], next_cursor=cursor))

    @api.get("/audit/stream", tags=[TAG], responses={200: STREAM})
    def stream_events(query: AuditFilter, header: StreamHeaders) -> Response:
        """Send events as they come; with `Last-Event-ID` from there on. `event: gap`: Redis no longer holds some."""
        acting_as(Role.VIEWER)
        last = header.last_event_id
        live = LiveAudit(
            journal=journal,
            chain=chain,
            chosen=chosen_by(query),
            gone=partial(hung_up, request.environ),
            allowed=still_acting_as(Role.VIEWER),
            ping=gateway.settings.web.ping_interval,
        )
        at = journal.newest_id() if last is None else _place(last, "header.Last-Event-ID")
        return Response(live.events(at), headers=STREAM_HEADERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveAudit:
    """The journal for one client that listens. Whoever is slow waits by himself: the journal is only read.

    ``gone`` tells whether the client has hung up, ``allowed`` whether he may still listen; ``ping`` is the longest
    silence, in seconds.
    """

    journal: Journal
    chain: ChainStore
    chosen: Callable[[AuditRecord], bool]
    gone: Callable[[], bool]
    allowed: Callable[[], bool]
    ping: float

    def events(self, at: str) -> Iterator[bytes]:
        """Everything behind the id ``at`` that is chosen.

        It ends when the client may not listen any more, and without Redis: then he comes back.
        """
        yield event(None, name=at, retry=RETRY_MS)
        told, silent_at = at, time.monotonic() + self.ping
        try:
            while not self.gone() and self.allowed():
                records = self.journal.after(at)
                if records and (gap := self._gap(at, records[0].id)):
                    yield gap
                for record in records:
                    at = record.id
                    if self.chosen(record):
                        yield event(dumps(_entry(record).model_dump()), name=at, kind="audit")
                        told, silent_at = at, time.monotonic() + self.ping
                if time.monotonic() >= silent_at:
                    # An event without data shows nothing, and moves on the place to come back to.
                    yield PING if told == at else event(None, name=at)
                    told, silent_at = at, time.monotonic() + self.ping
                if not records:
                    time.sleep(LOOK)
        except StoreUnavailable as error:
            log.info("audit_stream_broke", error=error.message)

    def _gap(self, at: str, first: str) -> bytes | None:
        """Word of records that were trimmed before they were read: the last of these is known."""
        anchor = self.chain.state().anchor
        if anchor == START or not id_key(at) < id_key(anchor.id) < id_key(first):
            return None
        return event(dumps({"after": at, "upto": anchor.id}), name=anchor.id, kind="gap")


def chosen_by(query: AuditFilter) -> Callable[[AuditRecord], bool]:
    """Whether an event is one that is asked for."""
    wanted = {name: value for name in ("tenant", "tool") if (value := getattr(query, name)) is not None}
    kinds = {kind.value for kind in query.kind}

    def chosen(record: AuditRecord) -> bool:
        return (not kinds or record.kind in kinds) and all(
            record.fields.get(name) == value for name, value in wanted.items()
        )

    return chosen


def _place(given: str, field: str) -> str:
    """An id of the journal. Raises :class:`InvalidRequest`."""
    if len(given) > 64 or not is_id(given) or not given.isascii():
        raise InvalidRequest("this is no id of an event; send one as it was given", field=field)
    return given


def _entry(record: AuditRecord) -> AuditEntry:
    fields: dict[str, Any] = {name: value for name, value in record.fields.items() if value}
    moment = datetime.fromtimestamp(record.at / 1000, UTC).isoformat(timespec="milliseconds")
    return AuditEntry(id=record.id, time=moment, event=fields)

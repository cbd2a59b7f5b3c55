"""Definitions that were refused, in the journal: who tried to register what, and why he could not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from common.audit.journal import Journal
from common.domain.audit import AuditEvent, EventKind
from common.domain.errors import ConfigurationError, InvalidRequest, StoreUnavailable
from common.store.client import Client
from common.store.keys import Keys

log = structlog.get_logger(__name__)


@contextmanager
def refusals_noted(client: Client, keys: Keys, tool: str, actor: str) -> Iterator[None]:
    """Write it down if what is done inside raises that a definition is not good, and let the error go on.

    The error's own words are written: they name the field and the rule, and repeat no value. Degrades: a refusal that
    Redis does not take is logged instead; the change is refused all the same.
    """
    try:
        yield
    except (InvalidRequest, ConfigurationError) as error:
        event = AuditEvent(
            kind=EventKind.TOOL_REFUSED,
            actor=actor,
            tool=tool,
            outcome="deny",
            error_code=error.code.value,
            reason=error.message,
            detail=f"field: {error.data['field']}" if error.data.get("field") else "",
        )
        try:
            Journal(client, keys).record(event)
        except StoreUnavailable:
            log.warning("refusal_not_recorded", tool=tool, actor=actor, reason=error.message)
        error.recorded = True
        raise

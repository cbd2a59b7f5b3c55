"""What operators were refused, in the journal: who wanted to change what, and why he could not.

Whoever may not ask is recorded whatever he asked. Else only requests that would have changed something: what merely
asks, dry runs included, changes nothing by being refused. Bounded as refused calls are
(:class:`~common.audit.refusals.Refusals`): a thousand refusals a second of one operator are two records a second.
"""

from __future__ import annotations

from http import HTTPStatus

import orjson
from flask import Request, Response, g
from pydantic import ValidationError

from common.domain.audit import AuditEvent, EventKind
from common.domain.errors import GatewayError
from common.identity.operators import Actor
from gateway_web.admin.interchange import ImportQuery

ASKS = frozenset({"POST /policy/test"})
"""What changes nothing, although its method does not say so."""
IMPORT = "POST /config/import"
"""The one route that can be asked for a dry run: any other does what it is asked, whatever its query says."""


def recorded_already(error: GatewayError) -> None:
    """Whoever raised it has told the journal more of it than the answer says."""
    g.refusal_recorded = error.recorded


def refusal_of(request: Request, answer: Response, prefix: str) -> AuditEvent | None:
    """The event of a refused request; None for one that is not to be recorded.

    What the answer says is what is recorded: it names the field and the rule, and repeats no value.
    """
    actor: Actor | None = g.get("actor")
    status = answer.status_code
    if actor is None or not 400 <= status < 500 or g.get("refusal_recorded", False):
        return None
    rule = "" if request.url_rule is None else request.url_rule.rule.removeprefix(prefix)
    route = f"{request.method} {rule}"
    asks = request.method in {"GET", "HEAD"} or route in ASKS or (route == IMPORT and _is_dry(request))
    if asks and status != HTTPStatus.FORBIDDEN:
        return None
    told = orjson.loads(answer.get_data())
    named = request.view_args or {}
    field = told.get("field")
    return AuditEvent(
        kind=EventKind.ADMIN_REFUSED,
        actor=actor.name,
        tool=str(named.get("tool", "")),
        tenant=str(named.get("tenant", "")),
        method=route,
        outcome="deny",
        error_code=str(told.get("code", "")),
        reason=str(told.get("detail", "")),
        detail=f"HTTP {status}" + (f", field: {field}" if field else ""),
    )


def _is_dry(request: Request) -> bool:
    """Whether an import would only say what it would do, as its route reads the query."""
    try:
        return ImportQuery.model_validate(request.args.to_dict()).dry_run
    except ValidationError:
        return False

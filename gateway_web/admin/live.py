"""``/admin/v1/sessions`` and ``/admin/v1/calls``: what lives at this moment."""

from __future__ import annotations

import base64
import binascii
from dataclasses import asdict

import orjson
from flask import Response
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.models.tag import Tag

from common.control.calls import LiveCall, LiveCalls
from common.control.sessions import LiveSession, LiveSessions
from common.domain.errors import SessionNotFound
from common.domain.ids import InvocationId, ToolId
from common.identity.operators import Role
from gateway_web.admin.answers import answer
from gateway_web.admin.models import (
    CallModel,
    CallPage,
    CallPath,
    CallQuery,
    Cancelled,
    Closed,
    CloseQuery,
    Session,
    SessionPage,
    SessionPath,
    SessionQuery,
)
from gateway_web.admin.paging import page
from gateway_web.admin.plane import Plane
from gateway_web.admin.session import acting_as

SESSIONS = Tag(name="sessions", description="The sessions with tools that live now.")
CALLS = Tag(name="calls", description="The calls that wait or run now.")


def add_sessions(api: APIBlueprint, gateway: Plane) -> None:
    """Give the API the routes of tool sessions."""
    live = LiveSessions(gateway.client, gateway.keys)

    @api.get("/sessions", tags=[SESSIONS], responses={200: SessionPage})
    def list_sessions(query: SessionQuery) -> Response:
        """List the sessions with tools: whose each is, which worker holds it, and what runs there."""
        acting_as(Role.VIEWER)
        wanted = query.model_dump(include={"tenant", "client", "node"}, exclude_none=True)
        found = [
            _session(session)
            for session in live.of_tools(_tools(gateway, query.tool))
            if all(getattr(session.claim, name) == value for name, value in wanted.items())
        ]
        items, cursor = page(sorted(found, key=_place), query, _place)
        return answer(SessionPage(items=list(items), next_cursor=cursor))

    @api.delete("/sessions/<session>", tags=[SESSIONS], responses={200: Closed})
    def close_session(path: SessionPath, query: CloseQuery) -> Response:
        """Close a session when its calls have ended; with `force` at once. The next call opens another one."""
        actor = acting_as(Role.OPERATOR)
        tool, session = _session_of(path.session)
        closed = live.close(tool, session, actor=actor.name, force=query.force)
        return answer(Closed(session=path.session, closed=closed))


def add_calls(api: APIBlueprint, gateway: Plane) -> None:
    """Give the API the routes of calls."""
    live = LiveCalls(gateway.client, gateway.keys)

    @api.get("/calls", tags=[CALLS], responses={200: CallPage})
    def list_calls(query: CallQuery) -> Response:
        """List the calls that wait for a worker, or that one has. Arguments are never shown."""
        acting_as(Role.VIEWER)
        wanted = query.model_dump(include={"tenant", "client", "state"}, exclude_none=True)
        found = [
            call
            for tool in _tools(gateway, query.tool)
            for call in live.of_tool(tool)
            if all(getattr(call, name) == value for name, value in wanted.items())
        ]
        items, cursor = page(sorted(found, key=lambda call: call.id), query, lambda call: call.id)
        return answer(CallPage(items=[_call(call) for call in items], next_cursor=cursor))

    @api.delete("/calls/<call>", tags=[CALLS], responses={200: Cancelled})
    def cancel_call(path: CallPath) -> Response:
        """Take a call back, whoever waits for it: it ends with INVOCATION_CANCELLED."""
        actor = acting_as(Role.OPERATOR)
        found = live.cancel(InvocationId(path.call), tools=_tools(gateway, None), actor=actor.name)
        return answer(Cancelled(id=found.id, tool=found.tool))


def _tools(gateway: Plane, tool: str | None) -> list[ToolId]:
    """The tool that is asked for, which may have been removed, or all that are registered."""
    return [ToolId(tool)] if tool is not None else [entry.id for entry in gateway.registry.entries()]


def _place(session: Session) -> str:
    return f"{session.tool}\x00{session.session}"


def _session(live: LiveSession) -> Session:
    told = {} if live.facts is None else asdict(live.facts)
    facts = {name: told.get(name) for name in ("idle", "in_flight", "pid", "version")}
    name = _name_of(live.claim.tool, live.claim.session)
    return Session.model_validate({"id": name, **asdict(live.claim), **facts})


def _name_of(tool: str, session: str) -> str:
    """One name for both, safe in a path."""
    return base64.urlsafe_b64encode(orjson.dumps([tool, session])).decode().rstrip("=")


def _session_of(name: str) -> tuple[ToolId, str]:
    """Inverse of :func:`_name_of`. Raises :class:`SessionNotFound` for what is no such name."""
    try:
        tool, session = orjson.loads(
            base64.b64decode(name + "=" * (-len(name) % 4), altchars=b"-_", validate=True)
        )
    except (binascii.Error, ValueError, TypeError):
        raise SessionNotFound("there is no session of this id; take the id from the list") from None
    return ToolId(str(tool)), str(session)


def _call(call: LiveCall) -> CallModel:
    return CallModel(**asdict(call))

"""The head of a message: what Redis decides on, where a script reads it without decoding the JSON behind it.

See ``docs/decisions/0009-sessions-and-delivery.md``; its reader in Lua is ``common/store/lua/lib/heads.lua``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from common.domain.credential_rules import CredentialScope
from common.domain.errors import InvalidRequest
from common.domain.formats import too_new
from common.domain.ids import InvocationId, McpSessionId, decode_part, encode_part, queue_of
from common.domain.invocation import Caller, Invocation
from common.domain.quota import Quota
from common.domain.rules import MOST_WAITS, Affinity, Retry, Routing, choice
from common.domain.tool import Tool
from common.mcp.client_capabilities import interactive
from common.mcp.inbound import META_CLIENT_CAPABILITIES

VERSION = "1"
MEMBER = "canalgate"
"""The member of the message that holds the head; it must be the first."""
POOL = "*"
"""The session of a tool with a pool, until one of the pool is chosen. No encoded part begins with it."""
PARTS = 12
UNCOUNTED = "0"
"""What stands for the permits of a call that counts for no bound on calls at a time."""
PERMIT_GRACE_MS = 12_000
"""Beyond its deadline a call is answered within this time, whatever dies; then its permits end by themselves."""
_LEAVES = {leave.value: leave for leave in Retry}


class Head(NamedTuple):
    """``deadline`` is in ms of Redis time; ``reply`` the channel of the waiting process, empty if nobody waits there.

    ``session`` is the tool session that the call is for (:func:`session_of`). ``attempt`` counts from 0.
    ``max_sessions`` and ``tenant_max_sessions`` bound the creation of sessions, ``pool_size`` is 0 for a tool without
    a pool. ``permits`` says for which bounds on calls at a time it counts (``common/store/lua/lib/permits.lua``).
    """

    id: InvocationId
    deadline: int
    reply: str
    session: str
    leave: Retry
    queue: str
    attempt: int = 0
    max_sessions: int | None = None
    tenant_max_sessions: int | None = None
    pool_size: int = 0
    permits: str = UNCOUNTED

    def text(self) -> str:
        """As it stands in the message: parts between bars, none of which needs escaping in JSON."""
        return "|".join(
            (
                VERSION,
                encode_part(self.id),
                str(self.deadline),
                self.reply,
                self.session,
                self.leave.value,
                str(self.attempt),
                str(self.max_sessions or 0),
                str(self.tenant_max_sessions or 0),
                str(self.pool_size),
                self.permits,
                self.queue,
            )
        )


def head_from_text(text: str) -> Head:
    """Inverse of :meth:`Head.text`. Raises :class:`FormatTooNew`, and :class:`InvalidRequest` for what is no head."""
    parts = text.split("|")
    if len(parts) > 1 and parts[0].isdecimal() and len(parts[0]) < 6 and int(parts[0]) > int(VERSION):
        raise too_new("the message's head", int(parts[0]), int(VERSION))
    if parts[0] != VERSION or len(parts) != PARTS:
        raise InvalidRequest(
            f"the message's head is of version {parts[0][:10]!r} with {len(parts)} parts; "
            f"this worker reads version {VERSION} with {PARTS}",
            field=MEMBER,
        )
    _, call, deadline, reply, session, leave, attempt, most, tenant_most, pool, permits, queue = parts
    try:
        return Head(
            id=InvocationId(decode_part(call)),
            deadline=int(deadline),
            reply=reply,
            session=session,
            leave=_LEAVES.get(leave) or choice(Retry, leave, field=MEMBER),
            attempt=int(attempt),
            max_sessions=int(most) or None,
            tenant_max_sessions=int(tenant_most) or None,
            pool_size=int(pool),
            permits=permits,
            queue=queue,
        )
    except ValueError as error:
        raise InvalidRequest("the message's head has a part that is no number", field=MEMBER) from error


def session_of(tool: Tool, caller: Caller, mcp_session: McpSessionId | None) -> str:
    """Which tool session serves a call of this caller, by the tool's routing and affinity.

    Parts are encoded, so (``a-b``, ``c``) and (``a``, ``b-c``) stay apart, as do callers with and without MCP session.
    Where credentials are each subject's own, so are sessions: a call never goes over one with another's.
    """
    if tool.routing is Routing.LEAST_LOADED:
        return POOL
    parts = [caller.tenant, caller.client]
    if tool.affinity is Affinity.MCP_SESSION and mcp_session is not None:
        parts.append(mcp_session)
    if tool.credentials is not None and tool.credentials.scope is CredentialScope.SUBJECT:
        own = (caller.subject, " ".join(sorted(caller.scopes)))
        parts = [*parts, ""][:3] + list(own)
    return ":".join(map(encode_part, parts))


def head_of(
    invocation: Invocation,
    tool: Tool,
    *,
    reply: str,
    leave: Retry,
    quota: Quota,
) -> Head:
    """The head of the message for an invocation of a tenant with this quota."""
    return Head(
        id=invocation.id,
        deadline=invocation.deadline,
        reply=reply,
        session=session_of(tool, invocation.caller, invocation.mcp_session),
        leave=leave,
        queue=queue_of(tool.id),
        max_sessions=tool.max_sessions,
        tenant_max_sessions=quota.max_sessions,
        pool_size=tool.pool_size if tool.routing is Routing.LEAST_LOADED else 0,
        permits=_permits(invocation, tool, quota) if quota.max_calls or quota.client_max_calls else UNCOUNTED,
    )


def _permits(invocation: Invocation, tool: Tool, quota: Quota) -> str:
    """The call's permits, and until when they count at most: the time its client may take for answers included."""
    meta = invocation.params.get("_meta")
    declared = meta.get(META_CLIENT_CAPABILITIES) if isinstance(meta, Mapping) else None
    waits = (
        MOST_WAITS * tool.input_timeout if isinstance(declared, Mapping) and interactive(declared) else 0.0
    )
    ends = invocation.deadline + PERMIT_GRACE_MS + int(waits * 1000)
    caller = invocation.caller
    return (
        f"{ends}:{quota.max_calls or 0}:{quota.client_max_calls or 0}:"
        f"{encode_part(caller.tenant)}:{encode_part(caller.client)}"
    )


def parts_of(session: str) -> tuple[str, str, str]:
    """Tenant, client and MCP session of a tool session; empty where it has none (all three for one of a pool)."""
    if session.startswith(POOL):
        return "", "", ""
    tenant, client, mcp_session = (*map(decode_part, session.split(":")), "", "")[:3]
    return tenant, client, mcp_session


def subject_of(session: str) -> tuple[str, tuple[str, ...]]:
    """Subject and scopes of a tool session that is one subject's own; empty where it has none."""
    subject, scopes = (*map(decode_part, session.split(":")), "", "", "", "")[3:5]
    return subject, tuple(scopes.split())

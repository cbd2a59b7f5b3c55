"""What the audit journal is told of a tool session."""

from __future__ import annotations

from common.calls.head import parts_of
from common.domain.audit import AuditEvent, EventKind
from common.domain.ids import NodeId
from gateway_worker.tool_session import ToolSession


def session_event(kind: EventKind, session: ToolSession, node: NodeId) -> AuditEvent:
    """That it was opened or closed."""
    tenant, client, _ = parts_of(session.key.session)
    return AuditEvent(
        kind=kind,
        actor=node,
        tool=session.key.tool,
        tenant=tenant,
        client=client,
        session=session.key.session,
        node=node,
        reason=session.why,
        detail=session.last_words() or f"fence {session.claim.token}",
    )

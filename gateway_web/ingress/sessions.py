"""What a legacy client tells of its session with us: its beginning, and what has no answer."""

from __future__ import annotations

from typing import Any

from common.domain.session import McpSession
from common.gateway import Gateway
from common.mcp.jsonrpc import ErrorResponse, Message, Notification, Response
from gateway_web.ingress.requests import McpRequest


def open_session(gateway: Gateway, mcp: McpRequest, answer: dict[str, Any]) -> McpSession:
    """The session that an ``initialize`` begins. Raises :class:`InvalidRequest` for a client that says too much."""
    client_info, capabilities = mcp.params.get("clientInfo"), mcp.params.get("capabilities")
    return gateway.mcp_sessions.create(
        principal=mcp.caller.principal,
        version=answer["protocolVersion"],
        tool=mcp.tool,
        client_info=client_info if isinstance(client_info, dict) else {},
        client_capabilities=capabilities if isinstance(capabilities, dict) else {},
    )


def take_aside(gateway: Gateway, session: McpSession, message: Message) -> None:
    """A notification, or a response to a request of ours. Raises :class:`StoreUnavailable` if it is not passed on."""
    match message:
        case Response(id=str(name), result=result):
            gateway.answer(session, name, {"result": result})
        case ErrorResponse(id=str(name), error=error):
            gateway.answer(session, name, {"error": error})
        case Notification(
            method="notifications/cancelled", params={"requestId": str() | int() as request_id}
        ) if not isinstance(request_id, bool):
            gateway.cancel_request(session.id, request_id)
        case Notification(method="notifications/roots/list_changed"):
            gateway.roots_changed(session.id)

"""What is exchanged with a backend for one call, and how it looks in the caller's era."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.domain.errors import InvalidRequest
from common.domain.invocation import Invocation
from common.domain.rules import Routing
from common.domain.tool import Tool
from common.mcp.client_capabilities import profile_of
from common.mcp.inbound import NAME_BEARING_METHODS
from common.mcp.jsonrpc import INTERNAL_ERROR
from common.mcp.revisions import Era, era_of_version
from common.mcp.translate import to_legacy_result, to_modern_result
from gateway_worker.conversation import Conversation, declared_by
from gateway_worker.delivery import Held
from gateway_worker.egress.backend import Backend
from gateway_worker.egress.link import OnNotification, RpcError
from gateway_worker.tool_session import ToolSession
from gateway_worker.turns import Stay

MOST_ROUNDS = 10
"""Times that a backend may ask for input before it answers (the SDK's own bound)."""
WATCHING = frozenset({"resources/subscribe", "resources/unsubscribe"})


def profile_for(held: Held, tool: Tool, invocation: Invocation) -> str:
    """What the call's client can be asked (``profile_of``); nothing where nobody could be sure to ask it, or it cannot.

    The sessions of a pool are everybody's; a stock producer has no channel; and a modern client is asked by the results
    of three methods only (2026-07-28, "Multi round-trip requests").
    """
    declared = declared_by(invocation)
    if not declared or not held.head.reply or tool.routing is Routing.LEAST_LOADED:
        return ""
    if era_of_version(invocation.version) is Era.MODERN and invocation.method not in NAME_BEARING_METHODS:
        return ""
    return profile_of(declared)


async def watched(session: ToolSession, invocation: Invocation, stay: Stay) -> dict[str, Any]:
    """Have the call's MCP session told of updates of a resource, or no longer; the backend is told what concerns it.

    Raises :class:`RpcError` for the backend's error, :class:`InvalidRequest` for what is no such request.
    """
    uri, watcher = invocation.params.get("uri"), invocation.mcp_session
    if not isinstance(uri, str):
        raise InvalidRequest("params.uri must be a string", field="params.uri")
    if watcher is None:
        raise InvalidRequest("only an MCP session can watch a resource", field="mcp_session")
    if invocation.method == "resources/subscribe":
        await session.watch(watcher, invocation.caller.principal, uri, stay)
    else:
        await session.unwatch(watcher, uri, stay)
    return {}


async def exchange(
    backend: Backend,
    invocation: Invocation,
    conversation: Conversation | None,
    stay: Stay,
    headers: Mapping[str, str],
    on_notification: OnNotification,
) -> dict[str, Any]:
    """The backend's result. What it wants to know first, a legacy client is asked: a modern one sees that itself.

    Source: 2026-07-28, "Multi round-trip requests": the same request again, with ``inputResponses`` and the very
    ``requestState``. Raises :class:`RpcError` for a backend that never has enough.
    """
    params, ask = invocation.params, None if conversation is None else conversation.ask
    for _ in range(MOST_ROUNDS):
        with stay.sending() as settled:
            raw = await backend.call(
                invocation.method,
                params,
                headers=headers,
                on_notification=on_notification,
                on_request=ask,
                on_settled=settled,
                principal=invocation.caller.principal,
            )
        modern = era_of_version(invocation.version) is Era.MODERN
        if raw.get("resultType") != "input_required" or modern:
            return raw
        asked = raw.get("inputRequests") or {}
        if asked and (conversation is None or not isinstance(asked, dict)):
            return raw
        params = {**invocation.params}
        if conversation is not None and asked:
            params["inputResponses"] = await conversation.answers(asked)
        if "requestState" in raw:
            params["requestState"] = raw["requestState"]
    raise RpcError({"code": INTERNAL_ERROR, "message": f"the tool asked for input {MOST_ROUNDS} times"})


def translated(raw: dict[str, Any], invocation: Invocation, backend: Backend) -> dict[str, Any]:
    """The result in the caller's era; untouched where backend and caller speak the same."""
    wanted = era_of_version(invocation.version)
    if wanted is backend.negotiated.era:
        return raw
    if wanted is Era.MODERN:
        return to_modern_result(invocation.method, raw, server_info=dict(backend.negotiated.server_info))
    return to_legacy_result(invocation.method, raw, invocation.version)

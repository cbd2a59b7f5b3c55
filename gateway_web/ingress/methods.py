"""MCP methods: what this gateway answers itself, and what it forwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from common.calls.request_state import is_ours
from common.domain.errors import InvalidRequest
from common.domain.session import McpSession
from common.gateway import Call, Gateway
from common.mcp.client_capabilities import interactive
from common.mcp.headers import check_mcp_param_headers
from common.mcp.inbound import LOG_LEVELS, META_CLIENT_CAPABILITIES, META_CLIENT_INFO, META_LOG_LEVEL
from common.mcp.jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND, JsonRpcError
from common.mcp.revisions import MODERN_VERSIONS, Era, negotiate_legacy
from common.mcp.translate import legacy_params, to_modern_result
from common.registry.records import Entry
from gateway_web.ingress import lists, offers, targets
from gateway_web.ingress.requests import McpRequest

Result = dict[str, Any]
Answer = Result | Call
Handler = Callable[[Gateway, McpRequest], Answer]
FindTarget = Callable[[Gateway, McpRequest], targets.Target]


def dispatch(gateway: Gateway, mcp: McpRequest) -> Answer:
    """Answer a request, or begin the call it asks for.

    Raises :class:`JsonRpcError` for what the protocol forbids, :class:`GatewayError` for what we refuse.
    """
    handler = HANDLERS[mcp.era].get(mcp.request.method)
    if handler is None or (mcp.stateless and mcp.request.method in OF_A_SESSION):
        raise JsonRpcError(METHOD_NOT_FOUND, f"Method not found: {mcp.request.method[:100]}")
    if mcp.request.method in COUNTED:
        gateway.count_request(mcp.caller)
    else:
        gateway.authorise_tenant(mcp.caller)
    return handler(gateway, mcp)


def initialize(gateway: Gateway, mcp: McpRequest) -> Result:
    """The legacy handshake; the session itself is made by the door, which owns the session header."""
    return {
        "protocolVersion": negotiate_legacy(mcp.params.get("protocolVersion")),
        "capabilities": offers.capabilities(gateway, mcp),
        "serverInfo": offers.server_info(gateway, mcp),
        **offers.instructions(gateway, mcp),
    }


def discover(gateway: Gateway, mcp: McpRequest) -> Result:
    """``server/discover`` (2026-07-28, "Discovery"): only revisions of the modern era are listed."""
    result = {
        "supportedVersions": list(MODERN_VERSIONS),
        "capabilities": offers.capabilities(gateway, mcp),
        **offers.instructions(gateway, mcp),
    }
    return to_modern_result("server/discover", result, server_info=offers.server_info(gateway, mcp))


def ping(_gateway: Gateway, _mcp: McpRequest) -> Result:
    """Answered here: it asks about the way to us, not about a backend."""
    return {}


def set_log_level(gateway: Gateway, mcp: McpRequest) -> Result:
    """``logging/setLevel``: kept with the session; what is less severe is not sent along."""
    level = mcp.params.get("level")
    if level not in LOG_LEVELS:
        raise JsonRpcError(INVALID_PARAMS, f"Invalid params: level must be one of {', '.join(LOG_LEVELS)}")
    if mcp.session is not None:
        gateway.mcp_sessions.set_log_level(mcp.session, level)
    return {}


def call_tool(gateway: Gateway, mcp: McpRequest) -> Call:
    """Forward ``tools/call`` to the tool, under its own name for what is called."""
    tool, params = targets.of_name(gateway, mcp)
    if not isinstance(params.get("arguments", {}), dict):
        raise InvalidRequest("params.arguments must be an object", field="params.arguments")
    if mcp.era is Era.MODERN:
        entry = gateway.tools(mcp.caller).get(tool)
        if entry is not None and entry.enabled:  # else it is refused below, where that is recorded
            _check_param_headers(entry, params["name"], mcp)
    return _begin(gateway, mcp, (tool, params))


def forward(find: FindTarget, gateway: Gateway, mcp: McpRequest) -> Call:
    """Forward a request to the tool that ``find`` finds for it."""
    return _begin(gateway, mcp, find(gateway, mcp))


def _begin(gateway: Gateway, mcp: McpRequest, target: targets.Target) -> Call:
    tool, params = target
    if mcp.era is Era.MODERN and is_ours(params.get("requestState")):
        return gateway.resume(mcp.caller, tool, mcp.request.method, params, version=mcp.version)
    return gateway.begin(
        mcp.caller,
        tool,
        mcp.request.method,
        params if mcp.era is Era.MODERN else described(params, mcp.session),
        version=mcp.version,
        request_id=mcp.request.id,
        session=mcp.session,
        resumable=mcp.resumable,
        span=None if mcp.account is None else mcp.account.span,
    )


def described(params: dict[str, Any], session: McpSession | None) -> dict[str, Any]:
    """The params of a legacy client with what it said of itself, as a modern client says it with each request.

    Its own keys of these names mean nothing in its era.
    """
    plain = legacy_params(params) if "_meta" in params else params
    if session is None:
        return plain
    told: dict[str, Any] = {}
    if session.client_capabilities and interactive(session.client_capabilities):
        told[META_CLIENT_CAPABILITIES] = dict(session.client_capabilities)
        told[META_CLIENT_INFO] = dict(session.client_info)
    if session.log_level is not None:
        told[META_LOG_LEVEL] = session.log_level
    if not told:
        return plain
    meta = plain.get("_meta")
    return {**plain, "_meta": {**(meta if isinstance(meta, dict) else {}), **told}}


_LISTED: Mapping[str, Handler] = dict.fromkeys(lists.BY_METHOD, lists.list_items)
_FORWARDED: Mapping[str, Handler] = {
    "tools/call": call_tool,
    "resources/read": partial(forward, targets.of_uri),
    "prompts/get": partial(forward, targets.of_name),
    "completion/complete": partial(forward, targets.of_reference),
}
HANDLERS: Mapping[Era, Mapping[str, Handler]] = MappingProxyType(
    {
        Era.LEGACY: MappingProxyType(
            {
                "initialize": initialize,
                "ping": ping,
                "logging/setLevel": set_log_level,
                "resources/subscribe": partial(forward, targets.of_uri),
                "resources/unsubscribe": partial(forward, targets.of_uri),
                **_LISTED,
                **_FORWARDED,
            }
        ),
        Era.MODERN: MappingProxyType({"server/discover": discover, **_LISTED, **_FORWARDED}),
    }
)
OF_A_SESSION = frozenset({"logging/setLevel", "resources/subscribe", "resources/unsubscribe"})
"""Methods of the legacy era that mean something to a session only."""
COUNTED = frozenset({"initialize", "server/discover", "logging/setLevel", *_LISTED})
"""Methods that queue no call, and count against the rates of their caller as one does."""
FORWARDED = frozenset(_FORWARDED)
"""Methods that become calls: the admission confirms their session, so it need not be read before."""


def _check_param_headers(entry: Entry, name: str, mcp: McpRequest) -> None:
    """``Mcp-Param-*`` headers must agree with the arguments where the schema asks for them."""
    definition = entry.definition(name)
    if definition is None or mcp.headers is None:
        return
    problem = check_mcp_param_headers(
        definition.get("inputSchema"), mcp.params.get("arguments") or {}, mcp.headers
    )
    if problem is not None:
        raise problem

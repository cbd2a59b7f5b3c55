"""MCP methods: what this gateway answers itself, and what it forwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from common import __version__
from common.domain.errors import InvalidRequest, ToolNotFound
from common.domain.ids import ToolId
from common.gateway import Call, Gateway
from common.mcp import naming
from common.mcp.headers import check_mcp_param_headers
from common.mcp.inbound import LOG_LEVELS
from common.mcp.jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND, JsonRpcError
from common.mcp.revisions import MODERN_VERSIONS, Era, negotiate_legacy
from common.mcp.translate import to_legacy_result, to_modern_result
from common.registry.records import Entry
from gateway_web.ingress.requests import McpRequest

SERVER_INFO = {"name": "canalgate", "version": __version__}
Result = dict[str, Any]
Answer = Result | Call
Handler = Callable[[Gateway, McpRequest], Answer]


def dispatch(gateway: Gateway, mcp: McpRequest) -> Answer:
    """Answer a request, or begin the call it asks for.

    Raises :class:`JsonRpcError` for what the protocol forbids, :class:`GatewayError` for what we refuse.
    """
    handler = HANDLERS[mcp.era].get(mcp.request.method)
    if handler is None:
        raise JsonRpcError(METHOD_NOT_FOUND, f"Method not found: {mcp.request.method[:100]}")
    gateway.authorise_tenant(mcp.caller)
    return handler(gateway, mcp)


def initialize(gateway: Gateway, mcp: McpRequest) -> Result:
    """The legacy handshake; the session itself is made by the door, which owns the session header."""
    return {
        "protocolVersion": negotiate_legacy(mcp.params.get("protocolVersion")),
        "capabilities": {"logging": {}, "tools": {"listChanged": False}},
        "serverInfo": SERVER_INFO,
        **_instructions(gateway, mcp),
    }


def discover(gateway: Gateway, mcp: McpRequest) -> Result:
    """``server/discover`` (2026-07-28, "Discovery"): only revisions of the modern era are listed."""
    result = {
        "supportedVersions": list(MODERN_VERSIONS),
        "capabilities": {"tools": {"listChanged": False}},
        **_instructions(gateway, mcp),
    }
    return to_modern_result("server/discover", result, server_info=SERVER_INFO)


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


def list_tools(gateway: Gateway, mcp: McpRequest) -> Result:
    """The capabilities of the tools this caller may use, from the catalogue: no backend is asked, none delays it."""
    if mcp.params.get("cursor") is not None:
        raise JsonRpcError(INVALID_PARAMS, "Invalid params: this list has one page; cursor is none of ours")
    if mcp.tool is not None:
        tools = list(_offered(gateway.find(mcp.tool)))
    else:
        tools = [
            {**definition, "name": naming.prefixed(entry.id, str(definition.get("name", "")))}
            for entry in gateway.tools().entries()
            if entry.enabled
            for definition in _offered(entry)
        ]
    result: Result = {"tools": [dict(definition) for definition in tools]}
    if mcp.era is Era.MODERN:
        return to_modern_result("tools/list", result, server_info=SERVER_INFO)
    return to_legacy_result("tools/list", result, mcp.version)


def call_tool(gateway: Gateway, mcp: McpRequest) -> Call:
    """Forward ``tools/call`` to the tool, under its own name for the capability."""
    name = mcp.params.get("name")
    if not isinstance(name, str):
        raise InvalidRequest("params.name must be a string", field="params.name")
    if not isinstance(mcp.params.get("arguments", {}), dict):
        raise InvalidRequest("params.arguments must be an object", field="params.arguments")
    tool, own_name = _target(gateway, mcp, name)
    entry = gateway.find(tool)
    if mcp.era is Era.MODERN:
        _check_param_headers(entry, own_name, mcp)
    return gateway.begin(
        mcp.caller,
        tool,
        "tools/call",
        {**mcp.params, "name": own_name},
        version=mcp.version,
        request_id=mcp.request.id,
        session=mcp.session,
    )


HANDLERS: Mapping[Era, Mapping[str, Handler]] = MappingProxyType(
    {
        Era.LEGACY: MappingProxyType(
            {
                "initialize": initialize,
                "ping": ping,
                "logging/setLevel": set_log_level,
                "tools/list": list_tools,
                "tools/call": call_tool,
            }
        ),
        Era.MODERN: MappingProxyType(
            {"server/discover": discover, "tools/list": list_tools, "tools/call": call_tool}
        ),
    }
)
FORWARDED = frozenset({"tools/call"})
"""Methods that become calls: the admission confirms their session, so it need not be read before."""


def _instructions(gateway: Gateway, mcp: McpRequest) -> Result:
    """A single tool's endpoint passes on what its backend says of itself."""
    if mcp.tool is None:
        return {}
    known = gateway.find(mcp.tool).known
    return {} if known is None or known.instructions is None else {"instructions": known.instructions}


def _offered(entry: Entry) -> tuple[Mapping[str, Any], ...]:
    return () if entry.known is None else entry.known.tools


def _target(gateway: Gateway, mcp: McpRequest, name: str) -> tuple[ToolId, str]:
    """The tool a call is for, and the capability's own name there."""
    if mcp.tool is not None:
        return mcp.tool, name
    found = naming.split(name, gateway.tools().ids())
    if found is None:
        raise ToolNotFound(f"Unknown tool: {name[:200]}; names here are <tool>{naming.SEPARATOR}<name>")
    return ToolId(found[0]), found[1]


def _check_param_headers(entry: Entry, name: str, mcp: McpRequest) -> None:
    """``Mcp-Param-*`` headers must agree with the arguments where the schema asks for them."""
    definition = entry.definition(name)
    if definition is None:
        return
    problem = check_mcp_param_headers(
        definition.get("inputSchema"), mcp.params.get("arguments") or {}, mcp.headers
    )
    if problem is not None:
        raise problem

"""Names of attributes: OpenTelemetry's conventions for MCP and messaging, and this gateway's own.

The conventions for MCP and generative AI (status "Development") live in open-telemetry/semantic-conventions-genai; the
Python package marks its constants of them as moved, so they are written out here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

MCP_METHOD: Final = "mcp.method.name"
MCP_SESSION: Final = "mcp.session.id"
MCP_VERSION: Final = "mcp.protocol.version"
REQUEST_ID: Final = "jsonrpc.request.id"
OPERATION: Final = "gen_ai.operation.name"
TOOL_NAME: Final = "gen_ai.tool.name"
PROMPT_NAME: Final = "gen_ai.prompt.name"
RPC_STATUS: Final = "rpc.response.status_code"
ERROR_TYPE: Final = "error.type"
TRANSPORT: Final = "network.transport"
PROTOCOL: Final = "network.protocol.name"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_OPERATION: Final = "messaging.operation.name"
MESSAGING_TYPE: Final = "messaging.operation.type"
DESTINATION: Final = "messaging.destination.name"
MESSAGE_ID: Final = "messaging.message.id"
TASK: Final = "celery.task_name"

TENANT: Final = "canalgate.tenant"
CLIENT: Final = "canalgate.client"
TOOL: Final = "canalgate.tool"
INVOCATION: Final = "canalgate.invocation"
NODE: Final = "canalgate.node"
SESSION: Final = "canalgate.session"
ATTEMPT: Final = "canalgate.attempt"
QUEUE_WAIT: Final = "canalgate.queue_wait_ms"
STAGE: Final = "canalgate.stage"

TOOL_ERROR: Final = "tool_error"
"""The ``error.type`` of a result that the tool itself marks as an error (``isError``)."""

MOST_TEXT = 128
"""Characters of a name that comes from a client."""
_NAMED: Mapping[str, str] = {"tools/call": TOOL_NAME, "prompts/get": PROMPT_NAME}


def request_attributes(method: str, params: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name of the span of a request, and what it says of it: never an argument, and no URI, which may hold some."""
    method = method[:MOST_TEXT]
    attributes: dict[str, Any] = {MCP_METHOD: method}
    named = _NAMED.get(method)
    if method == "tools/call":
        attributes[OPERATION] = "execute_tool"
    target = None if named is None else params.get("name")
    if named is None or not isinstance(target, str):
        return method, attributes
    attributes[named] = target = target[:MOST_TEXT]
    return f"{method} {target}", attributes

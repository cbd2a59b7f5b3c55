"""Translation of params, results and error codes between the eras, without changing what was given.

Fields this module does not know pass unchanged in both directions. Source: the schemas of the revisions.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from common.mcp.inbound import (
    META_CLIENT_CAPABILITIES,
    META_CLIENT_INFO,
    META_LOG_LEVEL,
    META_PREFIX,
    META_PROTOCOL_VERSION,
)
from common.mcp.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, JsonRpcError, dumps
from common.mcp.revisions import at_least

META_SERVER_INFO: Final = META_PREFIX + "serverInfo"

CACHEABLE_METHODS: Final = frozenset(
    {
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/templates/list",
        "server/discover",
        "tools/list",
    }
)
"""Methods whose modern results must carry `ttlMs` and `cacheScope`."""

RESOURCE_NOT_FOUND: Final = -32002
"""The legacy era's code for an unknown resource; the modern era uses INVALID_PARAMS."""

_MODERN_FIELDS: Final = frozenset({"resultType", "ttlMs", "cacheScope"})
_LEGACY_META: Final = frozenset({META_PREFIX + "related-task", META_PREFIX + "model-immediate-response"})
"""Reserved keys that belong to the legacy era itself (tasks of 2025-11-25)."""
_CONTENT_SINCE: Final[Mapping[str, str]] = MappingProxyType(
    {"audio": "2025-03-26", "resource_link": "2025-06-18"}
)


def to_modern_result(
    method: str, result: Mapping[str, Any], *, server_info: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Complete a result for a modern client; what the backend has set itself is kept.

    Not cacheable unless the backend said so. `server_info` None adds none.
    """
    modern = dict(result)
    kind = modern.setdefault("resultType", "complete")
    if method in CACHEABLE_METHODS and kind == "complete":
        modern.setdefault("ttlMs", 0)
        modern.setdefault("cacheScope", "private")
    meta = modern.get("_meta", {})
    if server_info is not None and isinstance(meta, Mapping) and META_SERVER_INFO not in meta:
        modern["_meta"] = {**meta, META_SERVER_INFO: dict(server_info)}
    return modern


def to_legacy_result(method: str, result: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Reduce a result to what a client of the legacy revision `version` can read.

    Raises JsonRpcError(INTERNAL_ERROR) for a result that is not complete (`input_required`, `task`): it has
    to be carried to its end first, for on an older wire it would pass for an answer.
    """
    kind = result.get("resultType", "complete")
    if kind != "complete":
        raise JsonRpcError(
            INTERNAL_ERROR,
            f"A result of type {kind!a} cannot be sent to a client of protocol version {version}",
        )
    legacy = {key: value for key, value in result.items() if key not in _MODERN_FIELDS}
    meta = legacy.get("_meta")
    if isinstance(meta, Mapping) and META_SERVER_INFO in meta:
        _set_meta(legacy, {key: value for key, value in meta.items() if key != META_SERVER_INFO})
    if method == "tools/call":
        _reduce_call(legacy, version)
    elif method == "tools/list" and isinstance(legacy.get("tools"), list):
        legacy["tools"] = [_legacy_tool(tool) for tool in legacy["tools"]]
    elif method == "prompts/get" and isinstance(legacy.get("messages"), list):
        legacy["messages"] = [_legacy_message(message, version) for message in legacy["messages"]]
    return legacy


def modern_error(code: int, method: str = "resources/read") -> int:
    """The modern code for a legacy error code in answer to `method`."""
    return INVALID_PARAMS if method == "resources/read" and code == RESOURCE_NOT_FOUND else code


def legacy_error(code: int, method: str = "resources/read") -> int:
    """The legacy code for a modern error code in answer to `method`.

    A modern server says INVALID_PARAMS both for an unknown resource and for malformed params; only the first
    is usual for `resources/read`, so that is what legacy clients are told.
    """
    return RESOURCE_NOT_FOUND if method == "resources/read" and code == INVALID_PARAMS else code


def legacy_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Params without the reserved `io.modelcontextprotocol/*` keys of the modern era.

    Kept: progressToken, trace context, vendor keys and the reserved keys of the legacy era (tasks).
    """
    legacy = dict(params)
    meta = legacy.get("_meta")
    if isinstance(meta, Mapping) and any(_is_modern_key(key) for key in meta):
        _set_meta(legacy, {key: value for key, value in meta.items() if not _is_modern_key(key)})
    return legacy


def modern_params(
    params: Mapping[str, Any],
    *,
    version: str,
    client_info: Mapping[str, Any] | None,
    client_capabilities: Mapping[str, Any],
    log_level: str | None = None,
) -> dict[str, Any]:
    """Params that describe the request as modern servers want it; what stood under the same keys is replaced.

    `client_info` or `log_level` None leaves those keys as they are.
    """
    meta = params.get("_meta")
    described: dict[str, Any] = {
        **(meta if isinstance(meta, Mapping) else {}),
        META_PROTOCOL_VERSION: version,
        META_CLIENT_CAPABILITIES: dict(client_capabilities),
    }
    if client_info is not None:
        described[META_CLIENT_INFO] = dict(client_info)
    if log_level is not None:
        described[META_LOG_LEVEL] = log_level
    return {**params, "_meta": described}


def _is_modern_key(key: str) -> bool:
    return key.startswith(META_PREFIX) and key not in _LEGACY_META


def _set_meta(owner: dict[str, Any], meta: dict[str, Any]) -> None:
    if meta:
        owner["_meta"] = meta
    else:
        del owner["_meta"]


def _reduce_call(result: dict[str, Any], version: str) -> None:
    if isinstance(result.get("content"), list):
        result["content"] = [_legacy_content(block, version) for block in result["content"]]
    if "structuredContent" in result and not isinstance(result["structuredContent"], dict):
        value = result.pop("structuredContent")
        # Servers should repeat it as text themselves; where one did not, the value would be lost here.
        if not result.get("content"):
            result["content"] = [{"type": "text", "text": dumps(value).decode("utf-8")}]


def _legacy_message(message: Any, version: str) -> Any:
    if not isinstance(message, dict) or "content" not in message:
        return message
    return {**message, "content": _legacy_content(message["content"], version)}


def _legacy_content(block: Any, version: str) -> Any:
    """A content block as `version` knows it; a later kind becomes a line of text that says what it was."""
    if not isinstance(block, dict) or not isinstance(block.get("type"), str):
        return block
    since = _CONTENT_SINCE.get(block["type"])
    if since is None or at_least(version, since):
        return block
    if block["type"] == "resource_link":
        text = f"{block.get('title') or block.get('name') or 'resource'}: {block.get('uri')}"
    else:
        text = f"[audio, {block.get('mimeType')}, not supported by protocol version {version}]"
    return {"type": "text", "text": text}


def _legacy_tool(tool: Any) -> Any:
    """A tool whose schemas have the legacy shape: objects at the root, no boolean property schemas."""
    if not isinstance(tool, dict):
        return tool
    legacy = dict(tool)
    output = tool.get("outputSchema")
    if not isinstance(output, dict) or output.get("type") != "object":
        legacy.pop("outputSchema", None)
    for member in ("inputSchema", "outputSchema"):
        if member in legacy:
            legacy[member] = _object_properties(legacy[member])
    return legacy


def _object_properties(schema: Any) -> Any:
    """The same schema with `true` and `false` among its properties spelled as the objects they stand for."""
    if not isinstance(schema, dict) or not isinstance(schema.get("properties"), dict):
        return schema
    properties = schema["properties"]
    if not any(isinstance(value, bool) for value in properties.values()):
        return schema
    spelled = {
        name: ({} if value else {"not": {}}) if isinstance(value, bool) else value
        for name, value in properties.items()
    }
    return {**schema, "properties": spelled}

"""The checks that a request of the modern era (2026-07-28) must pass before it is served.

Source: the Streamable HTTP transport of revision 2026-07-28; where that leaves room, the Python SDK 2.3.0 is
followed rung by rung, since clients were built against it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from common.mcp.headers import (
    check_mcp_param_headers,
    decode_header_value,
    encode_header_value,
    invalid_x_mcp_header,
    mcp_param_headers,
    trimmed,
    x_mcp_header_map,
)
from common.mcp.jsonrpc import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MISSING_CLIENT_CAPABILITY,
    PARSE_ERROR,
    UNSUPPORTED_VERSION,
    JsonRpcError,
)
from common.mcp.revisions import MODERN_VERSIONS

__all__ = [
    "HTTP_STATUS",
    "LOG_LEVELS",
    "META_CLIENT_CAPABILITIES",
    "META_CLIENT_INFO",
    "META_LOG_LEVEL",
    "META_PREFIX",
    "META_PROTOCOL_VERSION",
    "METHOD_HEADER",
    "NAME_BEARING_METHODS",
    "NAME_HEADER",
    "VERSION_HEADER",
    "ModernRequest",
    "check_mcp_param_headers",
    "check_version",
    "classify",
    "decode_header_value",
    "duplicated_routing_header",
    "encode_header_value",
    "invalid_x_mcp_header",
    "mcp_param_headers",
    "x_mcp_header_map",
]

META_PREFIX: Final = "io.modelcontextprotocol/"
META_PROTOCOL_VERSION: Final = META_PREFIX + "protocolVersion"
META_CLIENT_CAPABILITIES: Final = META_PREFIX + "clientCapabilities"
META_CLIENT_INFO: Final = META_PREFIX + "clientInfo"
META_LOG_LEVEL: Final = META_PREFIX + "logLevel"

VERSION_HEADER: Final = "mcp-protocol-version"
METHOD_HEADER: Final = "mcp-method"
NAME_HEADER: Final = "mcp-name"

NAME_BEARING_METHODS: Final[Mapping[str, str]] = MappingProxyType(
    {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
)
"""Method -> the parameter whose value the `Mcp-Name` header repeats."""

HTTP_STATUS: Final[Mapping[int, int]] = MappingProxyType(
    {
        PARSE_ERROR: 400,
        INVALID_REQUEST: 400,
        INVALID_PARAMS: 400,
        HEADER_MISMATCH: 400,
        MISSING_CLIENT_CAPABILITY: 400,
        UNSUPPORTED_VERSION: 400,
        METHOD_NOT_FOUND: 404,
    }
)
"""JSON-RPC error code -> HTTP status of a modern answer; every other code goes with 200."""

LOG_LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""Severities of log messages, least severe first (RFC 5424, as MCP "Logging" names them)."""

_REQUIRED_META: Final = (META_PROTOCOL_VERSION, META_CLIENT_CAPABILITIES)
_ROUTING_HEADERS: Final = frozenset({VERSION_HEADER, METHOD_HEADER, NAME_HEADER})


@dataclass(frozen=True, slots=True, kw_only=True)
class ModernRequest:
    """What a modern request says about itself in `params._meta`, once every check has passed.

    `client_info` is what the client claims, for display only. Without a `log_level` the client wants no log
    messages.
    """

    protocol_version: str
    client_info: dict[str, Any] | None
    client_capabilities: dict[str, Any]
    log_level: str | None
    progress_token: str | int | None


def classify(body_method: str, params: Mapping[str, Any], headers: Mapping[str, str] | None) -> ModernRequest:
    """Run the checks in the order clients rely on; the first that fails decides the answer.

    1. `_meta` is an object with the required keys, else INVALID_PARAMS.
    2. The headers (lowercase names) agree with the body, else HEADER_MISMATCH. None skips this: not HTTP.
    3. The version is a string that is served, else INVALID_PARAMS or UNSUPPORTED_VERSION with
       `data = {"supported": [...], "requested": ...}`.
    4. The other `_meta` values have the types of the schema, else INVALID_PARAMS.

    Whether the method exists is for the dispatcher. Raises JsonRpcError.
    """
    meta = params.get("_meta")
    if not isinstance(meta, Mapping):
        raise JsonRpcError(
            INVALID_PARAMS, f"params._meta must be an object with the keys {' and '.join(_REQUIRED_META)}"
        )
    missing = [key for key in _REQUIRED_META if key not in meta]
    if missing:
        raise JsonRpcError(INVALID_PARAMS, f"params._meta lacks the required key(s) {', '.join(missing)}")
    version = meta[META_PROTOCOL_VERSION]
    if headers is not None:
        _check_headers(body_method, params, version, headers)
    if not isinstance(version, str):
        raise JsonRpcError(INVALID_PARAMS, f"params._meta[{META_PROTOCOL_VERSION!r}] must be a string")
    check_version(version)
    return _typed(version, meta)


def check_version(version: str) -> None:
    """Raise JsonRpcError(UNSUPPORTED_VERSION) for a version not served; notifications need this check too."""
    if version not in MODERN_VERSIONS:
        raise JsonRpcError(
            UNSUPPORTED_VERSION,
            "Unsupported protocol version",
            {"supported": list(MODERN_VERSIONS), "requested": version},
        )


def duplicated_routing_header(pairs: Iterable[tuple[str, str]]) -> str | None:
    """The first routing header (lowercase) that occurs twice among raw header lines, else None.

    Readers that take the first copy and readers that take the last one would disagree.
    """
    seen: set[str] = set()
    for name, _ in pairs:
        lowered = name.lower()
        if lowered in seen:
            return lowered
        if lowered in _ROUTING_HEADERS:
            seen.add(lowered)
    return None


def _check_headers(method: str, params: Mapping[str, Any], version: Any, headers: Mapping[str, str]) -> None:
    found = trimmed(headers, VERSION_HEADER)
    # An absent header must not equal a null in the body.
    if found is None or found != version:
        raise JsonRpcError(
            HEADER_MISMATCH, f"MCP-Protocol-Version header and params._meta[{META_PROTOCOL_VERSION!r}] differ"
        )
    if trimmed(headers, METHOD_HEADER) != method:
        raise JsonRpcError(HEADER_MISMATCH, "Mcp-Method header and the request's method differ")
    key = NAME_BEARING_METHODS.get(method)
    if key is None or (named := params.get(key)) is None:
        return
    if decode_header_value(trimmed(headers, NAME_HEADER)) != named:
        raise JsonRpcError(HEADER_MISMATCH, f"Mcp-Name header and params.{key} differ")


def _typed(version: str, meta: Mapping[str, Any]) -> ModernRequest:
    capabilities = meta[META_CLIENT_CAPABILITIES]
    client_info = meta.get(META_CLIENT_INFO)
    log_level = meta.get(META_LOG_LEVEL)
    token = meta.get("progressToken")
    if not isinstance(capabilities, dict):
        raise _wrong_type(META_CLIENT_CAPABILITIES, "an object")
    if client_info is not None and not isinstance(client_info, dict):
        raise _wrong_type(META_CLIENT_INFO, "an object")
    if log_level is not None and not (isinstance(log_level, str) and log_level in LOG_LEVELS):
        raise _wrong_type(META_LOG_LEVEL, "one of " + ", ".join(LOG_LEVELS))
    if token is not None and (isinstance(token, bool) or not isinstance(token, str | int)):
        raise _wrong_type("progressToken", "a string or an integer")
    return ModernRequest(
        protocol_version=version,
        client_info=client_info,
        client_capabilities=capabilities,
        log_level=log_level,
        progress_token=token,
    )


def _wrong_type(key: str, wanted: str) -> JsonRpcError:
    return JsonRpcError(INVALID_PARAMS, f"params._meta[{key!r}] must be {wanted}")

"""The checks of the modern era, rung by rung."""

from typing import Any

import pytest

from common.mcp.inbound import HTTP_STATUS, ModernRequest, check_version, classify, duplicated_routing_header
from common.mcp.jsonrpc import HEADER_MISMATCH, INVALID_PARAMS, UNSUPPORTED_VERSION, JsonRpcError

VERSION = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
CLIENT_INFO = "io.modelcontextprotocol/clientInfo"
LOG_LEVEL = "io.modelcontextprotocol/logLevel"
NOW = "2026-07-28"

HEADERS = {"mcp-protocol-version": NOW, "mcp-method": "tools/call", "mcp-name": "echo"}


def params(**changes: Any) -> dict[str, Any]:
    """The params of a valid tools/call, with changes to `_meta`; `...` removes a key."""
    meta = {VERSION: NOW, CAPABILITIES: {}} | {_KEYS.get(key, key): value for key, value in changes.items()}
    return {"name": "echo", "arguments": {}, "_meta": {k: v for k, v in meta.items() if v is not ...}}


_KEYS = {"version": VERSION, "capabilities": CAPABILITIES, "client_info": CLIENT_INFO, "log_level": LOG_LEVEL}


def refusal(method: str, given: dict[str, Any], headers: dict[str, str] | None) -> JsonRpcError:
    """The error of a request that must be refused."""
    with pytest.raises(JsonRpcError) as caught:
        classify(method, given, headers)
    return caught.value


def test_a_minimal_request_passes() -> None:
    """Version and capabilities are all that is required."""
    assert classify("tools/call", params(), HEADERS) == ModernRequest(
        protocol_version=NOW, client_info=None, client_capabilities={}, log_level=None, progress_token=None
    )


def test_a_full_request_hands_over_what_it_says_about_itself() -> None:
    """Client, capabilities, log level and progress token come back as sent."""
    given = params(
        client_info={"name": "c", "version": "1"},
        capabilities={"sampling": {}},
        log_level="info",
        progressToken=7,
        traceparent="00-x",
    )
    assert classify("tools/call", given, HEADERS) == ModernRequest(
        protocol_version=NOW,
        client_info={"name": "c", "version": "1"},
        client_capabilities={"sampling": {}},
        log_level="info",
        progress_token=7,
    )


@pytest.mark.parametrize("given", [{}, {"_meta": None}, {"_meta": []}, {"_meta": "x"}])
def test_meta_must_be_an_object(given: dict[str, Any]) -> None:
    """The first rung, named before any header is looked at."""
    error = refusal("tools/call", given, {})
    assert error.code == INVALID_PARAMS
    assert "_meta must be an object" in error.message


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"version": ...}, [VERSION]),
        ({"capabilities": ...}, [CAPABILITIES]),
        ({"version": ..., "capabilities": ...}, [VERSION, CAPABILITIES]),
    ],
)
def test_missing_keys_are_named(changes: dict[str, Any], named: list[str]) -> None:
    """Every missing key at once, also where the headers are wrong too."""
    error = refusal("tools/call", params(**changes), {})
    assert error.code == INVALID_PARAMS
    assert all(key in error.message for key in named)


@pytest.mark.parametrize(
    ("method", "header_changes", "named"),
    [
        ("tools/call", {"mcp-protocol-version": None}, "MCP-Protocol-Version"),
        ("tools/call", {"mcp-protocol-version": "2025-11-25"}, "MCP-Protocol-Version"),
        ("tools/call", {"mcp-protocol-version": f"{NOW},{NOW}"}, "MCP-Protocol-Version"),
        ("tools/call", {"mcp-method": None}, "Mcp-Method"),
        ("tools/call", {"mcp-method": "Tools/Call"}, "Mcp-Method"),
        ("tools/list", {}, "Mcp-Method"),
        ("tools/call", {"mcp-name": None}, "Mcp-Name"),
        ("tools/call", {"mcp-name": "Echo"}, "Mcp-Name"),
        ("tools/call", {"mcp-name": "=?base64?ZWNobx==?="}, "Mcp-Name"),
    ],
)
def test_headers_must_repeat_the_body(method: str, header_changes: dict[str, str | None], named: str) -> None:
    """The message names the header; values are compared as they are."""
    headers = {k: v for k, v in (HEADERS | header_changes).items() if v is not None}
    error = refusal(method, params(), headers)
    assert error.code == HEADER_MISMATCH
    assert named in error.message


@pytest.mark.parametrize(
    ("method", "key", "value", "header"),
    [
        ("tools/call", "name", "echo", "echo"),
        ("tools/call", "name", "echo", "=?base64?ZWNobw==?="),
        ("tools/call", "name", "écho", "=?base64?w6ljaG8=?="),
        ("prompts/get", "name", "p", " p\t"),
        ("resources/read", "uri", "file:///a b", "file:///a b"),
        ("tools/list", "name", "whatever", None),
        ("tools/call", "name", None, "anything"),
    ],
)
def test_the_name_header_is_decoded_before_it_is_compared(
    method: str, key: str, value: str | None, header: str | None
) -> None:
    """Padding and base64 are transport matters; a body without a name is left to the params check."""
    given = {key: value, "_meta": params()["_meta"]}
    headers = {"mcp-protocol-version": f" {NOW} ", "mcp-method": f"{method} "}
    assert classify(method, given, headers | ({"mcp-name": header} if header else {})).protocol_version == NOW


def test_a_name_that_is_no_string_never_matches() -> None:
    """A header cannot repeat a number."""
    error = refusal("tools/call", params() | {"name": 5}, HEADERS | {"mcp-name": "5"})
    assert error.code == HEADER_MISMATCH


def test_a_client_at_odds_with_itself_is_told_so_before_its_version_is_judged() -> None:
    """Mismatch comes before support; a null version does not equal an absent header."""
    assert refusal("tools/call", params(version="2099-01-01"), HEADERS).code == HEADER_MISMATCH
    without_version = {name: value for name, value in HEADERS.items() if name != "mcp-protocol-version"}
    assert refusal("tools/call", params(version=None), without_version).code == HEADER_MISMATCH


@pytest.mark.parametrize("requested", ["2099-01-01", "2025-11-25", ""])
def test_an_unsupported_version_is_answered_with_the_supported_ones(requested: str) -> None:
    """Clients negotiate by this `data`."""
    error = refusal("tools/call", params(version=requested), HEADERS | {"mcp-protocol-version": requested})
    assert error.code == UNSUPPORTED_VERSION
    assert error.data == {"supported": [NOW], "requested": requested}
    with pytest.raises(JsonRpcError):
        check_version(requested)


def test_a_supported_version_passes_the_version_check() -> None:
    """The check that notifications share."""
    check_version(NOW)


def test_without_http_there_are_no_headers_to_check() -> None:
    """On a WebSocket the body alone counts; there a version of another type is a fault of shape."""
    assert classify("tools/call", params(), None).protocol_version == NOW
    assert refusal("tools/call", params(version=5), None).code == INVALID_PARAMS


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"capabilities": []}, CAPABILITIES),
        ({"capabilities": None}, CAPABILITIES),
        ({"client_info": "me"}, CLIENT_INFO),
        ({"log_level": "loud"}, LOG_LEVEL),
        ({"log_level": []}, LOG_LEVEL),
        ({"progressToken": True}, "progressToken"),
        ({"progressToken": 1.5}, "progressToken"),
        ({"progressToken": {}}, "progressToken"),
    ],
)
def test_values_of_the_wrong_type_are_refused_by_name(changes: dict[str, Any], named: str) -> None:
    """The last rung protects whoever reads the result."""
    error = refusal("tools/call", params(**changes), HEADERS)
    assert error.code == INVALID_PARAMS
    assert named in error.message


@pytest.mark.parametrize(
    ("pairs", "duplicated"),
    [
        ([], None),
        ([("Mcp-Method", "a"), ("Mcp-Name", "b"), ("X", "1"), ("X", "2")], None),
        ([("Mcp-Method", "a"), ("mcp-method", "a")], "mcp-method"),
        ([("MCP-Protocol-Version", "a"), ("X", ""), ("Mcp-Protocol-Version", "b")], "mcp-protocol-version"),
        ([("Mcp-Name", "a"), ("MCP-NAME", "b")], "mcp-name"),
    ],
)
def test_a_repeated_routing_header_is_found(pairs: list[tuple[str, str]], duplicated: str | None) -> None:
    """Whatever the case and even with equal values; other headers may repeat."""
    assert duplicated_routing_header(pairs) == duplicated


def test_each_error_has_its_http_status() -> None:
    """Unknown methods are 404, other protocol errors 400, everything else 200 by default."""
    assert HTTP_STATUS[-32601] == 404
    assert {HTTP_STATUS[code] for code in (-32700, -32600, -32602, -32020, -32021, -32022)} == {400}
    assert HTTP_STATUS.get(-32603, 200) == 200

"""Our checks and those of the Python SDK 2.3.0 give the same verdict on the same request."""

import importlib
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.mcp import inbound as ours
from common.mcp.jsonrpc import INVALID_PARAMS, JsonRpcError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sdk() -> ModuleType:
    """The SDK's module, imported late: it takes seconds, which collecting the tests should not cost."""
    return importlib.import_module("mcp.shared.inbound")


NOW = "2026-07-28"
ANY_VALUE: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, 5, 1.5, "", "x", "info", [], {}, {"name": "c", "version": "1"}]
)
VERSIONS = st.sampled_from([NOW] * 6 + ["2025-11-25", "2099-01-01", "", None, 5])
METHODS = st.sampled_from(
    ["tools/call", "prompts/get", "resources/read", "tools/list", "server/discover", "x"]
)
NAMES = st.sampled_from(["echo", "é", " padded ", "=?base64?YQ==?=", "", "file:///a"])
FIELDS = (
    NAMES
    | NAMES.map(ours.encode_header_value)
    | st.sampled_from(["=?base64?YR==?=", "=?base64?=", "=?base64??="])
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, str]]:
    """A body and headers: mostly consistent, with faults of every kind mixed in."""
    method, version, name = draw(METHODS), draw(VERSIONS), draw(NAMES)
    meta: dict[str, Any] = {
        "io.modelcontextprotocol/protocolVersion": version,
        "io.modelcontextprotocol/clientCapabilities": draw(st.just({}) | ANY_VALUE),
        "io.modelcontextprotocol/clientInfo": draw(st.just({"name": "c"}) | ANY_VALUE),
        "io.modelcontextprotocol/logLevel": draw(st.just("info") | ANY_VALUE),
        "progressToken": draw(st.just(1) | ANY_VALUE),
    }
    for key in draw(st.sets(st.sampled_from(sorted(meta)), max_size=2)):
        del meta[key]
    params: dict[str, Any] = {"name": name, "uri": name, "_meta": meta}
    if draw(st.integers(0, 9)) == 0:
        params[draw(st.sampled_from(["name", "uri", "_meta"]))] = draw(ANY_VALUE)
    headers = {
        "mcp-protocol-version": draw(st.just(version) | VERSIONS),
        "mcp-method": draw(st.just(method) | METHODS),
        "mcp-name": draw(st.just(ours.encode_header_value(name)) | FIELDS),
    }
    for key in draw(st.sets(st.sampled_from(sorted(headers)), max_size=1)):
        if draw(st.booleans()):
            del headers[key]
    # A field arrives without outer whitespace; the SDK leaves that to its server.
    lines = {key: value.strip() for key, value in headers.items() if isinstance(value, str)}
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, lines


def verdict(body: dict[str, Any], headers: dict[str, str] | None) -> ours.ModernRequest | JsonRpcError:
    """Our answer as a value."""
    try:
        return ours.classify(body["method"], body["params"], headers)
    except JsonRpcError as error:
        return error


@settings(max_examples=1000, deadline=None)
@given(requests(), st.booleans())
def test_both_give_the_same_verdict(
    sdk: ModuleType, request_: tuple[dict[str, Any], dict[str, str]], over_http: bool
) -> None:
    """Same code and data on refusal, same values on success; beyond it we only add checks of type."""
    body, headers = request_
    theirs = sdk.classify_inbound_request(body, headers=headers if over_http else None)
    mine = verdict(body, headers if over_http else None)
    if isinstance(theirs, sdk.InboundLadderRejection):
        assert isinstance(mine, JsonRpcError)
        assert (mine.code, mine.data) == (theirs.code, theirs.data)
    elif isinstance(mine, JsonRpcError):
        assert mine.code == INVALID_PARAMS
        assert well_typed(body["params"]["_meta"]) is False
    else:
        assert well_typed(body["params"]["_meta"]) is True
        assert (mine.protocol_version, mine.client_info, mine.client_capabilities) == (
            theirs.protocol_version,
            theirs.client_info,
            theirs.client_capabilities,
        )


def well_typed(meta: dict[str, Any]) -> bool:
    """Whether the optional values of `_meta` have the types of the schema."""
    token = meta.get("progressToken")
    return (
        isinstance(meta["io.modelcontextprotocol/clientCapabilities"], dict)
        and isinstance(meta.get("io.modelcontextprotocol/clientInfo", {}), dict | None)
        and meta.get("io.modelcontextprotocol/logLevel", "info") in ("info", None)
        and (token is None or type(token) in (str, int))
    )


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])) | FIELDS)
def test_both_encode_and_decode_header_values_alike(sdk: ModuleType, value: str) -> None:
    """Whatever the value, on the way out; whatever the ASCII field, on the way in."""
    assert ours.encode_header_value(value) == sdk.encode_header_value(value)
    if value.isascii() and "\n" not in value:
        assert ours.decode_header_value(value) == sdk.decode_header_value(value)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["Mcp-Name", "MCP-NAME", "mcp-method", "X", "x"]), st.just("v"))))
def test_both_find_the_same_duplicated_header(sdk: ModuleType, pairs: list[tuple[str, str]]) -> None:
    """The same name, or none."""
    assert ours.duplicated_routing_header(pairs) == sdk.find_duplicated_routing_header(pairs)


def test_both_know_the_same_tables(sdk: ModuleType) -> None:
    """HTTP statuses and name-bearing methods."""
    assert dict(ours.HTTP_STATUS) == dict(sdk.ERROR_CODE_HTTP_STATUS)
    assert dict(ours.NAME_BEARING_METHODS) == dict(sdk.NAME_BEARING_METHODS)


TYPES = st.sampled_from(["string"] * 3 + ["integer"] * 3 + ["boolean", "number", "object", ["string"], None])
TOKENS = st.sampled_from(["A", "B", "C", "D", "a", "b c", "", 5, None])
PROPERTY = st.fixed_dictionaries(
    {"type": TYPES}, optional={"x-mcp-header": TOKENS, "default": st.just({"x-mcp-header": 1})}
)
SCHEMAS = st.recursive(
    PROPERTY | st.booleans(),
    lambda inner: st.fixed_dictionaries(
        {"properties": st.dictionaries(st.sampled_from("abcd"), inner, max_size=3)},
        optional={
            "type": st.just("object"),
            "items": inner,
            "allOf": st.lists(inner, max_size=2),
            "$defs": st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
            "const": inner,
        },
    ),
    max_leaves=6,
)
TIDY_SCHEMAS = st.dictionaries(
    st.sampled_from("abc"), st.sampled_from(["string", "integer", "boolean"]), min_size=1
).map(
    lambda kinds: {
        "properties": {name: {"type": kind, "x-mcp-header": name.upper()} for name, kind in kinds.items()}
    }
)
SCALARS: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, False, 0, 42, 42.0, 42.5, 2**70, 10**5000, "42", "é", "", "true", [], 1e22]
)
ARGUMENTS = st.dictionaries(
    st.sampled_from("abcd"), SCALARS | st.dictionaries(st.sampled_from("abcd"), SCALARS)
)
HEADER_LINES = st.dictionaries(
    st.sampled_from(["mcp-param-a", "Mcp-Param-A", "mcp-param-b", "Mcp-Param-C"]),
    st.sampled_from(
        ["42", "42.0", "42.50", "true", "True", "", "=?base64?w6k=?=", "=?base64?YR==?=", "1e+22", str(2**70)]
    ),
)


@settings(max_examples=500, deadline=None)
@given(SCHEMAS | TIDY_SCHEMAS, ARGUMENTS, HEADER_LINES, st.booleans())
def test_both_judge_param_headers_alike(
    sdk: ModuleType, schema: Any, arguments: dict[str, Any], headers: dict[str, str], honest: bool
) -> None:
    """Same schemas valid, same headers sent, same requests refused."""
    valid = sdk.find_invalid_x_mcp_header(schema) is None
    assert (ours.invalid_x_mcp_header(schema) is None) == valid
    if valid:
        assert ours.x_mcp_header_map(schema) == sdk.x_mcp_header_map(schema)
        sent = sdk.mcp_param_headers(sdk.x_mcp_header_map(schema), arguments)
        assert ours.mcp_param_headers(ours.x_mcp_header_map(schema), arguments) == sent
        headers = {**sent, **headers} if not honest else sent
    theirs = sdk.validate_mcp_param_headers(schema, arguments, headers)
    mine = ours.check_mcp_param_headers(schema, arguments, headers)
    assert (mine is None) == (theirs is None)
    assert mine is None or mine.code == theirs.code

"""Header values and `x-mcp-header`: the codec, valid annotations, agreement of headers and arguments."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.mcp.headers import (
    check_mcp_param_headers,
    decode_header_value,
    encode_header_value,
    invalid_x_mcp_header,
    mcp_param_headers,
    trimmed,
    x_mcp_header_map,
)
from common.mcp.jsonrpc import HEADER_MISMATCH


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ("echo", "echo"),
        ("", ""),
        ("a b", "a b"),
        ("file:///x?y=?", "file:///x?y=?"),
        (" a", "=?base64?IGE=?="),
        ("a\t", "=?base64?YQk=?="),
        ("a\r\nX: y", "=?base64?YQ0KWDogeQ==?="),
        ("é", "=?base64?w6k=?="),
        ("\x7f", "=?base64?fw==?="),
        ("=?base64?YQ==?=", "=?base64?PT9iYXNlNjQ/WVE9PT89?="),
        ("=?base64?=", "=?base64?="),
    ],
)
def test_a_value_is_encoded_only_where_a_field_would_change_it(value: str, field: str) -> None:
    """Plain values stay readable; the rest travels as base64 and comes back."""
    assert encode_header_value(value) == field
    assert decode_header_value(field) == value


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_value_survives_a_header_field(value: str) -> None:
    """The field is printable ASCII without outer whitespace, and decodes to the value."""
    field = encode_header_value(value)
    assert field.isascii()
    assert field == field.strip()
    assert field == "" or field.isprintable()
    assert decode_header_value(field) == value


@pytest.mark.parametrize(
    "field",
    [
        pytest.param("=?base64?YR==?=", id="stray bits"),
        pytest.param("=?base64?YQ?=", id="padding missing"),
        pytest.param("=?base64?Y Q==?=", id="blank inside"),
        pytest.param("=?base64?YQ==YQ==?=", id="two payloads"),
        pytest.param("=?base64?/w==?=", id="not UTF-8"),
        pytest.param("=?base64?7aCA?=", id="surrogate"),
        pytest.param("=?base64?é?=", id="not ASCII"),
        pytest.param("=?base64?_-_-?=", id="URL alphabet"),
    ],
)
def test_a_malformed_encoding_decodes_to_nothing(field: str) -> None:
    """One value has one spelling, and a corrupt header never equals a value by accident."""
    assert decode_header_value(field) is None


def test_an_absent_header_decodes_to_nothing() -> None:
    """So that `decode_header_value(headers.get(...))` reads well."""
    assert decode_header_value(None) is None


@pytest.mark.parametrize(
    ("headers", "value"),
    [({"a": " \tx y \t"}, "x y"), ({"a": "x"}, "x"), ({"a": "\u00a0"}, "\u00a0"), ({}, None)],
)
def test_outer_whitespace_is_no_part_of_a_header(headers: dict[str, str], value: str | None) -> None:
    """Blanks and tabs go, as HTTP says; nothing else does."""
    assert trimmed(headers, "a") == value


def schema(**properties: Any) -> dict[str, Any]:
    """An input schema with these properties."""
    return {"type": "object", "properties": properties}


def annotated(token: Any, kind: Any = "string") -> dict[str, Any]:
    """A property schema that wants a header."""
    return {"type": kind, "x-mcp-header": token}


REGION = schema(region=annotated("Region"))
NESTED = schema(
    where={
        "type": "object",
        "properties": {"zone": annotated("Zone", "integer"), "dry": annotated("Dry", "boolean")},
    }
)


@pytest.mark.parametrize(
    ("input_schema", "header_map"),
    [
        (REGION, {("region",): "Region"}),
        (NESTED, {("where", "zone"): "Zone", ("where", "dry"): "Dry"}),
        ({"type": "object"}, {}),
        (None, {}),
        (schema(a={"default": {"x-mcp-header": "no"}, "enum": [{"x-mcp-header": 5}]}), {}),
        (schema(**{"x-mcp-header": {"type": "string"}}), {}),
        (schema(properties=annotated("P")), {("properties",): "P"}),
    ],
)
def test_valid_annotations_are_found_at_their_paths(
    input_schema: Any, header_map: dict[tuple[str, ...], str]
) -> None:
    """Nested properties count; data that happens to hold the key does not."""
    assert invalid_x_mcp_header(input_schema) is None
    assert x_mcp_header_map(input_schema) == header_map


@pytest.mark.parametrize(
    ("input_schema", "why"),
    [
        ({"type": "object", "x-mcp-header": "Root"}, "reached through"),
        (schema(a={"type": "array", "items": annotated("A")}), "reached through"),
        ({"anyOf": [schema(a=annotated("A"))]}, "reached through"),
        ({"$defs": {"x": annotated("A")}}, "reached through"),
        ({"patternProperties": {"x": annotated("A")}}, "reached through"),
        ({"not": {"properties": {"a": annotated("A")}}}, "reached through"),
        (schema(a=annotated("")), "token"),
        (schema(a=annotated("a b")), "token"),
        (schema(a=annotated("é")), "token"),
        (schema(a=annotated("a\n")), "token"),
        (schema(a=annotated(5)), "must be a string, not int"),
        (schema(a=annotated(None)), "must be a string, not NoneType"),
        (schema(a=annotated("A", "number")), "type to be one of"),
        (schema(a=annotated("A", ["string"])), "type to be one of"),
        (schema(a=annotated("A", {})), "type to be one of"),
        (schema(a={"x-mcp-header": "A"}), "type to be one of"),
        (schema(a=annotated("Same"), b=annotated("sAME")), "already used"),
    ],
)
def test_an_invalid_annotation_is_explained(input_schema: Any, why: str) -> None:
    """The reason names the rule that is broken."""
    assert why in (invalid_x_mcp_header(input_schema) or "")


def test_a_deep_schema_does_not_exhaust_the_stack() -> None:
    """Schemas come from backends."""
    deep: dict[str, Any] = annotated("A")
    for _ in range(5000):
        deep = {"not": deep}
    assert "reached through" in (invalid_x_mcp_header(deep) or "")


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        ("eu", {"Mcp-Param-X": "eu"}),
        ("é", {"Mcp-Param-X": "=?base64?w6k=?="}),
        ("", {"Mcp-Param-X": ""}),
        (42, {"Mcp-Param-X": "42"}),
        (True, {"Mcp-Param-X": "true"}),
        (False, {"Mcp-Param-X": "false"}),
        (None, {}),
        ([1], {}),
        ({"a": 1}, {}),
        pytest.param(10**5000, {}, id="too many digits"),
        pytest.param("\ud800", {}, id="lone surrogate"),
    ],
)
def test_arguments_become_headers_where_they_can(value: Any, headers: dict[str, str]) -> None:
    """Strings, numbers and booleans are repeated; null and what has no text are left out."""
    assert mcp_param_headers({("x",): "X"}, {"x": value}) == headers


def test_a_path_that_is_not_there_has_no_header() -> None:
    """Missing keys and scalars on the way are skipped."""
    header_map: dict[tuple[str, ...], str] = {("a", "b"): "B"}
    assert mcp_param_headers(header_map, {}) == {}
    assert mcp_param_headers(header_map, {"a": 5}) == {}
    assert mcp_param_headers(header_map, {"a": {"b": 5}}) == {"Mcp-Param-B": "5"}


AGREE: list[tuple[Any, dict[str, Any], dict[str, str]]] = [
    (REGION, {"region": "eu"}, {"mcp-param-region": "eu"}),
    (REGION, {"region": "eu"}, {"Mcp-Param-REGION": " eu "}),
    (REGION, {"region": "é"}, {"mcp-param-region": "=?base64?w6k=?="}),
    (REGION, {}, {"mcp-param-other": "x"}),
    (REGION, {"region": None}, {}),
    (REGION, {"region": ["eu"]}, {}),
    (NESTED, {"where": {"zone": 42, "dry": True}}, {"mcp-param-zone": "42.0", "mcp-param-dry": "true"}),
    (NESTED, {"where": {"zone": 42.0}}, {"mcp-param-zone": "42"}),
    (NESTED, {"where": {"zone": 2**60 + 1}}, {"mcp-param-zone": str(2**60 + 1)}),
    (NESTED, {}, {}),
    (schema(a=annotated("A", "number")), {"a": 1}, {"mcp-param-a": "2"}),
    ({"type": "object"}, {"a": 1}, {"mcp-param-a": "2"}),
    (None, {"a": 1}, {"mcp-param-a": "2"}),
]


@pytest.mark.parametrize(("input_schema", "arguments", "headers"), AGREE)
def test_headers_that_repeat_the_arguments_pass(
    input_schema: Any, arguments: dict[str, Any], headers: dict[str, str]
) -> None:
    """Present and equal, or absent together; a schema with invalid annotations checks nothing."""
    assert check_mcp_param_headers(input_schema, arguments, headers) is None


DISAGREE: list[tuple[Any, dict[str, Any], dict[str, str], str]] = [
    (REGION, {"region": "eu"}, {"mcp-param-region": "us"}, "not equal"),
    (REGION, {"region": "eu"}, {"mcp-param-region": "EU"}, "not equal"),
    (REGION, {"region": "eu"}, {}, "missing"),
    (REGION, {}, {"mcp-param-region": "eu"}, "no value"),
    (REGION, {"region": ["eu"]}, {"mcp-param-region": "eu"}, "no value"),
    (REGION, {"region": "a"}, {"mcp-param-region": "=?base64?YR==?="}, "malformed"),
    (REGION, {"region": "eu"}, {"mcp-param-region": "eu", "Mcp-Param-Region": "eu"}, "more than once"),
    (REGION, {"region": "42"}, {"mcp-param-region": "42.0"}, "not equal"),
    (REGION, {"region": 42}, {"mcp-param-region": "42.0"}, "not equal"),
    (NESTED, {"where": {"zone": 42}}, {"mcp-param-zone": "42.5"}, "not equal"),
    (NESTED, {"where": {"zone": 42}}, {"mcp-param-zone": "4.2e1"}, "not equal"),
    (NESTED, {"where": {"zone": 2**60}}, {"mcp-param-zone": str(2**60 + 1)}, "not equal"),
    (NESTED, {"where": {"zone": True}}, {"mcp-param-zone": "1"}, "not equal"),
    (NESTED, {"where": {"zone": 1}}, {"mcp-param-zone": "1" * 5000}, "not equal"),
    (NESTED, {"where": {"dry": True}}, {"mcp-param-dry": "True"}, "not equal"),
]


@pytest.mark.parametrize(("input_schema", "arguments", "headers", "why"), DISAGREE)
def test_headers_at_odds_with_the_arguments_are_refused(
    input_schema: Any, arguments: dict[str, Any], headers: dict[str, str], why: str
) -> None:
    """The error is HEADER_MISMATCH and names header and argument."""
    error = check_mcp_param_headers(input_schema, arguments, headers)
    assert error is not None
    assert error.code == HEADER_MISMATCH
    assert "Mcp-Param-" in error.message
    assert why in error.message


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from("abc"), st.text() | st.integers() | st.booleans() | st.floats() | st.none()
    )
)
def test_what_we_send_we_would_accept(arguments: dict[str, Any]) -> None:
    """The headers made from arguments agree with these arguments, whatever types they have."""
    input_schema = schema(a=annotated("A"), b=annotated("B", "integer"), c=annotated("C", "boolean"))
    headers = mcp_param_headers(x_mcp_header_map(input_schema), arguments)
    assert check_mcp_param_headers(input_schema, arguments, headers) is None

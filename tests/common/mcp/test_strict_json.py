"""The strict JSON parser: what is accepted, what is refused and with which words."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.mcp.jsonrpc import MAX_INTEGER, MIN_INTEGER, PARSE_ERROR, JsonRpcError, dumps, strict_json

REFUSED_TEXTS = [
    pytest.param(b"", "empty", id="nothing"),
    pytest.param(b"  ", "empty", id="blanks"),
    pytest.param(b"\xef\xbb\xbf{}", "byte order mark", id="byte order mark"),
    pytest.param(b'"\xff"', "invalid UTF-8 at byte 1", id="invalid UTF-8"),
    pytest.param(b'"\xc0\xaf"', "invalid UTF-8 at byte 1", id="overlong UTF-8"),
    pytest.param(b'"\xed\xa0\x80"', "invalid UTF-8 at byte 1", id="surrogate in UTF-8"),
    pytest.param("[1]".encode("utf-16"), "invalid UTF-8 at byte 0", id="UTF-16"),
    pytest.param(b'"\\ud800"', "surrogate", id="lone high surrogate"),
    pytest.param(b'"\\udc00"', "surrogate", id="lone low surrogate"),
    pytest.param(b'{"\\ud800": 1}', "surrogate", id="lone surrogate in a key"),
    pytest.param(b"NaN", "NaN and Infinity", id="NaN"),
    pytest.param(b'{"a": NaN}', "NaN and Infinity", id="NaN inside"),
    pytest.param(b"[Infinity]", "NaN and Infinity", id="Infinity"),
    pytest.param(b"[-Infinity]", "NaN and Infinity", id="minus Infinity"),
    pytest.param(b"1e400", "infinity", id="float that overflows"),
    pytest.param(b'{"a": 1, "a": 2}', "duplicate key 'a'", id="duplicate key"),
    pytest.param(b'{"a": 1, "a": 1}', "duplicate key 'a'", id="duplicate key, same value"),
    pytest.param(b'{"a": 1, "\\u0061": 2}', "duplicate key 'a'", id="duplicate key behind an escape"),
    pytest.param(b'[{"x": {"k:\\"": 1, "k:\\"": 2}}]', "duplicate key 'k:\"'", id="duplicate key inside"),
    pytest.param(b'{"\\n\\u202e": 1, "\\n\\u202e": 2}', "'\\n\\u202e'", id="duplicate key is shown escaped"),
    pytest.param(b"18446744073709551616", "integer outside", id="integer above"),
    pytest.param(b"-9223372036854775809", "integer outside", id="integer below"),
    pytest.param(b"9" * 300, "integer outside", id="integer that would become a float"),
    pytest.param(b'{"a":[1.5,' + b"9" * 21 + b"]}", "integer outside", id="integer next to a float"),
    pytest.param(b"1" * 4301, "infinity", id="integer of more than 4300 digits"),
    pytest.param(b"[" * 65 + b"]" * 65, "more than 64 deep", id="too deep"),
    pytest.param(b'{"a":' * 65 + b"1" + b"}" * 65, "more than 64 deep", id="objects too deep"),
    pytest.param(b"[" * 100_000 + b"]" * 100_000, "depth", id="deeper than any stack"),
    pytest.param(b"[" * 100_000, "depth", id="deep and unfinished"),
    pytest.param(b"{} {}", "after document", id="two texts"),
    pytest.param(b"[1,]", "comma", id="trailing comma"),
    pytest.param(b"01", "zero", id="leading zero"),
    pytest.param(b"{'a': 1}", "", id="single quotes"),
    pytest.param(b'"\x01"', "control character", id="raw control character"),
]


@pytest.mark.parametrize(("raw", "why"), REFUSED_TEXTS)
def test_an_ambiguous_or_invalid_text_is_refused_with_the_reason(raw: bytes, why: str) -> None:
    """Each refusal is a parse error whose message says what is wrong."""
    with pytest.raises(JsonRpcError) as caught:
        strict_json(raw)
    assert caught.value.code == PARSE_ERROR
    assert caught.value.message.startswith("Parse error: ")
    assert why in caught.value.message


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"{}", {}),
        (b" [1, 2.5, -3] \n", [1, 2.5, -3]),
        (b'{"a": {"a": {"a": 1}}}', {"a": {"a": {"a": 1}}}),
        (b'[{"a": 1}, {"a": 2}]', [{"a": 1}, {"a": 2}]),
        (b'{"a:b": ":{}[]", "c\\\\": "\\"d\\": 1"}', {"a:b": ":{}[]", "c\\": '"d": 1'}),
        (b'{"\\\\\\"": "\\\\"}', {'\\"': "\\"}),
        (b'"\\ud83d\\ude00"', "\N{GRINNING FACE}"),
        (b'"99999999999999999999"', "99999999999999999999"),
        (str(MAX_INTEGER).encode(), MAX_INTEGER),
        (str(MIN_INTEGER).encode(), MIN_INTEGER),
        (b"0.12345678901234567890123", 0.12345678901234567890123),
        (b"12345678901234567890123.0", 12345678901234567890123.0),
        (b"1234567890123456789012e0", 1234567890123456789012.0),
    ],
)
def test_an_unambiguous_text_is_read_exactly(raw: bytes, value: Any) -> None:
    """Quotes, colons and brackets inside strings do not confuse the checks."""
    parsed = strict_json(raw)
    assert parsed == value
    assert type(parsed) is type(value)


def test_the_deepest_allowed_text_is_read() -> None:
    """64 levels are inside the bound."""
    assert dumps(strict_json(b"[" * 64 + b"]" * 64)) == b"[" * 64 + b"]" * 64


def test_the_depth_bound_can_be_set() -> None:
    """`max_depth` counts containers: two levels pass a bound of two and fail a bound of one."""
    assert strict_json(b"[[]]", max_depth=2) == [[]]
    with pytest.raises(JsonRpcError, match="more than 1 deep"):
        strict_json(b"[[]]", max_depth=1)


def test_a_long_duplicate_key_is_shortened_in_the_message() -> None:
    """A hostile key cannot blow up the answer."""
    key = b'"' + b"k" * 100_000 + b'":1'
    with pytest.raises(JsonRpcError) as caught:
        strict_json(b"{" + key + b"," + key + b"}")
    assert len(caught.value.message) < 200


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(MIN_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(JSON_VALUES, st.booleans())
def test_every_json_value_is_read_as_it_was_written(value: Any, ascii_only: bool) -> None:
    """What a standard encoder writes, escaped or not, comes back equal, and so does what `dumps` writes."""
    assert strict_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value
    assert strict_json(dumps(value)) == value


FRAGMENTS = [
    *[bytes([character]) for character in b'"\\{}[]:, 1-.e'],
    *[
        b'"a"',
        b'"\\u0061"',
        b'"\\\\"',
        b'"\\""',
        b'"\\ud800"',
        b"true",
        b"null",
        b'{"a":1,"a":2}',
        b'{"a":1}',
    ],
    *[b"NaN", b"Infinity", b"9" * 19, b"9" * 20, b"1e999", b"\xff", b"\xef\xbb\xbf"],
]
JSON_LIKE = st.lists(st.sampled_from(FRAGMENTS)).map(b"".join)


@settings(max_examples=500, deadline=None)
@given(st.binary() | JSON_LIKE)
def test_arbitrary_bytes_are_read_or_refused_and_nothing_else(raw: bytes) -> None:
    """Only JsonRpcError ever leaves the parser, and what it accepts survives being written and read again."""
    value = outcome(strict_json, raw)
    if isinstance(value, JsonRpcError):
        assert value.code == PARSE_ERROR
    else:
        assert strict_json(dumps(value)) == value


def outcome(parse: Callable[[bytes], Any], raw: bytes) -> Any:
    """What `parse` returns, or the JsonRpcError it raises."""
    try:
        return parse(raw)
    except JsonRpcError as error:
        return error


class RefusedError(Exception):
    """The second parser of these tests does not accept the text."""


def read_by_a_second_parser(raw: bytes) -> Any:
    """The standard library's parser, with every rule of `strict_json` spelled out member by member."""

    def integer(text: str) -> int:
        if not MIN_INTEGER <= int(text) <= MAX_INTEGER:
            raise RefusedError
        return int(text)

    def finite(text: str) -> float:
        if math.isinf(float(text)):
            raise RefusedError
        return float(text)

    def constant(text: str) -> None:
        raise RefusedError

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise RefusedError
        return dict(pairs)

    decoder = json.JSONDecoder(
        parse_int=integer, parse_float=finite, parse_constant=constant, object_pairs_hook=members
    )
    return decoder.decode(raw.decode())


KEYS = st.sampled_from(['"a"', '"\\u0061"', '"b"', '":"', '"\\\\"', '"\\""', '"{"', '"\\\\\\":1,"', '""'])
NUMBERS = [
    "0",
    "-0",
    "1.5",
    "1e5",
    "1e999",
    "-1e-999",
    "NaN",
    "-Infinity",
    "9" * 18,
    "9" * 19,
    "9" * 20,
    "9" * 25,
]
NUMBERS += [str(MAX_INTEGER), str(MAX_INTEGER + 1), str(MIN_INTEGER), str(MIN_INTEGER - 1), "9" * 25 + ".5"]
BLANKS = st.sampled_from(["", " ", "\n\t"])
TEXTS = st.recursive(
    KEYS | st.sampled_from([*NUMBERS, "true", "null"]),
    lambda inner: (
        st.tuples(BLANKS, st.lists(inner, max_size=4)).map(lambda x: f"[{x[0]}{(',' + x[0]).join(x[1])}]")
        | st.lists(st.tuples(KEYS, BLANKS, inner), max_size=4).map(
            lambda members: "{" + ",".join(f"{key}{blank}:{value}" for key, blank, value in members) + "}"
        )
    ),
    max_leaves=12,
)


@settings(max_examples=500, deadline=None)
@given(TEXTS | JSON_LIKE.map(lambda raw: raw.decode("latin-1")))
def test_the_fast_checks_agree_with_a_second_parser_that_looks_at_every_member(text: str) -> None:
    """Accepted exactly when the slow and obvious checks accept, and then with the same value."""
    raw = text.encode()
    value = outcome(strict_json, raw)
    try:
        expected = read_by_a_second_parser(raw)
    except (RefusedError, ValueError):
        assert isinstance(value, JsonRpcError)
        return
    if isinstance(value, JsonRpcError):
        # The one thing that the standard library accepts and nobody should: half a surrogate pair.
        assert "surrogate" in value.message
    else:
        assert value == expected


@settings(max_examples=200, deadline=None)
@given(JSON_VALUES, JSON_VALUES, st.text(st.characters(exclude_categories=["Cs"])))
def test_a_duplicate_key_is_found_wherever_it_hides(first: Any, second: Any, key: str) -> None:
    """An object that says one key twice is refused, whatever surrounds it."""
    name = json.dumps(key)
    text = f"[{json.dumps(first)}, {{{name}: {json.dumps(first)}, {name}: {json.dumps(second)}}}]"
    with pytest.raises(JsonRpcError, match="duplicate key"):
        strict_json(text.encode())

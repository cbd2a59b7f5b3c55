"""The strict codec: what is accepted, what is refused and with which words."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.mcp.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    MAX_INTEGER,
    MIN_INTEGER,
    PARSE_ERROR,
    ErrorResponse,
    JsonRpcError,
    Message,
    Notification,
    Request,
    Response,
    dumps,
    error_response,
    parse_message,
    result_response,
    strict_json,
)

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


MESSAGES: list[tuple[bytes, Message]] = [
    (b'{"jsonrpc":"2.0","id":1,"method":"ping"}', Request(1, "ping", {})),
    (b'{"jsonrpc":"2.0","id":"a","method":"m","params":{"x":[1]}}', Request("a", "m", {"x": [1]})),
    (b'{"jsonrpc":"2.0","id":0,"method":"m","params":{}}', Request(0, "m", {})),
    (b'{"jsonrpc":"2.0","id":"","method":"m"}', Request("", "m", {})),
    (b'{"jsonrpc":"2.0","method":"n"}', Notification("n", {})),
    (b'{"jsonrpc":"2.0","method":"n","params":{"a":null}}', Notification("n", {"a": None})),
    (b'{"jsonrpc":"2.0","id":1,"result":{}}', Response(1, {})),
    (
        b'{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"x"}}',
        ErrorResponse(1, {"code": -1, "message": "x"}),
    ),
    (
        b'{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"x","data":[]}}',
        ErrorResponse(None, {"code": -1, "message": "x", "data": []}),
    ),
    (
        b'{"jsonrpc":"2.0","error":{"code":-1,"message":"x"}}',
        ErrorResponse(None, {"code": -1, "message": "x"}),
    ),
]


@pytest.mark.parametrize(("raw", "message"), MESSAGES)
def test_each_kind_of_message_is_recognised(raw: bytes, message: Message) -> None:
    """Requests, notifications, results and errors each become their own type."""
    assert parse_message(raw) == message


REFUSED_MESSAGES = [
    pytest.param(b"[]", None, "batches are not supported", id="empty batch"),
    pytest.param(b'[{"jsonrpc":"2.0","id":1,"method":"m"}]', None, "batches are not supported", id="batch"),
    pytest.param(b'"x"', None, "JSON object", id="not an object"),
    pytest.param(b'{"id":1,"method":"m"}', 1, "jsonrpc", id="no version"),
    pytest.param(b'{"jsonrpc":"1.0","id":1,"method":"m"}', 1, "jsonrpc", id="other version"),
    pytest.param(b'{"jsonrpc":2.0,"id":1,"method":"m"}', 1, "jsonrpc", id="version as a number"),
    pytest.param(b'{"jsonrpc":"2.0","id":1}', 1, "method, result or error", id="neither call nor answer"),
    pytest.param(b'{"jsonrpc":"2.0","id":null,"method":"m"}', None, "id must be", id="null id"),
    pytest.param(b'{"jsonrpc":"2.0","id":true,"method":"m"}', None, "id must be", id="boolean id"),
    pytest.param(b'{"jsonrpc":"2.0","id":1.0,"method":"m"}', None, "id must be", id="float id"),
    pytest.param(b'{"jsonrpc":"2.0","id":[1],"method":"m"}', None, "id must be", id="array id"),
    pytest.param(b'{"jsonrpc":"2.0","id":null,"result":{}}', None, "id must be", id="result with null id"),
    pytest.param(b'{"jsonrpc":"2.0","id":1,"method":5}', 1, "method must be", id="method not a string"),
    pytest.param(
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":[]}', 1, "params must be", id="array params"
    ),
    pytest.param(
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":null}', 1, "params must be", id="null params"
    ),
    pytest.param(
        b'{"jsonrpc":"2.0","id":"q","method":"m","Method":"x"}', "q", "'Method'", id="look-alike member"
    ),
    pytest.param(b'{"jsonrpc":"2.0","id":1,"method":"m","result":{}}', 1, "'result'", id="call and answer"),
    pytest.param(
        b'{"jsonrpc":"2.0","id":null,"method":"m","error":{}}', None, "'error'", id="call and error"
    ),
    pytest.param(b'{"jsonrpc":"2.0","id":1,"result":{},"error":{}}', 1, "'error'", id="result and error"),
    pytest.param(b'{"jsonrpc":"2.0","id":1,"result":[]}', 1, "result must be", id="result not an object"),
    pytest.param(b'{"jsonrpc":"2.0","result":{}}', None, "carry an id", id="result without id"),
    pytest.param(b'{"jsonrpc":"2.0","id":1,"error":"x"}', 1, "error must be", id="error not an object"),
    pytest.param(
        b'{"jsonrpc":"2.0","id":1,"error":{"code":1.5,"message":"x"}}',
        1,
        "integer code",
        id="error code a float",
    ),
    pytest.param(
        b'{"jsonrpc":"2.0","id":1,"error":{"code":1}}', 1, "string message", id="error without message"
    ),
]


@pytest.mark.parametrize(("raw", "request_id", "why"), REFUSED_MESSAGES)
def test_what_is_not_one_message_is_refused_under_its_id(
    raw: bytes, request_id: str | int | None, why: str
) -> None:
    """The error is INVALID_REQUEST, says why, and carries the id when it could be read."""
    with pytest.raises(JsonRpcError) as caught:
        parse_message(raw)
    assert caught.value.code == INVALID_REQUEST
    assert caught.value.request_id == request_id
    assert why in caught.value.message


def test_an_unreadable_text_has_no_request_id() -> None:
    """A parse error comes before the id is known."""
    with pytest.raises(JsonRpcError) as caught:
        parse_message(b'{"jsonrpc":"2.0","id":1,"id":2,"method":"m"}')
    assert (caught.value.code, caught.value.request_id) == (PARSE_ERROR, None)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error", "x"]),
        st.just("2.0")
        | JSON_VALUES
        | st.fixed_dictionaries({"code": st.integers(-9, 9), "message": st.text("ab")}),
    )
)
def test_any_object_is_a_message_or_refused(body: dict[str, Any]) -> None:
    """Only JsonRpcError leaves `parse_message`, and what passes has the types that its class promises."""
    match outcome(parse_message, dumps(body)):
        case JsonRpcError() as error:
            assert error.code == INVALID_REQUEST
        case Request(id=known, method=method, params=params):
            assert isinstance(known, str | int)
            assert (method, params) == (body["method"], body.get("params", {}))
        case Notification(method=method, params=params):
            assert "id" not in body
            assert (method, params) == (body["method"], body.get("params", {}))
        case Response(id=known, result=result):
            assert (known, result) == (body["id"], body["result"])
        case ErrorResponse(id=known, error=failure):
            assert (known, failure) == (body.get("id"), body["error"])
        case other:
            pytest.fail(f"not a message: {other!r}")


def test_answers_have_the_shape_of_the_specification() -> None:
    """`data` is left out when there is none, and a null id is written."""
    assert result_response(1, {"a": 1}) == {"jsonrpc": "2.0", "id": 1, "result": {"a": 1}}
    assert error_response(None, -32700, "Parse error") == {
        "jsonrpc": "2.0",
        "id": None,
        "error": {"code": -32700, "message": "Parse error"},
    }
    assert error_response("x", -1, "m", {"k": 1})["error"] == {"code": -1, "message": "m", "data": {"k": 1}}


def test_dumps_is_compact_and_keeps_unicode() -> None:
    """No blanks, no needless escapes."""
    assert dumps({"a": [1, "é"]}) == '{"a":[1,"é"]}'.encode()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param({"n": 2**64}, b'{"n":18446744073709551616}', id="integer beyond 64 bit"),
        pytest.param("\ud800", b'"\\ud800"', id="lone surrogate"),
    ],
)
def test_dumps_writes_what_a_backend_may_have_sent_though_the_ingress_would_refuse_it(
    value: Any, text: bytes
) -> None:
    """A backend's answer is relayed without loss."""
    assert dumps(value) == text


def test_dumps_writes_more_levels_than_orjson_allows() -> None:
    """The limit of 254 levels is orjson's, not the protocol's."""
    nested: list[Any] = []
    for _ in range(299):
        nested = [nested]
    assert dumps(nested) == b"[" * 300 + b"]" * 300


@pytest.mark.parametrize("value", [object(), {"a": {1, 2}}, [math.inf, 2**64]])
def test_dumps_says_what_json_cannot_carry(value: Any) -> None:
    """A value without a JSON form is a typed error, not a traceback."""
    with pytest.raises(JsonRpcError) as caught:
        dumps(value)
    assert caught.value.code == INTERNAL_ERROR


def test_the_error_reads_well_in_a_log() -> None:
    """Code and message are both in its text."""
    assert str(JsonRpcError(-32601, "Method not found: x")) == "Method not found: x (-32601)"

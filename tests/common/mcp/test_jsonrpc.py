"""Messages: which kinds there are, what is refused and under which id, and how answers are written."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.mcp.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
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
)

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


LOOK_ALIKES = [
    "Name",
    "NAME",
    "Arguments",
    "argument\u017f",
    "URI",
    "Ref",
    "_Meta",
    "requeststate",
    "inputresponses",
    "tas\u212a",
]


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_what_a_folding_reader_takes_for_another_member_is_refused(name: str) -> None:
    """Found by fuzzing: ``{"name": "safe", "Name": "evil"}`` went on to the backend, where Go would call ``evil``."""
    params = {"name": "safe", "uri": "x:y", name: "evil"}
    with pytest.raises(JsonRpcError) as caught:
        parse_message(dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}))
    assert (caught.value.code, caught.value.request_id) == (INVALID_REQUEST, 1)
    assert ascii(name) in caught.value.message


@pytest.mark.parametrize("member", ["Name", "TYPE", "uRi"])
def test_so_is_one_in_a_reference(member: str) -> None:
    """``params.ref`` names what is completed."""
    params = {"ref": {"type": "ref/prompt", "name": "safe", member: "evil"}}
    with pytest.raises(JsonRpcError, match=member):
        parse_message(dumps({"jsonrpc": "2.0", "id": 1, "method": "completion/complete", "params": params}))


def test_what_is_called_may_have_any_names() -> None:
    """Arguments are the backend's own, and so are members that the protocol does not know."""
    params = {
        "name": "safe",
        "arguments": {"name": 1, "Name": 2, "NAME": 3},
        "vendorName": 4,
        "type": 5,
        "Type": 6,
    }
    message = parse_message(dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}))
    assert isinstance(message, Request)
    assert message.params == params


@pytest.mark.parametrize("meta", ["null", "[]", '"x"', "1", "false"])
@pytest.mark.parametrize("more", ['"id":1,', ""])
def test_a_meta_that_is_no_object_is_refused(meta: str, more: str) -> None:
    """Backends look into it."""
    raw = '{"jsonrpc":"2.0",%s"method":"tools/call","params":{"name":"x","_meta":%s}}' % (more, meta)  # noqa: UP031
    with pytest.raises(JsonRpcError, match="_meta must be an object") as caught:
        parse_message(raw.encode())
    assert (caught.value.code, caught.value.request_id) == (INVALID_PARAMS, 1 if more else None)


def test_an_unreadable_text_has_no_request_id() -> None:
    """A parse error comes before the id is known."""
    with pytest.raises(JsonRpcError) as caught:
        parse_message(b'{"jsonrpc":"2.0","id":1,"id":2,"method":"m"}')
    assert (caught.value.code, caught.value.request_id) == (PARSE_ERROR, None)


MEMBERS = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-1, 1) | st.text("ab"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab"), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error", "x"]),
        st.just("2.0")
        | MEMBERS
        | st.fixed_dictionaries({"code": st.integers(-9, 9), "message": st.text("ab")}),
    )
)
def test_any_object_is_a_message_or_refused(body: dict[str, Any]) -> None:
    """Only JsonRpcError leaves `parse_message`, and what passes has the types that its class promises."""
    try:
        message: Message | JsonRpcError = parse_message(dumps(body))
    except JsonRpcError as refused:
        message = refused
    match message:
        case JsonRpcError() as error:
            assert error.code in {INVALID_REQUEST, INVALID_PARAMS}
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

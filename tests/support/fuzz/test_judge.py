"""The judge of the fuzz run sees what it is there for: a run that finds nothing has looked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.fuzz.grammar import make
from tests.support.fuzz.judge import Tally, Told, differences, judge, unaccounted
from tests.support.fuzz.readings import http, incomplete, readings
from tests.support.fuzz.wire import Answer, problem_of_message

GOOD = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"see","arguments":{"n":1}}}'


def request(body: str, *headers: str, path: str = "/servers/both/mcp") -> bytes:
    """A POST."""
    lines = [f"POST {path} HTTP/1.1", "Host: h", f"Content-Length: {len(body.encode())}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body.encode()


def told(line: str = GOOD, tool: str = "both") -> Told:
    """What a backend got."""
    return Told(tool, line)


def test_what_is_the_same_is_the_same() -> None:
    """However it is spelled, and whichever endpoint it came to."""
    spelled = (
        GOOD.replace('"name"', '"n\\u0061me"').replace(":", " : ").replace('"jsonrpc" : "2.0","id" : 1,', "")
    )
    spelled = spelled.replace("{", '{"id":1, "jsonrpc":"2.0",', 1)
    assert differences(http(request(spelled)), told()) == []
    aggregate = GOOD.replace('"see"', '"both__see"')
    assert differences(http(request(aggregate, path="/mcp")), told()) == []


@pytest.mark.parametrize("batch", [f"[{GOOD}]", f"[{GOOD},{GOOD}]"])
def test_a_batch_reads_as_its_messages(batch: str) -> None:
    """Of which the backend gets one at a time."""
    assert differences(http(request(batch)), told()) == []
    assert differences(http(request(batch)), told(GOOD.replace('"see"', '"other"')))
    assert differences(http(request("[]")), told())
    assert differences(http(request(batch.replace('"name":"see"', '"name":"see","name":"x"'))), told())


@pytest.mark.parametrize(
    "line",
    [
        GOOD.replace('"see"', '"other"'),
        GOOD.replace('{"n":1}', '{"n":2}'),
        GOOD.replace('{"n":1}', '{"n":1.0}'),
        GOOD.replace('{"n":1}', '{"n":true}'),
        GOOD.replace("tools/call", "prompts/get"),
        GOOD.replace('"name":"see"', '"name":"see","Name":"other"'),
        GOOD.replace('"name":"see"', '"name":"see","name":"see"'),
        GOOD.replace('"params"', '"extra":1,"params"').replace('"name":"see"', '"name":"see","task":1'),
    ],
)
def test_a_backend_that_got_something_else_is_seen(line: str) -> None:
    """Name, arguments, their types, the method, and whatever another reader takes for them."""
    assert differences(http(request(GOOD)), told(line))


@pytest.mark.parametrize(
    "body",
    [
        GOOD.replace('"name":"see"', '"name":"see","name":"other"'),
        GOOD.replace('"name":"see"', '"name":"other","name":"see"'),
        GOOD.replace('"name":"see"', '"NAME":"other","name":"see"'),
        GOOD.replace('"arguments"', '"argument\u017f":{"n":2},"arguments"'),
        GOOD.replace('{"n":1}', '{"n":1,"x":NaN}'),
        GOOD[:-1],
    ],
)
def test_a_request_that_reads_in_two_ways_must_not_arrive(body: str) -> None:
    """Even if the backend got one of the two."""
    assert differences(http(request(body)), told())


def test_headers_that_say_otherwise_are_seen() -> None:
    """Of the modern era; ``Mcp-Name`` may be in base64."""
    version, method = "MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/call"
    for name, fine in (("see", True), ("=?base64?c2Vl?=", True), ("other", False), ("=?base64?c2Vl", False)):
        found = differences(http(request(GOOD, version, method, f"Mcp-Name: {name}")), told())
        assert (found == []) is fine
    assert differences(http(request(GOOD, version, method)), told())
    assert differences(http(request(GOOD, version, "Mcp-Name: see", "Mcp-Method: x")), told())


def test_another_tool_is_seen() -> None:
    """Of the gateway, not only of the backend."""
    assert differences(http(request(GOOD)), told(tool="old"))
    assert differences(http(request(GOOD.replace('"see"', '"old__see"'), path="/mcp")), told())


def test_what_is_no_whole_request_is_told_apart() -> None:
    """From one that is, and from one that never will be."""
    whole = request(GOOD)
    assert http(whole[:-1]) is None
    assert incomplete(whole[:-1])
    assert not incomplete(whole)
    assert not incomplete(b"\x00" + whole)


MESSAGES: list[tuple[Any, bool]] = [
    ({"jsonrpc": "2.0", "id": 1, "result": {}}, True),
    ({"jsonrpc": "2.0", "id": None, "error": {"code": 1, "message": ""}}, True),
    ({"jsonrpc": "2.0", "method": "notifications/x"}, True),
    ({"id": 1, "result": {}}, False),
    ({"jsonrpc": "2.0", "result": {}}, False),
    ({"jsonrpc": "2.0", "id": 1, "result": {}, "error": {"code": 1, "message": ""}}, False),
    ({"jsonrpc": "2.0", "id": 1, "error": {"code": "1", "message": ""}}, False),
    ({"jsonrpc": "2.0", "id": 1, "result": []}, False),
    ([], False),
]


@pytest.mark.parametrize(("message", "fine"), MESSAGES)
def test_what_is_no_message_of_a_server_is_seen(message: Any, fine: bool) -> None:
    """By JSON-RPC 2.0."""
    assert (problem_of_message(json.dumps(message).encode()) is None) is fine


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"{}"),
        (200, b"{"),
        (200, b'{"jsonrpc":"2.0","id":2,"result":{}}'),
        (400, b"Traceback (most recent call last)"),
        (0, b""),
    ],
)
def test_a_bad_answer_is_seen(status: int, body: bytes) -> None:
    """A fault of the server, no JSON, another's answer, our inside, nothing at all."""
    case = next(case for number in range(99) if (case := make(1, number)).framed)
    answer = Answer(status=status, kind="application/json", body=body, seconds=0.0, messages=(body,))
    assert judge(case, request(GOOD), answer, Tally())


def test_a_call_that_nobody_made_is_seen() -> None:
    """In the backends' own log; one that was sent, and whose answer was lost, may be there."""
    tally, entry = Tally(), json.dumps({"tool": "both", "line": GOOD})
    assert unaccounted(tally, [entry]) == [GOOD]
    tally.unseen += filter(None, readings(GOOD.encode(), "both").values())
    assert unaccounted(tally, [entry]) == []


def test_a_request_is_made_by_its_number() -> None:
    """The same again whatever was made before, and the numbers differ."""
    assert make(7, 42) == make(7, 42)
    assert len({make(7, number).raw for number in range(200)}) == 200

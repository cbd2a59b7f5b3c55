"""Messages of tool queues: whatever lies there is read or refused with one typed error, never with another."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.calls.contract import INVOKE_TASK, task_message
from common.domain.errors import GatewayError, InvalidRequest
from common.domain.invocation import invocation_from_wire
from gateway_worker.message import TaskMessage, read_message
from tests.support.backends import invocation
from tests.support.messages import head

NOW = datetime.now(UTC)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


PAYLOAD = (
    "v",
    "tenant",
    "client",
    "subject",
    "scopes",
    "tool",
    "method",
    "params",
    "version",
    "deadline",
    "mcp_session",
)


def envelope(**changes: Any) -> dict[str, Any]:
    """Our own message, with some of its members replaced."""
    made: dict[str, Any] = orjson.loads(
        task_message(invocation("echo"), head(queue="tool.local", reply="r"), prefix="p")
    )
    for path, value in changes.items():
        owner, _, member = path.rpartition("__")
        target = made[owner] if owner else made
        target[member] = value
    return made


def read(**changes: Any) -> TaskMessage:
    """The same, read."""
    return read_message(orjson.dumps(envelope(**changes)), "tool.local")


def test_our_own_message() -> None:
    """What one side writes the other reads."""
    call = invocation("echo", {"text": "x"})
    message = read_message(
        task_message(call, head(call.id, queue="tool.local", reply="reply"), prefix="p"), "tool.local"
    )
    assert (message.id, message.task, message.reply_to) == (call.id, INVOKE_TASK, "reply")
    assert not message.delayed
    assert not message.expired(NOW)
    again = invocation_from_wire(
        message.first_argument(), task_id=message.id, default_version="", default_deadline=0
    )
    assert again == call


def test_the_queue_of_a_recovered_message() -> None:
    """Where it is not known from the fetch it is read from the message itself."""
    raw = orjson.dumps(envelope())
    assert read_message(raw, "").queue == "tool.local"
    assert read_message(raw, "tool.other").queue == "tool.other"


@pytest.mark.parametrize(
    "body",
    [
        '[[{"tool": "t"}], {}, {}]',
        '[[], {"invocation": {"tool": "t"}}, {}]',
        base64.b64encode(b'[[{"tool": "t"}], {}, {}]').decode(),
    ],
    ids=["positional", "by name", "base64"],
)
def test_the_ways_to_give_the_argument(body: str) -> None:
    """As stock producers do."""
    encoding = "utf-8" if body.startswith("[") else "base64"
    message = read(body=body, properties__body_encoding=encoding)
    assert message.first_argument() == {"tool": "t"}


@pytest.mark.parametrize(
    ("expires", "expired"),
    [
        (None, False),
        ((NOW - timedelta(seconds=1)).isoformat(), True),
        ((NOW + timedelta(seconds=60)).isoformat(), False),
        ((NOW - timedelta(seconds=1)).replace(tzinfo=None).isoformat(), True),
        ("2020-01-01T00:00:00Z", True),
        ("0001-01-01T00:00:00+14:00", True),
        ("9999-12-31T23:59:59-14:00", False),
        ("tomorrow", False),
        (12345, False),
        ([], False),
    ],
    ids=range(10),  # the values hold the time of collection, which differs between test processes
)
def test_expiry(expires: Any, expired: bool) -> None:
    """By the producer's own time; what is no time is none."""
    assert read(headers__expires=expires).expired(NOW) is expired


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not JSON",
        b"\xff\xfe",
        b"5",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b'{"headers": null, "properties": {}}',
        b'{"headers": [], "properties": {}}',
        b'{"headers": {"id": "x"}, "properties": {}}',
        b'{"headers": {"id": "x", "task": "t"}}',
        b'{"headers": {"id": "x", "task": "t"}, "properties": null}',
        b'{"headers": {"id": "x", "task": "t"}, "properties": "p"}',
        b'{"headers": {"id": "x", "task": "t"}, "properties": {"delivery_info": 5}}',
        b"[" * 5000,
    ],
)
def test_what_is_no_message(raw: bytes) -> None:
    """One typed error for all of it."""
    with pytest.raises(InvalidRequest, match="not a Celery message"):
        read_message(raw, "")


@pytest.mark.parametrize(
    "body",
    [
        None,
        5,
        "",
        "5",
        "null",
        "[]",
        "[1, 2]",
        "[1, 2, 3, 4]",
        "[[], {}, {}]",
        "[[1, 2], {}, {}]",
        "[null, null, null]",
        '{"a": 1, "b": 2, "c": 3}',
        '"abc"',
        "not JSON",
        {"a": 1},
    ],
)
def test_a_body_that_is_no_task(body: Any) -> None:
    """The same, when it is looked into."""
    with pytest.raises(InvalidRequest):
        read(body=body).first_argument()


@given(raw=st.binary(max_size=50) | JSON.map(orjson.dumps))
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    """A queue is open to every producer."""
    try:
        message = read_message(raw, "")
        message.expired(NOW)
        message.first_argument()
    except InvalidRequest:
        pass


@given(
    member=st.sampled_from(
        ["headers", "properties", "body", "headers__expires", "headers__eta", "properties__reply_to"]
    ),
    value=JSON,
)
def test_no_member_raises_anything_else(member: str, value: Any) -> None:
    """A message that is nearly right is the harder one."""
    raw = orjson.dumps(envelope(**{member: value}))
    try:
        message = read_message(raw, "")
        assert isinstance(message.delayed, bool)
        message.expired(NOW)
        message.first_argument()
    except InvalidRequest:
        pass


@given(payload=JSON | st.fixed_dictionaries({}, optional=dict.fromkeys(PAYLOAD, JSON)))
def test_no_payload_raises_anything_else(payload: Any) -> None:
    """What a producer puts into the call is checked as strictly."""
    good = {"tenant": "t", "client": "c", "tool": "x", "method": "tools/call"}
    for given_payload in (payload, {**good, **payload} if isinstance(payload, dict) else payload):
        try:
            invocation_from_wire(given_payload, task_id="1", default_version="2025-11-25", default_deadline=0)
        except GatewayError:
            continue

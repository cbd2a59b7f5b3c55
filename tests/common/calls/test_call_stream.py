"""The log of a call's frames, and who hands them out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import orjson
import pytest
from redis import Redis

from common.calls import call_stream
from common.calls.call_stream import CallStreams, HeldStream, Holder, Logged, frame_script
from common.domain.ids import ClientId, InvocationId, McpSessionId, TenantId, ToolId
from common.domain.invocation import Caller, Invocation
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from common.store.scripts import run
from common.store.shared import SharedConnection

NAME = InvocationId("i-1")
CHANNEL = "test:reply:first"


@pytest.fixture
def streams(address: StoreAddress, keys: Keys, client: Client) -> Iterator[CallStreams]:
    connection = SharedConnection(address)
    yield CallStreams(connection, keys)
    connection.close()


@pytest.fixture
def until(client: Client) -> int:
    """A minute from now, by Redis."""
    return int(client.time()[0]) * 1000 + 60_000


def sent(client: Client, keys: Keys, payload: bytes, until: int, *, again: bool = False) -> None:
    """A frame, as a worker sends it."""
    named, args = frame_script(keys, NAME, payload, reply=CHANNEL, until=until, again=again)
    run(client, "call_frame", named, args)


def held(until: int, channel: str = CHANNEL, name: str = "me") -> HeldStream:
    """A stream that is handed out."""
    invocation = Invocation(
        id=NAME,
        caller=Caller(tenant=TenantId("t"), client=ClientId("c"), subject="s"),
        tool=ToolId("echo"),
        method="tools/call",
        params={"secret": 1},
        version="2025-11-25",
        deadline=until - 1000,
        request_id="r",
        mcp_session=McpSessionId("session"),
        resumable_until=until,
    )
    return HeldStream(invocation, 2.5, Holder(channel, name))


def test_frames_have_places_in_their_order(
    streams: CallStreams, client: Client, keys: Keys, until: int
) -> None:
    """From 1; the log ends when it is told to."""
    for number in (1, 2, 3):
        sent(client, keys, b"%d" % number, until)
    assert streams.read(NAME, 0) == [Logged(n, b"%d" % n) for n in (1, 2, 3)]
    assert streams.read(NAME, 2) == [Logged(3, b"3")]
    assert streams.read(NAME, 3) == []
    assert streams.last(NAME) == 3
    assert client.pexpiretime(keys.call_stream(NAME)) == until


def test_there_is_no_log_without_frames(streams: CallStreams) -> None:
    """It reads as an empty one."""
    assert (streams.read(NAME, 0), streams.last(NAME), streams.find(NAME)) == ([], 0, None)


def test_the_log_keeps_its_end(
    streams: CallStreams, client: Client, keys: Keys, until: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many frames, and so many bytes of them; places go on."""
    monkeypatch.setattr(call_stream, "MOST_FRAMES", 4)
    monkeypatch.setattr(call_stream, "MOST_BYTES", 10)
    for _ in range(6):
        sent(client, keys, b"x", until)
    assert [entry.place for entry in streams.read(NAME, 0)] == [3, 4, 5, 6]
    sent(client, keys, b"y" * 8, until)
    assert [entry.place for entry in streams.read(NAME, 0)] == [5, 6, 7]
    sent(client, keys, b"z" * 10, until)
    assert streams.read(NAME, 0) == [Logged(8, b"z" * 10)]


def test_a_frame_that_is_too_large_leaves_its_place(
    streams: CallStreams, client: Client, keys: Keys, until: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty; what was there stays, and it is sent all the same."""
    monkeypatch.setattr(call_stream, "MOST_BYTES", 10)
    for payload in (b"a", b"b" * 11, b"c"):
        sent(client, keys, payload, until)
    assert streams.read(NAME, 0) == [Logged(1, b"a"), Logged(2, b""), Logged(3, b"c")]


def test_frames_go_to_whoever_hands_the_stream_out(
    streams: CallStreams, client: Client, keys: Keys, until: int, raw: Redis
) -> None:
    """At first that is who began the call. Whoever is followed by another is told its name."""
    pubsub = raw.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(CHANNEL, "test:reply:second")
    for _ in range(2):
        pubsub.get_message(timeout=5)
    sent(client, keys, b"{1}", until)
    streams.hold(held(until))
    sent(client, keys, b"{2}", until)
    streams.hold(held(until, "test:reply:second", "you"))
    sent(client, keys, b"{3}", until)
    sent(client, keys, b"{3}", until, again=True)
    found = [pubsub.get_message(timeout=5) for _ in range(5)]
    assert [(message["channel"], message["data"]) for message in found if message] == [
        (b"test:reply:first", b"i-1 1 {1}"),
        (b"test:reply:first", b"i-1 2 {2}"),
        (b"test:reply:first", b'i-1 {"moved":"you"}'),
        (b"test:reply:second", b"i-1 3 {3}"),
        (b"test:reply:second", b"i-1 {3}"),
    ]
    assert streams.last(NAME) == 3
    pubsub.close()


def test_who_holds_a_stream_is_found(streams: CallStreams, client: Client, keys: Keys, until: int) -> None:
    """With the call, but for its params; until the stream's end."""
    stream = held(until)
    streams.hold(stream)
    found = streams.find(NAME)
    assert found == stream._replace(invocation=replace(stream.invocation, params={}))
    assert client.pexpiretime(keys.call_holder(NAME)) == until
    assert b"secret" not in (client.get(keys.call_holder(NAME)) or b"")


def test_a_record_is_plain_json_behind_its_first_line(
    streams: CallStreams, client: Client, keys: Keys, until: int
) -> None:
    """Which is all that the script reads."""
    streams.hold(held(until))
    first, _, rest = (client.get(keys.call_holder(NAME)) or b"").partition(b"\n")
    assert first == b"test:reply:first me"
    assert orjson.loads(rest)["call"]["request_id"] == "r"

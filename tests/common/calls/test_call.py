"""A call whose client may come back: its frames come in order, once each, whatever becomes of the subscription."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis

from common.calls import call as call_module
from common.calls import call_stream, replies
from common.calls.call import Call, CallPlace
from common.calls.call_stream import CallStreams, frame_script
from common.calls.cancellation import Cancellations
from common.calls.contract import (
    frame_of,
    notification_payload,
    result_frame,
    result_record,
    server_request_payload,
)
from common.calls.replies import Moved, Notification, ReplyHub, ServerRequest
from common.calls.request_state import RequestStates
from common.domain.errors import StoreUnavailable
from common.domain.ids import ClientId, InvocationId, McpSessionId, TenantId, ToolId
from common.domain.invocation import Caller, ExecutionResult, Invocation, answer
from common.store.client import Client, StoreAddress
from common.store.clock import RedisClock
from common.store.keys import Keys
from common.store.scripts import run
from common.store.shared import SharedConnection
from tests.support.wait import wait_until

NAME = InvocationId("i-1")
Start = Callable[..., "Process"]


class Process:
    """A web process that waits for the call; and a worker that has it, which began it for the first of them."""

    def __init__(self, shared: SharedConnection, client: Client, keys: Keys, deadline: int) -> None:
        self.hub = ReplyHub(shared, keys)
        self.hub.start()
        assert self.hub.wait_listening(5)
        self.streams = CallStreams(shared, keys)
        clock = RedisClock()
        seconds, micros = client.time()
        clock.correct(seconds * 1000 + micros // 1000)
        place = CallPlace(
            clock, self.hub, Cancellations(shared, keys), RequestStates(shared, keys), self.streams
        )
        invocation = Invocation(
            id=NAME,
            caller=Caller(tenant=TenantId("t"), client=ClientId("c")),
            tool=ToolId("echo"),
            method="tools/call",
            params={},
            version="2025-11-25",
            deadline=deadline,
            request_id=1,
            mcp_session=McpSessionId("s"),
            resumable_until=deadline + 60_000,
        )
        self.until = deadline + 60_000
        self._client, self._keys = client, keys
        self.call = Call(place, invocation, self.hub.expect(NAME), None, input_timeout=1.0)

    def progress(self, number: int, *, padding: int = 0) -> None:
        """The worker sends a notification."""
        self._send(
            notification_payload("notifications/progress", {"progress": number, "message": "x" * padding})
        )

    def ask(self, name: str, *, again: bool = False) -> None:
        """The worker asks the client something."""
        self._send(server_request_payload(name, "roots/list", {}), again=again)

    def _send(self, payload: bytes, *, again: bool = False) -> None:
        named, args = frame_script(
            self._keys, NAME, payload, reply=self.hub.channel, until=self.until, again=again
        )
        run(self._client, "call_frame", named, args)

    def finish(self, *, published: bool = True) -> None:
        """The worker ends it."""
        record = result_record(NAME, answer({"done": True}), done_at="2026-01-01T00:00:00")
        self._client.set(self._keys.result(NAME), record, ex=60)
        if published:
            self._client.publish(self.hub.channel, result_frame(NAME, answer({"done": True})))

    def heard(self) -> list[Any]:
        """All up to the result, each by what it says."""
        found: list[Any] = []
        while "end" not in found:
            match self.call.next(0.2):
                case Notification(message={"params": {"progress": number}}):
                    found.append(number)
                case Notification(message={"params": {"data": words}}):
                    found.append(words)
                case ServerRequest(id=name):
                    found.append(name)
                case Moved():
                    found.append("moved")
                    return found
                case ExecutionResult():
                    found.append("end")
        return found


@pytest.fixture
def start(
    address: StoreAddress, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Start]:
    """Starts web processes."""
    monkeypatch.setattr(replies, "HEARTBEAT", 0.05)
    monkeypatch.setattr(replies, "MISSED_HEARTBEATS", 20)
    monkeypatch.setattr(replies, "RETRY_MAX", 0.1)
    monkeypatch.setattr(call_module, "ANSWER_GRACE", 0.1)
    opened: list[tuple[Process, SharedConnection]] = []
    deadline = int(client.time()[0]) * 1000 + 60_000

    def begin() -> Process:
        shared = SharedConnection(address)
        process = Process(shared, client, keys, deadline)
        opened.append((process, shared))
        return process

    yield begin
    for process, shared in opened:
        process.hub.close()
        shared.close()


def cut(process: Process, raw: Redis) -> None:
    """End the subscriptions, and wait until they stand again."""
    before = process.hub.subscriptions
    raw.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    wait_until(lambda: process.hub.subscriptions > before, description="it listens again")


def test_what_was_said_to_nobody_is_read_from_the_log(start: Start) -> None:
    """Before what comes next; also a question, once."""
    process = start()
    process.progress(1)
    assert process.call.next(5) is not None
    process.hub.forget(process.call._waiter)  # nobody hears what is said now
    process.progress(2)
    process.ask("q")
    process.hub._waiters[NAME] = process.call._waiter
    process.progress(3)
    process.ask("q", again=True)
    process.finish()
    assert process.heard() == [2, "q", 3, "end"]


def test_a_lost_subscription_loses_nothing(start: Start, raw: Redis) -> None:
    """Over and over, while frames come."""
    process = start()
    assert process.call.hold()
    for number in range(30):
        raw.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        process.progress(number)
    cut(process, raw)
    process.finish(published=False)
    cut(process, raw)
    assert process.heard() == [*range(30), "end"]


def test_who_comes_later_hears_what_is_behind_its_place(start: Start) -> None:
    """Of a call that goes on: what is in the log, what is sent, and the end, of which it is not told."""
    first, second = start(), start()
    assert first.call.hold()
    for number in (1, 2, 3):
        first.progress(number)
    second.call.rejoin(1)
    first.progress(4)
    first.finish()
    assert second.heard() == [2, 3, 4, "end"]
    assert first.heard()[:3] == [1, 2, 3]


def test_who_is_followed_by_another_is_told(start: Start) -> None:
    """Also if that one is in the same process, or came later itself."""
    first, second = start(), start()
    assert first.call.hold()
    second.call.rejoin(0)
    assert first.heard() == ["moved"]
    first.call.rejoin(0)
    assert second.heard() == ["moved"]
    first.progress(1)
    first.finish()
    assert first.heard() == [1, "end"]


def test_a_question_that_was_seen_is_not_seen_again(start: Start) -> None:
    """By who comes back behind it, whatever the worker repeats."""
    first, second = start(), start()
    assert first.call.hold()
    first.ask("q")
    second.call.rejoin(1)
    first.ask("q", again=True)
    first.finish()
    assert second.heard() == ["end"]


def test_what_is_not_kept_any_more_is_told_of(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """By number, in its place."""
    monkeypatch.setattr(call_stream, "MOST_FRAMES", 2)
    first, second = start(), start()
    assert first.call.hold()
    for number in range(1, 6):
        first.progress(number)
    second.call.rejoin(1)
    first.finish()
    assert second.heard() == ["2 earlier messages of this call are no longer kept", 4, 5, "end"]


def test_what_was_dropped_before_the_end_is_read_from_the_log(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that reads slowly is given all of it, and then the result."""
    monkeypatch.setattr(replies, "MOST_UNREAD", 3)
    process = start()
    assert process.call.hold()
    for number in range(1, 6):
        process.progress(number)
    process.finish()
    wait_until(lambda: process.call._waiter.done, description="the result has come")
    assert process.heard() == [1, 2, 3, 4, 5, "end"]


def test_what_was_dropped_is_given_without_waiting_for_what_comes(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as all is read that was not dropped."""
    monkeypatch.setattr(replies, "MOST_UNREAD", 2)
    process = start()
    assert process.call.hold()
    for number in range(1, 5):
        process.progress(number)
    wait_until(lambda: process.call._waiter.dropped == 2, description="two are dropped")
    found = [process.call.next(5) for _ in range(2)]
    found += [process.call.next(0), process.call.next(0), process.call.next(0)]
    assert [frame.place for frame in found[:4] if isinstance(frame, Notification)] == [1, 2, 3, 4]
    assert found[4] is None


def test_what_was_dropped_and_is_not_kept_is_told_of_before_the_end(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By number, also if it is the last of all."""
    monkeypatch.setattr(replies, "MOST_UNREAD", 2)
    monkeypatch.setattr(call_stream, "MOST_FRAMES", 2)
    monkeypatch.setattr(call_stream, "MOST_BYTES", 250)
    process = start()
    assert process.call.hold()
    for number in (1, 2, 3, 4, 5):
        process.progress(number)
    process.progress(6, padding=200)
    process.finish()
    wait_until(lambda: process.call._waiter.done, description="the result has come")
    lost = "{} earlier messages of this call are no longer kept".format
    assert process.heard() == [1, 2, lost(2), 5, lost(1), "end"]


def test_an_end_behind_what_was_dropped_and_cannot_be_read_is_not_given(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client comes back for both."""
    monkeypatch.setattr(replies, "MOST_UNREAD", 1)
    process = start()
    assert process.call.hold()
    process.progress(1)
    process.progress(2)
    process.finish()
    wait_until(lambda: process.call._waiter.done, description="the result has come")
    monkeypatch.setattr(process.streams, "read", unreadable)
    assert isinstance(process.call.next(5), Notification)
    with pytest.raises(StoreUnavailable):
        process.call.next(5)


def test_a_redis_that_forgot_the_log_gives_places_again(
    start: Start, client: Client, keys: Keys, raw: Redis
) -> None:
    """What has them now is new, and no repetition."""
    process = start()
    assert process.call.hold()
    for number in (1, 2, 3):
        process.progress(number)
        assert process.call.next(5) is not None
    client.delete(keys.call_stream(NAME))
    cut(process, raw)
    assert process.call.next(0.01) is None
    for number in (4, 5):
        process.progress(number)
    process.finish()
    assert process.heard() == [4, 5, "end"]


def unreadable(*_: object) -> None:
    raise StoreUnavailable("away")


def test_a_stream_that_cannot_be_healed_says_so(
    start: Start, client: Client, raw: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than to leave something out: its client comes back. While nothing has come, there is time."""
    process = start()
    assert process.call.hold()
    cut(process, raw)
    monkeypatch.setattr(process.streams, "read", unreadable)
    assert process.call.next(0.01) is None
    process.progress(1)
    with pytest.raises(StoreUnavailable):
        process.call.next(5)


def test_before_a_stream_is_handed_out_nobody_comes_back_to_it(
    start: Start, raw: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the answer is given, whatever may be missing."""
    process = start()
    cut(process, raw)
    monkeypatch.setattr(process.streams, "read", unreadable)
    process.finish()
    assert process.heard() == ["end"]


def test_frames_without_places_pass(start: Start, client: Client) -> None:
    """A worker of an older version gives none."""
    process = start()
    payload = notification_payload("notifications/progress", {"progress": 1})
    client.publish(process.hub.channel, frame_of(NAME, payload))
    process.finish()
    assert process.heard() == [1, "end"]


def test_without_redis_a_stream_is_not_held(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on; nobody can come back to it."""
    process = start()
    monkeypatch.setattr(process.streams, "hold", unreadable)
    assert not process.call.hold()

"""Task events: as Celery's own tools read them, many in a message, bounded, and none when nobody wants any."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator
from typing import Any

import orjson
import pytest

from common.domain.errors import InvocationTimeout, ToolDisabled
from common.domain.ids import ClientId, InvocationId, TenantId, ToolId
from common.domain.invocation import Caller, Invocation, answer, failed
from common.telemetry.about import About
from gateway_worker import events
from gateway_worker.events import EventSink, TaskEvents
from gateway_worker.message import TaskMessage
from gateway_worker.requests import RunningRequest

GOOD = answer({"content": [{"type": "text", "text": "s3cret"}]})


def request(task_id: str = "1") -> RunningRequest:
    """A call that begins now."""
    message = TaskMessage(
        id=task_id, task="gateway.invoke", queue="tool.a", reply_to="", headers={}, envelope={}
    )
    return RunningRequest(message, hostname="w1@here", cancel=lambda _: None)


def sink(wanted: Callable[[], bool] = lambda: True) -> EventSink:
    """Where they go."""
    ticks = itertools.count(1)
    return EventSink(
        topic="/0.celeryev/task.multi",
        exchange="celeryev",
        hostname="w1@here",
        tick=lambda: next(ticks),
        wanted=wanted,
    )


def bodies(collected: TaskEvents) -> Generator[list[dict[str, Any]]]:
    """What is published, message by message."""
    for command, topic, message in collected.take():
        assert (command, topic) == ("PUBLISH", "/0.celeryev/task.multi")
        envelope = orjson.loads(message)
        assert envelope["properties"]["delivery_info"]["routing_key"] == "task.multi"
        yield orjson.loads(envelope["body"])


def all_told(collected: TaskEvents) -> list[dict[str, Any]]:
    """All that is published, in whatever messages."""
    return [event for body in bodies(collected) for event in body]


def test_the_course_of_a_call() -> None:
    """Received, started, succeeded, in that order by Celery's clock, with no word of what was said."""
    collected = TaskEvents()
    collected.attach(sink())
    call = request()
    collected.began(call)
    collected.ended(call, GOOD)
    told = all_told(collected)
    assert [event["type"] for event in told] == ["task-received", "task-started", "task-succeeded"]
    assert [event["clock"] for event in told] == [1, 2, 3]
    assert {event["uuid"] for event in told} == {"1"}
    assert {event["hostname"] for event in told} == {"w1@here"}
    assert told[0]["name"] == "gateway.invoke"
    assert told[0]["args"] == "<redacted>"
    assert told[0]["timestamp"] == told[1]["timestamp"] == call.time_start <= told[2]["timestamp"]
    assert told[2]["result"] == "<success>"
    assert told[2]["runtime"] >= 0
    assert "s3cret" not in str(told)
    assert list(bodies(collected)) == []


def test_whose_call_it_is_is_told_under_names_of_ours() -> None:
    """Tool, tenant, client, method and the client's id, as far as they are known; never the arguments."""
    collected = TaskEvents()
    collected.attach(sink())
    call = request()
    call.about = About(tool="a")
    collected.began(call)
    call.about.invocation = Invocation(
        id=InvocationId("1"),
        tool=ToolId("a"),
        method="tools/call",
        params={"name": "x", "arguments": {"text": "s3cret"}},
        caller=Caller(tenant=TenantId("acme"), client=ClientId("robot")),
        request_id="7" * 300,
        version="2025-11-25",
        deadline=1,
    )
    told = all_told(collected)
    assert {name: value for name, value in told[0].items() if name.startswith("canalgate_")} == {
        "canalgate_tool": "a",
        "canalgate_method": "tools/call",
        "canalgate_tenant": "acme",
        "canalgate_client": "robot",
        "canalgate_request_id": "7" * 200,
    }
    assert told[0]["routing_key"] == "tool.a"
    assert "s3cret" not in str(told)


def test_how_calls_fail() -> None:
    """What never became an answer failed; what was not allowed was rejected."""
    collected = TaskEvents()
    collected.attach(sink())
    collected.ended(request("late"), failed(InvocationTimeout("the s3cret took too long")))
    collected.ended(request("denied"), failed(ToolDisabled("tool 'a' is disabled")))
    told = all_told(collected)
    assert [(event["uuid"], event["type"]) for event in told] == [
        ("late", "task-failed"),
        ("denied", "task-rejected"),
    ]
    assert told[0]["exception"] == "INVOCATION_TIMEOUT"
    assert "s3cret" not in str(told)


def test_nothing_is_told_or_kept_while_nobody_wants_it() -> None:
    """Switched on again, they begin with what happens then."""
    collected = TaskEvents()
    switch = [False]
    collected.attach(sink(lambda: switch[0]))
    collected.began(request("unseen"))
    assert list(bodies(collected)) == []
    switch[0] = True
    collected.began(request("seen"))
    assert {event["uuid"] for event in all_told(collected)} == {"seen"}


def test_what_happens_before_the_first_connection_is_told_with_it() -> None:
    """Nothing is published until it is known where."""
    collected = TaskEvents()
    collected.began(request())
    assert list(bodies(collected)) == []
    collected.attach(sink())
    assert [len(body) for body in bodies(collected)] == [2]


def test_many_are_told_in_several_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that encoding them never holds up the calls for long."""
    monkeypatch.setattr(events, "MAX_MESSAGE", 10)
    collected = TaskEvents()
    collected.attach(sink())
    for number in range(25):
        collected.ended(request(str(number)), GOOD)
    found = list(bodies(collected))
    assert [len(body) for body in found] == [1, 10, 10, 4]
    assert [event["uuid"] for body in found for event in body] == [str(number) for number in range(25)]


def test_beyond_the_bound_they_are_dropped_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A broker that is away for hours costs no memory."""
    monkeypatch.setattr(events, "MAX_WAITING", 10)
    collected = TaskEvents()
    for number in range(15):
        collected.ended(request(str(number)), GOOD)
    assert collected.dropped == 5
    collected.attach(sink())
    assert [len(body) for body in bodies(collected)] == [1, 9]
    assert "task_events_dropped" in capsys.readouterr().out
    assert collected.dropped == 0


def test_the_first_message_tells_little_and_the_others_need_not_be_made() -> None:
    """What is not asked for is forgotten; what happens meanwhile, and later, is told with the next."""
    collected = TaskEvents()
    collected.attach(sink())
    for number in range(1000):
        collected.ended(request(str(number)), GOOD)
    round_of = bodies(collected)
    assert [event["uuid"] for event in next(round_of)] == ["0"]
    collected.ended(request("meanwhile"), GOOD)
    round_of.close()
    collected.ended(request("later"), GOOD)
    assert [event["uuid"] for event in all_told(collected)] == ["meanwhile", "later"]

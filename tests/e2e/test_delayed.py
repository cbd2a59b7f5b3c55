"""Delayed calls, which take Celery's own path: as discreet as the others, and poison among them is kept as well."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from common.calls.dead_letters import DeadLetters, Reason
from common.store.keys import Keys
from tests.e2e.celery_bench import Bench, serves, stop
from tests.support.wait import wait_until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SECRET = "a-secret-argument"
WHERE = {"exchange": "", "routing_key": "tool.a"}
DUE = "2020-01-01T00:00:00+00:00"


@pytest.fixture
def worker(bench: Bench) -> Iterator[subprocess.Popen[bytes]]:
    """One with events."""
    process = bench.worker("-E")
    wait_until(lambda: serves(bench, "tool.a"), timeout=30, description="the worker")
    yield process
    stop(process)


@pytest.mark.usefixtures("worker")
def test_neither_arguments_nor_results_are_in_logs_or_events(bench: Bench) -> None:
    """Celery's own path shows both, unless it is told otherwise."""
    heard = []
    with bench.redis.pubsub() as listener:
        listener.psubscribe("*celeryev*")
        payload = {"tenant": "t", "client": "c", "tool": "a", "method": "ping", "params": {"name": SECRET}}
        result = bench.app.send_task("gateway.invoke", args=[payload], queue="tool.a", countdown=0.2)
        assert result.get(timeout=15)["status"] == "success"

        def ended() -> bool:
            message = listener.get_message(timeout=0.1)
            if message and message["type"] == "pmessage":
                heard.append(_decoded(orjson.loads(message["data"])))
            return "task-succeeded" in str(heard)

        wait_until(ended, description="the event of its end")
    assert result.id in str(heard)
    assert SECRET not in str(heard)
    assert SECRET not in (bench.home / "w1.log").read_text()


@pytest.mark.usefixtures("worker")
def test_what_waits_is_shown_without_what_it_was_given(bench: Bench) -> None:
    """By each of Celery's ways to look; a task of Celery's own in a tool's queue is no exception."""
    call = bench.send("echo", {"text": SECRET}, countdown=300)
    own = bench.app.send_task(
        "celery.accumulate", args=[SECRET], kwargs={"x": SECRET}, queue="tool.a", countdown=300
    )
    ids = {call.id, own.id}

    def waiting() -> Any:
        found = bench.inspect("scheduled") or []
        return found if {entry["request"]["id"] for entry in found} == ids else None

    shown = wait_until(waiting, timeout=20, description="both to wait")
    assert {entry["request"]["name"] for entry in shown} == {"gateway.invoke", "celery.accumulate"}
    asked = bench.app.control.inspect(destination=["w1@here"], timeout=2.0).query_task(*ids)
    assert set(asked["w1@here"]) == ids
    for answer in (shown, asked, bench.inspect("reserved"), bench.inspect("active")):
        assert SECRET not in str(answer)
    assert str(shown).count("<redacted>") == 2
    bench.app.control.revoke([*ids])
    assert SECRET not in (bench.home / "w1.log").read_text()


def _decoded(message: dict[str, Any]) -> Any:
    """An event's body, which travels in base64."""
    body = message["body"]
    if message["properties"].get("body_encoding") == "base64":
        return base64.b64decode(body).decode()
    return body


def envelope(
    *,
    headers: Any,
    properties: Any,
    body: str = '[[{"tool": "a-secret-argument"}], {}, {}]',
    kind: str = "application/json",
) -> bytes:
    """A delayed call with these further headers and properties."""
    made = {"id": "poisoned", "task": "gateway.invoke", "eta": DUE, "argsrepr": SECRET} | headers
    return orjson.dumps(
        {
            "body": body,
            "headers": made,
            "properties": {"delivery_tag": "t", "delivery_info": WHERE, "body_encoding": "utf-8"}
            | properties,
            "content-type": kind,
            "content-encoding": "utf-8",
        }
    )


@pytest.mark.usefixtures("worker")
def test_what_celery_would_drop_or_break_on_is_kept(bench: Bench) -> None:
    """Each is a dead letter and acknowledged everywhere; a delayed call behind them runs; the log says nothing."""
    letters = DeadLetters(bench.redis, Keys())
    poison = [
        (envelope(headers={"expires": "tomorrow"}, properties={}), Reason.NOT_CELERY),
        (envelope(headers={"expires": []}, properties={}), Reason.NOT_CELERY),
        (envelope(headers={"eta": "never"}, properties={}), Reason.NOT_CELERY),
        (envelope(headers={}, properties={"delivery_tag": None}), Reason.NOT_CELERY),
        (envelope(headers={}, properties={"delivery_info": "tool.a"}), Reason.NOT_CELERY),
        (envelope(headers={}, properties={"delivery_info": {}}), Reason.NOT_CELERY),
        (envelope(headers={}, properties={}, body="[1]"), Reason.BAD_BODY),
        (envelope(headers={"task": "no.such.task"}, properties={}), Reason.UNKNOWN_TASK),
        (envelope(headers={"timelimit": "soon"}, properties={}), Reason.NOT_CELERY),
        (envelope(headers={"eta": "0001-01-01T00:00:00+14:00"}, properties={}), Reason.NOT_CELERY),
        (envelope(headers={"compression": "no-such"}, properties={}), Reason.BAD_BODY),
        (envelope(headers={}, properties={}, kind="application/x-python-serialize"), Reason.BAD_BODY),
    ]
    for raw, _ in poison:
        bench.redis.lpush("tool.a", raw)
    wait_until(lambda: letters.count() >= len(poison), description="the dead letters")
    assert sorted(letter.reason for letter in letters.newest(20)) == sorted(
        reason.value for _, reason in poison
    )
    assert bench.send("echo", {"text": "good"}, countdown=0.1).get(timeout=15)["status"] == "success"
    assert not [key for key in bench.redis.keys("*unacked*") if key != b"unacked_mutex"]
    assert SECRET not in (bench.home / "w1.log").read_text()

"""What Celery is shown of the engine's calls, and how rarely its main thread is woken for that."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from celery.worker import state
from kombu.clocks import LamportClock

from common.domain.invocation import answer
from gateway_worker import celery_host
from gateway_worker.celery_host import CeleryHost
from gateway_worker.channel import Channel
from gateway_worker.pool import EnginePool
from tests.worker.test_events import request, sink

GOOD = answer({})


class Hub:
    """Celery's main loop, which counts how often it is woken."""

    def __init__(self) -> None:
        self.woken = 0

    def call_soon(self, work: Callable[[], None]) -> None:
        """Wake it."""
        self.woken += 1
        work()


class Timer:
    """Celery's timer."""

    def __init__(self) -> None:
        self.repeated: list[Any] = []

    def call_repeatedly(self, seconds: float, work: Callable[[], None]) -> Any:
        """Remember what is to be done."""
        entry = SimpleNamespace(seconds=seconds, work=work, cancelled=False)
        entry.cancel = lambda: setattr(entry, "cancelled", True)
        self.repeated.append(entry)
        return entry


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A connected consumer, and Celery's state empty before and after."""
    monkeypatch.setattr(celery_host, "event_sink", lambda _: sink())
    state.reset_state()
    yield SimpleNamespace(hub=Hub(), timer=Timer(), app=SimpleNamespace(tasks={}), task_consumer=None)
    state.reset_state()
    state.revoked.clear()


@pytest.fixture
def host(consumer: Any) -> CeleryHost:
    """A host that is attached."""
    made = CeleryHost()
    made.attach(consumer, follow_registry=False, tools=list)
    return made


def test_no_call_wakes_celery(host: CeleryHost, consumer: Any) -> None:
    """A thousand calls, their events included: nothing is handed to the main loop."""
    before = consumer.hub.woken
    for number in range(1000):
        call = request(str(number))
        host.began(call)
        host.ended(call, GOOD)
        list(host.events())
    assert consumer.hub.woken == before


def test_who_looks_sees_the_calls_of_this_moment(host: CeleryHost) -> None:
    """Running ones are active and reserved, ended ones neither; each is counted once."""
    calls = [request(str(number)) for number in range(3)]
    for call in calls:
        host.began(call)
    host.ended(calls[0], GOOD)
    for _ in range(2):
        host.show()
        assert set(state.active_requests) == set(state.reserved_requests) == set(calls[1:])
        assert set(state.requests) == {"1", "2"}
        assert state.total_count["gateway.invoke"] == state.all_total_count[0] == 3
    host.ended(calls[1], GOOD)
    host.ended(calls[2], GOOD)
    host.show()
    assert not state.requests
    assert not set(state.active_requests) | set(state.reserved_requests)


def test_the_second_call_of_an_id_is_shown(host: CeleryHost) -> None:
    """A producer may use an id again once its first call has ended."""
    first, second = request("same"), request("same")
    host.began(first)
    host.show()
    host.ended(first, GOOD)
    host.began(second)
    host.show()
    assert set(state.active_requests) == {second}
    assert state.requests["same"] is second


def test_celerys_own_tasks_are_left_alone(host: CeleryHost) -> None:
    """Housekeeping runs by Celery's path, and is Celery's to show."""

    class Own:
        id, name = "own", "housekeeping"

    own = Own()
    state.task_reserved(own)
    state.task_accepted(own)
    host.show()
    gc.collect()
    assert set(state.active_requests) == {own}
    assert "own" in state.requests


def test_a_call_taken_back_is_known_at_once_and_celery_is_told_on_its_own_thread(host: CeleryHost) -> None:
    """Celery walks over its set of revoked tasks: the engine's thread must not change that."""
    host.revoke("taken-back")
    assert host.revoked("taken-back")
    assert "taken-back" not in state.revoked
    host.show()
    assert "taken-back" in state.revoked
    state.revoked.add("by Celery")
    assert host.revoked("by Celery")
    assert not host.revoked("another")


def test_the_calls_taken_back_are_bounded(host: CeleryHost) -> None:
    """However many are taken back before anybody looks."""
    for number in range(state.REVOKES_MAX + 10):
        host.revoke(str(number))
    assert len(host._revoked) <= state.REVOKES_MAX
    assert len(host._revoked_unshown) <= state.REVOKES_MAX
    assert host.revoked(str(state.REVOKES_MAX + 9))


def test_celery_is_shown_them_once_a_second_while_connected(host: CeleryHost, consumer: Any) -> None:
    """Its heartbeat and its autoscaler look without a word."""
    (entry,) = consumer.timer.repeated
    calls = [request("1"), request("2")]
    host.began(calls[0])
    entry.work()
    assert set(state.active_requests) == {calls[0]}
    assert entry.seconds <= 1
    host.began(calls[1])
    host.detach()
    assert entry.cancelled
    assert set(state.active_requests) == set(calls), "a cold shutdown cancels what it finds here"


def test_events_go_on_while_celery_is_away(host: CeleryHost) -> None:
    """A worker that drains has no consumer any more; how its last calls ended is told all the same."""
    call = request()
    host.began(call)
    host.detach()
    host.ended(call, GOOD)
    assert len(list(host.events())) == 2, "the begin first, and then the end"


def test_what_is_wanted_outlives_the_dispatcher() -> None:
    """Celery's dispatcher says it as long as it is enabled; closed with its connection, it is as it was."""
    dispatcher = SimpleNamespace(enabled=True, groups=set())
    wanted = celery_host._Wanted(dispatcher)
    assert wanted()
    dispatcher.groups = {"worker"}
    assert not wanted()
    dispatcher.groups = {"worker", "task"}
    assert wanted()
    dispatcher.enabled = False
    assert wanted()
    never_asked = celery_host._Wanted(SimpleNamespace(enabled=True, groups=set()))
    never_asked._dispatcher.enabled = False
    assert never_asked()


@pytest.mark.parametrize("clock", [1, 2**63, 2**64, 10**30])
def test_the_clock_of_events_can_always_be_written(clock: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any control message sets it, to whatever number it holds."""
    monkeypatch.setattr(Channel, "fanout_topic", lambda *_: "topic")
    connection = SimpleNamespace(default_channel=object.__new__(Channel))
    exchange = SimpleNamespace(name="celeryev")
    dispatcher = SimpleNamespace(
        connection=connection,
        exchange=exchange,
        hostname="h",
        enabled=False,
    )
    app = SimpleNamespace(clock=LamportClock(clock))
    found = celery_host.event_sink(SimpleNamespace(event_dispatcher=dispatcher, app=app))
    orjson.dumps(found.tick())


@pytest.mark.parametrize("n", [0.5, -1, 0, True, None, "2", 10**9, float("nan")])
def test_what_is_no_number_of_calls_changes_no_limit(n: Any) -> None:
    """Celery passes on whatever ``pool_grow`` was sent."""
    pool = object.__new__(EnginePool)
    pool.engine = cast("Any", SimpleNamespace(limit=5))
    for change in (pool.grow, pool.shrink):
        with pytest.raises(ValueError, match="whole number"):
            change(n)
    assert pool.engine.limit == 5
    pool.grow(2)
    assert pool.engine.limit == 7

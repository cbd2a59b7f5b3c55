"""Calls whose backend says what can be read but not written on: they end once, and truthfully."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from common.domain.errors import ErrorCode
from common.domain.invocation import Invocation
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from gateway_worker.calls import Calls
from gateway_worker.message import TaskMessage
from tests.support.backends import EchoLog, invocation, stdio_tool
from tests.support.wait import wait_until
from tests.worker.egress.stdio_links import scripted
from tests.worker.engine_bench import Bench, running

pytestmark = pytest.mark.usefixtures("the_engine_never_breaks")


SCRIPT = """
deep = json.loads('{"a":' * 300 + '1' + '}' * 300)
if m.get('method') == 'initialize':
    say(id=m['id'], result={'protocolVersion': m['params']['protocolVersion'], 'capabilities': {'tools': {}},
                            'serverInfo': {'name': 'deep', 'version': '1'}})
elif m.get('method') == 'tools/call':
    fine = {'content': [{'type': 'text', 'text': 'fine'}]}
    if m['params']['name'] == 'deep':
        say(id=m['id'], result={'content': [], 'structuredContent': deep})
    elif m['params']['name'] == 'deep-error':
        say(id=m['id'], error={'code': -32000, 'message': 'no', 'data': deep})
    elif m['params']['name'] == 'deep-log':
        log = {'jsonrpc': '2.0', 'method': 'notifications/message', 'params': {'level': 'info', 'data': deep}}
        answer = {'jsonrpc': '2.0', 'id': m['id'], 'result': fine}
        os.write(1, (json.dumps(log) + chr(10) + json.dumps(answer) + chr(10)).encode())
    else:
        say(id=m['id'], result=fine)
elif 'id' in m:
    say(id=m['id'], error={'code': -32601, 'message': 'unknown'})
"""
"""Says in one write what is nested deeper than orjson encodes (254 levels) and less deep than it decodes (1024)."""


@pytest.fixture
def deep(client: Client, keys: Keys, raw: Redis, address: StoreAddress) -> Iterator[Bench]:
    """An engine with that tool."""
    with running(client, keys, raw, address) as bench:
        bench.register(replace(scripted(SCRIPT), id=stdio_tool().id))
        yield bench


def all_over(bench: Bench, *calls: Invocation) -> None:
    """Nothing is left of these calls, neither in Redis nor at Celery."""
    wait_until(lambda: bench.unacked() == 0, description="the acknowledgements")
    wait_until(lambda: bench.engine.in_flight == 0, description="the slots")
    assert bench.host.began_ids == bench.host.ended_ids == [call.id for call in calls]


@pytest.mark.parametrize("name", ["deep", "deep-error"])
def test_an_answer_that_cannot_be_sent_on_is_an_error_of_ours(deep: Bench, name: str) -> None:
    """The backend acted: nobody is told that the call never began, and it is over for Celery too."""
    call = deep.send(invocation(name))
    result = deep.result(call.id)
    assert result.failure is not None
    assert result.failure.code is ErrorCode.INTERNAL
    assert "nested too deeply" in result.failure.message
    all_over(deep, call)
    assert deep.ended(deep.send(invocation("echo"))) == "fine"


def test_a_notification_that_cannot_be_sent_on_is_dropped(deep: Bench) -> None:
    """The answer that came in the same read is not."""
    call = deep.send(invocation("deep-log"))
    assert deep.ended(call) == "fine"
    assert [sorted(frame) for _, frame in deep.frames()] == [["result"]]
    all_over(deep, call)


def test_a_receiver_that_breaks_leaves_no_call_running(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong after the backend was asked, the call is over, and answered by what came of it."""
    calls: Any = bench.engine._calls
    monkeypatch.setattr(calls, "_signals", BreaksAtTheEnd())
    call = bench.send(invocation("echo", {"text": "x"}))
    assert bench.ended(call) == "x"
    all_over(bench, call)


class BreaksAtTheEnd:
    """Signals of which the last raises."""

    wanted = True

    def begin(self, message: TaskMessage) -> None:
        """A call begins."""

    def end(self, *_: object) -> None:
        """It ended."""
        raise RuntimeError("broken receiver")


def test_only_a_call_without_a_first_step_never_began(
    bench: Bench, echo_log: EchoLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One cancelled in the turn in which it was fetched says so, and the backend hears nothing."""
    begin = Calls.begin

    def begin_and_cancel(self: Calls, *fetched: Any) -> None:
        begin(self, *fetched)
        for task in self.tasks():
            task.cancel()

    calls: Any = bench.engine._calls
    monkeypatch.setattr(
        bench.engine._worker.fetcher._desk, "start", lambda taken: begin_and_cancel(calls, taken)
    )
    call = bench.send(invocation("echo", {"text": "x"}))
    assert bench.ended(call) is ErrorCode.INVOCATION_CANCELLED
    wait_until(lambda: bench.unacked() == 0, description="the acknowledgement")
    assert bench.host.began_ids == []
    assert not echo_log.received("tools/call")

"""A call as a Python program sees it: events, then exactly one result, and nothing left behind."""

from __future__ import annotations

import threading

import pytest

from common.domain.errors import ErrorCode, InternalError, InvocationCancelled, ToolDisabled, ToolNotFound
from common.domain.invocation import answer, rpc_failure
from common.gateway import Gateway, Notice, Progress
from tests.common.gateway.conftest import ECHO, ME, OFF, SLOW
from tests.support.fake_worker import FakeWorker, TakenCall
from tests.support.wait import wait_until

CALL = {"name": "x", "arguments": {}}


def in_steps(call: TakenCall) -> None:
    """Progress, a log message, something that is no number, and the end."""
    token = call.invocation.params["_meta"]["progressToken"]
    call.notify("notifications/progress", progressToken=token, progress=1, total=2, message="half")
    call.notify("notifications/message", level="info", data="words")
    call.notify("notifications/progress", progressToken=token, progress="much")
    call.notify("notifications/progress", progressToken=token, progress=2, total=True)
    call.finish(answer({"content": []}))


def nothing_is_left(gateway: Gateway) -> bool:
    return gateway.hub.waiting == 0 and not gateway._held


def test_events_come_in_order_and_then_the_result(gateway: Gateway, worker: FakeWorker) -> None:
    """What is no progress comes as it is."""
    worker.behaviour = in_steps
    with gateway.invoke_stream(ME, ECHO, "tools/call", CALL) as stream:
        events = list(stream)
        result = stream.result()
    assert events == [
        Progress(progress=1, total=2, message="half"),
        Notice(method="notifications/message", params={"level": "info", "data": "words"}),
        Notice(method="notifications/progress", params={"progressToken": "progress", "progress": "much"}),
        Progress(progress=2),
    ]
    assert result.value() == {"content": []}
    assert stream.result() is result
    assert nothing_is_left(gateway)


def test_all_of_a_stream_can_be_collected(gateway: Gateway, worker: FakeWorker) -> None:
    """What was read before is not among it."""
    worker.behaviour = in_steps
    with gateway.invoke_stream(ME, ECHO, "tools/call", CALL) as stream:
        next(stream)
        collected = stream.collect()
    assert len(collected.events) == 3
    assert collected.result.status == "success"


def test_a_token_of_its_own_stays(gateway: Gateway, worker: FakeWorker) -> None:
    """Whoever asks for progress by hand gets his token."""
    params = {**CALL, "_meta": {"progressToken": 7, "x": 1}}
    gateway.invoke_stream(ME, ECHO, "tools/call", params).result()
    assert worker.next_call().invocation.params["_meta"] == {"progressToken": 7, "x": 1}


def test_a_plain_call_asks_for_no_progress(gateway: Gateway, worker: FakeWorker) -> None:
    """The params are sent as they are."""
    gateway.invoke(ME, ECHO, "tools/call", CALL)
    assert worker.next_call().invocation.params == CALL


def test_a_refused_call_is_a_stream_with_nothing_but_its_end(gateway: Gateway) -> None:
    """Refusals are values; whoever wants an exception asks for the value."""
    with gateway.invoke_stream(ME, "none", "tools/call", CALL) as stream:
        assert list(stream) == []
        result = stream.result()
    assert result.failure is not None
    assert result.failure.code is ErrorCode.TOOL_NOT_FOUND
    with pytest.raises(ToolNotFound):
        result.value()
    with pytest.raises(ToolDisabled):
        gateway.invoke(ME, OFF, "tools/call", CALL).value()
    assert nothing_is_left(gateway)


def test_the_backend_s_own_error_is_raised_with_all_of_it(gateway: Gateway, worker: FakeWorker) -> None:
    """``data['rpc']`` holds the JSON-RPC error."""
    error = {"code": -32602, "message": "no such tool", "data": {"x": 1}}
    worker.behaviour = lambda call: call.finish(rpc_failure(error))
    with pytest.raises(InternalError) as raised:
        gateway.invoke(ME, ECHO, "tools/call", CALL).value()
    assert raised.value.data["rpc"] == error


def test_leaving_a_stream_takes_the_call_back(gateway: Gateway, worker: FakeWorker) -> None:
    """The worker is told, and nothing is left here."""
    worker.behaviour = lambda call: call.notify("notifications/progress", progressToken="p", progress=1)
    with gateway.invoke_stream(ME, ECHO, "tools/call", CALL) as stream:
        next(stream)
    wait_until(
        lambda: worker.cancelled == [worker.next_call().invocation.id], description="the worker is told"
    )
    assert nothing_is_left(gateway)
    with pytest.raises(InternalError):
        stream.result().value()


def test_another_thread_may_cancel(gateway: Gateway, worker: FakeWorker) -> None:
    """Whoever waits gets INVOCATION_CANCELLED, once."""
    worker.behaviour = lambda call: None
    with gateway.invoke_stream(ME, ECHO, "tools/call", CALL) as stream:
        worker.next_call()
        threading.Timer(0.05, stream.cancel).start()
        with pytest.raises(InvocationCancelled):
            stream.result().value()
    assert nothing_is_left(gateway)


def test_a_call_that_nobody_answers_ends(gateway: Gateway, worker: FakeWorker) -> None:
    """Within its deadline."""
    worker.behaviour = lambda call: None
    result = gateway.invoke_stream(ME, SLOW, "tools/call", CALL).result()
    assert result.failure is not None
    assert result.failure.code is ErrorCode.INVOCATION_TIMEOUT
    assert nothing_is_left(gateway)

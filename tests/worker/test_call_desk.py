"""What the fetcher puts on the desk: no message ends the service that all queues share."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import orjson
import pytest
from redis import Redis

from common.calls.dead_letters import DeadLetters
from common.domain.errors import ErrorCode
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from gateway_worker.calls import Calls
from gateway_worker.producer import Producer
from tests.support.backends import invocation, stdio_tool
from tests.support.wait import wait_until
from tests.worker.engine_bench import QUEUE, Bench, running

pytestmark = pytest.mark.usefixtures("the_engine_never_breaks")


@pytest.mark.parametrize("made", ["by us", "by a stock producer"])
def test_a_message_that_the_worker_fails_over_is_a_dead_letter(
    made: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller is told, and those behind it are served."""
    call = invocation("echo", {"text": "x"})
    take_up = Calls._take_up

    def fails(self: Calls, taken: object) -> None:
        if call.id.encode() in taken.raw:  # type: ignore[attr-defined]
            raise ZeroDivisionError
        take_up(self, taken)  # type: ignore[arg-type]

    monkeypatch.setattr(Calls, "_take_up", fails)
    message = bench.message(call) if made == "by us" else bench.stock_message(call)
    bench.push(orjson.dumps(message))
    assert bench.ended(call) is ErrorCode.INTERNAL
    assert bench.works()
    wait_until(lambda: bench.unacked() == 0, description="the acknowledgements")
    assert [letter.reason for letter in DeadLetters(bench.registry._client, bench.keys).newest(5)] == [
        "not_begun"
    ]


def test_stock_messages_that_wait_for_policy_take_the_places_of_calls(
    client: Client, keys: Keys, raw: Redis, address: StoreAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long queue of them stays in Redis, where other workers find it."""
    decided, asked = threading.Event(), []

    async def judged(_self: Producer, _payload: object, task_id: str, *_: Any) -> None:
        asked.append(task_id)
        while not decided.is_set():  # noqa: ASYNC110 - another thread's
            await asyncio.sleep(0.01)

    monkeypatch.setattr(Producer, "judged", judged)
    calls = [invocation("echo", {"text": str(number)}) for number in range(10)]
    with running(client, keys, raw, address, concurrency=3) as bench:
        bench.register(stdio_tool())
        raw.lpush(QUEUE, *(orjson.dumps(bench.stock_message(call)) for call in calls))
        raw.publish(keys.wake_channel, QUEUE)
        wait_until(lambda: len(asked) == 3, description="as many as there are places")
        assert (bench.unacked(), raw.llen(QUEUE)) == (3, 7)
        decided.set()
        assert [bench.ended(call) for call in calls] == [str(number) for number in range(10)]

"""A worker without backends: takes calls off the queues and answers as the test says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import uuid4

import orjson
from redis import Redis

from common.calls.call_stream import frame_script
from common.calls.contract import (
    frame_of,
    notification_payload,
    result_frame,
    result_record,
    server_request_payload,
)
from common.domain.ids import InvocationId, NodeId, queue_of
from common.domain.invocation import ExecutionResult, Invocation, answer, invocation_from_wire
from common.store.keys import Keys
from common.store.scripts import run
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

NODE = NodeId("fake")


@dataclass(slots=True)
class TakenCall:
    """A call off the queue, and the ways to answer it. Whatever is sent goes out at once."""

    invocation: Invocation
    reply_to: str
    message: Mapping[str, Any]
    _redis: Redis = field(repr=False)
    _keys: Keys = field(repr=False)

    def notify(self, method: str, **params: Any) -> None:
        """Send a notification along."""
        self._send(notification_payload(method, params))

    def ask(self, name: str, method: str, *, who: str, **params: Any) -> None:
        """Ask the call's client something under this id, which ``who`` may answer."""
        channel = self._keys.answer_channel(NODE)
        self._redis.delete(self._keys.client_answer(name))
        for known in (name, self.invocation.id):
            self._redis.set(self._keys.server_request(known), f"{who}\n{channel}", ex=60)
        self._send(server_request_payload(name, method, params))

    def _send(self, payload: bytes) -> None:
        """As a worker does: what its client may come back for is logged."""
        name, until = self.invocation.id, self.invocation.resumable_until
        if until is None:
            self._redis.publish(self.reply_to, frame_of(name, payload))
        else:
            named, args = frame_script(self._keys, name, payload, reply=self.reply_to, until=until)
            run(self._redis, "call_frame", named, args)

    def answer(self, name: str) -> dict[str, Any] | None:
        """What was laid there for a request, or under the id of the call for whoever takes it over; taken away."""
        raw = self._redis.getdel(self._keys.client_answer(name))
        return None if raw is None else orjson.loads(raw)  # type: ignore[arg-type]

    def over(self) -> None:
        """Nobody can answer any more, or take the call over."""
        self._redis.delete(self._keys.server_request(self.invocation.id))

    def finish(self, result: ExecutionResult, *, stored: bool = True, published: bool = True) -> None:
        """End the call: the result key first, then the frame, as a worker does."""
        name = self.invocation.id
        if stored:
            record = result_record(name, result, done_at="2026-01-01T00:00:00")
            self._redis.set(self._keys.result(InvocationId(name)), record, ex=60)
        if published:
            self._redis.publish(self.reply_to, result_frame(name, result))


Behaviour = Callable[[TakenCall], None]


def echo(call: TakenCall) -> None:
    """Answer with what was asked."""
    asked = {"method": call.invocation.method, "params": dict(call.invocation.params)}
    call.finish(
        answer({"content": [], "structuredContent": asked}, duration_ms=0.5, stages={"backend": 0.25})
    )


class FakeWorker:
    """Serves the queues of some tools in a thread. ``behaviour`` may be changed at any time."""

    def __init__(
        self,
        server: RedisServer,
        keys: Keys,
        tools: Collection[str],
        *,
        behaviour: Behaviour = echo,
        db: int = 0,
    ) -> None:
        self.behaviour = behaviour
        self.taken: list[TakenCall] = []
        self.cancelled: list[str] = []
        self._keys = keys
        self._redis = server.client(db)
        self._stop = f"tool.stop-{uuid4().hex}"
        self._queues = [*(queue_of(tool) for tool in tools), self._stop]  # type: ignore[arg-type]
        self._cancels = self._redis.pubsub(ignore_subscribe_messages=True)
        self._cancels.subscribe(**{keys.cancel_channel: self._on_cancel})
        self._threads = [threading.Thread(target=self._serve, name="fake-worker")]

    def __enter__(self) -> Self:
        self._listener = self._cancels.run_in_thread(sleep_time=0.02)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._redis.lpush(self._stop, b"")
        for thread in self._threads:
            thread.join()
        self._listener.stop()
        self._listener.join()
        self._cancels.close()
        self._redis.close()

    def reset(self) -> None:
        """As at the start: nothing taken, and everything is echoed."""
        self.behaviour = echo
        self.taken.clear()
        self.cancelled.clear()

    def next_call(self) -> TakenCall:
        """The call taken last, waiting for one if there is none yet."""
        wait_until(lambda: self.taken, description="a call was taken")
        return self.taken[-1]

    def _on_cancel(self, message: Mapping[str, Any]) -> None:
        self.cancelled.append(message["data"].decode())

    def _serve(self) -> None:
        while True:
            queue, raw = self._redis.brpop(self._queues)
            if queue.decode() == self._stop:
                return
            call = self._read(raw)
            self.taken.append(call)
            self.behaviour(call)

    def _read(self, raw: bytes) -> TakenCall:
        message = orjson.loads(raw)
        args, _, _ = orjson.loads(message["body"])
        invocation = invocation_from_wire(
            args[0], task_id=message["headers"]["id"], default_version="", default_deadline=0
        )
        return TakenCall(invocation, message["properties"]["reply_to"], message, self._redis, self._keys)

"""An engine in this process, with a stand-in for Celery and the other end of its queues."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import orjson
from redis import Redis

from common.calls.contract import INVOKE_TASK, task_message, wire_of_record
from common.calls.head import MEMBER, session_of
from common.domain.errors import ErrorCode
from common.domain.ids import InvocationId
from common.domain.invocation import ExecutionResult, Invocation, result_from_wire
from common.domain.tool import Origin, Tool
from common.registry.registry import Registry
from common.settings import DiscoverySettings, RedisSettings, Settings, TenantsSettings, WorkerSettings
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from common.telemetry.spans import Tracer
from gateway_worker.engine import Engine
from gateway_worker.outbox import Command
from gateway_worker.requests import RunningRequest
from gateway_worker.telemetry import TaskSignals
from tests.support.backends import invocation, stdio_tool, text_of
from tests.support.egress import ANYTHING
from tests.support.messages import head
from tests.support.wait import wait_until

REPLY = "test:reply:web1"
QUEUE = "tool.local"
NO_DISCOVERY = DiscoverySettings(retry_min=3600, retry_max=3600)


class FakeHost:
    """Stands where Celery is; remembers what it was told."""

    def __init__(self) -> None:
        self.began_ids: list[str] = []
        self.ended_ids: list[str] = []
        self.revoked_ids: set[str] = set()
        self.delivered: list[tuple[dict[str, Any], str, Callable[[], None]]] = []
        self.refusals: list[Callable[[], None]] = []
        self.tasks = {INVOKE_TASK, "somebody.elses"}
        self.changes = 0
        self.waiting_events: list[Command] = []
        self.made_events: list[Command] = []
        self.on_look: Callable[[str], None] = lambda _: None

    def began(self, request: RunningRequest) -> None:
        """A call begins."""
        self.began_ids.append(request.id)

    def ended(self, request: RunningRequest, result: ExecutionResult) -> None:
        """A call ended."""
        self.ended_ids.append(request.id)

    def events(self) -> Iterator[Command]:
        """What is to be published; what is not asked for is forgotten."""
        waiting, self.waiting_events = self.waiting_events, []
        for event in waiting:
            self.made_events.append(event)
            yield event

    def revoked(self, task_id: str) -> bool:
        """Whether a call was taken back."""
        self.on_look(task_id)
        return task_id in self.revoked_ids

    def revoke(self, task_id: str) -> None:
        """Remember it."""
        self.revoked_ids.add(task_id)

    def registered(self, task: str) -> bool:
        """Whether it is one of Celery's."""
        return task in self.tasks

    def deliver(
        self,
        envelope: dict[str, Any],
        queue: str,
        taken: Callable[[], None],
        refused: Callable[[], None],
    ) -> None:
        """Celery's own path."""
        self.delivered.append((envelope, queue, taken))
        self.refusals.append(refused)

    def tools_changed(self) -> None:
        """The catalogue changed."""
        self.changes += 1


class Bench:
    """An engine, its registry, and the other end of its queues."""

    def __init__(
        self,
        client: Client,
        keys: Keys,
        raw: Redis,
        address: StoreAddress,
        *,
        signals: TaskSignals | None = None,
        tracer: Tracer | None = None,
        sealing: Mapping[str, Any] | None = None,
        **worker: Any,
    ) -> None:
        """``sealing`` are the engine's own settings of how payloads are sealed."""
        self.keys = keys
        self.raw = raw
        self.registry = Registry(client, keys, ANYTHING)
        self.host = FakeHost()
        settings = Settings(
            redis=RedisSettings(key_prefix=keys.prefix, **(sealing or {})),
            worker=WorkerSettings(**{"drain_timeout": 5.0, **worker}),
            discovery=NO_DISCOVERY,
            tenants=TenantsSettings(allow_unlisted=True),
        )
        limit = settings.worker.concurrency
        self.engine = Engine(
            settings,
            address,
            hostname="bench",
            limit=limit,
            host=self.host,
            signals=signals,
            tracer=tracer,
        )
        self.heard = raw.pubsub()
        self.heard.subscribe(REPLY)
        assert self.heard.get_message(timeout=5.0)["type"] == "subscribe"

    def register(self, tool: Tool) -> None:
        """Register a tool and wait until the engine knows it."""
        self.registry.put(tool, origin=Origin.FILE)
        wait_until(lambda: tool.id in self.engine.tools(), description=f"the engine to know {tool.id}")

    def push(self, raw_message: bytes | str) -> None:
        """Put any bytes into the queue."""
        self.raw.lpush(QUEUE, raw_message)
        self.raw.publish(self.keys.wake_channel, QUEUE)

    def message(self, call: Invocation, **headers: Any) -> dict[str, Any]:
        """Our own message for a call as it lies in the queue, with some headers changed."""
        session = session_of(stdio_tool(), call.caller, None)
        of = head(call.id, deadline=call.deadline, reply=REPLY, session=session, queue=QUEUE)
        message = task_message(call, of, prefix=self.keys.prefix)
        made: dict[str, Any] = {"enqueued_at": 1, "circuit": 0, **orjson.loads(message)}
        made["headers"] |= headers
        return made

    def stock_message(self, call: Invocation, **headers: Any) -> dict[str, Any]:
        """The same as a stock producer sends it: without what only we write."""
        ours = ("enqueued_at", "circuit", MEMBER)
        return {name: part for name, part in self.message(call, **headers).items() if name not in ours}

    def send(self, call: Invocation, **headers: Any) -> Invocation:
        """Enqueue a call."""
        self.push(orjson.dumps(self.message(call, **headers)))
        return call

    def result(self, task_id: str, timeout: float = 10.0) -> ExecutionResult:
        """Wait for a call's end."""
        key = self.keys.result(InvocationId(task_id))
        record = wait_until(lambda: self.raw.get(key), timeout=timeout, description=f"the end of {task_id}")
        return result_from_wire(wire_of_record(orjson.loads(record)))

    def ended(self, call: Invocation) -> ErrorCode | str:
        """The code of a call's failure, or the text of its answer."""
        result = self.result(call.id)
        return result.failure.code if result.failure is not None else text_of(result.result)

    def works(self) -> bool:
        """Whether a good call is answered."""
        return self.ended(self.send(invocation("echo", {"text": "works"}))) == "works"

    def frames(self) -> list[tuple[str, Any]]:
        """What arrived on the reply channel so far."""
        found = []
        while message := self.heard.get_message(timeout=0.3):
            name, _, frame = message["data"].partition(b" ")
            found.append((name.decode(), orjson.loads(frame)))
        return found

    def unacked(self) -> int:
        """Messages recorded as begun."""
        return int(self.raw.hlen(self.keys.unacked(self.engine.node)))


@contextmanager
def running(client: Client, keys: Keys, raw: Redis, address: StoreAddress, **worker: Any) -> Iterator[Bench]:
    """A running engine."""
    bench = Bench(client, keys, raw, address, **worker)
    bench.engine.start()
    try:
        bench.engine.follow([QUEUE])
        yield bench
    finally:
        bench.engine.stop(drain_timeout=0)
        bench.heard.close()

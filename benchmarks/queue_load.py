"""The load client on a worker's queue: messages in, replies out, with nothing of a gateway before it.

Stock Celery and the engine get the same bytes from the same client: one connection on which all messages of a turn
leave in one write, and one subscription on which all replies come. So the client costs a few microseconds a call,
and what is compared is the worker and what it makes Redis do. The loop is closed: a reply makes room for the next
message.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import hiredis

from benchmarks.figures import Window
from benchmarks.lane import CALL_TIMEOUT
from benchmarks.wire import FIRST_CALL_ID, CallTemplate, Endpoint, Era, call_ids, call_params, text_of
from common.calls.admission import Admission, Order, QueueBounds
from common.calls.contract import task_message
from common.calls.head import POOL, Head
from common.domain.ids import ClientId, InvocationId, TenantId, ToolId, queue_of
from common.domain.invocation import Caller, Invocation
from common.domain.rules import Retry
from common.store.client import StoreAddress
from common.store.endpoint import endpoint_of, pack
from common.store.keys import RESULT_PREFIX, Keys
from common.store.scripts import script
from common.store.shared import SharedConnection

TOOL = "bench"
QUEUE = queue_of(ToolId(TOOL))
_TASK_ID = f"00000000-0000-4000-8000-00{FIRST_CALL_ID}"  # the call's id is the end of the task's
_DIGITS = len(str(FIRST_CALL_ID))
_VERSION = "2025-06-18"
_DEADLINE_MS = 120_000
_BOUNDS = QueueBounds(max_length=10_000, max_age=60.0)
_ADMITTED = b"admitted"

Command = tuple[str | bytes | int | float, ...]
_REPLY_CHANNEL = "reply:bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a message is put on the queue, and where its reply comes.

    ``enqueue`` gives the command around a message, ``script`` is what that command runs, None if it runs none.
    ``task_id`` finds the task in a channel and what came on it.
    """

    name: str
    script: str | None = None
    subscribe: tuple[str, str]
    enqueue: Callable[[bytes], Command]
    task_id: Callable[[bytes, bytes], bytes]


class _CommandRecorder:
    """Stands where the admission's connection is, and keeps what would be sent."""

    command: Command = ()
    script = ""

    def run(self, name: str, keys: Sequence[str], args: Sequence[str | bytes | int | float]) -> list[Any]:
        """Keep the command; the answer says that all is well."""
        self.script = name
        self.command = ("EVALSHA", script(name).sha, len(keys), *keys, *args)
        return [_ADMITTED, 0, 1]


def stock() -> Dialect:
    """What a stock producer does: LPUSH; its result arrives on the channel of the result's key."""
    return Dialect(
        name="stock",
        subscribe=("PSUBSCRIBE", f"{RESULT_PREFIX}*"),
        enqueue=lambda message: ("LPUSH", QUEUE, message),
        task_id=lambda channel, _data: channel,
    )


def gateway(keys: Keys) -> Dialect:
    """What a web process of the gateway does: its own admission, and its reply channel."""
    recorder = _CommandRecorder()
    # The admission itself says what is sent, so that this client never lags behind it. Its answer is made up: the
    # true ones come to `QueueRunner`.
    admission = Admission(cast(SharedConnection, recorder), keys)

    def enqueue(message: bytes) -> Command:
        admission.admit(Order(queue=QUEUE, message=message, bounds=_BOUNDS))
        return recorder.command

    enqueue(b"{}")
    return Dialect(
        name="gateway",
        script=recorder.script,
        subscribe=("SUBSCRIBE", f"{keys.prefix}:{_REPLY_CHANNEL}"),
        enqueue=enqueue,
        task_id=lambda _channel, data: data[: len(_TASK_ID)],
    )


def message_bytes(keys: Keys, deadline: int, target: Endpoint, pool_size: int = 0) -> bytes:
    """Return the message of the call `FIRST_CALL_ID`, as it lies in the queue."""
    invocation = Invocation(
        id=InvocationId(_TASK_ID),
        caller=Caller(tenant=TenantId("default"), client=ClientId("default")),
        tool=ToolId(TOOL),
        method="tools/call",
        params=call_params(target, Era.LEGACY, FIRST_CALL_ID),
        version=_VERSION,
        deadline=deadline,
        request_id=FIRST_CALL_ID,
    )
    reply_to = f"{keys.prefix}:{_REPLY_CHANNEL}"
    head = Head(
        id=invocation.id,
        deadline=deadline,
        reply=reply_to,
        session=POOL if pool_size else "default:default",
        pool_size=pool_size,
        leave=Retry.UNSENT,
        queue=QUEUE,
    )
    return task_message(invocation, head, prefix=keys.prefix)


class _Connection(asyncio.Protocol):
    """A connection that hands every batch of answers on together."""

    def __init__(self, take: Callable[[list[Any]], None]) -> None:
        self._reader = hiredis.Reader()
        self._take = take
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        answers = []
        while (answer := self._reader.gets()) is not False:
            answers.append(answer)
        self._take(answers)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def _connected(address: StoreAddress, take: Callable[[list[Any]], None]) -> _Connection:
    place = endpoint_of(address)
    _, connection = await asyncio.get_running_loop().create_unix_connection(
        lambda: _Connection(take), place.path
    )
    for command in place.greeting:
        connection.write(pack(command))
    return connection


def _is_good(answer: Any) -> bool:
    """Whether a message was queued: LPUSH gives the queue's length, the admission says so."""
    return answer[0] == _ADMITTED if isinstance(answer, list) else not isinstance(answer, hiredis.ReplyError)


@dataclass(slots=True)
class _Course:
    """What one window has seen so far."""

    deadline: float
    calls: CallTemplate
    ids: Iterator[int]
    done: asyncio.Future[None]
    in_flight: dict[int, float] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    last: float = 0.0


class QueueRunner:
    """An open pair of connections."""

    def __init__(self, load: QueueLoad, concurrency: int) -> None:
        self._dialect = load.dialect
        self._keys = load.keys
        self._target = load.target
        self._pool_size = load.pool_size
        self._ids = load.ids
        self._concurrency = concurrency
        self._course: _Course | None = None
        self._commands: _Connection | None = None
        self._replies: _Connection | None = None
        self._time: asyncio.Future[int] | None = None
        self._subscribed = asyncio.Event()

    async def connect(self, address: StoreAddress) -> None:
        """Connect, subscribe, load the script."""
        self._commands = await _connected(address, self._answered)
        self._replies = await _connected(address, self._replied)
        if self._dialect.script is not None:
            self._commands.write(pack(("SCRIPT", "LOAD", script(self._dialect.script).source)))
        self._replies.write(pack(self._dialect.subscribe))
        await asyncio.wait_for(self._subscribed.wait(), CALL_TIMEOUT)

    def close(self) -> None:
        """Drop the connections."""
        for connection in (self._commands, self._replies):
            if connection is not None:
                connection.close()

    @property
    def in_flight(self) -> int:
        """Messages sent whose reply has not come."""
        return len(self._course.in_flight) if self._course is not None else 0

    async def run(self, seconds: float) -> Window:
        """Keep the queue busy for ``seconds``, wait for what is under way, and return what was seen."""
        frame = message_bytes(self._keys, await self._now() + _DEADLINE_MS, self._target, self._pool_size)
        started, cpu = time.perf_counter(), time.process_time()
        course = self._course = _Course(
            deadline=started + seconds,
            calls=CallTemplate(pack(self._dialect.enqueue(frame))),
            ids=self._ids,
            done=asyncio.get_running_loop().create_future(),
            last=started,
        )
        self._send(self._concurrency)
        _, late = await asyncio.wait([course.done], timeout=seconds + CALL_TIMEOUT)
        if late:
            course.errors[f"no reply within {CALL_TIMEOUT:g} s"] += len(course.in_flight)
        self._course = None
        return Window(
            seconds=course.last - started,
            latencies=course.latencies,
            errors=course.errors,
            client_cpu_seconds=time.process_time() - cpu,
        )

    async def _now(self) -> int:
        """Redis time in milliseconds."""
        assert self._commands is not None
        self._time = asyncio.get_running_loop().create_future()
        self._commands.write(pack(("TIME",)))
        return await asyncio.wait_for(self._time, CALL_TIMEOUT)

    def _send(self, count: int) -> None:
        """Send the next ``count`` messages in one write; at the end of the time, none."""
        course = self._course
        assert course is not None
        assert self._commands is not None
        now = time.perf_counter()
        if now < course.deadline:
            batch = [next(course.ids) for _ in range(count)]
            course.in_flight.update(dict.fromkeys(batch, now))
            self._commands.write(b"".join(course.calls.render(call_id) for call_id in batch))
        elif not course.in_flight and not course.done.done():
            course.done.set_result(None)

    def _answered(self, answers: list[Any]) -> None:
        for answer in answers:
            if isinstance(answer, list) and len(answer) == 2 and answer[0].isdigit():
                assert self._time is not None
                self._time.set_result(int(answer[0]) * 1000 + int(answer[1]) // 1000)
            elif self._course is not None and not _is_good(answer):
                self._course.errors[f"not queued: {answer!r}"[:160]] += 1

    def _replied(self, answers: list[Any]) -> None:
        good = sum(self._take(answer) for answer in answers if answer[0] in {b"message", b"pmessage"})
        if not self._subscribed.is_set():
            self._subscribed.set()
        if good and self._course is not None:
            self._send(good)

    def _take(self, answer: list[bytes]) -> int:
        """Judge one reply; return whether it ended a call that was under way."""
        channel, data = answer[-2], answer[-1]
        course = self._course
        tail = self._dialect.task_id(channel, data)[-_DIGITS:]
        call_id = int(tail) if tail.isdigit() else 0
        sent_at = course.in_flight.pop(call_id, None) if course is not None else None
        if course is None or sent_at is None:
            return 0
        course.last = time.perf_counter()
        if text_of(call_id).encode() in data:
            course.latencies.append(course.last - sent_at)
        else:
            course.errors[f"not this call's echo: {data[len(_TASK_ID) :][:120]!r}"] += 1
        return 1


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLoad:
    """Load on the queue `QUEUE` of one Redis.

    ``ids`` never come again in that Redis: stock Celery does not publish a result that is there already.
    """

    address: StoreAddress
    dialect: Dialect
    keys: Keys = field(default_factory=Keys)
    target: Endpoint = field(default_factory=lambda: Endpoint(port=0))
    ids: Iterator[int] = field(default_factory=call_ids)
    pool_size: int = 0

    @asynccontextmanager
    async def open(self, concurrency: int) -> AsyncIterator[QueueRunner]:
        """Connect.

        Raises:
            OSError: Redis is not there. TimeoutError: it does not answer.
        """
        runner = QueueRunner(self, concurrency)
        try:
            await runner.connect(self.address)
            yield runner
        finally:
            runner.close()

"""Messages that are not run as calls here: handed to Celery, given a head, refused, or poisoned."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextvars import copy_context
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog

from common.calls.admission import QueueBounds, refusal_of
from common.calls.contract import result_frame
from common.calls.dead_letters import Reason
from common.domain.errors import GatewayError, InvalidRequest
from common.domain.invocation import ExecutionResult, failed
from common.registry.records import Entry
from common.store.keys import Keys
from common.store.scripts import script
from common.tenants.rates import Buckets
from gateway_worker import ends
from gateway_worker.call_host import CallHost
from gateway_worker.dead_letters import DeadLetterBox
from gateway_worker.delivery import Taken, end_of_message
from gateway_worker.execute import Executor
from gateway_worker.journey import Journey
from gateway_worker.message import PoisonMessage, TaskMessage, head_in
from gateway_worker.outbox import Outbox
from gateway_worker.producer import Producer
from gateway_worker.requests import RunningRequest
from gateway_worker.telemetry import TaskSignals

log = structlog.get_logger(__name__)


class Aside:
    """Belongs to the engine's loop. Whatever is done with a message removes its record."""

    def __init__(
        self,
        keys: Keys,
        outbox: Outbox,
        dead_letters: DeadLetterBox,
        journey: Journey,
        executor: Executor,
        producer: Producer,
        host: CallHost,
        *,
        hostname: str,
        signals: TaskSignals | None,
        result_ttl: float,
    ) -> None:
        """``result_ttl`` is in seconds."""
        self.on_freed: Callable[[], None] = lambda: None
        """Called whenever there is one message less that is :attr:`adopting`."""
        self._keys = keys
        self._outbox = outbox
        self._dead_letters = dead_letters
        self._journey = journey
        self._executor = executor
        self._producer = producer
        self._host = host
        self._hostname = hostname
        self._signals = signals
        self._result_ttl = result_ttl
        self.adopting = 0
        """Messages that are being given a head; each takes the place of a call, or a whole queue would be taken up."""
        self._loop = asyncio.get_running_loop()
        self._under_way: set[asyncio.Task[None]] = set()

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Run by itself: a call may be cancelled, its way back may not."""
        task = self._loop.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def settled(self, timeout: float) -> bool:
        """Wait until all that goes back is back; False if some still is on its way after ``timeout`` seconds."""
        if not self._under_way:
            return True
        _, pending = await asyncio.wait(set(self._under_way), timeout=timeout)
        return not pending

    def poisoned(self, taken: Taken, poison: PoisonMessage) -> None:
        """Redis may have claimed a session by the head, before anybody read the rest: that is free again."""
        head = head_in(taken.raw)
        if head is not None:
            self._executor.free_unused(taken, head)
        self._dead_letters.put(taken, poison)

    def refuse(self, taken: Taken, message: TaskMessage, refusal: ExecutionResult) -> None:
        """Answer a message without a head that must not run, and let go of it."""
        self._outbox.put(("PUBLISH", message.reply_to, result_frame(message.id, refusal)))
        self.acknowledge(taken)

    def hand_over(self, taken: Taken, message: TaskMessage) -> None:
        """Celery's own path for what is none of ours; it stays recorded here until Celery has it."""
        try:
            message.check_for_celery(self._host.registered)
        except PoisonMessage as poison:
            self.poisoned(taken, poison)
            return
        refusal = PoisonMessage(Reason.REFUSED, "Celery could not read the message", field="message")
        self._host.deliver(
            message.without_arguments(),
            message.queue,
            self._soon(self.acknowledge, taken),
            self._soon(self.poisoned, taken, refusal),
        )

    def _soon(self, work: Callable[..., None], *args: object) -> Callable[[], None]:
        """Work of the loop, to be called from another thread."""
        return lambda: self._loop.call_soon_threadsafe(partial(work, *args))  # type: ignore[return-value]

    def adopt(self, taken: Taken, message: TaskMessage) -> None:
        """A stock producer's call gets a head and goes back in front of its queue, to be taken under the common rules.

        What cannot become a call is answered at once.
        """
        if message.expired(datetime.now(UTC)) or self._host.revoked(message.id):
            self._end_headless(taken, message, ends.unstarted())
            return
        try:
            payload = message.first_argument()
        except PoisonMessage as poison:
            self._dead_letters.put(taken, poison)
            return
        except InvalidRequest as error:
            self._end_headless(taken, message, failed(error))
            return
        try:
            entry, adopted, buckets = self._producer.adopted(message, payload)
        except PoisonMessage as poison:
            self._dead_letters.put(taken, poison)
        except GatewayError as error:
            self._refuse_headless(taken, message, payload, error)
        else:
            self.adopting += 1
            self.keep(self._put_back(taken, message, payload, entry, adopted, buckets))

    async def _put_back(
        self,
        taken: Taken,
        message: TaskMessage,
        payload: Mapping[str, Any],
        entry: Entry,
        adopted: bytes,
        buckets: Buckets,
    ) -> None:
        try:
            await self._producer.judged(payload, message.id, message.queue)
            refused = await self._journey.adopted(taken, message.queue, entry, adopted, buckets)
            if refused is not None:
                bounds = QueueBounds(max_length=0, max_age=0)
                raise refusal_of(refused, entry.id, bounds, buckets)
        except GatewayError as error:
            self._refuse_headless(taken, message, payload, error)
        except Exception:
            log.exception("call_not_adopted", invocation=message.id)
            self._end_headless(taken, message, ends.broken())
        finally:
            self.adopting -= 1
            self.on_freed()

    def _refuse_headless(
        self, taken: Taken, message: TaskMessage, payload: Mapping[str, Any], error: GatewayError
    ) -> None:
        self._producer.refused(payload, message.id, error, message.queue)
        self._end_headless(taken, message, failed(error))

    def _end_headless(self, taken: Taken, message: TaskMessage, result: ExecutionResult) -> None:
        # In a context of its own: whoever traces tasks makes the span of this one the current one.
        copy_context().run(self._show_refused, message, result)
        self._outbox.put(*end_of_message(message, result, self._keys, ttl=self._result_ttl))
        self.acknowledge(taken)

    def _show_refused(self, message: TaskMessage, result: ExecutionResult) -> None:
        """Tell Celery and its listeners of a call that was refused before it was begun, as of any other."""
        request = RunningRequest(message, hostname=self._hostname, cancel=_nothing_runs)
        self._host.began(request)
        if self._signals is not None and self._signals.wanted:
            self._signals.begin(message)
            self._signals.end(message, result)
        self._host.ended(request, result)

    def acknowledge(self, taken: Taken) -> None:
        """Let go of what gets no end here. What Redis counted or claimed by its head is given back."""
        unacked = self._keys.unacked(taken.node)
        head = head_in(taken.raw)
        if head is None:
            self._outbox.put(("HDEL", unacked, taken.tag))
            return
        self._executor.free_unused(taken, head)
        source = script("call_drop").source
        self._outbox.put(("EVAL", source, 1, unacked, self._keys.begin, taken.node, taken.tag))


def _nothing_runs(_invocation: str) -> None:
    """There is nothing to cancel."""

"""The calls of a worker, from the fetched message to the written answer. Every message has exactly one end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

import orjson
import structlog

from common.calls.admission import (
    Admitted,
    SessionChanged,
    SessionGone,
    refusal_of,
    session_limit,
)
from common.calls.contract import INVOKE_TASK, ORIGIN, opened_argument
from common.calls.dead_letters import Reason
from common.calls.head import MEMBER, Head, head_from_text
from common.control.reload import Commit
from common.domain.errors import (
    FormatTooNew,
    GatewayError,
    InternalError,
    InvalidRequest,
    InvocationCancelled,
    ToolUnavailable,
)
from common.domain.ids import tool_of
from common.domain.invocation import ExecutionResult, Invocation, failed, invocation_from_wire
from common.domain.rules import Retry
from common.mcp.revisions import LATEST_LEGACY
from common.settings import Settings
from common.settings.changes import SettingsChanges
from gateway_worker import ends
from gateway_worker.aside import Aside
from gateway_worker.begun import Begun
from gateway_worker.call_host import CallHost
from gateway_worker.call_place import Place
from gateway_worker.claims import NotOwner
from gateway_worker.delivery import End, Held, Taken, end_of
from gateway_worker.execute import Executor
from gateway_worker.frames import Frames
from gateway_worker.judging import Judging
from gateway_worker.message import PoisonMessage, TaskMessage, poison_of, read_message
from gateway_worker.producer import Producer
from gateway_worker.requests import RunningRequest
from gateway_worker.telemetry import TaskSignals
from gateway_worker.tracing import entered, left

log = structlog.get_logger(__name__)
_level = logging.getLogger(__name__)
"""Asked before the facts of a call are put together for nobody."""


class Calls:
    """The calls that this worker has begun. Belongs to the engine's loop."""

    def __init__(self, place: Place, executor: Executor, host: CallHost, settings: Settings) -> None:
        self.on_freed: Callable[[], None] = lambda: None
        """Called whenever a slot became free."""
        self._keys = place.keys
        self._journey = place.journey
        self._circuits = place.circuits
        self._origin = ORIGIN + place.keys.prefix
        self._hostname = place.hostname
        self._clock = place.clock
        self._outbox = place.outbox
        self._frames = Frames(place.keys, place.outbox, result_ttl=settings.runtime.result_ttl)
        self._dead_letters = place.dead_letters
        self._signals = place.signals
        self._tracer = place.tracer
        self._figures = place.figures
        self._executor = executor
        self._host = host
        self._running: dict[str, asyncio.Task[None]] = {}
        self.begun = Begun()
        self._stopping = False
        self._cut_off: set[str] = set()
        self._abandoned: set[str] = set()
        self._loop = asyncio.get_running_loop()
        judging = Judging(settings.policy, settings.egress.rules, place.journey)
        self._producer = Producer(
            place.keys, place.clock, place.entry, settings, place.tenants, judging, place.refused.note
        )
        self.aside = Aside(
            place.keys,
            place.outbox,
            place.dead_letters,
            place.journey,
            executor,
            self._producer,
            host,
            hostname=place.hostname,
            signals=place.signals,
            result_ttl=settings.runtime.result_ttl,
        )
        self.aside.on_freed = self._freed
        self._outbox.on_finished = self._finished

    def prepare(self, changes: SettingsChanges) -> Commit:
        """What lets other settings hold for calls that begin from then on. Raises :class:`ConfigurationError`."""
        return self._producer.prepare(changes)

    def _freed(self) -> None:
        self.on_freed()

    def __len__(self) -> int:
        return len(self._running)

    def tasks(self) -> Collection[asyncio.Task[None]]:
        """The tasks of the calls that run now."""
        return tuple(self._running.values())

    def begin(self, taken: Taken) -> None:
        """Start what was fetched. Called on the loop, right after the message was recorded as ours."""
        try:
            self._take_up(taken)
        except Exception:
            # Whoever fetches serves all queues, and a message that ended one worker would end the next as well.
            log.exception("message_not_begun", queue=taken.queue)
            words = "the worker that took it could not begin it"
            poison = PoisonMessage(Reason.NOT_BEGUN, words, field="message")
            poison.told = InternalError(words)
            self.aside.poisoned(taken, poison)

    def _take_up(self, taken: Taken) -> None:
        try:
            message = read_message(taken.raw, taken.queue)
            head = self._head(message)
        except PoisonMessage as poison:
            self.aside.poisoned(taken, poison)
            return
        if self._foreign(message):
            self._refuse_foreign(taken, message, head)
        elif message.task != INVOKE_TASK or message.delayed:
            self.aside.hand_over(taken, message)
        elif head is None or taken.verdict == b"headless":
            # Redis saw no head, so it has counted nothing: one that stands behind other members says nothing.
            self.aside.adopt(taken, message)
        else:
            self._begin(Held(taken=taken, head=head, message=message))

    def _begin(self, held: Held) -> None:
        message = held.message
        if self._stopping:
            # A fetch that was under way has brought it: others run it.
            self._executor.free_unused(held.taken, held.head)
            self.aside.keep(self._journey.back(held))
        elif message.expired(datetime.now(UTC)) or self._host.revoked(message.id):
            self._finish_unstarted(held)
        elif message.id in self._running:
            # The ledger lets no id be begun twice, unless Redis lost it.
            log.warning("duplicate_call", invocation=message.id)
            self.aside.acknowledge(held.taken)
        else:
            self.begun.begin(held.taken, held.head.id)
            task = self._loop.create_task(self._serve(held), name=f"call-{message.id}")
            self._running[message.id] = task
            task.add_done_callback(partial(self._ensure_end, held))

    @staticmethod
    def _head(message: TaskMessage) -> Head | None:
        """The message's head. Raises :class:`PoisonMessage` for one that this worker does not know."""
        text = message.envelope.get(MEMBER)
        if text is None:
            return None
        try:
            return head_from_text(str(text))
        except (FormatTooNew, InvalidRequest) as error:
            raise poison_of(error) from error

    def cancel(self, data: bytes) -> None:
        """A caller took a call back: stop it here, or remember that it must not begin."""
        invocation_id = data.decode()
        task = self._running.get(invocation_id)
        if task is not None:
            task.cancel()
        else:
            self._host.revoke(invocation_id)

    async def enqueue(
        self, payload: object, task_id: str, trace: Mapping[str, str] | None = None
    ) -> ExecutionResult | None:
        """Put a delayed call that is due on its tool's queue; the refusal if that cannot be done.

        ``trace`` are the headers of its trace. Raises :class:`StoreUnavailable`.
        """
        try:
            entry, order = self._producer.fresh(payload, task_id, trace)
            await self._producer.judged(payload, task_id)
        except GatewayError as error:
            return self._refused(payload, task_id, error)
        verdict = await self._journey.admitted(order)
        if isinstance(verdict, Admitted | SessionGone | SessionChanged):
            return None
        refusal = refusal_of(verdict, entry.id, order.bounds, order.buckets)
        return self._refused(payload, task_id, refusal)

    def _refused(self, payload: object, task_id: str, error: GatewayError) -> ExecutionResult:
        self._producer.refused(payload, task_id, error)
        return failed(error)

    def cut_off(self) -> None:
        """End all of them now: their callers are told that the worker was stopped."""
        self._stopping = True
        self._cut_off.update(self._running)
        for task in self.tasks():
            task.cancel()

    def abandon(self) -> None:
        """The node was declared dead: all its calls were answered or given to others, so they just end here."""
        self._abandoned.update(self._running)
        self.begun.abandon()
        for task in self.tasks():
            task.cancel()

    # -- one call ---------------------------------------------------------------------------------------

    async def _serve(self, held: Held) -> None:
        message = held.message
        request = RunningRequest(message, hostname=self._hostname, cancel=self._cancel_soon)
        self._host.began(request)
        request.about = about = entered(held, self._tracer, self._clock)
        began, waited = time.perf_counter(), self._waited(held)
        if _level.isEnabledFor(logging.DEBUG):
            log.debug("call_begun", **_facts(held))
        watched = self._signals if self._signals is not None and self._signals.wanted else None
        result: ExecutionResult | None = None
        try:
            result, poison = await self._outcome(held, watched)
            if not self._left_to_rescue(held, result):
                result = self._end(held, result)
            if poison is not None:
                self._dead_letters.keep(held.taken, message, poison)
            if watched is not None:
                watched.end(message, result)
        except NotOwner:
            result = ends.returned()
            self.begun.undo(held.taken)
            self.aside.keep(self._journey.back(held))
        finally:
            del self._running[message.id]
            self._abandoned.discard(message.id)
            self._executor.free_unused(held.taken, held.head)
            self._host.ended(request, result or ends.broken())
            left(about, result)
            if self._figures is not None and result is not None:
                tool, seconds = tool_of(held.head.queue) or "", time.perf_counter() - began
                repeated = held.head.attempt > 0
                self._figures.call(tool, result, seconds=seconds, waited=waited, repeated=repeated)
            self.on_freed()

    def _waited(self, held: Held) -> float:
        """Seconds since the call was queued; 0 where nobody asks, or where it cannot be known."""
        queued = held.message.envelope.get("enqueued_at") if self._figures is not None else None
        return max(0.0, (self._clock.now() - queued) / 1000) if isinstance(queued, int) else 0.0

    async def _outcome(
        self, held: Held, watched: TaskSignals | None
    ) -> tuple[ExecutionResult, PoisonMessage | None]:
        """How the call ended, and what kept it from being one.

        Raises only :class:`NotOwner`: also when the worker stops before anything of the call was sent.
        """
        poison: PoisonMessage | None = None
        try:
            if watched is not None:
                watched.begin(held.message)
            result = await self._execute(held)
        except NotOwner:
            raise
        except PoisonMessage as error:
            result, poison = failed(error.told), error
        except asyncio.CancelledError:
            result = failed(InvocationCancelled("the caller cancelled the request"))
        except Exception:
            log.exception("call_broke", invocation=held.head.id)
            result = ends.broken()
        if held.message.id in self._cut_off and not result.answered:
            if not held.at_backend and held.message.id not in self._abandoned:
                raise NotOwner
            result = ends.stopped()
        return result, poison

    def _left_to_rescue(self, held: Held, result: ExecutionResult) -> bool:
        """Whether whoever works off what this node left decides on the call: it may go back to its queue.

        So with every call of an incarnation that was declared dead, and, when the worker stops, with those that have
        leave to run again.
        """
        if result.answered:
            return False
        if held.message.id in self._abandoned:
            return True
        return held.message.id in self._cut_off and held.head.leave is Retry.SAFE

    def _end(self, held: Held, result: ExecutionResult) -> ExecutionResult:
        """Write the end; an error in place of what orjson reads but cannot write again. Returns what was written."""
        try:
            end = end_of(held, result, self._keys.seals)
        except orjson.JSONEncodeError as error:
            log.warning("answer_not_sendable", invocation=held.head.id, error=str(error))
            result = failed(InternalError("the tool's answer cannot be sent on: it is nested too deeply"))
            end = end_of(held, result, self._keys.seals)
        self._outbox.put(end)
        self._frames.end(held)
        return result

    def _finished(self, end: End, late: bool, circuit: bool) -> None:  # noqa: FBT001 - the outbox's signature
        """Redis has decided on an end."""
        if late:
            log.warning("answer_refused", **_facts(end.held))
        else:
            tool = tool_of(end.held.head.queue)
            if tool is not None:
                self._circuits.report(end.held, tool, end.result, asked_for=circuit)

    async def _execute(self, held: Held) -> ExecutionResult:
        if (refusal := _REFUSALS.get(held.taken.verdict)) is not None:
            return failed(session_limit(str(tool_of(held.head.queue)), refusal))
        try:
            argument = opened_argument(
                held.message.first_argument(), held.head.id, held.head.queue, self._keys
            )
            invocation = self._invocation(argument, held.head)
        except PoisonMessage:
            raise
        except GatewayError as error:
            return failed(error)
        held.resumable_until = invocation.resumable_until
        if held.about is not None:
            held.about.invocation = invocation
        # A stock producer has no channel for notifications.
        return await self._executor.run(
            held, invocation, partial(self._frames.notify, held) if held.head.reply else _ignore
        )

    def _invocation(self, payload: object, head: Head) -> Invocation:
        return invocation_from_wire(
            payload, task_id=head.id, default_version=LATEST_LEGACY, default_deadline=head.deadline
        )

    def _ensure_end(self, held: Held, task: asyncio.Task[None]) -> None:
        """A task cancelled before its first step ran nothing at all, so nothing has answered for it."""
        message = held.message
        self.begun.end(held.taken)
        if not task.cancelled() and task.exception() is not None:
            log.error("call_broke", invocation=message.id, error=repr(task.exception()))
        if self._running.get(message.id) is not task:
            return  # it took its first step, and has answered
        del self._running[message.id]
        if message.id not in self._abandoned:
            self._finish_unstarted(held)
        self._abandoned.discard(message.id)
        self.on_freed()

    def _cancel_soon(self, invocation_id: str) -> None:
        """Cancel a call from another thread."""
        self._loop.call_soon_threadsafe(self._cancel_running, invocation_id)

    def _cancel_running(self, invocation_id: str) -> None:
        task = self._running.get(invocation_id)
        if task is not None:
            task.cancel()

    # -- messages that are not executed -----------------------------------------------------------------

    def _foreign(self, message: TaskMessage) -> bool:
        """Whether another gateway sent it: queues have no prefix, so two must not share a Redis."""
        origin = message.headers.get("origin")
        return isinstance(origin, str) and origin.startswith(ORIGIN) and origin != self._origin

    def _refuse_foreign(self, taken: Taken, message: TaskMessage, head: Head | None) -> None:
        log.error("foreign_call", origin=message.headers.get("origin"), queue=message.queue)
        refusal = failed(
            ToolUnavailable("another gateway takes calls from the same Redis; give each its own")
        )
        if head is not None:
            held = Held(taken=taken, head=head, message=message)
            self._executor.free_unused(held.taken, held.head)
            self._end(held, refusal)
            return
        self.aside.refuse(taken, message, refusal)

    def _finish_unstarted(self, held: Held) -> None:
        self._executor.free_unused(held.taken, held.head)
        self._end(held, ends.stopped() if held.message.id in self._cut_off else ends.unstarted())


_REFUSALS: Mapping[bytes, Literal["tool", "tenant"]] = {b"tool_limit": "tool", b"tenant_limit": "tenant"}


def _facts(held: Held) -> dict[str, object]:
    head = held.head
    return {
        "invocation": head.id,
        "queue": head.queue,
        "session": head.session,
        "node": held.node,
        "tag": held.tag,
        "fence": held.taken.token,
        "attempt": head.attempt,
    }


def _ignore(_method: str, _params: dict[str, Any]) -> None:
    """Nobody listens."""

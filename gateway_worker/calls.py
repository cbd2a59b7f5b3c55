"""The calls of a worker, from the fetched message to the written answer. Every message has exactly one end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

import orjson
import structlog

from common.calls.contract import INVOKE_TASK, ORIGIN, notification_frame, result_frame
from common.calls.dead_letters import Reason
from common.domain.errors import (
    GatewayError,
    InternalError,
    InvocationCancelled,
    ToolUnavailable,
    WorkerLost,
)
from common.domain.ids import NodeId
from common.domain.invocation import ExecutionResult, Invocation, failed, invocation_from_wire
from common.mcp.revisions import LATEST_LEGACY
from common.settings import RuntimeSettings
from common.store.clock import RedisClock
from common.store.keys import Keys
from gateway_worker.dead_letters import DeadLetterBox
from gateway_worker.execute import Executor
from gateway_worker.fetcher import Tag
from gateway_worker.message import PoisonMessage, TaskMessage, read_message
from gateway_worker.nodes import end_of_call
from gateway_worker.outbox import Command, Outbox
from gateway_worker.requests import RunningRequest
from gateway_worker.telemetry import TaskSignals

log = structlog.get_logger(__name__)


class CallHost(Protocol):
    """What calls need of the Celery worker they run in. Called from the engine's thread."""

    def began(self, request: RunningRequest) -> None:
        """A call was fetched and begins."""

    def ended(self, request: RunningRequest, result: ExecutionResult) -> None:
        """A call ended."""

    def revoked(self, task_id: str) -> bool:
        """Whether a call was taken back before it began."""

    def revoke(self, task_id: str) -> None:
        """Remember that a call was taken back."""

    def registered(self, task: str) -> bool:
        """Whether Celery has a task of this name."""

    def deliver(
        self,
        envelope: dict[str, Any],
        queue: str,
        taken: Callable[[], None],
        refused: Callable[[], None],
    ) -> None:
        """Hand a message to Celery's own path.

        ``taken`` is called, in any thread, once it has it; ``refused`` if it cannot read it.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where calls run, and where their ends go."""

    node: NodeId
    hostname: str
    keys: Keys
    clock: RedisClock
    outbox: Outbox
    dead_letters: DeadLetterBox
    signals: TaskSignals | None


class Calls:
    """The calls that this worker has begun. Belongs to the engine's loop."""

    def __init__(self, place: Place, executor: Executor, host: CallHost, runtime: RuntimeSettings) -> None:
        self.on_freed: Callable[[], None] = lambda: None
        """Called whenever a slot became free."""
        self._keys = place.keys
        self._unacked = place.keys.unacked(place.node)
        self._origin = ORIGIN + place.keys.prefix
        self._hostname = place.hostname
        self._clock = place.clock
        self._outbox = place.outbox
        self._dead_letters = place.dead_letters
        self._signals = place.signals
        self._executor = executor
        self._host = host
        self._timeout_ms = int(runtime.request_timeout * 1000)
        self._result_ttl = runtime.result_ttl
        self._running: dict[str, asyncio.Task[None]] = {}
        self._cut_off: set[str] = set()
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return len(self._running)

    def tasks(self) -> Collection[asyncio.Task[None]]:
        """The tasks of the calls that run now."""
        return tuple(self._running.values())

    def begin(self, tag: Tag, raw: bytes, queue: str) -> None:
        """Start what was fetched. Called on the loop, right after the message was recorded as ours."""
        try:
            message = read_message(raw, queue)
        except PoisonMessage as poison:
            self._dead_letters.put(tag, raw, queue, poison)
            return
        if self._foreign(message):
            self._refuse_foreign(tag, message)
        elif message.task != INVOKE_TASK or message.delayed:
            self._hand_over(tag, raw, message)
        elif message.expired(datetime.now(UTC)) or self._host.revoked(message.id):
            self._finish_unstarted(tag, message)
        elif message.id in self._running:
            log.warning("duplicate_call", invocation=message.id)
            self._acknowledge(tag)
        else:
            task = self._loop.create_task(self._serve(tag, message), name=f"call-{message.id}")
            self._running[message.id] = task
            task.add_done_callback(partial(self._ensure_end, tag, message))

    def cancel(self, data: bytes) -> None:
        """A caller took a call back: stop it here, or remember that it must not begin."""
        invocation_id = data.decode()
        task = self._running.get(invocation_id)
        if task is not None:
            task.cancel()
        else:
            self._host.revoke(invocation_id)

    def cut_off(self) -> None:
        """End all of them now: their callers are told that the worker was stopped."""
        self._cut_off.update(self._running)
        for task in self.tasks():
            task.cancel()

    async def run_by_hand(self, payload: object, task_id: str) -> ExecutionResult:
        """Run an invocation that came by Celery's own path; its result is Celery's to store."""
        try:
            invocation = self._invocation(payload, task_id)
        except GatewayError as error:
            return failed(error)
        return await self._executor.run(invocation, _ignore)

    # -- one call ---------------------------------------------------------------------------------------

    async def _serve(self, tag: Tag, message: TaskMessage) -> None:
        request = RunningRequest(message, hostname=self._hostname, cancel=self._cancel_soon)
        self._host.began(request)
        watched = self._signals if self._signals is not None and self._signals.wanted else None
        result = _broken_result()
        try:
            result, acknowledgement = await self._outcome(tag, message, watched)
            result, end = self._sendable(message, result)
            self._outbox.put(*end, acknowledgement)
            if watched is not None:
                watched.end(message, result)
        finally:
            del self._running[message.id]
            self._host.ended(request, result)
            self.on_freed()

    async def _outcome(
        self, tag: Tag, message: TaskMessage, watched: TaskSignals | None
    ) -> tuple[ExecutionResult, Command]:
        """How the call ended, and what acknowledges it. Never raises."""
        acknowledgement: Command = ("HDEL", self._unacked, tag)
        try:
            if watched is not None:
                watched.begin(message)
            result = await self._execute(message)
        except PoisonMessage as poison:
            result, acknowledgement = failed(poison), self._dead_letters.closing(tag, message, poison)
        except asyncio.CancelledError:
            result = failed(InvocationCancelled("the caller cancelled the request"))
        except Exception:
            log.exception("call_broke", invocation=message.id)
            result = _broken_result()
        if message.id in self._cut_off and not result.answered:
            result = _stopped_result()
        return result, acknowledgement

    def _sendable(
        self, message: TaskMessage, result: ExecutionResult
    ) -> tuple[ExecutionResult, list[Command]]:
        """The result and the commands of its end; an error in place of what orjson reads but cannot write again."""
        try:
            return result, self._end(message, result)
        except orjson.JSONEncodeError as error:
            log.warning("answer_not_sendable", invocation=message.id, error=str(error))
            refused = failed(InternalError("the tool's answer cannot be sent on: it is nested too deeply"))
            return refused, self._end(message, refused)

    async def _execute(self, message: TaskMessage) -> ExecutionResult:
        try:
            invocation = self._invocation(message.first_argument(), message.id)
        except PoisonMessage:
            raise
        except GatewayError as error:
            return failed(error)
        # A stock producer has no channel for notifications.
        listens = message.reply_to.startswith(self._keys.reply_prefix)
        return await self._executor.run(invocation, partial(self._notify, message) if listens else _ignore)

    def _notify(self, message: TaskMessage, method: str, params: dict[str, Any]) -> None:
        try:
            frame = notification_frame(message.id, method, params)
        except orjson.JSONEncodeError as error:
            # Nested deeper than orjson writes. Whoever hands us a notification has other callers' messages at hand.
            log.warning("notification_not_sendable", invocation=message.id, error=str(error))
            return
        self._outbox.put_notification(("PUBLISH", message.reply_to, frame))

    def _invocation(self, payload: object, task_id: str) -> Invocation:
        return invocation_from_wire(
            payload,
            task_id=task_id,
            default_version=LATEST_LEGACY,
            default_deadline=self._clock.now() + self._timeout_ms,
        )

    def _ensure_end(self, tag: Tag, message: TaskMessage, task: asyncio.Task[None]) -> None:
        """A task cancelled before its first step ran nothing at all, so nothing has answered for it."""
        if not task.cancelled() and task.exception() is not None:
            log.error("call_broke", invocation=message.id, error=repr(task.exception()))
        if self._running.get(message.id) is not task:
            return  # it took its first step, and has answered
        del self._running[message.id]
        self._finish_unstarted(tag, message)
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

    def _refuse_foreign(self, tag: Tag, message: TaskMessage) -> None:
        log.error("foreign_call", origin=message.headers.get("origin"), queue=message.queue)
        refusal = failed(
            ToolUnavailable("another gateway takes calls from the same Redis; give each its own")
        )
        self._outbox.put(("PUBLISH", message.reply_to, result_frame(message.id, refusal)))
        self._acknowledge(tag)

    def _hand_over(self, tag: Tag, raw: bytes, message: TaskMessage) -> None:
        """Celery's own path for what is none of ours; it stays recorded here until Celery has it."""
        try:
            message.check_for_celery(self._host.registered)
        except PoisonMessage as poison:
            self._dead_letters.put(tag, raw, message.queue, poison)
            return
        refusal = PoisonMessage(Reason.REFUSED, "Celery could not read the message", field="message")
        refuse = partial(self._dead_letters.put, tag, raw, message.queue, refusal)
        self._host.deliver(
            message.without_arguments(),
            message.queue,
            lambda: self._loop.call_soon_threadsafe(self._acknowledge, tag),  # type: ignore[arg-type]
            lambda: self._loop.call_soon_threadsafe(refuse),  # type: ignore[arg-type]
        )

    def _finish_unstarted(self, tag: Tag, message: TaskMessage) -> None:
        reason = failed(InvocationCancelled("the call was taken back or expired before it began"))
        result = _stopped_result() if message.id in self._cut_off else reason
        self._outbox.put(*self._end(message, result), ("HDEL", self._unacked, tag))

    def _end(self, message: TaskMessage, result: ExecutionResult) -> list[Command]:
        return end_of_call(message, result, self._keys, ttl=self._result_ttl)

    def _acknowledge(self, tag: Tag) -> None:
        self._outbox.put(("HDEL", self._unacked, tag))


def _broken_result() -> ExecutionResult:
    return failed(InternalError("the worker failed; its log names the invocation"))


def _stopped_result() -> ExecutionResult:
    return failed(
        WorkerLost("the worker was stopped while it held the call; whether the tool acted is unknown")
    )


def _ignore(_method: str, _params: dict[str, Any]) -> None:
    """Nobody listens."""

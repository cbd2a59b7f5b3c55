"""MCP by a transport of one's own: :class:`common.ports.ToolExecutor` behind the worker's :class:`Link`.

Whatever the code of it does, it does to itself: what it raises or answers becomes one of the errors that a link has,
and nobody waits longer for it than for any other backend.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import orjson
import structlog

from common.credentials.injection import NOTHING, Injected
from common.domain.custom import CustomTransport
from common.domain.errors import GatewayError
from common.domain.ids import ToolId
from common.ports import NotSent, RemoteError, ToolExecutor
from gateway_worker.egress.asking_back import AskingBack
from gateway_worker.egress.factories import ExecutorBroke, Factories, Job, PluginThread
from gateway_worker.egress.link import (
    NO_HEADERS,
    AnswerTooLarge,
    Gate,
    GateShut,
    LinkLost,
    OnNotification,
    OnRequest,
    OnSettled,
    RequestMeta,
    RpcError,
    always_open,
    noise_words,
    refuse_request,
)

log = structlog.get_logger(__name__)

CLOSE_TIME = 2.0
"""Seconds that an executor has to let go of its backend."""
ANSWER_TIME = 1.0
"""Seconds after which a thread that does nothing of what it is asked to do is given up."""
MOST_TOLD = 1000
"""Notifications of one session that wait for the worker's loop; more are dropped, also above ``max_bytes`` in all."""
METHODS = ("request", "notify", "close")


T = TypeVar("T")


class Room:
    """For notifications that wait for the worker's loop: so many, and so many bytes in all. From any thread."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._lock = threading.Lock()
        self._left = most
        self._left_bytes = most_bytes

    def enter(self, size: int) -> bool:
        """Whether there is room for one of ``size`` bytes; it is taken then."""
        with self._lock:
            if not self._left or size > self._left_bytes:
                return False
            self._left -= 1
            self._left_bytes -= size
            return True

    def leave(self, size: int) -> None:
        """It waits no longer."""
        with self._lock:
            self._left += 1
            self._left_bytes += size


def _ignore(_method: str, _params: dict[str, Any]) -> None:
    """Nobody listens."""


class CustomLink:
    """See :class:`~gateway_worker.egress.link.Link`. Methods that say so run on the executor's thread."""

    def __init__(
        self,
        tool: ToolId,
        transport: CustomTransport,
        factories: Factories,
        *,
        max_bytes: int,
        gate: Gate = always_open,
        given: Injected = NOTHING,
    ) -> None:
        """``gate`` is asked before each request, here and on the thread; it must be safe to ask there."""
        self.closed = asyncio.Event()
        self.on_notification: OnNotification = _ignore
        self.on_request: OnRequest = refuse_request
        self.noise = 0
        self.max_bytes = max_bytes
        self.gate = gate
        self.tool = tool
        self.secrets = given.secrets
        self._transport = transport
        self._factories = factories
        self._loop = asyncio.get_running_loop()
        self._meta = RequestMeta(given.meta)
        self._ids = itertools.count(1)
        self._jobs: dict[int, Job[dict[str, Any]]] = {}
        self._listeners: dict[int, OnNotification | None] = {}
        self._room = Room(MOST_TOLD, max_bytes)
        self.asking = AskingBack(self._loop, gate, lambda: self.on_request, max_bytes)
        self._thread: PluginThread | None = None
        self._executor: ToolExecutor | None = None
        self._gone = False
        self._closing: asyncio.Task[None] | None = None
        self._error: LinkLost | None = None

    async def open(self) -> None:
        """Have the factory open a session. Raises :class:`LinkLost`."""
        if not self.gate():
            raise GateShut
        self._thread = self._factories.enter(self.tool, self._transport, self)
        await self._waited(self._thread.begin(partial(self._open, self._thread)))

    async def request(
        self,
        method: str,
        params: dict[str, Any],
        *,
        headers: Mapping[str, str] = NO_HEADERS,  # noqa: ARG002 - the Link's signature
        on_notification: OnNotification | None = None,
        on_request: OnRequest | None = None,
        on_settled: OnSettled | None = None,
        principal: str = "",  # noqa: ARG002 - the Link's signature
    ) -> dict[str, Any]:
        """Have the executor send a request; wait for its result."""
        thread = self._open_thread()
        request_id = next(self._ids)
        sent = orjson.dumps(self._meta.outgoing(request_id, params))
        self._listeners[request_id] = on_notification
        self.asking.begin(request_id, on_request)
        work = partial(self._request, request_id, method, sent)
        self._jobs[request_id] = job = thread.begin(work, partial(self._settled, on_settled))
        try:
            return await self._waited(job)
        finally:
            del self._jobs[request_id], self._listeners[request_id]
            self.asking.end(request_id)
            self._meta.done(request_id)

    async def notify(
        self,
        method: str,
        params: dict[str, Any],
        *,
        headers: Mapping[str, str] = NO_HEADERS,  # noqa: ARG002 - the Link's signature
    ) -> None:
        """Have the executor send a notification."""
        sent = orjson.dumps(params)
        work = partial(self._notify, method, sent)
        await self._waited(self._open_thread().begin(work, partial(self._settled, None)))

    async def close(self) -> None:
        """Have the executor let go. A thread that does nothing of what it is asked any more is given up."""
        self._break(LinkLost("the tool's session was closed"))
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._gone = True
        job = thread.begin(self._close, in_any_case=True)
        try:
            if thread.stopped:
                return
            await asyncio.wait([job.answer], timeout=CLOSE_TIME)
            if job.answer.done():
                fault = None if job.answer.cancelled() else job.answer.exception()
                if fault is not None:
                    log.warning("executor_not_closed", tool=self.tool, error=str(fault))
                return
            log.warning("executor_not_closed", tool=self.tool, error="it takes too long")
            if await thread.answers(ANSWER_TIME):
                job.cancel()
            else:
                # When it comes back it closes what is open here.
                self._factories.abandon(thread)
        finally:
            self._factories.leave(thread, self)

    def given_up(self, message: str) -> None:
        """The thread does nothing more for it; what is open there is closed if it comes back."""
        self._break(LinkLost(message))
        self._gone = True
        if self._thread is not None:
            self._thread.begin(self._close, in_any_case=True)

    def _open_thread(self) -> PluginThread:
        if self._thread is None or self.closed.is_set():
            raise LinkLost(self._lost_words(), unsent=True)
        if not self.gate():
            raise GateShut
        return self._thread

    @staticmethod
    async def _waited(job: Job[T]) -> T:
        """A cancelled wait cancels the work, and does not wait for that."""
        try:
            return await job.answer
        except asyncio.CancelledError:
            job.cancel()
            raise

    def _settled(self, on_settled: OnSettled | None, fault: BaseException | None) -> None:
        """Only an answer says that the backend is not at it any more, also behind the end of the wait."""
        if isinstance(fault, ExecutorBroke):
            self._break(fault)
        if on_settled is not None and (fault is None or isinstance(fault, RpcError | AnswerTooLarge)):
            on_settled()

    def _break(self, error: LinkLost) -> None:
        if self.closed.is_set():
            return
        self._error = error
        self.closed.set()
        self.asking.close()
        for job in list(self._jobs.values()):
            job.give_up(self._lost_words())

    def _lost_words(self) -> str:
        reason = "the tool's session was not opened" if self._error is None else self._error.message
        return reason + noise_words(self.noise)

    def _told(self, size: int, request_id: int | None, method: str, params: dict[str, Any]) -> None:
        self._room.leave(size)
        if request_id is None:
            self.on_notification(method, params)
            return
        listener = self._listeners.get(request_id)
        if listener is None:
            return
        if method == "notifications/progress":
            found = self._meta.incoming(params)
            if found is None or found[0] != request_id:
                return
            params = found[1]
        listener(method, params)

    # -- on the executor's thread -------------------------------------------------------------------------

    def tell(self, request_id: int | None, method: str, params: Mapping[str, Any]) -> None:
        """A notification; from any thread. What is none, and what there is no room for, is dropped and counted."""
        try:
            if not isinstance(method, str):
                raise TypeError("no method")
            raw = _json(params, self.max_bytes)
            size = len(raw) + len(method)
            if not self._room.enter(size):
                raise OverflowError("no room")
        except Exception:  # noqa: BLE001 - whatever it was given
            self.noise += 1
            return
        with suppress(RuntimeError):  # the worker's loop has ended
            self._loop.call_soon_threadsafe(self._told, size, request_id, method, orjson.loads(raw))

    def lost(self) -> None:
        """The executor says that its way is broken; from any thread."""
        error = LinkLost("the tool's transport lost its connection")
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._break, error)

    async def _open(self, thread: PluginThread) -> None:
        executor = await _its_own(thread.factory().open(_Session(self)))
        if not all(callable(getattr(executor, name, None)) for name in METHODS):
            raise LinkLost("the tool's transport opened something that is no ToolExecutor", unsent=True)
        self._executor = executor
        if self._gone:
            # A task of its own: this one was cancelled.
            self._closing = thread.loop.create_task(self._close())

    async def _request(self, request_id: int, method: str, sent: bytes) -> dict[str, Any]:
        executor = self._ready()
        try:
            answer = await executor.request(_Call(self, request_id, method, orjson.loads(sent)))
        except RemoteError as error:
            raise RpcError(_error_of(error, self.max_bytes)) from None
        except NotSent:
            raise LinkLost("the tool's transport could not send", unsent=True) from None
        except (GatewayError, RpcError) as error:
            # Ours are not its: one that it raised says nothing of this gateway.
            raise ExecutorBroke(error) from None
        return _detached(answer, self.max_bytes)

    async def _notify(self, method: str, sent: bytes) -> None:
        await _its_own(self._ready().notify(method, orjson.loads(sent)))

    def _ready(self) -> ToolExecutor:
        # Once more: its loop may have been busy meanwhile.
        if not self.gate():
            raise GateShut
        if self._executor is None:
            raise LinkLost("the tool's session is not open", unsent=True)
        return self._executor

    async def _close(self) -> None:
        executor, self._executor = self._executor, None
        if executor is not None:
            await _its_own(executor.close())


class _Session:
    """Implements :class:`common.ports.ExecutorSession`."""

    def __init__(self, link: CustomLink) -> None:
        self._link = link
        self.tool: str = link.tool
        self.secrets: Mapping[str, str] = dict(link.secrets)
        self.max_bytes = link.max_bytes
        self.may_send = link.gate
        self.lost = link.lost
        self.tell = partial(link.tell, None)
        self.ask = partial(link.asking.ask, None)


class _Call:
    """Implements :class:`common.ports.ExecutorCall`."""

    def __init__(self, link: CustomLink, request_id: int, method: str, params: dict[str, Any]) -> None:
        self.method = method
        self.params = params
        self.tell = partial(link.tell, request_id)
        self.ask = partial(link.asking.ask, request_id)
        meta = params.get("_meta")
        self._token = meta.get("progressToken") if isinstance(meta, dict) else None

    def progress(self, progress: float, total: float | None = None, message: str = "") -> None:
        if self._token is None:
            return
        params: dict[str, Any] = {"progressToken": self._token, "progress": progress}
        params |= {} if total is None else {"total": total}
        self.tell("notifications/progress", params | ({"message": message} if message else {}))


async def _its_own(work: Awaitable[T]) -> T:
    """Errors of ours that its code raises say nothing of this gateway."""
    try:
        return await work
    except (GatewayError, RpcError) as error:
        raise ExecutorBroke(error) from None


def _detached(value: object, max_bytes: int) -> dict[str, Any]:
    """A copy that is nobody else's. Raises as :func:`_json`."""
    copy: dict[str, Any] = orjson.loads(_json(value, max_bytes))
    return copy


def _json(value: object, max_bytes: int) -> bytes:
    """A mapping as JSON. Raises :class:`LinkLost` for what JSON cannot hold, :class:`AnswerTooLarge`."""
    if not isinstance(value, Mapping):
        words = f"the tool's transport answered with {type(value).__name__[:100]}, not with a mapping"
        raise LinkLost(words, answered=True)
    try:
        raw = orjson.dumps(value if isinstance(value, dict) else dict(value))
    except Exception:  # noqa: BLE001 - a mapping of somebody else may raise anything
        raise LinkLost("the tool's transport answered with what JSON cannot hold", answered=True) from None
    if len(raw) > max_bytes:
        raise AnswerTooLarge("the tool sent an answer above the bound (runtime.max_result_bytes)")
    return raw


def _error_of(error: RemoteError, max_bytes: int) -> dict[str, Any]:
    found = _detached(error.error, max_bytes)
    if type(found.get("code")) is not int or not isinstance(found.get("message"), str):
        raise LinkLost("the tool's transport answered with an error that is none", answered=True)
    return found

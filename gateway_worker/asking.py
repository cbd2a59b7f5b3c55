"""Requests of backends that wait for the answer of a client, which may come to any web process.

The request goes along on the call's reply channel, as notifications do, and again from time to time, since a message
there may be lost. Who may answer stands in Redis; the answer is laid there as well and this worker called, who also
looks by itself. Under the call's own id stands who may take over its reply channel.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import structlog

from common.calls.client_answers import ANSWER, answerer
from common.calls.contract import FRAME, notification_payload, server_request_payload
from common.domain.errors import PayloadUnreadable, StoreUnavailable
from common.domain.ids import McpSessionId
from common.domain.invocation import Invocation
from common.mcp.jsonrpc import INTERNAL_ERROR
from common.sessions.stream import told
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from common.store.scripts import script
from gateway_worker.delivery import Held
from gateway_worker.egress.link import RpcError
from gateway_worker.frames import frame_command
from gateway_worker.node import Node
from gateway_worker.outbox import Outbox

log = structlog.get_logger(__name__)

LOOK = 1.0
"""Seconds between two looks for answers of which nothing was heard."""
AGAIN_FIRST, AGAIN_MAX = 2.0, 30.0
"""Seconds until a request that was not answered is sent once more, and the longest such pause."""
KEPT = 60.0
"""Seconds for which a request is answerable beyond the time that its client has."""
LARGEST = 1 << 20
"""Bytes of a request's params; a larger one is refused."""
MOST_CALLS, MOST_BYTES = 200, 64 << 20
"""Calls of one principal that wait for their clients at a time on a worker, and bytes of what they ask. Each holds a
slot of the worker, for as long as ``input_timeout`` lets it, though nobody may come back."""
CANCELLED = "notifications/cancelled"
DEFAULT_SESSION_IDLE = 1800.0
_TAKEN = script("client_answer_taken").source


@dataclass(slots=True, kw_only=True)
class _Waiting:
    """``held`` is None where no call is, and the request stands on the client's standing stream."""

    held: Held | None
    principal: str
    asked: str
    payload: bytes
    life: int
    answer: asyncio.Future[Mapping[str, Any]]
    told: bool = False
    pause: float = AGAIN_FIRST
    again_at: float = field(default_factory=lambda: time.monotonic() + AGAIN_FIRST)


class Asking:
    """One a worker. Belongs to its event loop."""

    def __init__(
        self,
        node: Node,
        redis: PipelinedConnection,
        keys: Keys,
        outbox: Outbox,
        *,
        session_idle: float = DEFAULT_SESSION_IDLE,
    ) -> None:
        """``session_idle`` is how long an MCP session that says nothing is kept, in seconds."""
        self._session_idle_ms = int(session_idle * 1000)
        self._node = node
        self._redis = redis
        self._keys = keys
        self._outbox = outbox
        self._waiting: dict[str, _Waiting] = {}
        self._calls: dict[str, Held] = {}
        self._looking: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(
        self, held: Held, invocation: Invocation, method: str, params: Mapping[str, Any], *, seconds: float
    ) -> Mapping[str, Any]:
        """Ask the call's client; its response, with ``result`` or ``error``. Waits as long as it is let.

        ``seconds`` is how long the answer can be given. A request that is not answered is taken back at the client.
        Raises :class:`RpcError` for one that is too large, and beyond the bounds of the principal.
        """
        name = secrets.token_urlsafe(16)
        payload = server_request_payload(name, method, params)
        if len(payload) > LARGEST:
            raise RpcError({"code": INTERNAL_ERROR, "message": f"the request has more than {LARGEST} bytes"})
        self._check_room(held, invocation.caller.principal, len(payload))
        waiting = _Waiting(
            held=held,
            principal=invocation.caller.principal,
            asked=answerer(invocation.mcp_session, invocation.caller.principal),
            payload=self._keys.sealed(payload, FRAME, held.head.id),
            life=int((seconds + KEPT) * 1000),
            answer=asyncio.get_running_loop().create_future(),
        )
        self._waiting[name] = waiting
        self._calls[held.head.id] = held
        try:
            self._tell(name, waiting)
            return await waiting.answer
        finally:
            del self._waiting[name]
            self._outbox.put(("UNLINK", self._keys.server_request(name)))
            if not waiting.answer.done() or waiting.answer.cancelled():
                self._take_back(held, name)

    async def ask_session(
        self,
        session: McpSessionId,
        principal: str,
        method: str,
        params: Mapping[str, Any],
        *,
        seconds: float,
    ) -> Mapping[str, Any]:
        """Ask an MCP session that makes no call, on its standing stream; otherwise as :meth:`ask`."""
        name = secrets.token_urlsafe(16)
        message = {"jsonrpc": "2.0", "id": name, "method": method, "params": dict(params)}
        payload = orjson.dumps(message)
        if len(payload) > LARGEST:
            raise RpcError({"code": INTERNAL_ERROR, "message": f"the request has more than {LARGEST} bytes"})
        waiting = _Waiting(
            held=None,
            principal=principal,
            asked=answerer(session, principal),
            payload=payload,
            life=int((seconds + KEPT) * 1000),
            answer=asyncio.get_running_loop().create_future(),
            again_at=float("inf"),
        )
        self._waiting[name] = waiting
        try:
            self._record(name, waiting)
            self._outbox.put(*told(self._keys, session, message, idle_ms=self._session_idle_ms))
            return await waiting.answer
        finally:
            del self._waiting[name]
            self._outbox.put(("UNLINK", self._keys.server_request(name)))
            if not waiting.answer.done() or waiting.answer.cancelled():
                cancelled = {"jsonrpc": "2.0", "method": CANCELLED, "params": _unneeded(name)}
                self._outbox.put(*told(self._keys, session, cancelled, idle_ms=self._session_idle_ms))

    def _check_room(self, held: Held, principal: str, size: int) -> None:
        """Raises :class:`RpcError`, for the backend, if too much waits for this principal's clients."""
        found = [waiting for waiting in self._waiting.values() if waiting.principal == principal]
        calls = {waiting.held.head.id for waiting in found if waiting.held is not None}
        if len(calls) >= MOST_CALLS and held.head.id not in calls:
            words = f"{MOST_CALLS} calls of this client wait for its answers"
            raise RpcError({"code": INTERNAL_ERROR, "message": words})
        if sum(len(waiting.payload) for waiting in found) + size > MOST_BYTES:
            words = f"more than {MOST_BYTES} bytes of requests wait for this client's answers"
            raise RpcError({"code": INTERNAL_ERROR, "message": words})

    def forget(self, held: Held) -> None:
        """The call has ended."""
        if self._calls.pop(held.head.id, None) is not None:
            self._outbox.put(("UNLINK", self._keys.server_request(held.head.id)))

    def hear(self, data: bytes) -> None:
        """An answer has come, or a call is taken over: then its answers count first, or they would be asked again."""
        name = data.decode()
        held = self._calls.get(name)
        of_call = (
            [n for n, waiting in self._waiting.items() if waiting.held is held] if held is not None else []
        )
        self._look_soon([*of_call, name])

    async def run(self) -> None:
        """Look, for ever, for answers of which nothing was heard, and send again what is not answered."""
        while True:
            await asyncio.sleep(LOOK)
            self._look_soon([*self._waiting, *self._calls])
            now = time.monotonic()
            for name, waiting in self._waiting.items():
                if now >= waiting.again_at:
                    waiting.pause = min(2 * waiting.pause, AGAIN_MAX)
                    waiting.again_at = now + waiting.pause
                    self._tell(name, waiting)

    def _look_soon(self, names: list[str]) -> None:
        """Look for answers, for none of them twice at a time."""
        wanted = [n for n in names if n not in self._looking and (n in self._waiting or n in self._calls)]
        if wanted:
            self._looking.update(wanted)
            task = asyncio.create_task(self._look(wanted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _look(self, names: list[str]) -> None:
        """Deliver each answer that can be read. It is taken away only then, so it may be read and delivered twice."""
        try:
            found = await asyncio.gather(*map(self._read, names))
        finally:
            self._looking.difference_update(names)
        for name, raw in zip(names, found, strict=True):
            if raw is not None:
                # First: whoever lays the same one again between the two is told by what is sent behind it.
                self._outbox.put(("EVAL", _TAKEN, 1, self._keys.client_answer(name), raw))
                self._answered(name, self._opened(name, raw))

    def _opened(self, name: str, raw: bytes) -> Mapping[str, Any]:
        """An answer as it was given; one that cannot be opened is an error, for the backend."""
        try:
            answer: Mapping[str, Any] = orjson.loads(self._keys.opened(raw, ANSWER, name))
        except PayloadUnreadable as error:
            log.error("answer_unreadable", error=error.message)
            return {"response": {"error": {"code": INTERNAL_ERROR, "message": "the answer cannot be read"}}}
        return answer

    async def _read(self, name: str) -> bytes | None:
        """The answer that lies there. Degrades: without Redis there is none, and the next look may find it."""
        try:
            with store_errors("reading a client's answer"):
                raw: bytes | None = await self._redis.command("GET", self._keys.client_answer(name))
        except StoreUnavailable as error:
            log.warning("answer_not_read", error=str(error))
            return None
        return raw

    def _answered(self, name: str, answer: Mapping[str, Any]) -> None:
        """``reply``: the channel of whoever waits for the call from now on; ``response``: what the client said.

        The same answer a second time changes nothing; whoever took the call over is asked the same once more.
        """
        waiting = self._waiting.get(name)
        held = self._calls.get(name) if waiting is None else waiting.held
        response, reply = answer.get("response"), answer.get("reply")
        if waiting is not None and response is not None and not waiting.answer.done():
            waiting.answer.set_result(response)
        if held is not None and reply:
            self._move(held, reply)

    def _move(self, held: Held, reply: str) -> None:
        """Another process waits for the call: it is told what is still to be answered."""
        held.head = held.head._replace(reply=reply)
        for name, waiting in self._waiting.items():
            if waiting.held is held and not waiting.answer.done():
                self._tell(name, waiting)

    def _tell(self, name: str, waiting: _Waiting) -> None:
        """The records first, or an answer might come before it can be given."""
        if waiting.held is None:
            return  # what stands on a stream is kept there
        self._record(name, waiting)
        self._record(waiting.held.head.id, waiting)
        self._outbox.put(frame_command(self._keys, waiting.held, waiting.payload, again=waiting.told))
        waiting.told = True

    def _record(self, name: str, waiting: _Waiting) -> None:
        """Who may answer to that id, and which worker waits for it."""
        record = f"{waiting.asked}\n{self._keys.answer_channel(self._node.id)}"
        self._outbox.put(("SET", self._keys.server_request(name), record, "PX", waiting.life))

    def _take_back(self, held: Held, name: str) -> None:
        """The client need not answer any more (2025-11-25, "Cancellation")."""
        payload = self._keys.sealed(notification_payload(CANCELLED, _unneeded(name)), FRAME, held.head.id)
        self._outbox.put_notification(frame_command(self._keys, held, payload))


def _unneeded(name: str) -> dict[str, Any]:
    return {"requestId": name, "reason": "the tool no longer waits for the answer"}

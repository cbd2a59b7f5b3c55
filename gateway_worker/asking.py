"""Requests of backends that wait for the answer of a client, which may come to any web process.

The request goes along on the call's reply channel, as notifications do. Who may answer stands in Redis; the answer is
laid there as well and this worker called, so an answer is lost only with Redis itself.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from common.calls.client_answers import answerer
from common.calls.contract import server_request_frame
from common.domain.errors import StoreUnavailable
from common.domain.invocation import Invocation
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker.delivery import Held
from gateway_worker.node import Node
from gateway_worker.outbox import Outbox

log = structlog.get_logger(__name__)

LOOK = 1.0
"""Seconds between two looks for answers of which nothing was heard."""
KEPT = 60.0
"""Seconds for which a request is answerable beyond the time that its client has."""


@dataclass(slots=True, kw_only=True)
class _Waiting:
    held: Held
    method: str
    params: Mapping[str, Any]
    answer: asyncio.Future[Mapping[str, Any]]


class Asking:
    """One a worker. Belongs to its event loop."""

    def __init__(self, node: Node, redis: PipelinedConnection, keys: Keys, outbox: Outbox) -> None:
        self._node = node
        self._redis = redis
        self._keys = keys
        self._outbox = outbox
        self._waiting: dict[str, _Waiting] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(
        self, held: Held, invocation: Invocation, method: str, params: Mapping[str, Any], *, seconds: float
    ) -> Mapping[str, Any]:
        """Ask the call's client; its response, with ``result`` or ``error``. Waits as long as it is let.

        ``seconds`` is how long the answer can be given.
        """
        name = secrets.token_urlsafe(16)
        waiting = _Waiting(
            held=held, method=method, params=params, answer=asyncio.get_running_loop().create_future()
        )
        asked = answerer(invocation.mcp_session, invocation.caller.principal)
        record = f"{asked}\n{self._keys.answer_channel(self._node.id)}"
        key, life = self._keys.server_request(name), int((seconds + KEPT) * 1000)
        self._waiting[name] = waiting
        try:
            self._outbox.put(("SET", key, record, "PX", life))
            self._tell(name, waiting)
            return await waiting.answer
        finally:
            del self._waiting[name]
            self._outbox.put(("UNLINK", key))

    def hear(self, data: bytes) -> None:
        """An answer has come."""
        self._look_soon([data.decode()])

    async def run(self) -> None:
        """Look, for ever, for answers of which nothing was heard."""
        while True:
            await asyncio.sleep(LOOK)
            if self._waiting:
                self._look_soon(list(self._waiting))

    def _look_soon(self, names: list[str]) -> None:
        task = asyncio.create_task(self._look([name for name in names if name in self._waiting]))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(self, names: list[str]) -> None:
        for name in names:
            try:
                with store_errors("reading a client's answer"):
                    raw = await self._redis.command("GETDEL", self._keys.client_answer(name))
            except StoreUnavailable as error:
                log.warning("answer_not_read", error=str(error))
                return
            if raw is not None:
                self._answered(name, orjson.loads(raw))

    def _answered(self, name: str, answer: Mapping[str, Any]) -> None:
        """``reply``: the channel of whoever waits for the call from now on; ``response``: what the client said."""
        waiting = self._waiting.get(name)
        if waiting is None:
            return
        response, reply = answer.get("response"), answer.get("reply")
        if reply:
            self._move(waiting.held, reply, but=None if response is None else name)
        if response is not None and not waiting.answer.done():
            waiting.answer.set_result(response)

    def _move(self, held: Held, reply: str, *, but: str | None) -> None:
        """Another process waits for the call: it is told what is still to be answered."""
        held.head = held.head._replace(reply=reply)
        for name, waiting in self._waiting.items():
            if waiting.held is held and name != but:
                self._tell(name, waiting)

    def _tell(self, name: str, waiting: _Waiting) -> None:
        head = waiting.held.head
        frame = server_request_frame(head.id, name, waiting.method, waiting.params)
        self._outbox.put(("PUBLISH", head.reply, frame))

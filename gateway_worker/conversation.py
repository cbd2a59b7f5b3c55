"""What a backend asks during a call, asked of the call's client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from common.domain.invocation import Invocation
from common.mcp.client_capabilities import undeclared
from common.mcp.inbound import META_CLIENT_CAPABILITIES, META_LOG_LEVEL
from common.mcp.jsonrpc import METHOD_NOT_FOUND
from gateway_worker.asking import Asking
from gateway_worker.delivery import Held
from gateway_worker.egress.link import RpcError


class CallClock:
    """A call's time. It stands still while a client is asked, who has a time of his own."""

    def __init__(self, limit: asyncio.Timeout) -> None:
        self._asking = 0
        self._ran_out = False
        self._limit = limit
        self._left = 0.0

    @property
    def with_client(self) -> bool:
        """Whether it is the client's time that runs, or ran out."""
        return self._asking > 0 or self._ran_out

    @contextmanager
    def paused(self, seconds: float) -> Iterator[None]:
        """Give a client ``seconds`` for an answer."""
        now = asyncio.get_running_loop().time()
        if not self._asking:
            self._left = max(0.0, (self._limit.when() or now) - now)
        self._asking += 1
        self._limit.reschedule(now + seconds)
        try:
            yield
        finally:
            self._asking -= 1
            if self._limit.expired():
                self._ran_out = True
            elif not self._asking:
                self._limit.reschedule(asyncio.get_running_loop().time() + self._left)


class Conversation:
    """Of one call, with the client that made it."""

    def __init__(
        self, asking: Asking, held: Held, invocation: Invocation, clock: CallClock, *, seconds: float
    ) -> None:
        """``seconds`` is how long the client has for each answer (``input_timeout``)."""
        self._asking = asking
        self._held = held
        self._invocation = invocation
        self._clock = clock
        self._seconds = seconds
        self._declared = declared_by(invocation)
        self._tasks: set[asyncio.Task[Any]] = set()

    def close(self) -> None:
        """The call has ended: nobody is asked any more."""
        for task in self._tasks:
            task.cancel()

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The client's result. Raises :class:`RpcError` with its error, and for what it has not declared."""
        missing = undeclared(method, params, self._declared)
        if missing is not None:
            words = f"the client has not declared what {method[:100]} needs"
            raise RpcError(
                {"code": METHOD_NOT_FOUND, "message": words, "data": {"requiredCapabilities": missing}}
            )
        response = await self._response(method, params)
        error, result = response.get("error"), response.get("result")
        if isinstance(error, dict) or not isinstance(result, dict):
            raise RpcError(
                error if isinstance(error, dict) else {"code": METHOD_NOT_FOUND, "message": "no result"}
            )
        return result

    async def _response(self, method: str, params: dict[str, Any]) -> Mapping[str, Any]:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine is run by one
        self._tasks.add(task)
        try:
            with self._clock.paused(self._seconds):
                return await self._asking.ask(
                    self._held, self._invocation, method, params, seconds=self._seconds
                )
        finally:
            self._tasks.discard(task)

    async def answers(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The results for the ``inputRequests`` of an ``input_required`` result, by their keys.

        Raises :class:`RpcError` as :meth:`ask`: the first that cannot be answered ends the call.
        """
        requests = {key: request for key, request in asked.items() if isinstance(request, dict)}
        async with asyncio.TaskGroup() as group:
            tasks = {
                key: group.create_task(self._ask(request.get("method"), request.get("params")))
                for key, request in requests.items()
            }
        outcomes = {key: task.result() for key, task in tasks.items()}
        for outcome in outcomes.values():
            if isinstance(outcome, RpcError):
                raise outcome
        return outcomes

    async def _ask(self, method: object, params: object) -> dict[str, Any] | RpcError:
        """As a value, so that one refusal does not cancel the others half-way."""
        try:
            return await self.ask(str(method), params if isinstance(params, dict) else {})
        except RpcError as error:
            return error


def declared_by(invocation: Invocation) -> Mapping[str, Any]:
    """The capabilities that the call's client declared; in both eras they travel in ``_meta``."""
    found = _meta(invocation).get(META_CLIENT_CAPABILITIES)
    return found if isinstance(found, Mapping) else {}


def log_level_of(invocation: Invocation) -> str | None:
    """The least severity of log messages that the call's client wants; None if it has not said."""
    level = _meta(invocation).get(META_LOG_LEVEL)
    return level if isinstance(level, str) else None


def _meta(invocation: Invocation) -> Mapping[str, Any]:
    meta = invocation.params.get("_meta")
    return meta if isinstance(meta, Mapping) else {}

"""What a backend asks during a call, asked of the call's client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from common.domain.invocation import Invocation
from common.mcp.client_capabilities import undeclared
from common.mcp.inbound import META_CLIENT_CAPABILITIES, META_LOG_LEVEL
from common.mcp.jsonrpc import INTERNAL_ERROR, METHOD_NOT_FOUND
from gateway_worker.asking import Asking
from gateway_worker.delivery import Held
from gateway_worker.egress.link import RpcError
from gateway_worker.turns import Stay

MOST_OPEN = 20
"""Requests that may wait for one call's client at a time; more of them are refused."""
MOST_WAITS = 4
"""So many times ``input_timeout`` a call's time may stand still altogether."""


class CallClock:
    """A call's time. It stands still while the client is asked, who has a time of his own."""

    def __init__(self, limit: asyncio.Timeout) -> None:
        self._limit = limit
        self._open = 0
        self._closed = False
        self._left = self._since = self._paused = 0.0

    @property
    def with_client(self) -> bool:
        """Whether it is the client's time that runs, or ran out."""
        return self._open > 0

    @property
    def remaining(self) -> float:
        """Seconds until the call ends, as things stand."""
        when = self._limit.when()
        return 0.0 if when is None else max(0.0, when - asyncio.get_running_loop().time())

    def close(self) -> None:
        """The call has ended; nothing stops or starts its time any more."""
        self._closed = True

    @contextmanager
    def paused(self, most: float) -> Iterator[None]:
        """Stop the time, for at most ``most`` seconds over all pauses of the call."""
        now = asyncio.get_running_loop().time()
        if not self._open and not self._closed and not self._limit.expired():
            self._left, self._since = self.remaining, now
            self._limit.reschedule(now + self._left + max(0.0, most - self._paused))
        self._open += 1
        try:
            yield
        finally:
            if not (self._closed or self._limit.expired()):
                self._open -= 1
                if not self._open:
                    now = asyncio.get_running_loop().time()
                    self._paused += now - self._since
                    self._limit.reschedule(now + self._left)


class Conversation:
    """Of one call, with the client that made it."""

    only: str | None = None
    """The one method that it is for; None for whatever is asked."""

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
        self.stay = Stay()
        """The call's at the backend."""
        self.gave_roots: Callable[[Invocation], None] = lambda _: None
        """Called when the backend was given the client's roots."""
        self._tasks: set[asyncio.Task[Any]] = set()

    def close(self) -> None:
        """The call has ended: nobody is asked any more."""
        self._clock.close()
        for task in self._tasks:
            task.cancel()
        self._asking.forget(self._held)

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The client's result.

        Raises :class:`RpcError` with its error, for what it has not declared, and if it did not answer in time.
        """
        missing = undeclared(method, params, self._declared)
        if missing is not None:
            words = f"the client has not declared what {method[:100]} needs"
            raise _error(METHOD_NOT_FOUND, words, {"requiredCapabilities": missing})
        if len(self._tasks) >= MOST_OPEN:
            raise _error(INTERNAL_ERROR, f"more than {MOST_OPEN} requests wait for this client")
        response = await self._response(method, params)
        error, result = response.get("error"), response.get("result")
        if isinstance(error, dict):
            raise RpcError(error)
        if not isinstance(result, dict):
            raise _error(INTERNAL_ERROR, "the client answered with neither a result nor an error")
        if method == "roots/list":
            self.gave_roots(self._invocation)
        return result

    async def _response(self, method: str, params: dict[str, Any]) -> Mapping[str, Any]:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine is run by one
        self._tasks.add(task)
        try:
            with self._clock.paused(MOST_WAITS * self._seconds):
                async with asyncio.timeout(self._seconds):
                    return await self._asking.ask(
                        self._held, self._invocation, method, params, seconds=self._seconds
                    )
        except TimeoutError:
            raise _error(INTERNAL_ERROR, "the client did not answer within input_timeout") from None
        finally:
            self._tasks.discard(task)

    async def answers(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The results for the ``inputRequests`` of an ``input_required`` result, by their keys.

        Raises :class:`RpcError` as :meth:`ask`: the first that cannot be answered ends the call.
        """
        requests = {key: request for key, request in asked.items() if isinstance(request, dict)}
        if len(requests) > MOST_OPEN:
            raise _error(INTERNAL_ERROR, f"the tool asked for more than {MOST_OPEN} things at once")
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


def _error(code: int, words: str, data: Mapping[str, Any] | None = None) -> RpcError:
    return RpcError({"code": code, "message": words, **({} if data is None else {"data": dict(data)})})

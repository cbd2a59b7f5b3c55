"""What a backend asks through an executor: from the executor's thread to the worker's loop, and back."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import orjson

from common.mcp.jsonrpc import INTERNAL_ERROR
from common.ports import RemoteError
from gateway_worker.egress.asked import Asked
from gateway_worker.egress.link import Gate, OnRequest, refuse_request

_ENDED = {"error": {"code": INTERNAL_ERROR, "message": "the call has ended"}}


class AskingBack:
    """Of one session. Belongs to the worker's loop, but for :meth:`ask`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        gate: Gate,
        of_session: Callable[[], OnRequest],
        max_bytes: int,
    ) -> None:
        """``of_session`` says who is asked what belongs to no call; a question has ``max_bytes`` at most."""
        self._max_bytes = max_bytes
        self._loop = loop
        self._of_session = of_session
        self._numbers = itertools.count(1)
        self._of_call: dict[int, OnRequest | None] = {}
        self._waiting: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._asked = Asked(self._answered, gate)
        self._closed = False

    def begin(self, request_id: int, on_request: OnRequest | None) -> None:
        """A call is under way, and ``on_request`` is asked what the backend asks for it."""
        self._of_call[request_id] = on_request

    def end(self, request_id: int) -> None:
        """It is not any more."""
        self._of_call.pop(request_id, None)

    def close(self) -> None:
        """Nothing is answered any more."""
        self._closed = True
        self._asked.close()
        for number in list(self._waiting):
            self._resolve(number, _ENDED)

    async def ask(self, request_id: int | None, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """On the executor's thread: ask, for a call or (None) for none. Raises :class:`RemoteError`."""
        number = next(self._numbers)
        answer: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        try:
            method, raw = str(method), orjson.dumps(dict(params))
        except Exception:  # noqa: BLE001 - whatever it was given
            raise RemoteError(INTERNAL_ERROR, "params are to be what JSON can hold") from None
        if len(method) + len(raw) > self._max_bytes:
            raise RemoteError(INTERNAL_ERROR, "the request is above the bound (runtime.max_result_bytes)")
        self._there(self._put, number, request_id, method, orjson.loads(raw), answer)
        try:
            outcome = await answer
        except asyncio.CancelledError:
            self._there(self._withdraw, number)
            raise
        if "error" in outcome:
            error = outcome["error"]
            raise RemoteError(error.get("code"), error.get("message"), error.get("data"))
        found: dict[str, Any] = outcome["result"]
        return found

    def _there(self, what: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the worker's loop has ended
            self._loop.call_soon_threadsafe(what, *arguments)

    def _put(
        self,
        number: int,
        request_id: int | None,
        method: str,
        params: dict[str, Any],
        answer: asyncio.Future[Mapping[str, Any]],
    ) -> None:
        self._waiting[number] = answer
        if self._closed or (request_id is not None and request_id not in self._of_call):
            self._resolve(number, _ENDED)
            return
        on_request = self._of_session() if request_id is None else self._of_call[request_id]
        self._asked.ask({"id": number, "method": method, "params": params}, on_request or refuse_request)

    def _withdraw(self, number: int) -> None:
        if self._waiting.pop(number, None) is not None:
            self._asked.withdraw({"requestId": number})

    def _answered(self, message: dict[str, Any]) -> None:
        self._resolve(message["id"], message)

    def _resolve(self, number: int, outcome: Mapping[str, Any]) -> None:
        answer = self._waiting.pop(number, None)
        if answer is not None:
            with suppress(RuntimeError):  # the thread has ended
                answer.get_loop().call_soon_threadsafe(_set, answer, outcome)


def _set(answer: asyncio.Future[Mapping[str, Any]], outcome: Mapping[str, Any]) -> None:
    if not answer.done():
        answer.set_result(outcome)

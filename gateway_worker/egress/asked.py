"""A backend's own requests: each is answered once, in a task of its own, unless it is withdrawn or the link closes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from common.domain.errors import GatewayError
from common.mcp.jsonrpc import INTERNAL_ERROR
from gateway_worker.egress.link import Gate, OnRequest, RpcError

log = structlog.get_logger(__name__)

MOST_AT_ONCE = 100
"""Requests of one backend that may wait for their answers; more of them are refused."""

GATE_LOOK = 0.05
"""Seconds between two looks at a shut gate."""

Send = Callable[[dict[str, Any]], None]
"""Sends a response to the backend, now or a little later. Raises what breaks the link."""


class Asked:
    """The requests of one backend. Belongs to the loop of its link."""

    def __init__(self, send: Send, gate: Gate) -> None:
        """``gate`` says whether anything may be written to the backend; an answer waits for it."""
        self._send = send
        self._gate = gate
        self._closed = False
        self._withdrawn: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def ask(self, message: Mapping[str, Any], on_request: OnRequest) -> None:
        """Answer a request. ``ping`` asks about the way, so it is answered at once. Raises what ``send`` raises."""
        if message["method"] == "ping":
            self._send(_response(message["id"], {"result": {}}))
            return
        name = _name(message["id"])
        if name in self._tasks or len(self._tasks) >= MOST_AT_ONCE:
            self._send(_response(message["id"], _error("too many requests at once, or two of one id")))
            return
        task = asyncio.create_task(self._answer(message, on_request), name=f"asked-{message['method']}"[:100])
        self._tasks[name] = task
        task.add_done_callback(lambda _: self._done(name))

    def _done(self, name: str) -> None:
        self._tasks.pop(name, None)
        self._withdrawn.discard(name)

    def withdraw(self, params: Mapping[str, Any]) -> None:
        """The backend takes a request back (``notifications/cancelled``): it gets no answer."""
        name = _name(params.get("requestId"))
        if name in self._tasks:
            self._withdrawn.add(name)
            self._tasks[name].cancel()

    def close(self) -> None:
        """Answer nothing any more."""
        self._closed = True
        for task in list(self._tasks.values()):
            task.cancel()

    async def _answer(self, message: Mapping[str, Any], on_request: OnRequest) -> None:
        params = message.get("params") or {}
        try:
            outcome: dict[str, Any] = {"result": await on_request(message["method"], params)}
        except RpcError as error:
            outcome = {"error": error.error}
        except GatewayError as error:
            outcome = _error(error.message)
        except asyncio.CancelledError:
            if self._closed or _name(message["id"]) in self._withdrawn:
                raise
            # A backend that waits for it must not do so for ever.
            outcome = _error("the call has ended")
        except Exception:
            log.exception("backend_request_broke", method=message["method"][:100])
            outcome = _error("the gateway failed")
        while not self._gate() and not self._closed:  # noqa: ASYNC110 - a gate is asked, it does not call
            await asyncio.sleep(GATE_LOOK)
        try:
            self._send(_response(message["id"], outcome))
        except GatewayError as error:
            log.debug("backend_request_not_answered", error=error.message)


def _name(request_id: object) -> str:
    """The number 1 and the text 1 are two ids."""
    return f"{type(request_id).__name__}:{request_id}"


def _response(request_id: object, outcome: Mapping[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, **outcome}


def _error(words: str) -> dict[str, Any]:
    return {"error": {"code": INTERNAL_ERROR, "message": words}}

"""MCP over a child's standard streams: one JSON-RPC message a line, many requests under way at once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from functools import partial
from typing import Any

import orjson
import structlog

from common.domain.errors import GatewayError, ResponseTooLarge
from gateway_worker.egress.asked import Asked
from gateway_worker.egress.child_input import Outgoing
from gateway_worker.egress.lines import Lines, line_of, salvaged
from gateway_worker.egress.link import (
    NO_HEADERS,
    NO_META,
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
    subscription_of,
)
from gateway_worker.egress.parties import Parties
from gateway_worker.egress.process import Child
from gateway_worker.egress.starts import Slot, start_slot

log = structlog.get_logger(__name__)

STDERR_SHOWN = 5
"""Lines of standard error that an operator is shown beside a failure."""

EXIT_GRACE = 0.5
"""Seconds for reading what a child wrote before its end, when a descendant of it holds the pipe open; and for hearing
how one ended that reads no more."""
MOST_LATE = 1000
"""Requests that were given up of whose answers somebody is told; the oldest are forgotten."""
ASIDE_LIMIT = 16 << 20
"""Bytes of answers and cancellations that may wait for a child to read them before none is added any more."""


def _ignore(_method: str, _params: dict[str, Any]) -> None:
    """Nobody listens."""


class StdioLink:
    """See :class:`~gateway_worker.egress.link.Link`."""

    def __init__(self, child: Child, *, gate: Gate = always_open, meta: Mapping[str, Any] = NO_META) -> None:
        """``gate`` is asked before the child is started, and before each write; ``meta`` goes with each request."""
        self.closed = asyncio.Event()
        self.on_notification: OnNotification = _ignore
        self.on_request: OnRequest = refuse_request
        self.child = child
        self.noise = 0
        self._ids = itertools.count(1)
        self._pending: dict[int, tuple[asyncio.Future[dict[str, Any]], OnNotification | None]] = {}
        self._late: dict[int, OnSettled] = {}
        """Who wants to know of an answer that comes behind the end of its wait."""
        self._given: set[asyncio.Future[Any]] = set()
        """Who waits to be told why the child took nothing of their line."""
        self._meta = RequestMeta(meta)
        self._parties = Parties()
        self._asked = Asked(self._respond, gate)
        self._slot: Slot | None = None
        self._heard = 0
        self._hangs = True
        self._lines = Lines(child.line_limit)
        self._output_ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gate = gate
        self._outgoing: Outgoing | None = None
        self._reader: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._error: GatewayError | None = None

    @property
    def hangs(self) -> bool:
        """Whether the child has said nothing yet, or nothing since somebody gave up waiting for an answer."""
        return self._hangs

    async def open(self) -> None:
        """Start the child, when its turn has come. Raises :class:`LinkLost`."""
        slot = self._slot = await start_slot()
        try:
            if not self._gate():
                raise GateShut
            await self.child.start(self._output)
        except BaseException:
            slot.release()
            raise
        self._outgoing = Outgoing(self.child.stdin, self._gate, self._input_broke)
        self._reader = asyncio.create_task(self._read(), name=f"stdout-{self.child.process.pid}")
        self._watcher = asyncio.create_task(self._watch(self._reader), name=f"exit-{self.child.process.pid}")

    async def request(
        self,
        method: str,
        params: dict[str, Any],
        *,
        headers: Mapping[str, str] = NO_HEADERS,  # noqa: ARG002 - the Link's signature
        on_notification: OnNotification | None = None,
        on_request: OnRequest | None = None,  # noqa: ARG002 - the Link's signature
        on_settled: OnSettled | None = None,
        principal: str = "",
    ) -> dict[str, Any]:
        """Send a request and wait for its result."""
        if self.closed.is_set():
            raise self._lost(unsent=True)
        request_id = next(self._ids)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = (future, on_notification)
        settled = self._parties.enter(method, request_id, principal, on_notification, on_settled)
        heard, at_work = self._heard, False
        try:
            outgoing = self._meta.outgoing(request_id, params)
            message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": outgoing}
            line = self._out.put(line_of(message), partial(self._given_back, future))
            return await future
        except asyncio.CancelledError:
            self._hangs = self._hangs or heard == self._heard
            at_work = future not in self._given and not self._out.take_back(line)
            if at_work:
                self._cancel(method, request_id)
            raise
        finally:
            if future.done() and not future.cancelled():
                future.exception()  # the link may have closed while the request still waited to be written
                at_work = False
            del self._pending[request_id]
            self._meta.done(request_id)
            self._parties.leave(request_id)
            if settled is not None:
                self._ended(request_id, settled, at_work=at_work)

    def _ended(self, request_id: int, on_settled: OnSettled, *, at_work: bool) -> None:
        """Nobody waits for it any more. What a backend never answers is not remembered for ever."""
        if not at_work:
            on_settled()
            return
        if len(self._late) >= MOST_LATE:
            del self._late[next(iter(self._late))]
        self._late[request_id] = on_settled

    async def notify(
        self,
        method: str,
        params: dict[str, Any],
        *,
        headers: Mapping[str, str] = NO_HEADERS,  # noqa: ARG002 - the Link's signature
    ) -> None:
        """Send a notification; returns once the child's pipe has it."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def ended(error: LinkLost | None) -> None:
            if written.done():
                return
            if error is None:
                written.set_result(None)
            else:
                self._given_back(written, error)

        line = self._out.put(line_of({"jsonrpc": "2.0", "method": method, "params": params}), ended)
        try:
            await written
        except asyncio.CancelledError:
            self._out.take_back(line)
            raise

    async def close(self) -> None:
        """End the child: within a second if it hangs, else with the patience that an orderly end may need."""
        self._error = self._error or LinkLost("the tool's session was closed")
        self.closed.set()
        self._tell_given()
        self._asked.close()
        if self._outgoing is not None:
            self._outgoing.close()
        await self.child.stop(hasty=self._hangs)
        for task in (self._watcher, self._reader):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])

    @property
    def _out(self) -> Outgoing:
        if self._outgoing is None:
            raise LinkLost("the tool's process has not been started", unsent=True)
        return self._outgoing

    @property
    def waiting_input(self) -> int:
        """Bytes that the child's pipe has not taken yet."""
        return 0 if self._outgoing is None else self._outgoing.size

    def _put_aside(self, message: dict[str, Any]) -> bool:
        """Send what nobody waits for; False if too much of that waits for the child already."""
        if self._out.aside > ASIDE_LIMIT:
            return False
        self._out.put(line_of(message))
        return True

    def _given_back(self, waiting: asyncio.Future[Any], error: LinkLost | None) -> None:
        """A line's end; only one that was given back ends the wait for its answer."""
        if error is None or waiting.done():
            return
        if isinstance(error, GateShut):
            waiting.set_exception(error)
            return
        self._given.add(waiting)
        if self._error is not None:
            self._tell_given()

    def _input_broke(self) -> None:
        """The child reads no more. Mostly that is its end, of which nothing has told yet, and its words are better."""
        asyncio.get_running_loop().call_later(EXIT_GRACE, self._reads_no_more)

    def _reads_no_more(self) -> None:
        """What it was sent before it may still answer. Of one that has ended the watcher tells."""
        if self.closed.is_set() or self.child.exited.is_set():
            return
        self._tell_given()
        if all(future.done() for future, _ in self._pending.values()):
            self._end_output(LinkLost("the tool's process does not read its input"))

    def _tell_given(self) -> None:
        given, self._given = self._given, set()
        for waiting in given:
            if not waiting.done():
                waiting.set_exception(self._lost(unsent=True))

    def _cancel(self, method: str, request_id: int) -> None:
        """Tell the backend that nobody waits; ``initialize`` must not be cancelled (lifecycle rules)."""
        if self.closed.is_set() or method == "initialize":
            return
        params = {"requestId": request_id, "reason": "the caller no longer waits"}
        if not self._put_aside({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}):
            log.debug("cancellation_not_delivered", request=request_id)

    async def _watch(self, reader: asyncio.Task[None]) -> None:
        """See the child's end even if a descendant holds its pipes: then no end of file tells of it."""
        await self.child.exited.wait()
        await asyncio.wait([reader], timeout=EXIT_GRACE)
        if not reader.done():
            self._error = self._error or LinkLost(await self.child.end_words())
            reader.cancel()

    async def _read(self) -> None:
        """Wait for the end of what the child says, and tell everybody who waits."""
        try:
            await self._output_ended
            self._error = self._error or LinkLost(await self.child.end_words())
        except GatewayError as error:
            self._error = self._error or error
            self._hangs = True  # whatever it still says is no matter any more
        finally:
            self.closed.set()
            self._asked.close()
            self._out.close(dead=True)
            self._tell_given()
            for future, _ in self._pending.values():
                if not future.done():
                    future.set_exception(self._lost(unsent=False))
            await self.child.stop(hasty=self._hangs)

    def _output(self, data: bytes) -> None:
        """What the child wrote; nothing: it will write no more."""
        if self._output_ended.done():
            return
        if self._slot is not None:
            self._slot.release()
            self._slot = None
        if data:
            self._heard += 1
            self._hangs = False
        try:
            for line in self._lines.feed(data) if data else self._lines.end():
                self._receive_alone(line)
        except GatewayError as error:
            self._end_output(error)
        else:
            if not data:
                self._end_output(None)

    def _end_output(self, error: GatewayError | None) -> None:
        if self._output_ended.done():
            return
        if error is None:
            self._output_ended.set_result(None)
        else:
            self._output_ended.set_exception(error)

    def _receive_alone(self, line: bytes) -> None:
        """One line that nobody can handle must not cost the lines behind it, which are other callers' answers."""
        try:
            self._receive(line)
        except GatewayError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the next line must be read
            # Not the traceback: it may show what the tool said.
            log.warning("backend_line_dropped", pid=self.child.process.pid, error=type(error).__name__)
            self.noise += 1

    def _receive(self, line: bytes) -> None:
        try:
            message = orjson.loads(line)
        except orjson.JSONDecodeError:
            self._unreadable(line)
            return
        if not isinstance(message, dict):
            self.noise += 1
            return
        method, params = message.get("method"), message.get("params")
        if "method" not in message:
            self._resolve(message)
        elif not isinstance(method, str) or not isinstance(params, dict | None):
            self.noise += 1
        elif "id" not in message:
            self._notified(method, params or {})
        else:
            self._asked.ask(message, self.on_request)

    def _respond(self, message: dict[str, Any]) -> None:
        """A backend that asks and then stops reading must not stop our reading, nor fill our memory."""
        if not self.closed.is_set() and not self._put_aside(message):
            raise LinkLost("the tool's process does not read the answers to its requests")

    def _unreadable(self, line: bytes) -> None:
        """A line that is no JSON: noise, unless it is an answer that can be sent on to nobody."""
        found, fault = salvaged(line)
        if isinstance(found, dict) and "method" not in found:
            self._resolve({"id": found.get("id"), "result": None}, fault)
        elif line.strip():
            self.noise += 1

    def _resolve(self, message: dict[str, Any], fault: GatewayError | None = None) -> None:
        request_id = message.get("id")
        # True and 1.0 equal 1, and are nobody's id.
        entry = self._pending.get(request_id) if type(request_id) is int else None
        if entry is None and type(request_id) is int and (settled := self._late.pop(request_id, None)):
            settled()
            return
        if entry is None or entry[0].done():
            self.noise += 1
            return
        error, result = message.get("error"), message.get("result")
        if isinstance(error, dict):
            entry[0].set_exception(RpcError(error))
        elif isinstance(result, dict):
            entry[0].set_result(result)
        else:
            entry[0].set_exception(
                fault or LinkLost("the tool's answer has neither a result nor an error object")
            )

    def _notified(self, method: str, params: dict[str, Any]) -> None:
        """Hand a notification to the request it belongs to.

        Progress names its request. A log message does not (MCP has no such field over stdio): see :class:`Parties`.
        Fails closed: what might be another caller's is told to nobody.
        """
        if method == "notifications/progress":
            found = self._meta.incoming(params)
            entry = self._pending.get(found[0]) if found else None
            if found and entry and entry[1]:
                entry[1](method, found[1])
            return
        if method == "notifications/cancelled":
            self._asked.withdraw(params)
            return
        if method == "notifications/subscriptions/acknowledged":
            _, listener = self._pending.get(subscription_of(params), (None, None))
            (listener or self.on_notification)(method, params)
            return
        if method == "notifications/message" and (teller := self._parties.listener()) is not None:
            teller(method, params)
            return
        self.on_notification(method, params)

    def _lost(self, *, unsent: bool) -> GatewayError:
        if isinstance(self._error, ResponseTooLarge) and not unsent:
            return ResponseTooLarge(self._error.message)
        reason = self._error.message if self._error else "the tool's process does not read its input"
        return LinkLost(reason + noise_words(self.noise), unsent=unsent, detail=self.stderr_words())

    def stderr_words(self) -> str:
        """The end of the child's standard error, for operators."""
        return " | ".join(self.child.stderr_tail()[-STDERR_SHOWN:])

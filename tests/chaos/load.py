"""Callers that send by the clock and not after the answer, over several web processes, and write everything down.

``client.jsonl`` gets ``sent`` when a call's bytes were written and ``ended`` when it has its end:

=============  ====================================================================================
outcome        meaning
=============  ====================================================================================
answered       by the tool; ``echo`` is what the answer says of itself
error          a JSON-RPC error; ``code`` is ours, ``unknown`` whether it says that the tool may have acted
untyped        whatever is neither of the two
closed         the connection ended without a whole answer
left           the caller went away
=============  ====================================================================================

A call that no web process took is ``unreachable``, one of a legacy caller who got no MCP session ``unopened``: both
were never sent. ``silent`` is a call that had no end long after its deadline.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Self

import orjson

from tests.chaos.journal import Journal
from tests.chaos.wire import Answer, NotConnected, Place, StreamClosed, exchange
from tests.support.mcp import RawClient
from tests.support.told import trace_of

INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "chaos", "version": "0"},
}
UNREACHABLE_AFTER = 3.0
"""Seconds after which a load balancer would say that no process is ready: more would make a crowd of callers."""
MOST_AT_ONCE = 1000
GRACE = 15.0
"""Seconds beyond its deadline after which a caller stops waiting: the history calls that a lost call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call to be made. ``leave`` says that the tool's operator lets it run twice, ``deadline`` is in seconds.

    ``web`` is the number of the web process to use, None for any. A call without ``id`` is given one.
    """

    tool: str
    id: str | None = None
    web: int | None = None
    action: str = "act"
    tenant: str = "acme"
    client: str = "a"
    era: str = "modern"
    ms: int = 0
    steps: int = 0
    how: str = "exit"
    deadline: float = 10.0
    leave: bool = False
    allowed: bool = True
    leave_after: float | None = None
    reset: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a call ended for its caller."""

    id: str
    outcome: str
    seconds: float
    code: str | None = None
    echo: dict[str, Any] | None = None

    @property
    def good(self) -> bool:
        """Whether the tool answered."""
        return self.outcome == "answered"


Mix = Callable[[Random], Call]


class Load:
    """Runs on a loop in a thread of its own. ``mix`` makes the calls that :meth:`run` sends ``rate`` times a second."""

    def __init__(
        self, places: Sequence[Place], journal: Journal, *, seed: str, out: AbstractSet[int] = frozenset()
    ) -> None:
        """``out`` are the ports that nobody is sent to, as a load balancer would have it; it may change."""
        self.codes: Counter[str] = Counter()
        self.ended: list[Ended] = []
        self._places = list(places)
        self._out = out
        self._journal = journal
        self._random = Random(seed)  # noqa: S311 - chance that can be repeated
        self._name = f"{self._random.getrandbits(32):08x}"
        self._numbers = itertools.count()
        self._sessions: dict[tuple[str, str, str], str] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="load")
        self._stop = asyncio.Event()
        self._running: Future[None] | None = None
        self._pending: set[Future[Ended]] = set()
        self._faults: list[BaseException] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.finish()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    # -- from the test's thread -------------------------------------------------------------------------

    def call(self, call: Call) -> Ended:
        """Make one call and wait for its end."""
        return self.begin(call).result(call.deadline + GRACE + UNREACHABLE_AFTER + 5)

    def begin(self, call: Call) -> Future[Ended]:
        """Begin one call."""
        future = asyncio.run_coroutine_threadsafe(self._one(call), self._loop)
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    def run(self, mix: Mix, *, rate: float, most: int | None = None) -> None:
        """Send calls of the mix from now on until :meth:`finish`, or ``most`` of them."""
        self.finish()
        self._stop = asyncio.Event()
        self._running = asyncio.run_coroutine_threadsafe(self._send(mix, rate, most), self._loop)

    @property
    def sending(self) -> bool:
        """Whether :meth:`run` still sends."""
        return self._running is not None and not self._running.done()

    def finish(self) -> None:
        """Send no more, and wait for the end of every call. Raises what went wrong in the load itself."""
        if self._running is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._running.result(120)
            self._running = None
        for future in list(self._pending):
            future.result(120)
        self.check()

    def check(self) -> None:
        """Raise what went wrong in the load itself."""
        if self._faults:
            raise self._faults[0]

    @property
    def answered(self) -> int:
        """Good answers so far."""
        return self.codes["answered"]

    # -- the loop ---------------------------------------------------------------------------------------

    async def _send(self, mix: Mix, rate: float, most: int | None) -> None:
        loop, calls = asyncio.get_running_loop(), set[asyncio.Task[Ended]]()
        due = loop.time()
        for number in itertools.count():
            if self._stop.is_set() or number == most:
                break
            due += self._random.expovariate(rate)
            if (pause := due - loop.time()) > 0:
                await asyncio.sleep(pause)
            task = loop.create_task(self._one(mix(self._random)))
            calls.add(task)
            task.add_done_callback(partial(self._discard, calls))
            if len(calls) >= MOST_AT_ONCE:
                await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        if calls:
            await asyncio.gather(*calls)

    def _discard(self, calls: set[asyncio.Task[Ended]], task: asyncio.Task[Ended]) -> None:
        calls.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._faults.append(fault)  # of the load itself: no outcome of a call

    async def _one(self, call: Call) -> Ended:
        identity, begun = call.id or f"{self._name}-{next(self._numbers)}", time.monotonic()
        try:
            async with asyncio.timeout(call.deadline + GRACE + UNREACHABLE_AFTER):
                ended = await self._ended(call, identity)
        except TimeoutError:
            ended = {"outcome": "silent"}
        except NotConnected:
            ended = {"outcome": "unreachable"}
        seconds = time.monotonic() - begun
        self._journal.write("ended", call=identity, seconds=seconds, **ended)
        self.codes[ended.get("code") or ended["outcome"]] += 1
        told = {name: ended.get(name) for name in ("code", "echo")}
        result = Ended(id=identity, outcome=str(ended["outcome"]), seconds=seconds, **told)
        self.ended.append(result)
        return result

    async def _ended(self, call: Call, identity: str) -> dict[str, Any]:
        session = await self._session(call) if call.era == "legacy" else None
        if call.era == "legacy" and session is None:
            return {"outcome": "unopened"}
        client = self._client(call, session)
        arguments: dict[str, Any] = {name: getattr(call, name) for name in ("tenant", "client", "era")}
        arguments |= {"call": identity, "ms": call.ms, "steps": call.steps, "how": call.how}
        params: dict[str, Any] = {"name": call.action, "arguments": arguments}
        params["_meta"] = {"traceparent": f"00-{trace_of(identity)}-{'1' * 16}-00"}
        if call.steps:
            params["_meta"]["progressToken"] = identity
        message = client.message("tools/call", params)
        headers = client.sent_headers("tools/call", message["params"])
        told = {name: getattr(call, name) for name in _TOLD}
        port: list[int] = []

        def sent(place: Place) -> None:
            port[:] = [place.port]
            self._journal.write("sent", call=identity, port=place.port, mcp=session, **told)

        try:
            answer = await self._anywhere(call, headers, orjson.dumps(message), sent)
        except StreamClosed as error:
            return {"outcome": "closed", "port": port[0], "cause": repr(error.__cause__)}
        if answer is None:
            return {"outcome": "left", "port": port[0]}
        if answer.status == 404:  # our session with the gateway is gone: the next call has another
            self._sessions.pop((call.tenant, call.client, call.tool), None)
        return {"port": port[0], **_outcome(answer, message["id"])}

    async def _anywhere(
        self, call: Call, headers: dict[str, str], body: bytes, sent: Callable[[Place], None]
    ) -> Answer | None:
        """Over the first web process that takes the connection, beginning with any."""
        end = time.monotonic() + UNREACHABLE_AFTER
        while True:
            ready = [place for place in self._places if place.port not in self._out]
            places = ready if call.web is None else [self._places[call.web]]
            for place in self._random.sample(places, len(places)):
                try:
                    return await exchange(
                        place,
                        f"/servers/{call.tool}/mcp",
                        headers,
                        body,
                        sent=lambda place=place: sent(place),  # type: ignore[misc]
                        leave_after=call.leave_after,
                        reset=call.reset,
                    )
                except NotConnected:
                    continue
            if time.monotonic() > end:
                raise NotConnected
            await asyncio.sleep(0.05)

    async def _session(self, call: Call) -> str | None:
        """The caller's MCP session with the gateway; opened if there is none, None while that fails."""
        key = (call.tenant, call.client, call.tool)
        if key not in self._sessions:
            client = self._client(call, None)
            message = client.message("initialize", INITIALIZE)
            headers = client.sent_headers("initialize", INITIALIZE)
            try:
                answer = await self._anywhere(call, headers, orjson.dumps(message), lambda _: None)
            except StreamClosed:
                return None
            if answer is not None and (found := answer.headers.get("mcp-session-id")):
                self._sessions[key] = found
        return self._sessions.get(key)

    def _client(self, call: Call, session: str | None) -> RawClient:
        headers = {"x-tenant-id": call.tenant, "x-client-id": call.client}
        client = RawClient("", modern=call.era == "modern", headers=headers)
        client.session = session
        return client


_TOLD = ("tool", "action", "tenant", "client", "era", "deadline", "leave", "allowed")


def _outcome(answer: Answer, request: int) -> dict[str, Any]:
    message = answer.last
    if message.get("id") == request and "result" in message:
        content = message["result"].get("content") or [{}]
        try:
            return {"outcome": "answered", "status": answer.status, "echo": orjson.loads(content[0]["text"])}
        except (KeyError, orjson.JSONDecodeError):
            return {"outcome": "untyped", "status": answer.status, "said": str(message)[:400]}
    data = (message.get("error") or {}).get("data") or {}
    if "code" in data:
        unknown = data.get("outcome") == "unknown"
        told = {"status": answer.status, "code": data["code"], "said": message["error"].get("message")}
        return {"outcome": "error", "unknown": unknown, **told}
    return {"outcome": "untyped", "status": answer.status, "said": str(message)[:400]}

"""This worker's live tool sessions, each opened, used and closed under one task of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from common.domain.errors import GatewayError, InternalError, InvocationTimeout, TransportFailure
from common.domain.ids import ClientId, TenantId, ToolId
from common.domain.invocation import Invocation
from common.domain.tool import Tool
from common.mcp.revisions import Era, era_of_version
from common.processes.guard import ProcessGuard
from common.registry.records import Entry
from gateway_worker.egress.backend import Backend, make_link, start
from gateway_worker.egress.link import OnNotification

log = structlog.get_logger(__name__)

SWEEP_INTERVAL = 1.0


class SessionKey(NamedTuple):
    """Whose session it is, and with what. A changed definition is another session, as is another era."""

    tenant: TenantId
    client: ClientId
    tool: ToolId
    version: int
    era: Era


class ToolSession:
    """One session with a backend. The owner task opens the link and closes it; calls run in their own tasks."""

    def __init__(self, key: SessionKey, tool: Tool) -> None:
        self.key = key
        self.tool = tool
        self.in_flight = 0
        self.last_used = time.monotonic()
        self._ready: asyncio.Future[Backend] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        self._owner: asyncio.Task[None] | None = None

    def begin(
        self, guard: ProcessGuard, eras: Sequence[Era], *, max_bytes: int, on_event: OnNotification
    ) -> None:
        """Start the owner task."""
        self._owner = asyncio.create_task(
            self._own(guard, eras, max_bytes, on_event), name=f"session-{self.key.tool}"
        )

    @property
    def opened(self) -> Backend | None:
        """The open backend, if it has started."""
        ready = self._ready
        return ready.result() if ready.done() and ready.exception() is None else None

    async def backend(self) -> Backend:
        """The open backend; waits while it starts. Raises what the start raised."""
        return await asyncio.shield(self._ready)

    @property
    def ended(self) -> bool:
        """True once calls can no longer use it."""
        if self._leave.is_set() or (self._owner is not None and self._owner.done()):
            return True
        started = self._ready.done() and not self._ready.cancelled() and self._ready.exception() is None
        return started and self._ready.result().link.closed.is_set()

    @property
    def idle_for(self) -> float:
        """Seconds since the last call ended; 0 while one runs."""
        return 0.0 if self.in_flight else time.monotonic() - self.last_used

    async def close(self) -> None:
        """Let the owner task close the link, and wait for it. A start under way is given up."""
        self._leave.set()
        if self._owner is not None:
            if not self._ready.done():
                self._owner.cancel()
            await asyncio.wait([self._owner])
            self._fail(TransportFailure("the tool's session was closed while it started"))

    async def _own(
        self, guard: ProcessGuard, eras: Sequence[Era], max_bytes: int, on_event: OnNotification
    ) -> None:
        try:
            backend = await self._open(guard, eras, max_bytes)
        except GatewayError as error:
            self._fail(error)
            return
        except Exception:
            log.exception("session_start_failed", tool=self.key.tool)
            self._fail(InternalError("the session could not be started"))
            return
        try:
            backend.link.on_notification = on_event
            self._ready.set_result(backend)
            leave = asyncio.create_task(self._leave.wait())
            lost = asyncio.create_task(backend.link.closed.wait())
            await asyncio.wait([leave, lost], return_when=asyncio.FIRST_COMPLETED)
            leave.cancel()
            lost.cancel()
        finally:
            await backend.link.close()

    async def _open(self, guard: ProcessGuard, eras: Sequence[Era], max_bytes: int) -> Backend:
        link = make_link(self.tool, guard, max_bytes=max_bytes)
        return await start(self.tool, link, eras)

    def _fail(self, error: GatewayError) -> None:
        if not self._ready.done():
            self._ready.set_exception(error)
            # Whoever waited may have given up at its own deadline: the error is not "never retrieved".
            self._ready.exception()


class Sessions:
    """The sessions of one worker. Belongs to the worker's event loop."""

    def __init__(
        self, guard: ProcessGuard, *, max_bytes: int, on_list_changed: Callable[[ToolId], None]
    ) -> None:
        self._guard = guard
        self._max_bytes = max_bytes
        self._on_list_changed = on_list_changed
        self._sessions: dict[SessionKey, ToolSession] = {}
        self._retired: set[ToolSession] = set()
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._sessions)

    def all(self) -> list[ToolSession]:
        """The sessions now."""
        return list(self._sessions.values())

    def take(self, invocation: Invocation, entry: Entry) -> ToolSession:
        """The caller's session with the tool, begun if there is none. The caller must :meth:`give` it back."""
        preferred = era_of_version(invocation.version)
        key = SessionKey(
            invocation.caller.tenant,
            invocation.caller.client,
            entry.id,
            entry.registered.version,
            first_era(entry, preferred),
        )
        session = self._sessions.get(key)
        if session is not None and session.ended:
            self._dismiss(session)
            session = None
        if session is None:
            session = self._sessions[key] = ToolSession(key, entry.tool)
            eras, hearer = era_order(entry, preferred), self._listener(entry.id)
            session.begin(self._guard, eras, max_bytes=self._max_bytes, on_event=hearer)
        session.in_flight += 1
        return session

    def give(self, session: ToolSession) -> None:
        """A call of the session ended."""
        session.in_flight -= 1
        session.last_used = time.monotonic()
        if session in self._retired and not session.in_flight:
            self._dismiss(session)

    def retire(self, session: ToolSession) -> None:
        """Give it to no further call; it is closed when those under way have ended."""
        if self._sessions.get(session.key) is session:
            del self._sessions[session.key]
            self._retired.add(session)

    async def sweep(self, version_of: Callable[[ToolId], int | None]) -> None:
        """Close, for ever, what is idle, ended, or of a definition that is no longer the present one."""
        while True:
            for key, session in list(self._sessions.items()):
                stale = version_of(key.tool) != key.version and not session.in_flight
                if session.ended or stale or session.idle_for > session.tool.idle_timeout:
                    self._dismiss(session)
            await asyncio.sleep(SWEEP_INTERVAL)

    async def close(self) -> None:
        """Close all of them."""
        for session in [*self._sessions.values(), *self._retired]:
            self._dismiss(session)
        if self._closing:
            await asyncio.wait(self._closing)

    def _dismiss(self, session: ToolSession) -> None:
        if self._sessions.get(session.key) is session:
            del self._sessions[session.key]
        self._retired.discard(session)
        task = asyncio.create_task(session.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _listener(self, tool: ToolId) -> OnNotification:
        def heard(method: str, _params: dict[str, object]) -> None:
            if method.endswith("/list_changed"):
                self._on_list_changed(tool)

        return heard


def first_era(entry: Entry, preferred: Era) -> Era:
    """The first of :func:`era_order`."""
    if entry.known is not None and preferred.value in entry.known.eras:
        return preferred
    return era_order(entry, preferred)[0]


def era_order(entry: Entry, preferred: Era) -> list[Era]:
    """In which order to try the eras: the caller's first, if the backend is known to speak it.

    An unknown backend is asked legacy first, which none answers with silence.
    """
    known = entry.known
    spoken = [era for era in Era if known is not None and era.value in known.eras]
    if not spoken:
        return [Era.LEGACY, Era.MODERN]
    if preferred in spoken:
        return [preferred, *(era for era in spoken if era is not preferred)]
    return spoken


async def usable(session: ToolSession, seconds: float) -> Backend:
    """The session's backend within ``seconds``. Raises :class:`InvocationTimeout` beyond."""
    if (opened := session.opened) is not None:
        return opened
    try:
        async with asyncio.timeout(seconds):
            return await session.backend()
    except TimeoutError as error:
        raise InvocationTimeout("the tool was still starting at the deadline") from error

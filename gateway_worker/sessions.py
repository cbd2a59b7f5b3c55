"""This worker's live tool sessions, each opened, used and closed under one task of its own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from common.domain.audit import EventKind
from common.domain.errors import (
    GatewayError,
    InternalError,
    InvocationTimeout,
    SessionLimit,
    TransportFailure,
)
from common.domain.ids import ToolId
from common.domain.tool import Tool
from common.mcp.revisions import Era, era_of_version
from common.processes.guard import ProcessGuard
from common.registry.records import Entry
from gateway_worker.claims import Claim, Claims
from gateway_worker.egress.backend import Backend, make_link, start
from gateway_worker.egress.link import OnNotification, RpcError
from gateway_worker.egress.stdio import StdioLink

log = structlog.get_logger(__name__)

SWEEP_INTERVAL = 1.0
PING_TIME = 1.0
"""Seconds that a child has for a ping after it let a call run into its deadline."""


class SessionKey(NamedTuple):
    """Which session of the directory, and with what. A changed definition is another one here, as is another era."""

    tool: ToolId
    session: str
    version: int
    era: Era


OnSession = Callable[[EventKind, "ToolSession"], None]


class ToolSession:
    """One session with a backend. The owner task opens the link and closes it; calls run in their own tasks."""

    def __init__(self, key: SessionKey, tool: Tool, claim: Claim, tell: OnSession) -> None:
        """``tell`` hears when the session has been opened and when it was closed."""
        self._tell = tell
        self.key = key
        self.tool = tool
        self.claim = claim
        self.in_flight = 0
        self.begun = self.last_used = time.monotonic()
        most = tool.max_in_flight_per_session
        self.turn = None if most is None else asyncio.Semaphore(most)
        """Held while a call is at the backend; None if any number may be."""
        self.examined: asyncio.Task[None] | None = None
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
        started = ready.done() and not ready.cancelled() and ready.exception() is None
        return ready.result() if started else None

    async def backend(self) -> Backend:
        """The open backend; waits while it starts. Raises what the start raised."""
        return await asyncio.shield(self._ready)

    @property
    def ended(self) -> bool:
        """True once calls can no longer use it."""
        if self._leave.is_set() or self.claim.lost or (self._owner is not None and self._owner.done()):
            return True
        backend = self.opened
        return backend is not None and backend.link.closed.is_set()

    @property
    def idle_for(self) -> float:
        """Seconds since the last call ended; 0 while one runs."""
        return 0.0 if self.in_flight else time.monotonic() - self.last_used

    @property
    def too_old(self) -> bool:
        """Whether it has lived for ``max_session_age``."""
        age = self.tool.max_session_age
        return age is not None and time.monotonic() - self.begun >= age

    async def close(self) -> None:
        """Let the owner task close the link, and wait for it. A start under way is given up."""
        self._leave.set()
        if self._owner is not None:
            if not self._ready.done():
                self._owner.cancel()
            await asyncio.wait([self._owner])
            self._fail(TransportFailure("the tool's session was closed while it started", stage="turn"))

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
            log.debug("session_opened", **self._facts(backend))
            self._tell(EventKind.SESSION_CREATED, self)
            leave = asyncio.create_task(self._leave.wait())
            lost = asyncio.create_task(backend.link.closed.wait())
            await asyncio.wait([leave, lost], return_when=asyncio.FIRST_COMPLETED)
            leave.cancel()
            lost.cancel()
        finally:
            await backend.link.close()
            log.debug("session_closed", **self._facts(backend))
            self._tell(EventKind.SESSION_CLOSED, self)

    def _facts(self, backend: Backend) -> dict[str, object]:
        link = backend.link
        pid = link.child.process.pid if isinstance(link, StdioLink) else None
        return {"tool": self.key.tool, "session": self.key.session, "fence": self.claim.token, "pid": pid}

    async def _open(self, guard: ProcessGuard, eras: Sequence[Era], max_bytes: int) -> Backend:
        link = make_link(self.tool, guard, max_bytes=max_bytes)
        return await start(self.tool, link, eras)

    def _fail(self, error: GatewayError) -> None:
        if not self._ready.done():
            self._ready.set_exception(error)
            # Whoever waited may have given up at its own deadline: the error is not "never retrieved".
            self._ready.exception()


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """What decides whether a session is kept: the present version of its tool, and whether this worker serves it."""

    version_of: Callable[[ToolId], int | None]
    serves: Callable[[ToolId], bool]


class Sessions:
    """The sessions of one worker. Belongs to the worker's event loop."""

    def __init__(
        self,
        guard: ProcessGuard,
        claims: Claims,
        keeping: Keeping,
        *,
        max_sessions: int,
        max_bytes: int,
        on_list_changed: Callable[[ToolId], None],
        tell: OnSession = lambda _kind, _session: None,
    ) -> None:
        """``max_sessions`` bounds those of this worker; the idlest one ends for a new one."""
        self._tell = tell
        self._guard = guard
        self._claims = claims
        self._keeping = keeping
        self._max_sessions = max_sessions
        self._max_bytes = max_bytes
        self._on_list_changed = on_list_changed
        self._leaving = False
        self._sessions: dict[SessionKey, ToolSession] = {}
        self._retired: set[ToolSession] = set()
        self._closing: set[asyncio.Task[None]] = set()
        claims.handing_over = self._handed_over

    def __len__(self) -> int:
        return len(self._sessions)

    def all(self) -> list[ToolSession]:
        """The sessions now."""
        return list(self._sessions.values())

    def open_backend(self, tool: ToolId) -> Backend | None:
        """An open backend of the tool as it is defined at present, the least busy one, if there is one."""
        version = self._keeping.version_of(tool)
        for session in sorted(self._sessions.values(), key=lambda session: session.in_flight):
            current = session.key.tool == tool and session.key.version == version
            if current and not session.ended and (backend := session.opened) is not None:
                return backend
        return None

    def take(self, claim: Claim, entry: Entry, version: str) -> ToolSession:
        """The claim's session for a caller of this revision, begun if there is none. It must be :meth:`give`\\ n back.

        Raises :class:`SessionLimit` if this worker holds as many as it may, and every one of them has a call.
        """
        preferred = era_of_version(version)
        key = self._key(claim, entry, preferred)
        session = self._sessions.get(key)
        if session is not None and (session.ended or session.claim is not claim or session.too_old):
            self._replace(session)
            session = None
        if session is None:
            self._make_room()
            session = self._sessions[key] = ToolSession(key, entry.tool, claim, self._tell)
            self._claims.enter(claim)
            eras, hearer = era_order(entry, preferred), self._listener(entry.id)
            session.begin(self._guard, eras, max_bytes=self._max_bytes, on_event=hearer)
        session.in_flight += 1
        return session

    def _key(self, claim: Claim, entry: Entry, preferred: Era) -> SessionKey:
        """The key of the session that callers of an era use; one that lives stays theirs, whatever is learnt since."""
        known = entry.known
        first = preferred if known is None or not known.eras else first_era(entry, preferred)
        keys = [
            SessionKey(claim.tool, claim.session, entry.registered.version, era) for era in (preferred, first)
        ]
        return next((key for key in keys if key in self._sessions), keys[-1])

    def give(self, session: ToolSession) -> None:
        """A call of the session ended."""
        session.in_flight -= 1
        session.last_used = time.monotonic()
        if not session.in_flight and (session in self._retired or self._handed_over(session.key.tool)):
            self._dismiss(session)

    def retire(self, session: ToolSession) -> None:
        """Give it to no further call; it is closed when those under way have ended."""
        if self._sessions.get(session.key) is session:
            del self._sessions[session.key]
            self._retired.add(session)
            if not session.in_flight:
                self._dismiss(session)

    def examine(self, session: ToolSession) -> None:
        """A call of it was given up at its deadline: if its child hangs, it is ended, and the next call has another.

        One that still answers a ping was merely slow, and keeps its state.
        """
        backend = session.opened
        if session.examined is None and backend is not None and isinstance(backend.link, StdioLink):
            session.examined = asyncio.create_task(self._examine(session, backend), name="session-examined")

    async def _examine(self, session: ToolSession, backend: Backend) -> None:
        try:
            await answers(backend, PING_TIME)
        except (TimeoutError, GatewayError) as error:
            log.warning("session_hangs", tool=session.key.tool, error=type(error).__name__)
            self.retire(session)
        finally:
            session.examined = None

    async def sweep(self) -> None:
        """Close, for ever, what is idle, ended, too old, handed over, or of another definition than the present one."""
        while True:
            for session in self.all():
                if session.ended:
                    self._dismiss(session)
                elif not session.in_flight and self._superfluous(session):
                    log.debug("session_passivated", tool=session.key.tool, idle=round(session.idle_for, 1))
                    self._dismiss(session)
            await asyncio.sleep(SWEEP_INTERVAL)

    def leave(self) -> None:
        """Hand everything over: what has no call at once, the others when their calls have ended."""
        self._leaving = True
        for session in self.all():
            if not session.in_flight:
                self._dismiss(session)

    def drop_all(self) -> None:
        """The node was declared dead: close everything at once, whatever runs there."""
        for session in [*self._sessions.values(), *self._retired]:
            self._dismiss(session)

    async def close(self) -> None:
        """Close all of them."""
        self.drop_all()
        if self._closing:
            await asyncio.wait(self._closing)

    def _superfluous(self, session: ToolSession) -> bool:
        stale = self._keeping.version_of(session.key.tool) != session.key.version
        idle = session.idle_for > session.tool.idle_timeout
        return stale or idle or session.too_old or self._handed_over(session.key.tool)

    def _handed_over(self, tool: ToolId) -> bool:
        return self._leaving or not self._keeping.serves(tool)

    def _replace(self, session: ToolSession) -> None:
        """Make room under its key: calls of it that still run end first, unless it is of no use to them any more."""
        if session.ended or session.claim.lost:
            self._dismiss(session)
        else:
            self.retire(session)

    def _make_room(self) -> None:
        """End the idlest session if there are as many as may be. Raises :class:`SessionLimit` if none is idle."""
        if len(self._sessions) < self._max_sessions:
            return
        idle = [session for session in self._sessions.values() if not session.in_flight]
        if not idle:
            raise SessionLimit(
                f"the worker holds {self._max_sessions} tool sessions (worker.max_sessions), and all have calls",
                reason="worker",
                retry_after=1,
            )
        idlest = max(idle, key=lambda session: session.idle_for)
        log.info("session_evicted", tool=idlest.key.tool, idle=round(idlest.idle_for, 1))
        self._dismiss(idlest)

    def _dismiss(self, session: ToolSession) -> None:
        if self._sessions.get(session.key) is session:
            del self._sessions[session.key]
        elif session not in self._retired:
            return  # it is on its way already
        self._retired.discard(session)
        task = asyncio.create_task(self._end(session))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _end(self, session: ToolSession) -> None:
        """Close the link first, then leave the claim: nobody else may own the session while its link is open."""
        await session.close()
        self._claims.leave(session.claim)

    def _listener(self, tool: ToolId) -> OnNotification:
        def heard(method: str, _params: dict[str, object]) -> None:
            if method.endswith("/list_changed"):
                self._on_list_changed(tool)

        return heard


async def answers(backend: Backend, seconds: float) -> None:
    """Ask a backend whether it is there. An error is an answer too.

    Raises :class:`TimeoutError`, and :class:`GatewayError` if its link broke.
    """
    question = "ping" if backend.negotiated.era is Era.LEGACY else "server/discover"
    with contextlib.suppress(RpcError):
        async with asyncio.timeout(seconds):
            await backend.request(question, {})


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

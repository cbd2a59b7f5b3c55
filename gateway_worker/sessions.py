"""This worker's live tool sessions: which there are, who gets which, and when each ends."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from functools import partial

import structlog

from common.domain.errors import GatewayError, SessionLimit
from common.domain.ids import ToolId
from common.domain.tool import Tool
from common.mcp.revisions import Era, era_of_version
from common.registry.records import Entry
from gateway_worker.about import session_context
from gateway_worker.claims import Claim, Claims
from gateway_worker.credentials.identity import SessionIdentity
from gateway_worker.egress.backend import Backend, MakeLink
from gateway_worker.egress.custom import CustomLink
from gateway_worker.egress.link import GateShut, OnNotification
from gateway_worker.egress.stdio import StdioLink
from gateway_worker.eras import era_order, first_era
from gateway_worker.node import Node
from gateway_worker.tool_session import LOST, OnSession, SessionKey, ToolSession, answers
from gateway_worker.watches import Watches, WatchStore

IdentityOf = Callable[[Tool, str], SessionIdentity | None]
"""Whose credentials a tool session with this name is given; None: the tool has none."""

log = structlog.get_logger(__name__)

_LIST_CHANGED = re.compile(r"notifications/(tools|resources|prompts)/list_changed")
SWEEP_INTERVAL = 1.0
PRUNE_INTERVAL = 20.0
ROTATED = "credentials changed"
"""Why a session ended whose credentials are others by now."""
PING_TIME = 1.0
"""Seconds that a child has for a ping after it let a call run into its deadline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """What decides whether a session is kept: the present definition of its tool, and whether this worker serves it.

    ``settled`` is False while a tool may be missing since Redis lost the registry.
    """

    digest_of: Callable[[ToolId], str | None]
    settled: Callable[[], bool]
    serves: Callable[[ToolId], bool]


class Sessions:
    """The sessions of one worker. Belongs to the worker's event loop."""

    def __init__(
        self,
        links: MakeLink,
        claims: Claims,
        keeping: Keeping,
        *,
        max_sessions: int,
        watch_store: WatchStore,
        on_list_changed: Callable[[ToolId, str], None],
        tell: OnSession = lambda _kind, _session: None,
        identity_of: IdentityOf = lambda _tool, _session: None,
    ) -> None:
        """``max_sessions`` bounds those of this worker; the idlest one ends for a new one."""
        self._identity_of = identity_of
        self._tell = tell
        self._links = links
        self._claims = claims
        self._keeping = keeping
        self._max_sessions = max_sessions
        self._watch_store = watch_store
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
        digest = self._keeping.digest_of(tool)
        for session in sorted(self._sessions.values(), key=lambda session: session.in_flight):
            current = session.key.tool == tool and session.key.digest == digest
            if current and not session.ended and (backend := session.opened) is not None:
                return backend
        return None

    def take(self, claim: Claim, entry: Entry, version: str, profile: str = "") -> ToolSession:
        """The claim's session for a caller of this revision and profile, begun if there is none.

        It must be given back (:meth:`give`).

        Raises :class:`SessionLimit` if this worker holds as many as it may, and every one of them has a call.
        """
        preferred = era_of_version(version)
        key = self._key(claim, entry, preferred, profile)
        session = self._sessions.get(key)
        if session is not None and (session.ended or session.claim is not claim or _worn(session)):
            self._replace(session)
            session = None
        if session is None:
            self._make_room()
            watches = Watches(self._watch_store, claim.tool, claim.session)
            identity = self._identity_of(entry.tool, claim.session)
            session = self._sessions[key] = ToolSession(key, entry.tool, claim, self._tell, watches, identity)
            self._claims.enter(claim)
            eras, gate = era_order(entry, preferred), partial(self._claims.may_use, claim)
            hearer = self._listener(entry.id)
            session.begin(self._links, eras, gate=gate, on_event=hearer, node=self._claims.node)
        session.in_flight += 1
        return session

    def _key(self, claim: Claim, entry: Entry, preferred: Era, profile: str) -> SessionKey:
        """The key of the session that callers of an era use; one that lives stays theirs, whatever is learnt since."""
        key = SessionKey(claim.tool, claim.session, entry.registered.digest, preferred, profile)
        known = entry.known
        if key in self._sessions or known is None or not known.eras:
            return key
        return key._replace(era=first_era(entry, preferred))

    def give(self, session: ToolSession) -> None:
        """A call of the session ended."""
        session.in_flight -= 1
        session.last_used = time.monotonic()
        if not session.in_flight and (session in self._retired or self._handed_over(session.key.tool)):
            self._dismiss(session, "handed over" if self._handed_over(session.key.tool) else "retired")

    def retire(self, session: ToolSession, why: str = "link broke") -> None:
        """Give it to no further call; it is closed when those under way have ended. ``why`` is for the journal."""
        if self._sessions.get(session.key) is session:
            del self._sessions[session.key]
            self._retired.add(session)
            session.why = session.why or why
            if not session.in_flight:
                self._dismiss(session, why)

    def close_by_order(self, session: ToolSession, why: str, *, at_once: bool) -> None:
        """Close a session that an operator wants closed; ``at_once`` ends the calls that run there with it."""
        if at_once:
            self._dismiss(session, why)
        else:
            self.retire(session, why)

    def examine(self, session: ToolSession) -> None:
        """A call of it was given up at its deadline: if its child (or its executor) hangs, it is ended, and the next
        call has another.

        One that still answers a ping was merely slow, and keeps its state.
        """
        backend = session.opened
        if (
            session.examined is None
            and backend is not None
            and isinstance(backend.link, StdioLink | CustomLink)
        ):
            session.examined = asyncio.create_task(
                self._examine(session, backend), name="session-examined", context=self._context(session)
            )

    async def _examine(self, session: ToolSession, backend: Backend) -> None:
        try:
            await answers(backend, PING_TIME)
        except GateShut:
            pass  # it was not asked, so nothing is known of it
        except (TimeoutError, GatewayError) as error:
            log.warning("session_hangs", tool=session.key.tool, error=type(error).__name__)
            self.retire(session, "hangs")
        finally:
            session.examined = None

    async def sweep(self) -> None:
        """Close, for ever, what is idle, ended, too old, handed over, or of another definition than the present one."""
        while True:
            for session in self.all():
                why = LOST if session.ended else self._superfluous(session)
                if why and (session.ended or not session.in_flight):
                    self._dismiss(session, why)
            await asyncio.sleep(SWEEP_INTERVAL)

    async def prune_watches(self) -> None:
        """Forget, for ever, who watched resources and has ended."""
        while True:
            await asyncio.sleep(PRUNE_INTERVAL)
            for session in self.all():
                try:
                    await session.prune_watches()
                except Exception:
                    # What one backend answers must not keep the others' watches.
                    log.exception("watches_not_pruned", tool=session.key.tool)

    async def end_when_cut_off(self, node: Node) -> None:
        """Close everything, for ever, each time the node was cut off from Redis for :data:`CUT_OFF` seconds.

        A worker that is cut off cannot know whether Redis is away for all, or another got its sessions. So long it
        keeps them, with all their state, and sends nothing. Then it fails closed, so that links nobody may use do not
        stay for ever. Calls under way end with them.
        """
        while True:
            await node.until_confirmed()
            await node.until_cut_off()
            if len(self):
                log.warning("sessions_given_up", node=node.id, sessions=len(self))
            self._claims.give_up_all()
            self.drop_all("cut off from Redis")

    def leave(self) -> None:
        """Hand everything over: what has no call at once, the others when their calls have ended."""
        self._leaving = True
        for session in self.all():
            if not session.in_flight:
                self._dismiss(session, "handed over")

    def drop_all(self, why: str = "node was declared dead") -> None:
        """Close everything at once, whatever runs there. ``why`` is for the journal, unless the worker stops."""
        for session in [*self._sessions.values(), *self._retired]:
            self._dismiss(session, "worker stops" if self._leaving else why)

    async def close(self) -> None:
        """Close all of them."""
        self.drop_all()
        if self._closing:
            await asyncio.wait(self._closing)

    def _superfluous(self, session: ToolSession) -> str:
        """Why a session without calls is not kept; empty if it is."""
        tool = session.key.tool
        reasons = (
            ("handed over", self._handed_over(tool)),
            ("definition changed", self._changed(session)),
            ("too old", session.too_old),
            (ROTATED, session.outdated),
            ("idle", session.idle_for > session.tool.idle_timeout),
        )
        return next((why for why, holds in reasons if holds), "")

    def _changed(self, session: ToolSession) -> bool:
        digest = self._keeping.digest_of(session.key.tool)
        return digest != session.key.digest and (digest is not None or self._keeping.settled())

    def _handed_over(self, tool: ToolId) -> bool:
        return self._leaving or not self._keeping.serves(tool)

    def _replace(self, session: ToolSession) -> None:
        """Make room under its key: calls of it that still run end first, unless it is of no use to them any more."""
        if session.ended or session.claim.lost:
            self._dismiss(session, LOST)
        else:
            self.retire(session, _worn(session) or "claimed anew")

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
        self._dismiss(idlest, "evicted")

    def _dismiss(self, session: ToolSession, why: str) -> None:
        if self._sessions.get(session.key) is session:
            del self._sessions[session.key]
        elif session not in self._retired:
            return  # it is on its way already
        self._retired.discard(session)
        session.why = session.why or why
        task = asyncio.create_task(self._end(session), context=self._context(session))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _end(self, session: ToolSession) -> None:
        """Close the link first, then leave the claim: nobody else may own the session while its link is open."""
        await session.close()
        self._claims.leave(session.claim)

    def _context(self, session: ToolSession) -> Context:
        return session_context(session.key.tool, session.key.session, self._claims.node)

    def _listener(self, tool: ToolId) -> OnNotification:
        def heard(method: str, _params: dict[str, object]) -> None:
            if (found := _LIST_CHANGED.fullmatch(method)) is not None:
                self._on_list_changed(tool, found[1])

        return heard


def _worn(session: ToolSession) -> str:
    """Why the session gets no further call, though its backend is there; empty if it does.

    One that is in doubt costs its callers its state, so it goes only when there is one to whom a new one is of use.
    """
    reasons = (("too old", session.too_old), (ROTATED, session.outdated), ("in doubt", session.in_doubt))
    return next((why for why, holds in reasons if holds), "")

"""One session with a backend: opened, used and closed under one task of its own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import orjson
import structlog

from common.calls.head import parts_of
from common.credentials.injection import NOTHING
from common.domain.audit import EventKind
from common.domain.errors import GatewayError, InternalError, InvocationTimeout
from common.domain.ids import McpSessionId, NodeId, ToolId
from common.domain.invocation import Invocation
from common.domain.rules import Affinity
from common.domain.tool import Tool
from common.mcp.inbound import LOG_LEVELS
from common.mcp.jsonrpc import INTERNAL_ERROR
from common.mcp.revisions import Era
from common.telemetry.context import TraceContext
from gateway_worker.about import session_context
from gateway_worker.claims import Claim
from gateway_worker.conversation import Conversation
from gateway_worker.credentials.identity import SessionIdentity
from gateway_worker.ears import Ears
from gateway_worker.egress.backend import Backend, MakeLink, start
from gateway_worker.egress.link import Gate, LinkLost, OnNotification, RpcError, refuse_request
from gateway_worker.egress.stdio import StdioLink
from gateway_worker.turns import Stay, Turns
from gateway_worker.watches import MOST_WATCHES, UPDATED, Watches

log = structlog.get_logger(__name__)

PRUNE_TIME = 5.0
"""Seconds that a backend has to take note of what nobody watches any more."""
RESTORED_WITHIN = 5.0
"""Seconds that calls wait for a new backend to take up what is watched; then that goes on beside them."""
MOST_ROOTED = 1000
"""MCP sessions whose roots a backend was given that are remembered; of more the earliest are told of no change."""
LOST = "lost"
"""Why a session ended whose link broke or whose process died."""


class SessionKey(NamedTuple):
    """Which session of the directory, and with what.

    A changed definition (its ``digest``: a registry that was lost and written again counts its versions anew) is
    another one here, as is another era, and another ``profile``: what a legacy backend may ask
    of the clients of a session it is told once, when the session begins (``profile_of``).
    """

    tool: ToolId
    session: str
    digest: str
    era: Era
    profile: str = ""


OnSession = Callable[[EventKind, "ToolSession"], None]


class ToolSession:
    """One session with a backend. The owner task opens the link and closes it; calls run in their own tasks."""

    def __init__(
        self,
        key: SessionKey,
        tool: Tool,
        claim: Claim,
        tell: OnSession,
        watches: Watches,
        identity: SessionIdentity | None = None,
    ) -> None:
        """``tell`` hears when the session has been opened and when it was closed; ``identity`` is whose it is."""
        self.identity = identity
        self.watches = watches
        self._ears: Ears | None = None
        self._restoring: asyncio.Task[None] | None = None
        self._watching = asyncio.Lock()
        """Held while it changes what is watched: two changes at once would undo each other at the backend."""
        self._tell = tell
        self.key = key
        self.tool = tool
        self.claim = claim
        self.in_flight = 0
        self.begun = self.last_used = time.monotonic()
        most = tool.max_in_flight_per_session
        self.turn = None if most is None else asyncio.Semaphore(most)
        """Held while a call is at the backend; None if any number may be."""
        # An operator chooses that affinity for a tool that asks.
        asks = tool.affinity is Affinity.MCP_SESSION
        self.turns = Turns(one_at_a_time=asks) if key.profile else None
        self.rooted: dict[McpSessionId, str] = {}
        """The MCP sessions whose roots the backend was given, the newest last, and the principal behind each."""
        self._log_level: str | None = None
        self._conversations: dict[str, list[Conversation]] = {}
        self.why = ""
        """Why it is being closed; empty while nobody wants that."""
        self.examined: asyncio.Task[None] | None = None
        self.started_in: TraceContext | None = None
        """The span in which it was started, for later calls to link to; None if that call was not traced."""
        self._ready: asyncio.Future[Backend] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        self._owner: asyncio.Task[None] | None = None

    def begin(
        self,
        links: MakeLink,
        eras: Sequence[Era],
        *,
        gate: Gate,
        on_event: OnNotification,
        node: NodeId,
    ) -> None:
        """Start the owner task. ``gate`` is asked before anything is written to the backend; ``node`` is ours."""
        self._owner = asyncio.create_task(
            self._own(partial(self._open, links, eras, gate), on_event),
            name=f"session-{self.key.tool}",
            context=session_context(self.key.tool, self.key.session, node),
        )

    @contextlib.asynccontextmanager
    async def talking(self, group: str, conversation: Conversation) -> AsyncIterator[None]:
        """Be at the backend with a call whose client can be asked; ``group`` is that of :class:`Turns`."""
        if self.turns is None:
            yield
            return
        async with self.turns.turn(group) as stay:
            conversation.stay, conversation.gave_roots = stay, self._note_roots
            self._conversations.setdefault(group, []).append(conversation)
            try:
                yield
            finally:
                self._conversations[group].remove(conversation)
                if not self._conversations[group]:
                    del self._conversations[group]

    @property
    def of_one_client(self) -> bool:
        """Whether it is one MCP session's own (``affinity: mcp_session``)."""
        return bool(parts_of(self.key.session)[2])

    @property
    def hears_roots(self) -> bool:
        """Whether the backend was told that it is told of changed roots."""
        return bool(orjson.loads(self.key.profile or "{}").get("roots", {}).get("listChanged"))

    def _note_roots(self, invocation: Invocation) -> None:
        client = invocation.mcp_session
        if client is not None:
            self.rooted.pop(client, None)
            self.rooted[client] = invocation.caller.principal
            while len(self.rooted) > MOST_ROOTED:
                del self.rooted[next(iter(self.rooted))]

    async def set_log_level(self, level: str | None, stay: Stay) -> None:
        """Have a legacy backend send log messages of this severity, if it does not yet: others may want more.

        A modern one hears it with each request. Degrades: a backend that refuses sends what it likes.
        """
        backend = self.opened
        wanted = level in LOG_LEVELS and (self._log_level is None or _rank(level) < _rank(self._log_level))
        if backend is None or not wanted or backend.negotiated.era is not Era.LEGACY:
            return
        self._log_level = level
        if "logging" in backend.negotiated.capabilities:
            with contextlib.suppress(RpcError), stay.sending() as settled:
                await backend.request("logging/setLevel", {"level": level}, on_settled=settled)

    async def watch(self, watcher: McpSessionId, principal: str, uri: str, stay: Stay) -> None:
        """Have an MCP session of this principal told of updates of a resource.

        Raises what the backend says against it, :class:`RpcError` beyond the bounds, and :class:`LinkLost` if the
        session was replaced meanwhile: it is to be done again, with the one in its place.
        """
        async with self._watching:
            if self.watches.has(watcher, uri):
                # Once more: the record of what was taken up may have been taken back since by the one before.
                await self.watches.added(watcher, principal, uri)
                self._check_kept()
                return
            if self._ears is None or self.watches.full(principal):
                words = f"more than {MOST_WATCHES} resources are watched"
                raise RpcError({"code": INTERNAL_ERROR, "message": words})
            # First, since an update may come together with the backend's answer.
            self.watches.add(watcher, principal, uri)
            try:
                await self._ears.also(uri, stay)
                # Once more: it may have been dropped meanwhile, for an earlier request that was refused late; and
                # who takes the session's place from here on must find it on record.
                await self.watches.added(watcher, principal, uri)
                self._check_kept()
            except BaseException:
                self.watches.remove(watcher, uri)
                raise

    async def unwatch(self, watcher: McpSessionId, uri: str, stay: Stay) -> None:
        """Have it told no longer. Raises what the backend says against it, and :class:`LinkLost` as :meth:`watch`."""
        async with self._watching:
            self.watches.remove(watcher, uri)
            if self._ears is not None:
                await self._ears.only(self.watches.uris, stay)
            self._check_kept()

    def _check_kept(self) -> None:
        """Its next incarnation may have read what is watched before this was written, which has happened by now.

        Raises :class:`LinkLost` then. That it was not sent holds: the backend that counts has heard nothing of it.
        """
        if self.why or self.ended:
            raise LinkLost("the tool's session was replaced meanwhile", unsent=True)

    async def prune_watches(self) -> None:
        """Hear no more of what only ended MCP sessions watched. A backend that is silent keeps nobody waiting long."""
        if self._ears is None or self._watching.locked():
            return
        async with self._watching:
            if await self.watches.prune():
                with contextlib.suppress(RpcError, GatewayError, TimeoutError):
                    async with asyncio.timeout(PRUNE_TIME):
                        await self._ears.only(self.watches.uris, Stay())

    def _heard(self, on_event: OnNotification, method: str, params: dict[str, Any]) -> None:
        if method == UPDATED:
            self.watches.heard(params)
        else:
            on_event(method, params)

    async def _asked(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """A request of the backend that names no call: it is for the youngest of the only client that it can be for.

        If one of that client's is there for nothing but such requests, it is for that.
        """
        if self.turns is None:
            return await refuse_request(method, params)
        conversations = self._conversations.get(self.turns.asker())
        if conversations is None:
            # Its turn has come, but it has not come in yet: it cannot have been the cause of the question.
            raise RpcError({"code": INTERNAL_ERROR, "message": "no call is here that this could belong to"})
        meant = [found for found in conversations if found.only == method]
        others = [found for found in conversations if found.only is None]
        return await (meant or others or conversations)[-1].ask(method, params)

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
        """Seconds since the last call ended; 0 while one runs, or somebody watches a resource."""
        return 0.0 if self.in_flight or self.watches else time.monotonic() - self.last_used

    @property
    def too_old(self) -> bool:
        """Whether it has lived for ``max_session_age``."""
        age = self.tool.max_session_age
        return age is not None and time.monotonic() - self.begun >= age

    @property
    def outdated(self) -> bool:
        """Whether its credentials are no longer those that it should have."""
        return self.identity is not None and self.identity.outdated

    @property
    def waits_for_credentials(self) -> bool:
        """Whether it has not begun to start, since it does not know its credentials yet."""
        return self.identity is not None and self.identity.busy

    @property
    def in_doubt(self) -> bool:
        """Whether its backend's questions are refused for a call that was given up."""
        return self.turns is not None and self.turns.in_doubt

    async def close(self) -> None:
        """Let the owner task close the link, and wait for it. A start under way is given up."""
        self._leave.set()
        if self._owner is not None:
            if not self._ready.done():
                self._owner.cancel()
            await asyncio.wait([self._owner])
            words = "the tool's session was closed while it started"
            self._fail(LinkLost(words, unsent=True, stage="turn"))

    async def _own(self, opened: Callable[[], Awaitable[Backend]], on_event: OnNotification) -> None:
        try:
            backend = await opened()
        except GatewayError as error:
            self._fail(error)
            return
        except Exception:
            log.exception("session_start_failed", tool=self.key.tool)
            self._fail(InternalError("the session could not be started"))
            return
        try:
            backend.link.on_notification = partial(self._heard, on_event)
            backend.link.on_request = self._asked
            self._ears = ears = Ears(backend, partial(self._heard, on_event), self.watches.drop)
            await self.watches.restore()
            self._restoring = asyncio.create_task(self._restore(ears), name="watches")
            await asyncio.wait([self._restoring], timeout=RESTORED_WITHIN)
            self._ready.set_result(backend)
            log.debug("session_opened", **self._facts(backend))
            self._tell(EventKind.SESSION_CREATED, self)
            leave = asyncio.create_task(self._leave.wait())
            lost = asyncio.create_task(backend.link.closed.wait())
            await asyncio.wait([leave, lost], return_when=asyncio.FIRST_COMPLETED)
            leave.cancel()
            lost.cancel()
            ears.close()
        finally:
            if self._restoring is not None:
                self._restoring.cancel()
            await backend.link.close()
            self.why = self.why or LOST
            log.debug("session_closed", **self._facts(backend), reason=self.why)
            self._tell(EventKind.SESSION_CLOSED, self)

    async def _restore(self, ears: Ears) -> None:
        """Have the backend told of what is watched. Degrades: what it does not take up is not heard."""
        try:
            await ears.open(list(self.watches.uris))
        except GatewayError as error:
            log.debug("watches_not_restored", tool=self.key.tool, reason=error.message)
        except Exception:
            log.exception("watches_not_restored", tool=self.key.tool)

    def last_words(self) -> str:
        """The end of the standard error of a child that died, masked, for operators; empty for all others."""
        backend = self.opened
        died = self.why == LOST and backend is not None and isinstance(backend.link, StdioLink)
        return backend.link.stderr_words() if died else ""  # type: ignore[union-attr]

    def _facts(self, backend: Backend) -> dict[str, object]:
        link = backend.link
        pid = link.child.process.pid if isinstance(link, StdioLink) else None
        return {"tool": self.key.tool, "session": self.key.session, "fence": self.claim.token, "pid": pid}

    async def _open(self, links: MakeLink, eras: Sequence[Era], gate: Gate) -> Backend:
        given = NOTHING if self.identity is None else await self.identity.given()
        link = links(self.tool, gate=gate, given=given)
        return await start(self.tool, link, eras, orjson.loads(self.key.profile or "{}"))

    def _fail(self, error: GatewayError) -> None:
        if not self._ready.done():
            self._ready.set_exception(error)
            # Whoever waited may have given up at its own deadline: the error is not "never retrieved".
            self._ready.exception()


async def answers(backend: Backend, seconds: float) -> None:
    """Ask a backend whether it is there. An error is an answer too.

    Raises :class:`TimeoutError`, and :class:`GatewayError` if its link broke.
    """
    question = "ping" if backend.negotiated.era is Era.LEGACY else "server/discover"
    with contextlib.suppress(RpcError):
        async with asyncio.timeout(seconds):
            await backend.request(question, {})


async def usable(session: ToolSession, seconds: float) -> Backend:
    """The session's backend within ``seconds``. Raises :class:`InvocationTimeout` beyond."""
    if (opened := session.opened) is not None:
        return opened
    try:
        async with asyncio.timeout(seconds):
            return await session.backend()
    except TimeoutError as error:
        if session.waits_for_credentials:
            words = "the tool's credentials had not come at the deadline"
            raise InvocationTimeout(words, stage="credentials") from error
        raise InvocationTimeout("the tool was still starting at the deadline") from error


def _rank(level: str | None) -> int:
    return LOG_LEVELS.index(level) if level is not None else 0

"""One invocation on the worker: session, call, result. Every end is an :class:`ExecutionResult`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import structlog

from common.calls.head import Head
from common.domain.errors import (
    GatewayError,
    InternalError,
    InvalidRequest,
    InvocationCancelled,
    InvocationTimeout,
    SessionLimit,
    ToolDisabled,
    ToolNotFound,
    WorkerLost,
)
from common.domain.ids import tool_of
from common.domain.invocation import ExecutionResult, Invocation, answer, failed, rpc_failure
from common.domain.rules import Retry
from common.mcp.jsonrpc import JsonRpcError
from common.mcp.revisions import LEGACY_VERSIONS, MODERN_VERSIONS, Era, era_of_version
from common.registry.catalogue import Definitions
from common.registry.records import Entry
from common.store.clock import RedisClock
from gateway_worker.asking import Asking
from gateway_worker.claims import Caps, Claim, Claims, NotOwner
from gateway_worker.conversation import CallClock, Conversation, log_level_of
from gateway_worker.credentials.refusal import Refusals
from gateway_worker.delivery import Held, Taken
from gateway_worker.egress.backend import Backend
from gateway_worker.egress.link import (
    NO_HEADERS,
    GateShut,
    LinkLost,
    OnNotification,
    RpcError,
    StatusRefused,
)
from gateway_worker.eras import first_era
from gateway_worker.exchange import WATCHING, exchange, profile_for, translated, watched
from gateway_worker.journey import Journey
from gateway_worker.node import Node
from gateway_worker.param_headers import ParamHeaders
from gateway_worker.sessions import Sessions
from gateway_worker.tool_session import ToolSession, usable
from gateway_worker.tracing import answered, exchange_span, session_start
from gateway_worker.turns import Stay

log = structlog.get_logger(__name__)

KNOWN_VERSIONS = frozenset((*LEGACY_VERSIONS, *MODERN_VERSIONS))


class Progress:
    """How far a call has come: whether a timeout says anything about the backend depends on it."""

    QUEUE, CREDENTIALS, SESSION = "queue", "credentials", "session"
    TURN, BACKEND, INPUT = "turn", "backend", "input"
    __slots__ = ("attempt", "clock", "session", "stage")

    def __init__(self) -> None:
        self.stage = self.QUEUE
        self.attempt = 0
        """How often it was sent before, over a link that broke."""
        self.session: ToolSession | None = None
        self.clock: CallClock | None = None

    @property
    def timed_out(self) -> str:
        """Where the time ran out: while a client was asked, it was the client's."""
        if self.stage == self.SESSION and self.session is not None and self.session.waits_for_credentials:
            return self.CREDENTIALS
        return self.INPUT if self.clock is not None and self.clock.with_client else self.stage


class Executor:
    """Runs invocations over this worker's sessions."""

    def __init__(
        self,
        catalogue: Definitions,
        sessions: Sessions,
        claims: Claims,
        node: Node,
        journey: Journey,
        clock: RedisClock,
        asking: Asking,
    ) -> None:
        self._asking = asking
        self._catalogue = catalogue
        self._sessions = sessions
        self._claims = claims
        self._node = node
        self._journey = journey
        self._clock = clock
        self._param_headers = ParamHeaders()

    async def run(
        self, held: Held, invocation: Invocation, on_notification: OnNotification
    ) -> ExecutionResult:
        """Execute. A cancelled task ends in INVOCATION_CANCELLED.

        Raises only :class:`NotOwner`: the call's session is another node's, or may be, and nothing of the call was
        sent, or it may run twice.
        """
        begun, progress = time.monotonic(), Progress()
        left = self._clock.left(invocation.deadline)
        if left <= 0:
            # A timeout of no length would let everything run up to the first wait, and that is behind the sending.
            return failed(
                InvocationTimeout("the deadline had passed before the call began", stage=progress.stage)
            )
        try:
            async with asyncio.timeout(left) as limit:
                progress.clock = CallClock(limit)
                result = await self._attempts(held, invocation, on_notification, progress)
        except TimeoutError:
            result = failed(_TIMEOUTS[progress.timed_out]())
            if progress.session is not None and progress.stage == Progress.BACKEND:
                self._sessions.examine(progress.session)
        except asyncio.CancelledError:
            result = failed(InvocationCancelled("the caller cancelled the request"))
        except RpcError as error:
            result = rpc_failure(error.error)
        except JsonRpcError as error:
            result = rpc_failure({"code": error.code, "message": error.message})
        except NotOwner:
            raise
        except GatewayError as error:
            result = failed(error)
        except Exception:
            log.exception("invocation_broke", invocation=invocation.id, tool=invocation.tool)
            result = failed(InternalError("the worker failed; its log names the invocation"))
        return _timed(result, begun)

    def free_unused(self, taken: Taken, head: Head) -> None:
        """Free the session that was claimed for a message which came to its end without using it."""
        tool = tool_of(head.queue)
        if taken.verdict == b"recovered" and tool is not None:
            self._claims.settle(tool, head.session)
        if taken.verdict != b"claimed" or tool is None:
            return
        claim = self._claims.find(tool, head.session, taken.token)
        if claim is not None:
            self._claims.free_unused(claim)

    async def _attempts(
        self, held: Held, invocation: Invocation, on_notification: OnNotification, progress: Progress
    ) -> ExecutionResult:
        """Send it, at most twice. What a shut gate kept from being written was no attempt, and waits."""
        broken: LinkLost | None = None
        refusals = Refusals()
        while True:
            claim = await self._claim(held, invocation, broken)
            try:
                return await self._attempt(held, claim, invocation, on_notification, progress)
            except (StatusRefused, RpcError) as error:
                await refusals.judge(error, progress.session, held)
            except LinkLost as error:
                if claim.lost:
                    raise _without_session(held.head.leave, error) from error
                if isinstance(error, GateShut):
                    progress.stage, held.at_backend = Progress.TURN, broken is not None
                elif broken is not None or not _leave_again(held.head.leave, error):
                    raise
                else:
                    broken = error
                    progress.attempt += 1
                    self._journey.recovered(held, error)
            except (SessionLimit, ToolDisabled, ToolNotFound) as refusal:
                # It would say that nothing was sent.
                raise broken or refusal from refusal
            finally:
                # No session began: the tool is gone, say, or this worker may hold no more.
                self._claims.free_unused(claim)

    async def _claim(self, held: Held, invocation: Invocation, broken: LinkLost | None) -> Claim:
        """The claim under which the call may be sent at this moment; waits while the node may not act.

        It may be another one for each attempt: the last one may be lost by now, or on its way. Raises ``broken``, which
        kept the attempt before from its end, if there is none; a refusal would say that nothing was sent.
        """
        tool, head = invocation.tool, held.head
        caps = Caps(head.max_sessions or 0, head.tenant_max_sessions or 0)
        while True:
            claim = self._claims.find(tool, head.session, held.taken.token)
            try:
                claim = claim or await self._claims.confirm(tool, head.session, caps)
            except NotOwner:
                raise
            except GatewayError as error:
                raise broken or error from error
            if self._node.may_act:
                return claim
            try:
                await self._node.until_confirmed()
                if claim.lost:
                    raise NotOwner
            except BaseException:
                self._claims.free_unused(claim)
                raise

    async def _attempt(
        self,
        held: Held,
        claim: Claim,
        invocation: Invocation,
        on_notification: OnNotification,
        progress: Progress,
    ) -> ExecutionResult:
        entry = self._entry(invocation)
        profile = profile_for(held, entry.tool, invocation)
        if profile and first_era(entry, era_of_version(invocation.version)) is Era.MODERN:
            # A modern backend hears with each request what the client can be asked.
            profile = ""
        session = self._sessions.take(claim, entry, invocation.version, profile)
        try:
            return await self._call(held, session, entry, invocation, on_notification, progress)
        except GateShut:
            raise
        except LinkLost as error:
            if _leave_again(held.head.leave, error):
                self._sessions.retire(session)
            raise
        finally:
            self._sessions.give(session)

    def _entry(self, invocation: Invocation) -> Entry:
        entry = self._catalogue.get(invocation.tool)
        if entry is None and invocation.tool in self._catalogue.unreadable:
            raise NotOwner  # a worker of the release that wrote the definition takes it
        if entry is None:
            raise ToolNotFound(f"no tool {invocation.tool!r} is registered")
        if not entry.runs_calls:
            raise ToolDisabled(f"tool {invocation.tool!r} is disabled")
        if entry.withheld:
            entry.withheld.check(entry.id, entry.known, invocation.method, invocation.params)
        if invocation.version not in KNOWN_VERSIONS:
            raise InvalidRequest(
                f"version {invocation.version[:40]!r} is no known protocol revision", field="version"
            )
        return entry

    async def _call(
        self,
        held: Held,
        session: ToolSession,
        entry: Entry,
        invocation: Invocation,
        on_notification: OnNotification,
        progress: Progress,
    ) -> ExecutionResult:
        started = time.monotonic()
        progress.stage, progress.session = Progress.SESSION, session
        backend = session.opened
        if backend is None:
            with session_start(held.span, session):
                backend = await self._opened(held, session, invocation, progress)
        if held.cold and not held.sent:
            await self._journey.sent(held)
        progress.stage = Progress.TURN
        async with session.turn or _NO_TURN, self._talk(held, session, invocation, progress) as conversation:
            if not self._node.may_act:
                # The link asks once more, right before it writes; it knows as well whether the session was lost.
                await self._node.until_confirmed()
            opened = time.monotonic()
            progress.stage, held.at_backend = Progress.BACKEND, True
            headers = self._param_headers.of(entry, invocation) if backend.routed_by_headers else NO_HEADERS
            stay = Stay() if conversation is None else conversation.stay
            if (level := log_level_of(invocation)) is not None:
                await session.set_log_level(level, stay)
            if invocation.method in WATCHING:
                raw = await watched(session, invocation, stay)
            elif held.span is None:
                raw = await exchange(backend, invocation, conversation, stay, headers, on_notification)
            else:
                with exchange_span(
                    held.span, session, backend, invocation, progress.clock, progress.attempt
                ) as span:
                    traced = replace(invocation, params=span.carried(invocation.params))
                    headers = {**headers, **span.headers()}
                    raw = await exchange(backend, traced, conversation, stay, headers, on_notification)
                    answered(span, raw)
        stages = {"session": (opened - started) * 1000, "backend": (time.monotonic() - opened) * 1000}
        return answer(translated(raw, invocation, backend), stages=stages)

    def _talk(
        self, held: Held, session: ToolSession, invocation: Invocation, progress: Progress
    ) -> AbstractAsyncContextManager[Conversation | None]:
        """Be at the backend; with a client that can be asked, its conversation."""
        if progress.clock is None or not profile_for(held, session.tool, invocation):
            return _NO_CONVERSATION
        return self._talking(held, session, invocation, progress.clock)

    @contextlib.asynccontextmanager
    async def _talking(
        self, held: Held, session: ToolSession, invocation: Invocation, clock: CallClock
    ) -> AsyncIterator[Conversation]:
        conversation = Conversation(self._asking, held, invocation, clock, seconds=session.tool.input_timeout)
        try:
            async with session.talking(invocation.mcp_session or invocation.id, conversation):
                yield conversation
        finally:
            conversation.close()

    async def _opened(
        self, held: Held, session: ToolSession, invocation: Invocation, progress: Progress
    ) -> Backend:
        """The session's backend once it has started; that nothing is sent before is on record meanwhile."""
        await self._journey.unsent(held)
        left = self._clock.left(invocation.deadline)
        # The time that a client took for an answer is not the call's.
        return await usable(session, left if progress.clock is None else progress.clock.remaining)


def _leave_again(leave: Retry, error: LinkLost) -> bool:
    """Whether a call whose link broke may be sent once more. An answer with a bad status is no broken link."""
    if leave is Retry.NEVER:
        return False
    return error.unsent or _may_run_twice(leave, error)


def _may_run_twice(leave: Retry, error: LinkLost) -> bool:
    return leave is Retry.SAFE and not isinstance(error, StatusRefused)


def _without_session(leave: Retry, error: LinkLost) -> GatewayError:
    """How a call ends that lost its session to another worker, or may have.

    As if this one had died: of what was not sent nothing was tried, so it goes back whatever leave it has.
    """
    if error.unsent or _may_run_twice(leave, error):
        return NotOwner()
    if isinstance(error, StatusRefused):
        return error
    return WorkerLost(
        "the worker lost the tool's session while it held the call; whether the tool acted is unknown"
    )


_NO_TURN = contextlib.nullcontext()
_NO_CONVERSATION: AbstractAsyncContextManager[None] = contextlib.nullcontext()
_TIMEOUTS: Mapping[str, Callable[[], InvocationTimeout]] = {
    Progress.QUEUE: lambda: InvocationTimeout("the call had not begun at the deadline", stage=Progress.QUEUE),
    Progress.CREDENTIALS: lambda: InvocationTimeout(
        "the tool's credentials had not come at the deadline", stage=Progress.CREDENTIALS
    ),
    Progress.SESSION: lambda: InvocationTimeout(
        "the tool was still starting at the deadline", stage=Progress.SESSION
    ),
    Progress.TURN: lambda: InvocationTimeout(
        "the session was still busy with other calls at the deadline", stage=Progress.TURN
    ),
    Progress.INPUT: lambda: InvocationTimeout(
        "the client did not answer what the tool asked within input_timeout", stage=Progress.INPUT
    ),
    Progress.BACKEND: lambda: InvocationTimeout(
        "the tool did not answer within the deadline", stage=Progress.BACKEND
    ),
}


def _timed(result: ExecutionResult, begun: float) -> ExecutionResult:
    return ExecutionResult(
        status=result.status,
        result=result.result,
        failure=result.failure,
        duration_ms=(time.monotonic() - begun) * 1000,
        stages=result.stages,
    )

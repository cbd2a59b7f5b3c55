"""The path of one call, and the Python API around it.

:meth:`Gateway.begin` is the story, one line a stage; each stage lives in a module of its own. The web ingress
is this API's first user, and has no other way to a tool.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self

import orjson
import structlog

from common.audit.refusals import Refusals, refusal_event
from common.calls.call import Call, CallPlace
from common.calls.call_stream import CallStreams
from common.calls.cancellation import Cancellations
from common.calls.client_answers import ClientAnswers, answerer
from common.calls.contract import new_invocation_id
from common.calls.queueing import Queueing
from common.calls.replies import Notification, ReplyHub
from common.calls.request_state import UNUSABLE, RequestStates
from common.domain.errors import (
    GatewayError,
    InvalidRequest,
    StoreUnavailable,
    ToolDisabled,
    ToolUnavailable,
)
from common.domain.ids import InvocationId, McpSessionId, ToolId
from common.domain.invocation import Caller, ExecutionResult, Invocation, failed, require_scopes
from common.domain.policy import no_tool
from common.domain.quota import Quota
from common.domain.rules import MOST_WAITS
from common.domain.session import McpSession
from common.domain.tool import Tool
from common.identity.api_keys import IssuedKeys
from common.mcp.client_capabilities import interactive
from common.mcp.revisions import LATEST_LEGACY
from common.metrics.figures import Figures
from common.policy.counters import CounterReader
from common.policy.policy import Policy
from common.readiness import Readiness
from common.registry.catalogue import Catalogue, CatalogueReader
from common.registry.records import Entry
from common.registry.registry import Registry
from common.sessions.connections import Connections
from common.sessions.mcp import McpSessions
from common.sessions.stream import Listeners, SessionStreams
from common.settings import Settings
from common.store.client import Client, StoreAddress, connect, store_errors
from common.store.clock import RedisClock
from common.store.key_ring import keys_of
from common.store.shared import SharedConnection
from common.telemetry import about
from common.telemetry.spans import Span, Tracer
from common.tenants.rates import FullBuckets, RequestRates
from common.tenants.view import Tenants

log = structlog.get_logger(__name__)

FIRST_READING = 2.0
"""Longest wait of a call, in seconds, for this process's first reading of the registry."""


P = ParamSpec("P")
Begin = Callable[Concatenate["Gateway", Caller, ToolId, str, Mapping[str, Any], P], Call]


def _audited(begin: Begin[P]) -> Begin[P]:
    """Whatever refuses a call is told to the journal."""

    @wraps(begin)
    def told(
        gateway: Gateway,
        caller: Caller,
        tool: ToolId,
        method: str,
        params: Mapping[str, Any],
        /,
        *args: P.args,
        **options: P.kwargs,
    ) -> Call:
        try:
            return begin(gateway, caller, tool, method, params, *args, **options)
        except GatewayError as error:
            request = options.get("request_id")
            name = request if isinstance(request, str | int) else None
            private = gateway.keys.seals is not None
            event = refusal_event(caller, tool, method, params, error, request_id=name, private=private)
            gateway.refusals.note(event)
            if gateway.figures is not None:
                gateway.figures.refused("" if gateway.catalogue.get(tool) is None else tool, error)
            raise

    return told


class Gateway:
    """One process's door to the tools. Use as a context manager, or ``start`` and ``close``."""

    figures: Figures | None = None
    """What this process counts; None where nobody may read it. Set before the first call."""
    tracer: Tracer | None = None
    """For whoever takes requests in, who sets it before the first; None where tracing is off."""

    def __init__(self, settings: Settings, address: StoreAddress, *, publish_tools: bool = False) -> None:
        """``publish_tools`` makes the registry hold the settings' tools, now and after Redis lost them."""
        self.settings = settings
        self.keys = keys_of(settings.redis)
        self.client: Client = connect(address)
        self._hot = SharedConnection(address)
        self.clock = RedisClock()
        self.registry = Registry(self.client, self.keys, settings.egress.rules)
        self.catalogue = Catalogue(self.client, self.keys)
        self.issued_keys = IssuedKeys(self._hot, self.keys)
        self.policy = Policy(
            settings.policy, settings.egress.rules, self.catalogue, CounterReader(self._hot, self.keys).read
        )
        self.tenants = Tenants(self.client, self.keys, settings)
        self.mcp_sessions = McpSessions(
            self._hot,
            self.keys,
            idle_timeout=settings.web.session_idle_timeout,
            bound=lambda tenant: self.tenants.quota_of(tenant).max_mcp_sessions,
        )
        self.cancellations = Cancellations(self._hot, self.keys)
        self.listeners = Listeners()
        self.session_streams = SessionStreams(
            self._hot, self.keys, idle_timeout=settings.web.session_idle_timeout
        )
        self.connections = Connections(self._hot, self.keys)
        self.client_answers = ClientAnswers(self._hot, self.keys)
        self.request_states = RequestStates(self._hot, self.keys)
        self.refusals = Refusals(lambda command: self._hot.command(*command), self.keys)
        self.hub = ReplyHub(
            self._hot,
            self.keys,
            on_message={
                self.keys.registry_channel: lambda _: self._hint(),
                self.keys.cancel_request_channel: self._session_notice,
                self.keys.session_stream_channel: self.listeners.hear,
            },
            on_tick=self._tick,
            on_subscribed=self.listeners.call_all,
        )
        full = FullBuckets()
        self._rates = RequestRates(self._hot, self.keys, full)
        self._queueing = Queueing(
            self._hot,
            self.keys,
            settings,
            self.clock,
            self.mcp_sessions,
            self.tenants,
            full,
            reply=self.hub.channel,
        )
        self._streams = CallStreams(self._hot, self.keys)
        self._place = CallPlace(self.clock, self.hub, self.cancellations, self.request_states, self._streams)
        self.published = not publish_tools
        self._publish_tools = publish_tools
        self._first_reading = threading.Event()
        self._followers: list[Callable[[], object]] = []

    def start(self) -> None:
        """Begin to listen and to follow the registry. Redis may still be away."""
        self.hub.start()

    def close(self) -> None:
        """Let go of everything."""
        self.hub.close()
        self.refusals.tick(at_once=True)
        self.policy.close()
        self._hot.close()
        self.client.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- one call ---------------------------------------------------------------------------------------

    @_audited
    def begin(
        self,
        caller: Caller,
        tool: ToolId,
        method: str,
        params: Mapping[str, Any],
        *,
        version: str = LATEST_LEGACY,
        request_id: str | int | None = None,
        session: McpSession | None = None,
        timeout: float | None = None,
        resumable: bool = False,
        span: Span | None = None,
    ) -> Call:
        """Send a call on its way. Raises the :class:`GatewayError` of the stage that refuses it.

        ``session`` is the caller's MCP session as this process remembers it; :attr:`Call.session` is the same as it
        stood when the call was admitted. ``resumable`` says that its client may come back to its stream
        (:meth:`rejoin`), so that its frames are logged. ``span`` is that of the request, if it is traced.
        """
        quota = self.authorise_tenant(caller, timeout)
        entry = self.find(caller, tool, timeout)
        self._rates.check(quota, caller)
        deadline = self._deadline(entry.tool, timeout)
        decision = self.policy.authorise(
            caller, tool, method, params, request_id=request_id, left=self.clock.left(deadline)
        )
        self._require_scopes(caller, entry.tool)
        if entry.withheld:
            entry.withheld.check(tool, entry.known, method, params)
        invocation = Invocation(
            id=InvocationId(new_invocation_id()),
            caller=caller,
            tool=tool,
            method=method,
            params=params,
            version=version,
            deadline=deadline,
            request_id=request_id,
            mcp_session=None if session is None else session.id,
            resumable_until=self._kept_until(deadline, entry.tool, session) if resumable else None,
        )
        about.note(invocation)
        call = Call(
            self._place,
            invocation,
            self.hub.expect(invocation.id),
            session,
            input_timeout=entry.tool.input_timeout,
            decision=decision,
        )
        self.cancellations.remember(call)
        try:
            self._queueing.put(call, entry, span)
        except BaseException:
            call.close()
            raise
        return call

    def rejoin(self, session: McpSession, invocation: InvocationId, after: int) -> Call | None:
        """Go on with the stream of a call of a session behind its frame at the place ``after``, whoever had it before.

        None if the session has no such call, or it was over too long ago. Raises :class:`StoreUnavailable`, and
        :class:`Forbidden` for a tenant that is not admitted any more.
        """
        stream = self._streams.find(invocation)
        if stream is None or stream.invocation.mcp_session != session.id:
            return None
        self.authorise_tenant(stream.invocation.caller)
        call = Call(
            self._place,
            stream.invocation,
            self.hub.expect(invocation),
            session,
            input_timeout=stream.input_timeout,
        )
        self.cancellations.remember(call)
        try:
            call.rejoin(after)
        except BaseException:
            call.close()
            raise
        return call

    @_audited
    def resume(
        self, caller: Caller, tool: ToolId, method: str, params: Mapping[str, Any], *, version: str
    ) -> Call:
        """Go on with a call that waits for its client's input: ``params`` are those of the call, with the client's
        ``inputResponses`` and the ``requestState`` that it was given. What has no response is asked again.

        It counts as a request. Raises :class:`InvalidRequest` if the state is of no such call, or nothing of it waits
        any more.
        """
        self.count_request(caller)
        entry = self.find(caller, tool)
        deadline = self._deadline(entry.tool, None)
        self.policy.authorise(caller, tool, method, params, left=self.clock.left(deadline))
        self._require_scopes(caller, entry.tool)
        asked = Invocation(
            id=InvocationId(""),
            caller=caller,
            tool=tool,
            method=method,
            params=params,
            version=version,
            deadline=deadline,
        )
        waiting = self.request_states.open(str(params["requestState"]), asked, now=self.clock.now())
        invocation = replace(asked, id=waiting.invocation)
        about.note(invocation)
        call = Call(
            self._place,
            invocation,
            self.hub.expect(invocation.id),
            None,
            input_timeout=entry.tool.input_timeout,
        )
        try:
            waits = self.client_answers.give_all(
                caller.principal,
                waiting.invocation,
                waiting.requests,
                params.get("inputResponses"),
                reply=self.hub.channel,
            )
            # It may have ended meanwhile, and nobody was there to be told.
            if not call.recover() and not waits:
                raise InvalidRequest(UNUSABLE, field="params.requestState")
        except BaseException:
            call.close()
            raise
        return call

    def invoke(
        self, caller: Caller, tool: ToolId, method: str, params: Mapping[str, Any], **options: Any
    ) -> ExecutionResult:
        """Make a call and wait for its end; refusals and faults are results too, nothing is raised for them."""
        try:
            call = self.begin(caller, tool, method, params, **options)
        except GatewayError as error:
            return failed(error)
        with call:
            while True:
                frame = call.next(3600.0)
                if isinstance(frame, ExecutionResult):
                    return frame

    def authorise_tenant(self, caller: Caller, patience: float | None = None) -> Quota:
        """What the caller's tenant may use. Fails closed: raises :class:`Forbidden` for one that is suspended, or that
        nobody listed, and :class:`ToolUnavailable` while this process has not read what was set at run time, for which
        it waits as :meth:`tools` does.
        """
        if self.tenants.version < 0:
            self._await_reading(patience)
        return self.tenants.authorise(caller.tenant)

    def count_request(self, caller: Caller) -> None:
        """Count a request that queues no call against the rates of its tenant and client.

        Fails closed: raises what :meth:`authorise_tenant` raises, :class:`Throttled`, and for a caller with a rate
        :class:`StoreUnavailable`.
        """
        self._rates.count(self.authorise_tenant(caller), caller)

    def _require_scopes(self, caller: Caller, tool: Tool) -> None:
        """Ask for the scopes of a tool, after everything that no scope would change. Raises
        :class:`InsufficientScope`.
        """
        if tool.required_scopes:
            require_scopes(caller, tool.required_scopes, always=self.settings.identity.required_scopes)

    def tools(self, caller: Caller, patience: float | None = None) -> CatalogueReader:
        """The catalogue as a caller sees it: what policy's rules deny is not there, of tools and of what they offer.

        The file's tools are in it: a process that has just started waits for its first reading.

        Fails closed: raises :class:`ToolUnavailable` if there was none within :data:`FIRST_READING`, or ``patience``
        seconds if that is shorter. Only whoever asks waits.
        """
        self._await_reading(patience)
        return self.policy.seen_by(caller)

    def _await_reading(self, patience: float | None) -> None:
        if not self._first_reading.is_set():
            self._first_reading.wait(FIRST_READING if patience is None else min(FIRST_READING, patience))
        if self.catalogue.version < 0 or self.tenants.version < 0:
            raise ToolUnavailable("this process has not read the registry yet; try again", retry_after=1)

    def find(self, caller: Caller, tool: ToolId, patience: float | None = None) -> Entry:
        """The entry of a tool that a caller may call; ``patience`` as for :meth:`tools`.

        Raises :class:`ToolNotFound`, also for a tool of which the caller may use nothing, and :class:`ToolDisabled`.
        """
        entry = self.tools(caller, patience).get(tool)
        if entry is None:
            raise no_tool(tool)
        if not entry.enabled:
            raise ToolDisabled(f"tool {tool!r} is disabled")
        return entry

    def _deadline(self, tool: Tool, timeout: float | None) -> int:
        if timeout is not None and not timeout > 0:
            raise InvalidRequest(
                "timeout must be above 0 seconds; leave it out for the tool's own", field="timeout"
            )
        seconds = tool.request_timeout if timeout is None else min(timeout, tool.request_timeout)
        return self.clock.now() + int(seconds * 1000)

    def _kept_until(self, deadline: int, tool: Tool, session: McpSession | None) -> int:
        """Until when the result of a call may be there, in ms of Redis time: its client's time for answers included."""
        declared = {} if session is None else session.client_capabilities
        waits = MOST_WAITS * tool.input_timeout if declared and interactive(declared) else 0.0
        return deadline + int((waits + self.settings.runtime.result_ttl) * 1000)

    # -- cancellation -----------------------------------------------------------------------------------

    def answer(self, session: McpSession, name: str, response: Mapping[str, Any]) -> bool:
        """Hand a client's answer to the call that asked for it; False if none waits for it.

        Raises :class:`StoreUnavailable`.
        """
        return self.client_answers.give(answerer(session.id, session.principal), name, response)

    def roots_changed(self, session: McpSessionId) -> None:
        """Tell the workers that a client's roots are others now. Raises :class:`StoreUnavailable`."""
        with store_errors("passing on that roots have changed"):
            self._hot.command("PUBLISH", self.keys.roots_channel, session)

    def cancel_request(self, session: McpSessionId, request_id: str | int) -> None:
        """Cancel a request of an MCP session, whichever web process waits for it.

        Degrades: without Redis only calls of this process are found.
        """
        self.cancellations.cancel_request(session, request_id)

    def end_session(self, session: McpSession) -> None:
        """End an MCP session for every process, and cancel its calls, whichever web processes wait for them.

        Fails closed: raises :class:`StoreUnavailable` if the session may still stand. Its calls are cancelled even
        then, as far as Redis passes that on, and in this process: its client wants none of them.
        """
        try:
            self.mcp_sessions.end(session)
        finally:
            self.cancellations.cancel_session(session.id)

    def _session_notice(self, notice: bytes) -> None:
        self.cancellations.hear(notice)
        # If the session has ended, its standing stream has as well.
        self.listeners.hear(str(orjson.loads(notice).get("session", "")).encode())

    def cancel_invocation(self, invocation: InvocationId) -> None:
        """Tell the workers that nobody waits for a call any more. Degrades: it then runs to its deadline."""
        self.cancellations.tell_workers([invocation])

    # -- state ------------------------------------------------------------------------------------------

    def readiness(self) -> Readiness:
        """Whether this process can serve calls now."""
        try:
            with store_errors("counting workers"):
                workers = self.client.zcount(self.keys.nodes, self.clock.now(), "+inf")
        except StoreUnavailable:
            return Readiness(redis=False, replies=False, tools=False, workers=0)
        known = self.published and self.catalogue.version >= 0
        return Readiness(redis=True, replies=self.hub.listening, tools=known, workers=int(workers))

    def follow(self, look: Callable[[], object]) -> None:
        """Have ``look`` called about once a second, and whenever something in Redis is said to have changed.

        It may raise :class:`StoreUnavailable`, and is called again then.
        """
        self._followers.append(look)

    def _hint(self) -> None:
        for look in self._followers:
            look()
        self._refresh_catalogue()

    def _tick(self) -> None:
        """About once a second: keep connections, catch up with the registry, take back what may be queued in vain."""
        self.connections.keep()
        self._hint()
        self.cancellations.expire(lambda deadline: self.clock.left(deadline) <= 0)
        self._queueing.take_back()
        self.refusals.tick()

    def _refresh_catalogue(self) -> None:
        if not self.clock.synchronised:
            with store_errors("reading the time"):
                seconds, micros = self.client.time()
            self.clock.correct(seconds * 1000 + micros // 1000)
        before = self.catalogue.version
        if self.catalogue.refresh():
            self.listeners.call_all()
        self.tenants.refresh()
        if self._publish_tools and (not self.published or self.catalogue.version < before):
            self._publish()
        self._first_reading.set()

    def _publish(self) -> None:
        """Publish the file's tools: at the start, and again when a Redis comes back empty."""
        self.published = False
        changed = self.registry.publish_file(self.settings.tools)
        log.info("tools_published", tools=len(self.settings.tools), changed=len(changed))
        self.catalogue.refresh()
        self.published = True


__all__ = ["Call", "Gateway", "Notification", "Readiness"]

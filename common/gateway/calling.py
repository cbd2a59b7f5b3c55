"""The path of one call.

:meth:`Calling.begin` is the story, one line a stage; each stage lives in a module of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from common.calls.call import Call
from common.calls.client_answers import answerer
from common.calls.contract import new_invocation_id
from common.calls.request_state import UNUSABLE
from common.domain.errors import InvalidRequest
from common.domain.ids import InvocationId, McpSessionId, ToolId
from common.domain.invocation import Caller, Invocation
from common.domain.session import McpSession
from common.gateway.entrance import Entrance
from common.gateway.refused import audited
from common.mcp.revisions import LATEST_LEGACY
from common.store.client import store_errors
from common.telemetry import about
from common.telemetry.spans import Span


class Calling(Entrance):
    """Calls on their way: begun, come back to, gone on with, cancelled."""

    # -- one call ---------------------------------------------------------------------------------------

    @audited
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

    @audited
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

    def cancel_invocation(self, invocation: InvocationId) -> None:
        """Tell the workers that nobody waits for a call any more. Degrades: it then runs to its deadline."""
        self.cancellations.tell_workers([invocation])

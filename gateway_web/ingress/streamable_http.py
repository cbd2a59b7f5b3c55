"""Streamable HTTP at ``/mcp`` (all tools) and ``/servers/<tool>/mcp`` (one), both eras on each.

Specification: MCP 2025-03-26 to 2026-07-28, "Transports", "Streamable HTTP".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from common.domain.errors import GatewayError, SessionNotFound
from common.domain.ids import ToolId
from common.domain.invocation import Caller
from common.domain.session import McpSession
from common.gateway import Call, Gateway
from common.mcp.inbound import check_version, classify
from common.mcp.jsonrpc import (
    INVALID_REQUEST,
    JsonRpcError,
    Message,
    Notification,
    Request,
    is_batch,
    parse_batch,
    parse_message,
    result_response,
)
from common.mcp.revisions import LEGACY_VERSIONS, Era, era_of_header
from gateway_web import guards
from gateway_web.http import HttpAnswer, HttpRequest
from gateway_web.identity import Identity
from gateway_web.ingress.account import Account, Accounts
from gateway_web.ingress.answers import error_answer, json_response, refusal_status
from gateway_web.ingress.batch import BATCH_VERSION, MOST_MESSAGES, answer_batch
from gateway_web.ingress.changes import ListDigests
from gateway_web.ingress.disconnect import hung_up
from gateway_web.ingress.methods import FORWARDED, dispatch
from gateway_web.ingress.open_streams import counted
from gateway_web.ingress.requests import McpRequest
from gateway_web.ingress.resumption import rejoined_stream
from gateway_web.ingress.sessions import open_session, take_aside
from gateway_web.ingress.standing import session_stream, subscription
from gateway_web.ingress.streams import answer_call

FindSession = Callable[..., McpSession]
SESSION_HEADER = "mcp-session-id"
LAST_EVENT_HEADER = "last-event-id"
VERSION_HEADER = "mcp-protocol-version"
ASSUMED_VERSION = "2025-03-26"
"""The revision of a legacy request that names none and has no session (2025-06-18, "Protocol Version Header")."""


class StreamableHttp:
    """The door. One instance a process."""

    def __init__(self, gateway: Gateway, identity: Identity, digests: ListDigests) -> None:
        self._gateway = gateway
        self._identity = identity
        self._web = gateway.settings.web
        self._digests = digests
        self._accounts = Accounts(gateway.tracer, gateway.figures)

    # -- POST -------------------------------------------------------------------------------------------

    def post(self, http: HttpRequest, tool: ToolId | None) -> HttpAnswer:
        """One message in; one answer, one stream, or 202 for what has no answer."""
        era = era_of_header(http.header(VERSION_HEADER))
        request_id: str | int | None = None
        try:
            caller = self._identity.identify(http)
            raw = self._body(http)
            if is_batch(raw) and era is Era.LEGACY:
                return self._batch(http, raw, caller, tool)
            message = parse_message(raw)
            if isinstance(message, Request):
                request_id = message.id
                return self._request(http, message, caller, tool, era)
            self._aside(http, message, caller, tool, era)
            return HttpAnswer(status=202)
        except JsonRpcError as error:
            found = request_id if request_id is not None else error.request_id
            answer = error_answer(error, found, era)
            # Before a request was understood there is no JSON-RPC exchange yet: the status says so as well.
            if request_id is None:
                answer.status = 400
            return answer
        except GatewayError as error:
            answer = error_answer(error, request_id, era)
            if request_id is None:
                answer.status = refusal_status(error)
            return answer

    def _body(self, http: HttpRequest) -> bytes:
        guards.check_content_type(http.header("content-type"))
        guards.check_accept(http.header("accept"))
        return http.body(self._web.max_body_bytes)

    def _request(
        self, http: HttpRequest, message: Request, caller: Caller, tool: ToolId | None, era: Era
    ) -> HttpAnswer:
        account = self._accounts.open(message, caller, tool, protocol="http", headers=http.headers)
        try:
            answer = account.close_with(self._answered(http, message, account, caller, tool, era))
            return counted(self._gateway.figures, answer)
        except BaseException as error:
            account.failed(error)
            account.close()
            raise

    def _answered(
        self,
        http: HttpRequest,
        message: Request,
        account: Account,
        caller: Caller,
        tool: ToolId | None,
        era: Era,
    ) -> HttpAnswer:
        read = self._modern if era is Era.MODERN else self._legacy
        mcp = read(http, message, account, caller, tool)
        if era is Era.MODERN and message.method == "subscriptions/listen":
            self._gateway.count_request(caller)
            stream = self._identity.watched(http, caller, subscription(self._gateway, self._digests, mcp))
            account.close()  # the stream may stand for days
            return stream
        mcp, answer = self._begun(mcp)
        if isinstance(answer, Call):
            return answer_call(answer, mcp, self._web, http.environ)
        headers = {}
        if mcp.era is Era.LEGACY and message.method == "initialize" and not mcp.stateless:
            headers["Mcp-Session-Id"] = open_session(self._gateway, mcp, answer).id
        return json_response(result_response(message.id, answer), headers=headers)

    def _begun(self, mcp: McpRequest) -> tuple[McpRequest, Call | dict[str, Any]]:
        """What answers a request, which is told of its session as the call found it."""
        answer = dispatch(self._gateway, mcp)
        if isinstance(answer, Call) and answer.session is not None and answer.session is not mcp.session:
            mcp = replace(mcp, session=answer.session, log_level=answer.session.log_level)
        return mcp, answer

    def _batch(self, http: HttpRequest, raw: bytes, caller: Caller, tool: ToolId | None) -> HttpAnswer:
        """Several messages at once, of a client whose revision has that."""
        messages = parse_batch(raw, MOST_MESSAGES)
        if self._web.stateless:
            version = http.header(VERSION_HEADER) or ASSUMED_VERSION
        else:
            version = self._session(http, caller, tool).version
        if version != BATCH_VERSION:
            raise JsonRpcError(INVALID_REQUEST, f"Invalid request: batches are not supported in {version}")

        def begin(request: Request) -> tuple[McpRequest, Call | dict[str, Any]]:
            account = self._accounts.open(request, caller, tool, protocol="http", headers=http.headers)
            try:
                return self._begun(
                    replace(self._legacy(http, request, account, caller, tool), resumable=False)
                )
            except BaseException as error:
                account.failed(error)
                account.close()
                raise

        def aside(message: Message) -> None:
            self._aside(http, message, caller, tool, Era.LEGACY)

        answer = answer_batch(
            messages, begin, aside, gone=partial(hung_up, http.environ), silence=self._web.ping_interval
        )
        return counted(self._gateway.figures, answer)

    def _modern(
        self, http: HttpRequest, message: Request, account: Account, caller: Caller, tool: ToolId | None
    ) -> McpRequest:
        described = classify(message.method, message.params, http.headers)
        account.described(described.protocol_version, None)
        return McpRequest(
            request=message,
            caller=caller,
            tool=tool,
            era=Era.MODERN,
            version=described.protocol_version,
            headers=http.headers,
            log_level=described.log_level,
            account=account,
        )

    def _legacy(
        self, http: HttpRequest, message: Request, account: Account, caller: Caller, tool: ToolId | None
    ) -> McpRequest:
        session = None
        if self._web.stateless:
            version = http.header(VERSION_HEADER) or ASSUMED_VERSION
            account.described(version, None)
            return McpRequest(
                request=message,
                caller=caller,
                tool=tool,
                era=Era.LEGACY,
                version=version,
                stateless=True,
                account=account,
            )
        if message.method in FORWARDED:
            session = self._session(http, caller, tool, self._gateway.mcp_sessions.recall)
        elif message.method != "initialize":
            session = self._session(http, caller, tool)
        version = session.version if session else LEGACY_VERSIONS[-1]
        account.described(version, None if session is None else session.id)
        return McpRequest(
            request=message,
            caller=caller,
            tool=tool,
            era=Era.LEGACY,
            version=version,
            session=session,
            log_level=session.log_level if session else None,
            resumable=session is not None,
            account=account,
        )

    def _session(
        self, http: HttpRequest, caller: Caller, tool: ToolId | None, find: FindSession | None = None
    ) -> McpSession:
        session_id = http.header(SESSION_HEADER)
        if not session_id:
            raise guards.Refused(400, "Missing session ID: send initialize first, then its Mcp-Session-Id")
        find = find or self._gateway.mcp_sessions.use
        try:
            return find(session_id, principal=caller.principal, tool=tool)
        except SessionNotFound as error:
            self._identity.note(error, http, caller)
            raise

    def _aside(
        self, http: HttpRequest, message: Message, caller: Caller, tool: ToolId | None, era: Era
    ) -> None:
        """What has no answer: notifications, and responses to requests of ours."""
        if era is Era.MODERN:
            if not isinstance(message, Notification):
                raise JsonRpcError(INVALID_REQUEST, "Invalid request: this revision has no client responses")
            check_version((http.header(VERSION_HEADER) or "").strip())
            return
        if self._web.stateless:
            return
        take_aside(self._gateway, self._session(http, caller, tool), message)

    # -- GET, DELETE ------------------------------------------------------------------------------------

    def get(self, http: HttpRequest, tool: ToolId | None) -> HttpAnswer:
        """The stream of a call that the client comes back to, by its last event id; else the session's stream of what
        belongs to no request. The modern era has ``subscriptions/listen`` instead.
        """
        if self._post_only(http):
            return HttpAnswer(status=405, headers={"Allow": "POST"})
        try:
            caller = self._identity.identify(http)
            guards.check_accepts_stream(http.header("accept"))
            session = self._session(http, caller, tool)
            last = http.header(LAST_EVENT_HEADER)
            rejoined = rejoined_stream(self._gateway, session, last, http.environ)
            if rejoined is not None:
                return counted(self._gateway.figures, rejoined)
            stream = session_stream(self._gateway, self._digests, caller, session, last)
            return counted(self._gateway.figures, self._identity.watched(http, caller, stream))
        except GatewayError as error:
            return self._refused(error)

    def delete(self, http: HttpRequest, tool: ToolId | None) -> HttpAnswer:
        """End a session, and with it the calls of it that are under way; the modern era has none."""
        if self._post_only(http):
            return HttpAnswer(status=405, headers={"Allow": "POST"})
        try:
            caller = self._identity.identify(http)
            self._gateway.end_session(self._session(http, caller, tool))
        except GatewayError as error:
            return self._refused(error)
        return HttpAnswer()

    def _post_only(self, http: HttpRequest) -> bool:
        """Whether there is no session: in the modern era, and where the settings want none."""
        return self._web.stateless or era_of_header(http.header(VERSION_HEADER)) is Era.MODERN

    @staticmethod
    def _refused(error: GatewayError) -> HttpAnswer:
        answer = error_answer(error, None, Era.LEGACY)
        answer.status = refusal_status(error)
        return answer

"""Streamable HTTP at ``/mcp`` (all tools) and ``/servers/<tool>/mcp`` (one), both eras on each.

Specification: MCP 2025-03-26 to 2026-07-28, "Transports", "Streamable HTTP".
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, request

from common.domain.errors import GatewayError
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
    parse_message,
    result_response,
)
from common.mcp.revisions import LEGACY_VERSIONS, Era, era_of_header
from common.ports import IdentityResolver
from gateway_web import guards
from gateway_web.identity import identify
from gateway_web.ingress.answers import error_answer, json_response, refusal_status
from gateway_web.ingress.methods import dispatch
from gateway_web.ingress.requests import McpRequest
from gateway_web.ingress.streams import answer_call
from gateway_web.wsgi_request import facts, lower_headers

SESSION_HEADER = "Mcp-Session-Id"
VERSION_HEADER = "MCP-Protocol-Version"


class StreamableHttp:
    """The door. One instance a process."""

    def __init__(self, gateway: Gateway, resolver: IdentityResolver) -> None:
        self._gateway = gateway
        self._resolver = resolver
        self._web = gateway.settings.web

    def blueprint(self) -> Blueprint:
        """The routes."""
        routes = Blueprint("streamable_http", __name__)
        for path in ("/mcp", "/servers/<path:tool>/mcp"):
            for method, view in (("POST", self.post), ("DELETE", self.delete), ("GET", self.get)):
                routes.add_url_rule(path, f"{method} {path}", view, methods=[method], strict_slashes=False)
        return routes

    # -- POST -------------------------------------------------------------------------------------------

    def post(self, tool: str | None = None) -> Response:
        """One message in; one answer, one stream, or 202 for what has no answer."""
        era = era_of_header(request.headers.get(VERSION_HEADER))
        request_id: str | int | None = None
        try:
            caller = identify(self._resolver, facts(request))
            message = self._message()
            if isinstance(message, Request):
                request_id = message.id
                return self._request(message, caller, _tool_id(tool), era)
            self._aside(message, caller, _tool_id(tool), era)
            return Response(status=202)
        except JsonRpcError as error:
            found = request_id if request_id is not None else error.request_id
            answer = error_answer(error, found, era)
            # Before a request was understood there is no JSON-RPC exchange yet: the status says so as well.
            if request_id is None:
                answer.status_code = 400
            return answer
        except GatewayError as error:
            answer = error_answer(error, request_id, era)
            if request_id is None:
                answer.status_code = refusal_status(error)
            return answer

    def _message(self) -> Message:
        guards.check_content_type(request.headers.get("Content-Type"))
        guards.check_accept(request.headers.get("Accept"))
        length = request.headers.get("Content-Length")
        return parse_message(guards.read_body(request.stream, length, self._web.max_body_bytes))

    def _request(self, message: Request, caller: Caller, tool: ToolId | None, era: Era) -> Response:
        mcp = (
            self._modern(message, caller, tool) if era is Era.MODERN else self._legacy(message, caller, tool)
        )
        answer = dispatch(self._gateway, mcp)
        if isinstance(answer, Call):
            return answer_call(answer, mcp, self._web, request.environ)
        headers = {}
        if mcp.era is Era.LEGACY and message.method == "initialize":
            headers[SESSION_HEADER] = self._new_session(mcp, answer).id
        return json_response(result_response(message.id, answer), headers=headers)

    def _modern(self, message: Request, caller: Caller, tool: ToolId | None) -> McpRequest:
        headers = lower_headers(request)
        described = classify(message.method, message.params, headers)
        return McpRequest(
            request=message,
            caller=caller,
            tool=tool,
            era=Era.MODERN,
            version=described.protocol_version,
            headers=headers,
            log_level=described.log_level,
        )

    def _legacy(self, message: Request, caller: Caller, tool: ToolId | None) -> McpRequest:
        session = None if message.method == "initialize" else self._session(caller, tool)
        version = session.version if session else LEGACY_VERSIONS[-1]
        return McpRequest(
            request=message,
            caller=caller,
            tool=tool,
            era=Era.LEGACY,
            version=version,
            session=session,
            log_level=session.log_level if session else None,
        )

    def _session(self, caller: Caller, tool: ToolId | None) -> McpSession:
        session_id = request.headers.get(SESSION_HEADER)
        if not session_id:
            raise guards.Refused(400, "Missing session ID: send initialize first, then its Mcp-Session-Id")
        return self._gateway.mcp_sessions.use(session_id, principal=caller.principal, tool=tool)

    def _new_session(self, mcp: McpRequest, answer: dict[str, Any]) -> McpSession:
        client_info, capabilities = mcp.params.get("clientInfo"), mcp.params.get("capabilities")
        return self._gateway.mcp_sessions.create(
            principal=mcp.caller.principal,
            version=answer["protocolVersion"],
            tool=mcp.tool,
            client_info=client_info if isinstance(client_info, dict) else {},
            client_capabilities=capabilities if isinstance(capabilities, dict) else {},
        )

    def _aside(self, message: Message, caller: Caller, tool: ToolId | None, era: Era) -> None:
        """What has no answer: notifications, and responses to requests of ours."""
        if era is Era.MODERN:
            if not isinstance(message, Notification):
                raise JsonRpcError(INVALID_REQUEST, "Invalid request: this revision has no client responses")
            check_version(request.headers.get(VERSION_HEADER, "").strip())
            return
        session = self._session(caller, tool)
        if isinstance(message, Notification) and message.method == "notifications/cancelled":
            request_id = message.params.get("requestId")
            if isinstance(request_id, str | int) and not isinstance(request_id, bool):
                self._gateway.cancel_request(session.id, request_id)

    # -- GET, DELETE ------------------------------------------------------------------------------------

    def get(self, tool: str | None = None) -> Response:  # noqa: ARG002 - one signature a route
        """There is no stream of what belongs to no request."""
        allowed = "POST" if self._header_era() is Era.MODERN else "POST, DELETE"
        return Response(status=405, headers={"Allow": allowed})

    def delete(self, tool: str | None = None) -> Response:
        """End a session; the modern era has none."""
        if self._header_era() is Era.MODERN:
            return Response(status=405, headers={"Allow": "POST"})
        try:
            caller = identify(self._resolver, facts(request))
            self._gateway.mcp_sessions.end(self._session(caller, _tool_id(tool)))
        except GatewayError as error:
            answer = error_answer(error, None, Era.LEGACY)
            answer.status_code = refusal_status(error)
            return answer
        return Response(status=200)

    @staticmethod
    def _header_era() -> Era:
        return era_of_header(request.headers.get(VERSION_HEADER))


def _tool_id(tool: str | None) -> ToolId | None:
    return None if tool is None else ToolId(tool)

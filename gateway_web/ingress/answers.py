"""From results and errors to JSON-RPC and HTTP."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from common.domain.errors import ErrorCode, GatewayError
from common.domain.invocation import ExecutionResult, Failure, error_of
from common.mcp.inbound import HTTP_STATUS
from common.mcp.jsonrpc import INTERNAL_ERROR, JsonRpcError, dumps, error_response, result_response
from common.mcp.revisions import Era
from common.mcp.translate import legacy_error, modern_error
from gateway_web.guards import Refused
from gateway_web.http import HttpAnswer
from gateway_web.identity.refusals import Unrecognised

Id = str | int | None
_BEARER = 'Bearer realm="canalgate"'

KEEPS_STATUS = frozenset(
    {
        ErrorCode.UNAUTHENTICATED,
        ErrorCode.IDENTITY_UNAVAILABLE,
        ErrorCode.FORBIDDEN,
        ErrorCode.INSUFFICIENT_SCOPE,
        ErrorCode.SESSION_NOT_FOUND,
        ErrorCode.RATE_LIMITED,
        ErrorCode.CONCURRENCY_LIMIT_REACHED,
        ErrorCode.QUEUE_FULL,
        ErrorCode.AUDIT_UNAVAILABLE,
        ErrorCode.STORE_UNAVAILABLE,
        ErrorCode.INTERNAL,
    }
)
"""Errors whose HTTP status says something to proxies and clients. The others are answers to a request that
was understood: legacy clients take those under 200 only (the TypeScript client drops a body under any other)."""


def json_response(
    body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> HttpAnswer:
    """A JSON answer."""
    return HttpAnswer(
        status=status, body=dumps(body), headers={"Content-Type": "application/json", **(headers or {})}
    )


def error_message(error: GatewayError | JsonRpcError, request_id: Id) -> dict[str, Any]:
    """The JSON-RPC error of one of our own. ``data.code`` is the stable code of the error table."""
    if isinstance(error, JsonRpcError):
        return error_response(request_id, error.code, error.message, error.data)
    data = {"code": error.code.value, **error.data}
    if isinstance(error, Refused):
        return error_response(request_id, -32600, error.message)
    return error_response(request_id, error.meaning.jsonrpc, error.message, data)


def error_answer(error: GatewayError | JsonRpcError, request_id: Id, era: Era) -> HttpAnswer:
    """The HTTP answer to a request that was refused before a stream began."""
    status = _status(error, era)
    if request_id is None and status == 200:
        # No request was understood, so this is no answer to one: the status must not say success.
        status = error.meaning.http if isinstance(error, GatewayError) else 400
    return json_response(error_message(error, request_id), status, _headers(error))


def refusal_status(error: GatewayError) -> int:
    """The HTTP status where there is no JSON-RPC request that the error would answer."""
    return error.status if isinstance(error, Refused) else error.meaning.http


def _status(error: GatewayError | JsonRpcError, era: Era) -> int:
    if isinstance(error, Refused):
        return error.status
    if isinstance(error, GatewayError) and error.code in KEEPS_STATUS:
        return error.meaning.http
    code = error.code if isinstance(error, JsonRpcError) else error.meaning.jsonrpc
    return HTTP_STATUS.get(code, 200) if era is Era.MODERN else 200


def _headers(error: GatewayError | JsonRpcError) -> dict[str, str]:
    headers: dict[str, str] = {}
    if isinstance(error, GatewayError):
        if "retry_after" in error.data:
            headers["Retry-After"] = str(max(1, math.ceil(error.data["retry_after"])))
        elif error.code is ErrorCode.STORE_UNAVAILABLE and "outcome" not in error.data:
            headers["Retry-After"] = "1"
        if (challenge := challenge_of(error)) is not None:
            headers["WWW-Authenticate"] = challenge
    return headers


def challenge_of(error: GatewayError) -> str | None:
    """What a client is told to do about its credential (RFC 6750, section 3); None where it can do nothing."""
    if error.code is ErrorCode.INSUFFICIENT_SCOPE:
        return f'{_BEARER}, error="insufficient_scope", scope="{error.data.get("scopes", "")}"'
    if error.code is not ErrorCode.UNAUTHENTICATED:
        return None
    # Who sent no credential is told of no error (RFC 6750, section 3.1).
    refused = isinstance(error, Unrecognised) and error.presented
    return f'{_BEARER}, error="invalid_token"' if refused else _BEARER


def result_message(result: ExecutionResult, request_id: str | int, era: Era, method: str) -> dict[str, Any]:
    """The JSON-RPC message for the end of a call: the backend's own answer unchanged wherever there is one."""
    if result.failure is None:
        return result_response(request_id, dict(result.result or {}))
    if result.failure.rpc is not None:
        return _backend_error(result.failure, request_id, era, method)
    return error_message(error_of(result.failure), request_id)


def result_answer(result: ExecutionResult, request_id: str | int, era: Era, method: str) -> HttpAnswer:
    """The HTTP answer for the end of a call, where no stream has begun."""
    message = result_message(result, request_id, era, method)
    if result.failure is None:
        return json_response(message)
    if result.failure.rpc is not None:
        status = HTTP_STATUS.get(message["error"]["code"], 200) if era is Era.MODERN else 200
        return json_response(message, status)
    return error_answer(error_of(result.failure), request_id, era)


def _backend_error(failure: Failure, request_id: str | int, era: Era, method: str) -> dict[str, Any]:
    error = dict(failure.rpc or {})
    code = error.get("code")
    if not isinstance(code, int) or isinstance(code, bool):
        error["code"] = INTERNAL_ERROR
    else:
        error["code"] = (modern_error if era is Era.MODERN else legacy_error)(code, method)
    error["message"] = str(error.get("message", ""))
    return {"jsonrpc": "2.0", "id": request_id, "error": error}

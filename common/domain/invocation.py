"""An invocation: one MCP request forwarded to a tool; and its result.

Both cross the wire between the two programs, so both carry a wire form here. The form has a version: a reader
refuses a newer one instead of guessing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.domain.errors import (
    ERROR_TABLE,
    ERRORS_BY_CODE,
    ErrorCode,
    GatewayError,
    InternalError,
    InvalidRequest,
    Status,
)
from common.domain.ids import ClientId, InvocationId, McpSessionId, TenantId, ToolId, checked_id

WIRE_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls, as an identity resolver said: a client inside a tenant, and the subject behind it."""

    tenant: TenantId
    client: ClientId
    subject: str = ""
    scopes: frozenset[str] = frozenset()

    @property
    def principal(self) -> str:
        """What an MCP session is bound to: another principal with the same session id is a stranger."""
        return "\x1f".join((self.tenant, self.client, self.subject))


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One MCP request on its way to a tool.

    ``deadline`` is in milliseconds of Redis time. ``version`` is the protocol revision the caller speaks, and
    decides which era is preferred towards the backend. ``params`` are forwarded as they are.
    """

    id: InvocationId
    caller: Caller
    tool: ToolId
    method: str
    params: Mapping[str, Any] = field(repr=False)
    version: str
    deadline: int
    request_id: str | int | None = None
    mcp_session: McpSessionId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why there is no good result. ``rpc`` is the backend's own JSON-RPC error, passed on unchanged."""

    code: ErrorCode
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)
    rpc: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionResult:
    """The one end of an invocation: the backend's result unchanged, or a failure; never both.

    ``duration_ms`` is the time the worker held the call; ``stages`` are named times in milliseconds for people
    who want to see where it went.
    """

    status: Status
    result: Mapping[str, Any] | None = None
    failure: Failure | None = None
    duration_ms: float = 0.0
    stages: Mapping[str, float] = field(default_factory=dict)

    @property
    def answered(self) -> bool:
        """True if the backend itself gave the answer, be it an error."""
        return self.failure is None or self.failure.rpc is not None


def answer(
    result: Mapping[str, Any], *, duration_ms: float = 0.0, stages: Mapping[str, float] | None = None
) -> ExecutionResult:
    """The backend's result. A result marked ``isError`` is an answer, and its status is failure."""
    status = Status.FAILURE if result.get("isError") is True else Status.SUCCESS
    return ExecutionResult(status=status, result=result, duration_ms=duration_ms, stages=stages or {})


def rpc_failure(error: Mapping[str, Any], *, duration_ms: float = 0.0) -> ExecutionResult:
    """The backend's JSON-RPC error: an answer as well."""
    failure = Failure(code=ErrorCode.INTERNAL, message=str(error.get("message", "")), rpc=error)
    return ExecutionResult(status=Status.FAILURE, failure=failure, duration_ms=duration_ms)


def failed(error: GatewayError, *, duration_ms: float = 0.0) -> ExecutionResult:
    """The result of an error of our own tree; its status is that of the error table."""
    failure = Failure(code=error.code, message=error.message, data=error.data)
    return ExecutionResult(status=error.meaning.status, failure=failure, duration_ms=duration_ms)


def error_of(failure: Failure) -> GatewayError:
    """The exception for a failure, for callers of the Python API."""
    kind = ERRORS_BY_CODE.get(failure.code, InternalError)
    return kind(failure.message, **dict(failure.data))


def invocation_to_wire(invocation: Invocation) -> dict[str, Any]:
    """The payload of the Celery task ``gateway.invoke``."""
    return {
        "v": WIRE_VERSION,
        "id": invocation.id,
        "tenant": invocation.caller.tenant,
        "client": invocation.caller.client,
        "subject": invocation.caller.subject,
        "scopes": sorted(invocation.caller.scopes),
        "tool": invocation.tool,
        "method": invocation.method,
        "params": invocation.params,
        "version": invocation.version,
        "deadline": invocation.deadline,
        "request_id": invocation.request_id,
        "mcp_session": invocation.mcp_session,
    }


def invocation_from_wire(
    wire: object, *, task_id: str, default_version: str, default_deadline: int
) -> Invocation:
    """Inverse of :func:`invocation_to_wire`; also accepts what a stock Celery producer sends.

    A producer must give ``tenant``, ``client``, ``tool`` and ``method``; the rest has defaults. Raises
    :class:`InvalidRequest` naming the field.
    """
    if not isinstance(wire, Mapping):
        raise InvalidRequest("the first task argument must be an object", field="args")
    if wire.get("v", WIRE_VERSION) != WIRE_VERSION:
        raise InvalidRequest(
            f"invocation format {wire['v']!r} is not known here; this worker reads {WIRE_VERSION}", field="v"
        )
    params = wire.get("params", {})
    if not isinstance(params, Mapping):
        raise InvalidRequest("params must be an object", field="params")
    deadline = wire.get("deadline", default_deadline)
    if not isinstance(deadline, int) or isinstance(deadline, bool):
        raise InvalidRequest("deadline must be whole milliseconds of Redis time", field="deadline")
    session = wire.get("mcp_session")
    return Invocation(
        id=InvocationId(task_id),
        caller=Caller(
            tenant=TenantId(checked_id(wire.get("tenant"), field="tenant")),
            client=ClientId(checked_id(wire.get("client"), field="client")),
            subject=str(wire.get("subject", "")),
            scopes=frozenset(wire.get("scopes", ())),
        ),
        tool=ToolId(checked_id(wire.get("tool"), field="tool")),
        method=checked_id(wire.get("method"), field="method"),
        params=params,
        version=str(wire.get("version", default_version)),
        deadline=deadline,
        request_id=wire.get("request_id"),
        mcp_session=None if session is None else McpSessionId(str(session)),
    )


def result_to_wire(result: ExecutionResult) -> dict[str, Any]:
    """The result as plain JSON: what a stock ``AsyncResult.get()`` returns."""
    wire: dict[str, Any] = {
        "v": WIRE_VERSION,
        "status": result.status.value,
        "duration_ms": round(result.duration_ms, 3),
    }
    if result.stages:
        wire["stages"] = dict(result.stages)
    if result.result is not None:
        wire["result"] = result.result
    if result.failure is not None:
        wire["error"] = {
            "code": result.failure.code.value,
            "message": result.failure.message,
            "data": dict(result.failure.data),
            "rpc": result.failure.rpc,
        }
    return wire


def result_from_wire(wire: Mapping[str, Any]) -> ExecutionResult:
    """Inverse of :func:`result_to_wire`. A code this reader does not know becomes INTERNAL, with its name kept."""
    error = wire.get("error")
    failure = None
    if error is not None:
        known = error["code"] in ERROR_TABLE
        failure = Failure(
            code=ErrorCode(error["code"]) if known else ErrorCode.INTERNAL,
            message=error["message"] if known else f"{error['code']}: {error['message']}",
            data=error.get("data") or {},
            rpc=error.get("rpc"),
        )
    return ExecutionResult(
        status=Status(wire["status"]),
        result=wire.get("result"),
        failure=failure,
        duration_ms=wire.get("duration_ms", 0.0),
        stages=wire.get("stages", {}),
    )

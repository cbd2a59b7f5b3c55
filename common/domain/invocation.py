"""An invocation: one MCP request forwarded to a tool; and its result.

Both cross the wire between the two programs, so both carry a wire form here. The form has a version: a reader
refuses a newer one instead of guessing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.domain.errors import (
    ERROR_TABLE,
    ERRORS_BY_CODE,
    ErrorCode,
    GatewayError,
    InsufficientScope,
    InternalError,
    InvalidRequest,
    Status,
)
from common.domain.formats import MEMBER, check_format
from common.domain.ids import (
    ClientId,
    InvocationId,
    McpSessionId,
    TenantId,
    ToolId,
    checked_id,
    decode_part,
    encode_part,
)

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
        return ":".join(map(encode_part, (self.tenant, self.client, self.subject)))


def tenant_of(principal: str) -> TenantId:
    """The tenant in a :attr:`Caller.principal`."""
    return TenantId(decode_part(principal.partition(":")[0]))


def require_scopes(caller: Caller, scopes: Iterable[str], *, always: Iterable[str] = ()) -> None:
    """Refuse a caller that lacks one of ``scopes``. Raises :class:`InsufficientScope`, which names all that would do:
    these, and those that everything ``always`` needs.
    """
    if caller.scopes.issuperset(scopes):
        return
    words = " ".join(sorted({*scopes, *always}))
    raise InsufficientScope(f"this needs the scopes: {words}", scopes=words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One MCP request on its way to a tool.

    ``deadline`` is in milliseconds of Redis time. ``version`` is the protocol revision the caller speaks, and
    decides which era is preferred towards the backend. ``params`` are forwarded as they are. ``resumable_until`` is
    until when its client may come back to its stream, in ms of Redis time; None for one that cannot.
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
    resumable_until: int | None = None


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

    def value(self) -> Mapping[str, Any]:
        """The backend's result, also one marked ``isError``. Raises the :class:`GatewayError` that stands for the
        failure otherwise; the backend's own JSON-RPC error is in its ``data`` under ``rpc``.
        """
        if self.failure is not None:
            error = error_of(self.failure)
            if self.failure.rpc is not None:
                error.data["rpc"] = dict(self.failure.rpc)
            raise error
        return self.result or {}


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
    error = ERRORS_BY_CODE.get(failure.code, InternalError)(failure.message)
    error.data = dict(failure.data)
    return error


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
        "params": dict(invocation.params),
        "version": invocation.version,
        "deadline": invocation.deadline,
        "request_id": invocation.request_id,
        "mcp_session": invocation.mcp_session,
        "resumable_until": invocation.resumable_until,
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
    check_format(wire, WIRE_VERSION, what="the invocation")
    params = wire.get("params", {})
    if not isinstance(params, Mapping):
        raise InvalidRequest("params must be an object", field="params")
    deadline = wire.get("deadline", default_deadline)
    if not isinstance(deadline, int) or isinstance(deadline, bool):
        raise InvalidRequest("deadline must be whole milliseconds of Redis time", field="deadline")
    request_id = wire.get("request_id")
    if isinstance(request_id, bool) or not isinstance(request_id, str | int | None):
        raise InvalidRequest("request_id must be a string or an integer", field="request_id")
    session = wire.get("mcp_session")
    until = wire.get("resumable_until")
    if isinstance(until, bool) or not isinstance(until, int | None):
        raise InvalidRequest(
            "resumable_until must be whole milliseconds of Redis time", field="resumable_until"
        )
    return Invocation(
        id=InvocationId(task_id),
        caller=Caller(
            tenant=TenantId(checked_id(wire.get("tenant"), field="tenant")),
            client=ClientId(checked_id(wire.get("client"), field="client")),
            subject=_text(wire.get("subject", ""), field="subject"),
            scopes=_scopes(wire.get("scopes", ())),
        ),
        tool=ToolId(checked_id(wire.get("tool"), field="tool")),
        method=checked_id(wire.get("method"), field="method"),
        params=params,
        version=_text(wire.get("version", default_version), field="version"),
        deadline=deadline,
        request_id=request_id,
        mcp_session=None if session is None else McpSessionId(_text(session, field="mcp_session")),
        resumable_until=until,
    )


def _text(value: object, *, field: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{field} must be a string, not {type(value).__name__}", field=field)
    return value


def _scopes(value: object) -> frozenset[str]:
    if not isinstance(value, list | tuple):
        raise InvalidRequest("scopes must be a list of strings", field="scopes")
    return frozenset(_text(scope, field="scopes") for scope in value)


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


def result_from_wire(wire: object) -> ExecutionResult:
    """Inverse of :func:`result_to_wire`. A code this reader does not know becomes INTERNAL, with its name kept.

    Raises :class:`InvalidRequest` for a newer form, and for what is no result of ours: others may write result
    keys too (stock Celery does when a task is revoked).
    """
    if not isinstance(wire, Mapping):
        raise InvalidRequest("a result must be an object", field="result")
    if MEMBER not in wire:
        raise InvalidRequest("a result has its version under v", field=MEMBER)
    check_format(wire, WIRE_VERSION, what="the result")
    try:
        return ExecutionResult(
            status=Status(wire["status"]),
            result=wire.get("result"),
            failure=_failure_from_wire(wire.get("error")),
            duration_ms=wire.get("duration_ms", 0.0),
            stages=wire.get("stages", {}),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRequest(f"this is no result of an invocation: {error!r}", field="result") from error


def _failure_from_wire(error: Any) -> Failure | None:
    if error is None:
        return None
    known = error["code"] in ERROR_TABLE
    return Failure(
        code=ErrorCode(error["code"]) if known else ErrorCode.INTERNAL,
        message=error["message"] if known else f"{error['code']}: {error['message']}",
        data=error.get("data") or {},
        rpc=error.get("rpc"),
    )

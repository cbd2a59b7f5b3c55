"""The error tree, and the one table that says what each code means on every wire.

::

    GatewayError
      InvalidRequest          INVALID_REQUEST        the caller's message is at fault; names the field
      Unauthenticated         UNAUTHENTICATED        nobody could be recognised as the caller
      IdentityUnavailable     IDENTITY_UNAVAILABLE   what callers are recognised by cannot be had now
      Forbidden               FORBIDDEN              the caller is known and not allowed here (Origin, tenant)
      InsufficientScope       INSUFFICIENT_SCOPE     the caller's credential lacks a scope; names all that are needed
      SessionNotFound         SESSION_NOT_FOUND      the MCP session is unknown, expired or another's
      InvocationNotFound      INVOCATION_NOT_FOUND   no such call is under way
      ToolNotFound            TOOL_NOT_FOUND         no such tool for this caller
      ToolDisabled            TOOL_DISABLED          an operator switched the tool off
      ToolDraining            TOOL_DRAINING          the tool takes no new sessions (drain)
      CircuitOpen             CIRCUIT_OPEN           the tool failed too often in a row; carries retry_after
      SessionLimit            SESSION_LIMIT          no further tool session for this tool or tenant now
      CredentialUnavailable   CREDENTIAL_UNAVAILABLE  the tool's credentials cannot be had, or it refuses them
      ToolUnavailable         TOOL_UNAVAILABLE       the tool cannot be used now (no worker, cannot start)
      PolicyDenied            POLICY_DENIED          a rule says no
      CapabilityQuarantined   CAPABILITY_QUARANTINED  its definition changed or hides something; an operator decides
      Throttled               RATE_LIMITED           too many calls; carries retry_after
      ConcurrencyLimit        CONCURRENCY_LIMIT_REACHED  too many calls or MCP sessions at a time
      QueueFull               QUEUE_FULL             the tool's queue is at its bound; carries retry_after
      InvocationTimeout       INVOCATION_TIMEOUT     no answer within the deadline
      InvocationCancelled     INVOCATION_CANCELLED   the caller took the call back
      TransportFailure        TRANSPORT_FAILURE      the way to the backend broke (start, connect, cut, nonsense)
      ResponseTooLarge        RESPONSE_TOO_LARGE     the backend's answer is above the bound
      WorkerLost              WORKER_LOST            the worker died; whether the backend acted is unknown
      StoreUnavailable        STORE_UNAVAILABLE      Redis does not answer
      PayloadUnreadable       PAYLOAD_UNREADABLE     a payload is sealed with a key that is not here, or is not sealed
      FormatTooNew            FORMAT_TOO_NEW         a newer release wrote it than this process can read
      AuditUnavailable        AUDIT_UNAVAILABLE      the journal is full, and nothing may happen unrecorded
      VersionConflict         VERSION_CONFLICT       somebody else changed it first
      ConfigurationError      CONFIGURATION_ERROR    the settings are wrong; the process does not start
      InternalError           INTERNAL               our own fault

Refusals travel as values (:class:`~common.domain.invocation.ExecutionResult`); these exceptions are how a
stage says so to the pipeline, which turns each into exactly one result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar


class ErrorCode(StrEnum):
    """Stable codes: in results, audit, metrics and documents the same word."""

    INVALID_REQUEST = "INVALID_REQUEST"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    IDENTITY_UNAVAILABLE = "IDENTITY_UNAVAILABLE"
    FORBIDDEN = "FORBIDDEN"
    INSUFFICIENT_SCOPE = "INSUFFICIENT_SCOPE"
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND"
    INVOCATION_NOT_FOUND = "INVOCATION_NOT_FOUND"
    TOOL_NOT_FOUND = "TOOL_NOT_FOUND"
    TOOL_DISABLED = "TOOL_DISABLED"
    TOOL_DRAINING = "TOOL_DRAINING"
    CIRCUIT_OPEN = "CIRCUIT_OPEN"
    SESSION_LIMIT = "SESSION_LIMIT"
    CREDENTIAL_UNAVAILABLE = "CREDENTIAL_UNAVAILABLE"
    TOOL_UNAVAILABLE = "TOOL_UNAVAILABLE"
    POLICY_DENIED = "POLICY_DENIED"
    CAPABILITY_QUARANTINED = "CAPABILITY_QUARANTINED"
    RATE_LIMITED = "RATE_LIMITED"
    CONCURRENCY_LIMIT_REACHED = "CONCURRENCY_LIMIT_REACHED"
    QUEUE_FULL = "QUEUE_FULL"
    INVOCATION_TIMEOUT = "INVOCATION_TIMEOUT"
    INVOCATION_CANCELLED = "INVOCATION_CANCELLED"
    TRANSPORT_FAILURE = "TRANSPORT_FAILURE"
    RESPONSE_TOO_LARGE = "RESPONSE_TOO_LARGE"
    WORKER_LOST = "WORKER_LOST"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    PAYLOAD_UNREADABLE = "PAYLOAD_UNREADABLE"
    FORMAT_TOO_NEW = "FORMAT_TOO_NEW"
    AUDIT_UNAVAILABLE = "AUDIT_UNAVAILABLE"
    VERSION_CONFLICT = "VERSION_CONFLICT"
    CONFIGURATION_ERROR = "CONFIGURATION_ERROR"
    INTERNAL = "INTERNAL"


class Status(StrEnum):
    """How an invocation ended."""

    SUCCESS = "success"
    """The backend answered, and its answer is no error."""
    FAILURE = "failure"
    """The backend answered with an error, or could not be reached, or we failed."""
    TIMEOUT = "timeout"
    """The deadline passed first."""
    DENIED = "denied"
    """Refused by a rule before it reached the backend."""
    THROTTLED = "throttled"
    """Refused by a limit before it reached the backend; may be sent again later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorMeaning:
    """What one code means: to HTTP, to JSON-RPC, to the caller who may retry, to the circuit breaker."""

    status: Status
    http: int
    jsonrpc: int
    retryable: bool
    trips_breaker: bool


def _meaning(
    status: Status, http: int, jsonrpc: int, *, retryable: bool = False, trips: bool = False
) -> ErrorMeaning:
    return ErrorMeaning(status=status, http=http, jsonrpc=jsonrpc, retryable=retryable, trips_breaker=trips)


_INTERNAL = -32603
_INVALID_PARAMS = -32602

# Implementation-defined JSON-RPC codes lie in -32000..-32019 (2026-07-28 reserves -32020..-32099 for the spec).
ERROR_TABLE: Mapping[ErrorCode, ErrorMeaning] = MappingProxyType(
    {
        ErrorCode.INVALID_REQUEST: _meaning(Status.DENIED, 400, _INVALID_PARAMS),
        ErrorCode.UNAUTHENTICATED: _meaning(Status.DENIED, 401, -32001),
        ErrorCode.IDENTITY_UNAVAILABLE: _meaning(Status.FAILURE, 503, -32013, retryable=True),
        ErrorCode.FORBIDDEN: _meaning(Status.DENIED, 403, -32003),
        ErrorCode.INSUFFICIENT_SCOPE: _meaning(Status.DENIED, 403, -32003),
        ErrorCode.SESSION_NOT_FOUND: _meaning(Status.DENIED, 404, -32600),
        ErrorCode.INVOCATION_NOT_FOUND: _meaning(Status.DENIED, 404, _INVALID_PARAMS),
        ErrorCode.TOOL_NOT_FOUND: _meaning(Status.DENIED, 404, _INVALID_PARAMS),
        ErrorCode.TOOL_DISABLED: _meaning(Status.DENIED, 403, -32004),
        ErrorCode.TOOL_DRAINING: _meaning(Status.DENIED, 503, -32015, retryable=True),
        ErrorCode.CIRCUIT_OPEN: _meaning(Status.DENIED, 503, -32016, retryable=True),
        ErrorCode.SESSION_LIMIT: _meaning(Status.THROTTLED, 429, -32017, retryable=True),
        ErrorCode.CREDENTIAL_UNAVAILABLE: _meaning(Status.FAILURE, 503, -32019, retryable=True),
        ErrorCode.TOOL_UNAVAILABLE: _meaning(Status.FAILURE, 503, -32005, retryable=True),
        ErrorCode.POLICY_DENIED: _meaning(Status.DENIED, 403, -32006),
        ErrorCode.CAPABILITY_QUARANTINED: _meaning(Status.DENIED, 403, -32018),
        ErrorCode.RATE_LIMITED: _meaning(Status.THROTTLED, 429, -32007, retryable=True),
        ErrorCode.CONCURRENCY_LIMIT_REACHED: _meaning(Status.THROTTLED, 429, -32019, retryable=True),
        ErrorCode.QUEUE_FULL: _meaning(Status.THROTTLED, 429, -32008, retryable=True),
        ErrorCode.INVOCATION_TIMEOUT: _meaning(Status.TIMEOUT, 504, -32009, trips=True),
        ErrorCode.INVOCATION_CANCELLED: _meaning(Status.FAILURE, 499, -32800),
        ErrorCode.TRANSPORT_FAILURE: _meaning(Status.FAILURE, 502, -32010, trips=True),
        ErrorCode.RESPONSE_TOO_LARGE: _meaning(Status.FAILURE, 502, -32011),
        ErrorCode.WORKER_LOST: _meaning(Status.FAILURE, 502, -32012),
        ErrorCode.STORE_UNAVAILABLE: _meaning(Status.FAILURE, 503, -32013, retryable=True),
        ErrorCode.PAYLOAD_UNREADABLE: _meaning(Status.FAILURE, 500, _INTERNAL),
        ErrorCode.FORMAT_TOO_NEW: _meaning(Status.FAILURE, 503, -32005, retryable=True),
        ErrorCode.AUDIT_UNAVAILABLE: _meaning(Status.FAILURE, 503, -32019, retryable=True),
        ErrorCode.VERSION_CONFLICT: _meaning(Status.DENIED, 409, -32014, retryable=True),
        ErrorCode.CONFIGURATION_ERROR: _meaning(Status.FAILURE, 500, _INTERNAL),
        ErrorCode.INTERNAL: _meaning(Status.FAILURE, 500, _INTERNAL),
    }
)


class GatewayError(Exception):
    """Base of all errors that a caller may see. ``message`` is safe to show: it never holds a secret.

    ``data`` goes to the caller beside the message (the field at fault, ``retry_after`` in seconds).
    """

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL
    note: str = ""
    """What records say beside the message; the caller is not told."""
    recorded: bool = False
    """Whether the audit journal has been told of it already."""

    def __init__(self, message: str, **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.data = {name: value for name, value in data.items() if value is not None}

    @property
    def meaning(self) -> ErrorMeaning:
        """This error's row of the table."""
        return ERROR_TABLE[self.code]


class InvalidRequest(GatewayError):
    """The caller's message is at fault; ``field`` names the part."""

    code = ErrorCode.INVALID_REQUEST


class Unauthenticated(GatewayError):
    """Nobody could be recognised as the caller."""

    code = ErrorCode.UNAUTHENTICATED


class Forbidden(GatewayError):
    """The caller is known, and not allowed here."""

    code = ErrorCode.FORBIDDEN


class IdentityUnavailable(GatewayError):
    """What callers are recognised by (the keys of a token's issuer) cannot be had now: nobody is let in by it."""

    code = ErrorCode.IDENTITY_UNAVAILABLE


class InsufficientScope(GatewayError):
    """The caller's credential lacks a scope. ``scopes`` are all that the request needs, as one space-separated text."""

    code = ErrorCode.INSUFFICIENT_SCOPE


class SessionNotFound(GatewayError):
    """The MCP session is unknown, expired, or another principal's: the three answer alike on purpose."""

    code = ErrorCode.SESSION_NOT_FOUND
    stranger: bool = False
    """Whether it is there, and somebody else's: for the audit journal, not for the answer."""


class InvocationNotFound(GatewayError):
    """No call of this id is under way: it never was, or it has ended."""

    code = ErrorCode.INVOCATION_NOT_FOUND


class ToolNotFound(GatewayError):
    """There is no such tool for this caller."""

    code = ErrorCode.TOOL_NOT_FOUND


class ToolDisabled(GatewayError):
    """An operator switched the tool off."""

    code = ErrorCode.TOOL_DISABLED


class ToolDraining(GatewayError):
    """The tool takes no new sessions: an operator drains it. Sessions that live go on."""

    code = ErrorCode.TOOL_DRAINING


class CircuitOpen(GatewayError):
    """The tool failed too often in a row, for anybody. ``retry_after`` says in how many seconds it is tried again."""

    code = ErrorCode.CIRCUIT_OPEN


class SessionLimit(GatewayError):
    """The tool or the tenant has as many tool sessions as it may; calls of those that live go on."""

    code = ErrorCode.SESSION_LIMIT


class CredentialUnavailable(GatewayError):
    """The tool's credentials cannot be had (``reason``: ``missing``, ``failed``), or are ``refused``.

    Refused by the tool, or by the server that would issue them.

    Nothing of the call was sent, unless it was refused. It says nothing about the tool, and trips no breaker.
    """

    code = ErrorCode.CREDENTIAL_UNAVAILABLE


class ToolUnavailable(GatewayError):
    """The tool cannot be used at present."""

    code = ErrorCode.TOOL_UNAVAILABLE


class PolicyDenied(GatewayError):
    """A rule says no."""

    code = ErrorCode.POLICY_DENIED


class CapabilityQuarantined(GatewayError):
    """The capability's definition is not the one that was approved, or hides something; an operator decides on it."""

    code = ErrorCode.CAPABILITY_QUARANTINED


class Throttled(GatewayError):
    """Too many calls. ``retry_after`` says in how many seconds one more would pass."""

    code = ErrorCode.RATE_LIMITED


class ConcurrencyLimit(GatewayError):
    """The tenant or the client has as many calls under way, or MCP sessions, as it may; ``reason`` says which."""

    code = ErrorCode.CONCURRENCY_LIMIT_REACHED


class QueueFull(GatewayError):
    """The tool's queue is at its bound. ``retry_after`` is in seconds."""

    code = ErrorCode.QUEUE_FULL


class InvocationTimeout(GatewayError):
    """No answer within the deadline."""

    code = ErrorCode.INVOCATION_TIMEOUT


class InvocationCancelled(GatewayError):
    """The caller took the call back."""

    code = ErrorCode.INVOCATION_CANCELLED


class TransportFailure(GatewayError):
    """The way to the backend broke: it did not start, refused, closed, or spoke no MCP."""

    code = ErrorCode.TRANSPORT_FAILURE


class ResponseTooLarge(GatewayError):
    """The backend's answer is above the bound."""

    code = ErrorCode.RESPONSE_TOO_LARGE


class WorkerLost(GatewayError):
    """The worker died while it held the call: whether the backend acted is unknown."""

    code = ErrorCode.WORKER_LOST


class StoreUnavailable(GatewayError):
    """Redis does not answer."""

    code = ErrorCode.STORE_UNAVAILABLE


class PayloadUnreadable(GatewayError):
    """A payload in Redis is sealed with a key that this process does not have, or is not sealed although it must be."""

    code = ErrorCode.PAYLOAD_UNREADABLE


class FormatTooNew(GatewayError):
    """A record or message in Redis was written by a newer release than the process that reads it."""

    code = ErrorCode.FORMAT_TOO_NEW


class AuditUnavailable(GatewayError):
    """The journal is full, and nothing may happen unrecorded. ``retry_after`` is in seconds."""

    code = ErrorCode.AUDIT_UNAVAILABLE


class VersionConflict(GatewayError):
    """Somebody else changed the record first; read it again."""

    code = ErrorCode.VERSION_CONFLICT


class ConfigurationError(GatewayError):
    """The settings are wrong. The message names the key and the fix."""

    code = ErrorCode.CONFIGURATION_ERROR


class InternalError(GatewayError):
    """Our own fault."""

    code = ErrorCode.INTERNAL


ERRORS_BY_CODE: Mapping[ErrorCode, type[GatewayError]] = MappingProxyType(
    {error.code: error for error in GatewayError.__subclasses__()}
)
"""The class of each code, for errors that arrive over a wire."""

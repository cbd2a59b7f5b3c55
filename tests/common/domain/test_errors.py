"""The error tree, its table, and the page at the head of the module say the same."""

from __future__ import annotations

import re

import pytest

from common.domain import errors
from common.domain.errors import ERROR_TABLE, ERRORS_BY_CODE, ErrorCode, GatewayError, Status

CLASSES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, GatewayError) and kind is not GatewayError
]
DRAWN = dict(re.findall(r"^ {6}(\w+) +([A-Z_]+) {2,}\S", errors.__doc__ or "", re.MULTILINE))

# Fixed here on purpose: clients and documents rely on these words and numbers.
FROZEN = {
    "INVALID_REQUEST": (400, -32602, False, False),
    "UNAUTHENTICATED": (401, -32001, False, False),
    "IDENTITY_UNAVAILABLE": (503, -32013, True, False),
    "FORBIDDEN": (403, -32003, False, False),
    "INSUFFICIENT_SCOPE": (403, -32003, False, False),
    "SESSION_NOT_FOUND": (404, -32600, False, False),
    "INVOCATION_NOT_FOUND": (404, -32602, False, False),
    "TOOL_NOT_FOUND": (404, -32602, False, False),
    "TOOL_DISABLED": (403, -32004, False, False),
    "TOOL_DRAINING": (503, -32015, True, False),
    "CIRCUIT_OPEN": (503, -32016, True, False),
    "SESSION_LIMIT": (429, -32017, True, False),
    "CONCURRENCY_LIMIT_REACHED": (429, -32019, True, False),
    "CREDENTIAL_UNAVAILABLE": (503, -32019, True, False),
    "TOOL_UNAVAILABLE": (503, -32005, True, False),
    "POLICY_DENIED": (403, -32006, False, False),
    "CAPABILITY_QUARANTINED": (403, -32018, False, False),
    "RATE_LIMITED": (429, -32007, True, False),
    "QUEUE_FULL": (429, -32008, True, False),
    "INVOCATION_TIMEOUT": (504, -32009, False, True),
    "INVOCATION_CANCELLED": (499, -32800, False, False),
    "TRANSPORT_FAILURE": (502, -32010, False, True),
    "RESPONSE_TOO_LARGE": (502, -32011, False, False),
    "WORKER_LOST": (502, -32012, False, False),
    "STORE_UNAVAILABLE": (503, -32013, True, False),
    "PAYLOAD_UNREADABLE": (500, -32603, False, False),
    "FORMAT_TOO_NEW": (503, -32005, True, False),
    "AUDIT_UNAVAILABLE": (503, -32019, True, False),
    "VERSION_CONFLICT": (409, -32014, True, False),
    "CONFIGURATION_ERROR": (500, -32603, False, False),
    "INTERNAL": (500, -32603, False, False),
}


def test_each_code_has_one_row() -> None:
    """No code is without a meaning, and the codes are their own names."""
    assert set(ERROR_TABLE) == set(ErrorCode)
    assert all(code.name == code.value for code in ErrorCode)


def test_each_code_has_one_class_and_each_class_its_own_code() -> None:
    """An error that arrives over a wire becomes the exception it was."""
    assert sorted(kind.code for kind in CLASSES) == sorted(ErrorCode)
    assert {kind.code: kind for kind in CLASSES} == dict(ERRORS_BY_CODE)
    assert all("code" in vars(kind) for kind in CLASSES)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """Every class stands there with its code, and nothing else does."""
    assert {kind.__name__: kind.code.value for kind in CLASSES} == DRAWN


@pytest.mark.parametrize("code", ErrorCode)
def test_the_table_holds_what_clients_rely_on(code: ErrorCode) -> None:
    """HTTP status, JSON-RPC code, whether to retry, whether it counts for the breaker."""
    row = ERROR_TABLE[code]
    assert (row.http, row.jsonrpc, row.retryable, row.trips_breaker) == FROZEN[code.value]


@pytest.mark.parametrize("code", ErrorCode)
def test_jsonrpc_codes_stay_in_their_range(code: ErrorCode) -> None:
    """Our own lie in -32000..-32019; 2026-07-28 reserves -32020..-32099 for the specification."""
    number = ERROR_TABLE[code].jsonrpc
    assert number in {-32600, -32602, -32603, -32800} or -32019 <= number <= -32000


def test_no_status_is_ever_success() -> None:
    """An error of ours never looks like an answer."""
    assert Status.SUCCESS not in {row.status for row in ERROR_TABLE.values()}


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_knows_its_row_and_drops_empty_data(kind: type[GatewayError]) -> None:
    """What is None is not said."""
    error = kind("why", field="x", retry_after=None)
    assert error.meaning is ERROR_TABLE[kind.code]
    assert (error.message, str(error), error.data) == ("why", "why", {"field": "x"})

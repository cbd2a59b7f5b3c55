"""What a call's end says about its backend, and what a caller is told whom the circuit refuses."""

from __future__ import annotations

import pytest

from common.domain.circuit import PROBE_WAIT, Outcome, Refusal, RefusalReason, outcome_of
from common.domain.errors import ERROR_TABLE, ERRORS_BY_CODE, ErrorCode, InvocationTimeout, TransportFailure
from common.domain.invocation import ExecutionResult, answer, failed, rpc_failure


@pytest.mark.parametrize(
    ("refusal", "retry_after", "says"),
    [
        (Refusal(reason=RefusalReason.OPEN, generation=1, wait=12_340), 12.34, "tried again in 12.3 s"),
        (Refusal(reason=RefusalReason.PROBES_TAKEN, generation=1, wait=42_000), PROBE_WAIT, "works again"),
        (Refusal(reason=RefusalReason.PROBES_TAKEN, generation=1, wait=5), 0.005, "works again"),
        (Refusal(reason=RefusalReason.OPEN, generation=1, wait=None), None, "by an operator"),
    ],
)
def test_a_refused_caller_is_told_when_to_come_again(
    refusal: Refusal, retry_after: float | None, says: str
) -> None:
    """In seconds; not at all where nobody knows. What an operator noted is not for callers."""
    error = refusal.error("t")
    assert error.code is ErrorCode.CIRCUIT_OPEN
    assert says in error.message
    assert error.data.get("retry_after") == retry_after
    assert error.data["reason"] == refusal.reason.value


TRIPS = {code for code, meaning in ERROR_TABLE.items() if meaning.trips_breaker}


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        (answer({}), Outcome.SUCCESS),
        (answer({"isError": True}), Outcome.SUCCESS),
        (rpc_failure({"code": -32602, "message": "bad"}), Outcome.SUCCESS),
        (failed(TransportFailure("gone")), Outcome.FAILURE),
        (failed(TransportFailure("5xx", http_status=503)), Outcome.FAILURE),
        (failed(TransportFailure("3xx", http_status=302)), Outcome.FAILURE),
        *(
            (failed(TransportFailure("4xx", http_status=status)), Outcome.NEUTRAL)
            for status in (400, 401, 429, 499)
        ),
        (failed(TransportFailure("odd", http_status="404")), Outcome.FAILURE),
        (failed(InvocationTimeout("silent")), Outcome.FAILURE),
        (failed(InvocationTimeout("silent", stage="backend")), Outcome.FAILURE),
        (failed(InvocationTimeout("starting", stage="session")), Outcome.FAILURE),
        (failed(InvocationTimeout("waited", stage="queue")), Outcome.NEUTRAL),
        (failed(InvocationTimeout("busy", stage="turn")), Outcome.NEUTRAL),
        (failed(TransportFailure("another worker's", stage="turn")), Outcome.NEUTRAL),
        *(
            (failed(error("x")), Outcome.NEUTRAL)
            for code, error in ERRORS_BY_CODE.items()
            if code not in TRIPS
        ),
    ],
)
def test_only_what_speaks_of_the_backend_counts(result: ExecutionResult, outcome: Outcome) -> None:
    """An answer is a success whatever it says; what we, the caller or our queue did says nothing."""
    assert outcome_of(result) is outcome


def test_what_trips_is_what_the_error_table_says() -> None:
    """So that the rows above are all there are."""
    assert {ErrorCode.TRANSPORT_FAILURE, ErrorCode.INVOCATION_TIMEOUT} == TRIPS

"""Ends of calls that are not their own."""

from __future__ import annotations

from common.domain.errors import InternalError, InvocationCancelled, WorkerLost
from common.domain.invocation import ExecutionResult, failed


def unstarted() -> ExecutionResult:
    """Of a call that was not begun, since nobody wants its answer any more."""
    return failed(InvocationCancelled("the call was taken back or expired before it began"))


def returned() -> ExecutionResult:
    """Of a call that others begin anew; nobody but monitors is told."""
    return failed(WorkerLost("the call went back to its queue"))


def broken() -> ExecutionResult:
    """Of a call in which we broke."""
    return failed(InternalError("the worker failed; its log names the invocation"))


def stopped() -> ExecutionResult:
    """Of a call that was cut off."""
    return failed(
        WorkerLost("the worker was stopped while it held the call; whether the tool acted is unknown")
    )

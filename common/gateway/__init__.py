"""The path of one call through one process, and the Python API around it."""

from common.calls.call import Call
from common.calls.replies import Notification
from common.domain.ids import ClientId, TenantId, ToolId
from common.domain.invocation import Caller, ExecutionResult
from common.gateway.async_streams import AsyncCallStream
from common.gateway.gateway import CallOptions, Gateway
from common.gateway.streams import CallStream, Collected, Event, Notice, Progress
from common.readiness import Readiness

__all__ = [
    "AsyncCallStream",
    "Call",
    "CallOptions",
    "CallStream",
    "Caller",
    "ClientId",
    "Collected",
    "Event",
    "ExecutionResult",
    "Gateway",
    "Notice",
    "Notification",
    "Progress",
    "Readiness",
    "TenantId",
    "ToolId",
]

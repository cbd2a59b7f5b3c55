"""The Python API. The web ingress is its first user, and has no other way to a tool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.domain.errors import GatewayError
from common.domain.ids import ToolId
from common.domain.invocation import Caller, ExecutionResult, failed
from common.gateway.calling import Calling


class Gateway(Calling):
    """One process's door to the tools. Use as a context manager, or ``start`` and ``close``."""

    def invoke(
        self, caller: Caller, tool: ToolId, method: str, params: Mapping[str, Any], **options: Any
    ) -> ExecutionResult:
        """Make a call and wait for its end; refusals and faults are results too, nothing is raised for them."""
        try:
            call = self.begin(caller, tool, method, params, **options)
        except GatewayError as error:
            return failed(error)
        with call:
            while True:
                frame = call.next(3600.0)
                if isinstance(frame, ExecutionResult):
                    return frame

"""What the calls of a worker need of the Celery worker they run in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from common.domain.invocation import ExecutionResult
from gateway_worker.requests import RunningRequest


class CallHost(Protocol):
    """Called from the engine's thread."""

    def began(self, request: RunningRequest) -> None:
        """A call was fetched and begins."""

    def ended(self, request: RunningRequest, result: ExecutionResult) -> None:
        """A call ended."""

    def revoked(self, task_id: str) -> bool:
        """Whether a call was taken back before it began."""

    def revoke(self, task_id: str) -> None:
        """Remember that a call was taken back."""

    def registered(self, task: str) -> bool:
        """Whether Celery has a task of this name."""

    def deliver(
        self,
        envelope: dict[str, Any],
        queue: str,
        taken: Callable[[], None],
        refused: Callable[[], None],
    ) -> None:
        """Hand a message to Celery's own path.

        ``taken`` is called, in any thread, once it has it; ``refused`` if it cannot read it.
        """

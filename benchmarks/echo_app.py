"""The product's worker with its tools taken out: ``celery -A benchmarks.echo_app worker``.

A call is fetched, announced, answered and acknowledged as ever, but where a session with a backend would be used, the
echo is made in place, as the task of `benchmarks.stock_app` makes it. So the row compares data planes, not backends.
The product knows nothing of this module; ``BENCH_TALLY`` says where to count.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from benchmarks.tally import Tally
from common.domain.invocation import ExecutionResult, Invocation, answer
from gateway_worker import parts
from gateway_worker.app import app


class EchoExecutor:
    """Stands where the worker's `gateway_worker.execute.Executor` is."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._tally = Tally(Path(os.environ["BENCH_TALLY"]))

    def free_unused(self, *_: Any) -> None:
        """No session is ever used here: the first one that was claimed stays."""

    async def run(self, _held: Any, invocation: Invocation, *_: Any, **__: Any) -> ExecutionResult:
        """Return the text, as the backend would."""
        self._tally.bump()
        text = invocation.params["arguments"]["text"]
        return answer({"content": [{"type": "text", "text": text}], "isError": False})


if not hasattr(parts, "Executor"):
    raise ImportError("the worker has no Executor to replace: this module must follow it")
setattr(parts, "Executor", EchoExecutor)  # noqa: B010 - a name that the module imported, not one of its own

__all__ = ["app"]

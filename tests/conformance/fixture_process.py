"""The fixture as a process of its own, over HTTP."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.conformance.fixture_era import Era
from tests.support.servers.process import ServerProcess, free_port, running
from tests.support.wait import wait_until

FIXTURE = [sys.executable, "-m", "tests.conformance.fixture"]
START_TIMEOUT = 60.0


@contextlib.contextmanager
def running_fixture(*, log: Path, era: Era = "both") -> Iterator[str]:
    """Run the fixture over HTTP and yield its URL."""
    port = free_port()
    command = [*FIXTURE, "--transport", "http", "--port", str(port), "--era", era]
    with running(command, log=log) as process:
        wait_for_answer(process, f"http://127.0.0.1:{port}/mcp")
        yield f"http://localhost:{port}/mcp"


def wait_for_answer(process: ServerProcess, url: str) -> None:
    """Wait until something, be it a refusal, is answered there."""

    def answers() -> bool:
        process.require_alive()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(url, timeout=2.0).status_code > 0
        return False

    wait_until(answers, timeout=START_TIMEOUT, description=f"{url} to answer", interval=0.1)

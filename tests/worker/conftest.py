"""What the worker's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.processes import ProcessGuard
from tests.support.backends import EchoLog


@pytest.fixture(scope="session")
def guard() -> Iterator[ProcessGuard]:
    """One guard, as in a worker: its reaper is the only process it adds."""
    with ProcessGuard(grace=1) as guard:
        yield guard


@pytest.fixture
def echo_log(tmp_path: Path) -> EchoLog:
    """Where backends write what they were sent."""
    return EchoLog(tmp_path / "echo.jsonl")


@pytest.fixture
def quick_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little patience with children that do not end by themselves."""
    monkeypatch.setattr("gateway_worker.egress.process.STOP_GRACE", 0.3)

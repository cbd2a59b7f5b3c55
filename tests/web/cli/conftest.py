"""Fixtures for the commands: a place of the test's own, and the tests' Redis as the gateway's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway_web.cli.app import cli

USER = "ann"
Canalgate = Callable[..., Result]


@pytest.fixture
def canalgate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> Canalgate:
    """Runs the command as a user of the operating system named :data:`USER`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CANALGATE_REDIS__URL", redis_url)
    monkeypatch.setenv("CANALGATE_REDIS__KEY_PREFIX", "test")
    monkeypatch.setenv("LOGNAME", USER)
    monkeypatch.setenv("CANALGATE_EGRESS__ALLOWED_COMMANDS", "cmd, x, y")
    return lambda *words: CliRunner().invoke(cli, list(words))

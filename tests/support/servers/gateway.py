"""A whole gateway as its users start it: ``canalgate up`` with a configuration file and a state directory."""

from __future__ import annotations

import contextlib
import shutil
import ssl
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support.servers.process import ServerProcess, free_port, running
from tests.support.wait import wait_until

START_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningGateway:
    """A gateway that said it is ready."""

    port: int
    process: ServerProcess
    config: Path
    trust: Path | None = None
    """Who signed its certificate, if it has one."""

    @property
    def url(self) -> str:
        """The base URL, by the name ``localhost``: the Host and Origin rules are tested against a name."""
        return f"http{'s' if self.trust else ''}://localhost:{self.port}"

    def tool_url(self, tool: str) -> str:
        """The endpoint that serves one tool with bare names."""
        return f"{self.url}/servers/{tool}/mcp"


def gateway_command() -> list[str]:
    """Return how to run ``canalgate``: its console script if it is installed, else the function it names."""
    script = shutil.which("canalgate", path=str(Path(sys.executable).parent))
    return [script] if script else [sys.executable, "-c", "from gateway_web.cli import main; main()"]


@contextlib.contextmanager
def running_gateway(
    tools: Mapping[str, Any],
    *,
    directory: Path,
    settings: Mapping[str, Any] | None = None,
    log: Path | None = None,
    env: Mapping[str, str] | None = None,
    trust: Path | None = None,
    options: Sequence[str] = (),
) -> Iterator[RunningGateway]:
    """Start a gateway with ``tools`` (the section of the file), yield it when it serves, stop it afterwards.

    ``settings`` are further sections of the file, ``env`` further variables.
    ``directory`` gets the file, the state and, unless ``log``
    is given, the log; it should be a short path, for there may be sockets in it. ``trust`` is the authority of the
    certificate in the settings; ``options`` are further ones of ``canalgate up``.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "canalgate.yaml"
    config.write_text(
        yaml.safe_dump({**(settings or {}), "tools": dict(tools)}, sort_keys=False), encoding="utf-8"
    )
    port = free_port()
    command = [
        *gateway_command(),
        "up",
        "--config",
        str(config),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        *options,
    ]
    state = {**(env or {}), "CANALGATE_STATE_DIR": str(directory / "state")}
    # A developer's own settings are not the test's.
    with running(command, log=log or directory / "gateway.log", env=state, remove="CANALGATE_") as process:
        process.line_beginning("ready", timeout=START_TIMEOUT)
        gateway = RunningGateway(port=port, process=process, config=config, trust=trust)
        wait_until(
            lambda: is_ready(gateway),
            timeout=START_TIMEOUT,
            description="/readyz to answer 200",
            interval=0.1,
        )
        yield gateway
        left = process.stop()
        assert not left, f"the gateway left processes behind: {left}"


def is_ready(gateway: RunningGateway) -> bool:
    """Whether ``/readyz`` answers 200."""
    gateway.process.require_alive()
    try:
        verify = True if gateway.trust is None else ssl.create_default_context(cafile=gateway.trust)
        return httpx.get(f"{gateway.url}/readyz", timeout=5.0, verify=verify).status_code == 200
    except httpx.TransportError:
        return False

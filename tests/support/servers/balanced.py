"""Two web processes of one gateway behind a balancer without stickiness: each request goes to the next one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from tests.support.balancer import Balancer
from tests.support.servers.gateway import (
    START_TIMEOUT,
    RunningGateway,
    gateway_command,
    is_ready,
    running_gateway,
)
from tests.support.servers.process import free_port, running
from tests.support.wait import wait_until


@contextlib.contextmanager
def second_web(
    first: RunningGateway, *, name: str = "web2", env: Mapping[str, str] | None = None
) -> Iterator[RunningGateway]:
    """Another web process on the Redis of a running gateway, a gunicorn of its own at a port of its own."""
    state = first.config.parent / "state"
    record = orjson.loads((state / "run.json").read_bytes())
    port = free_port()
    command = [
        *gateway_command(),
        *("web", "--config", str(first.config), "--host", "127.0.0.1", "--port", str(port)),
    ]
    own = {"CANALGATE_REDIS__URL": record["redis_url"], "CANALGATE_STATE_DIR": str(state), **(env or {})}
    with running(command, log=state / "logs" / f"{name}.log", env=own, remove="CANALGATE_") as process:
        second = RunningGateway(port=port, process=process, config=first.config)
        wait_until(
            lambda: is_ready(second),
            timeout=START_TIMEOUT,
            description="the second web process",
            interval=0.1,
        )
        yield second


@contextlib.contextmanager
def balanced_gateway(
    tools: Mapping[str, Any],
    *,
    directory: Path,
    settings: Mapping[str, Any] | None = None,
    log: Path | None = None,
) -> Iterator[RunningGateway]:
    """As :func:`running_gateway`, with two web processes: ``port`` is the balancer's."""
    with (
        running_gateway(tools, directory=directory, settings=settings, log=log) as first,
        second_web(first) as second,
        Balancer([first.port, second.port], one_request=True) as balancer,
    ):
        yield replace(first, port=balancer.port)
        # Else it was not what it says, and proves nothing.
        assert min(balancer.taken[first.port], balancer.taken[second.port]) > 1, balancer.taken

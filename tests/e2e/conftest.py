"""One whole gateway for the tests that do not break it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.celery_bench import Bench, celery_bench
from tests.support.redis import RedisServer
from tests.support.servers.gateway import RunningGateway, running_gateway
from tests.support.servers.process import running_http, server_command


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway with a stdio tool and an HTTP tool, one worker, one web process."""
    directory = tmp_path_factory.mktemp("e2e")
    with running_http("echo_http", log=directory / "echo_http.log") as remote:
        tools = {
            "local": {"command": server_command("echo")[0], "args": server_command("echo")[1:]},
            "remote": {"url": remote},
        }
        with running_gateway(tools, directory=directory) as found:
            yield found


@pytest.fixture
def bench(redis_server: RedisServer, tmp_path: Path) -> Iterator[Bench]:
    """A place for workers started by Celery's own command line."""
    with celery_bench(redis_server, tmp_path) as bench:
        yield bench

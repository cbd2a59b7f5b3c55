"""The cluster of plain processes: calls through both web programs, a worker killed, nothing lost."""

from __future__ import annotations

import os
import re
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

import pytest
from redis import Redis

from tests.examples.readme import EXAMPLES, commands, environment, hold
from tests.support.mcp import RawClient, modern
from tests.support.redis import running_redis
from tests.support.servers.process import free_port, running
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(150)]

CALLS = 24
"""More than one worker has room for, and fewer than all three have."""
UNACKED = "canalgate:unacked:"


def counted(client: RawClient) -> str:
    """A call of two seconds."""
    return client.text("count", {"to": 20})


def holder(store: Redis) -> str | None:
    """The name of a worker that has calls under way."""
    names = [key.decode() for key in store.scan_iter(f"{UNACKED}*") if store.hlen(key)]
    return unquote(names[0].removeprefix(UNACKED)).partition("@")[0].rpartition(":")[2] if names else None


def test_a_worker_dies_and_no_call_is_lost(tmp_path: Path) -> None:
    """Clients of both web programs count while it dies, and each has its answer."""
    ports = {8081: free_port(), 8082: free_port()}
    with running_redis() as redis:
        env = environment(
            CANALGATE_REDIS__URL=redis.url(),
            CANALGATE_STATE_DIR=str(tmp_path / "s"),
            CLUSTER_PORTS=",".join(map(str, ports.values())),
        )
        command = [sys.executable, str(EXAMPLES / "cluster" / "run.py")]
        with running(command, log=tmp_path / "log", env=env, remove="CANALGATE_") as cluster:
            cluster.line_beginning("ready", timeout=90)
            for shown in commands("cluster"):
                hold(shown, env, ports)
            urls = [f"http://127.0.0.1:{port}/servers/demo/mcp" for port in ports.values()] * (CALLS // 2)
            with ThreadPoolExecutor(CALLS) as pool, redis.client() as store:
                answers = [pool.submit(counted, modern(url)) for url in urls]
                victim = wait_until(lambda: holder(store), description="a worker that has begun calls")
                pid = re.search(rf"^{victim} (\d+)$", cluster.output(), re.MULTILINE)
                assert pid is not None, victim
                os.kill(int(pid[1]), signal.SIGKILL)
                assert [answer.result(90) for answer in answers] == ["counted to 20"] * CALLS

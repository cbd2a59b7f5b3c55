"""Workers by Celery's own command line, and a stock app beside them that knows nothing of us."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from celery import Celery
from redis import Redis

from tests.support.egress import ANYTHING
from tests.support.redis import RedisServer
from tests.support.servers.peer import logged
from tests.support.servers.process import server_command
from tests.support.wait import wait_until

COMMAND, *ARGS = server_command("echo")
DB = 11


@dataclass(frozen=True, slots=True)
class Bench:
    """A Redis, a stock app that knows nothing of us, and a place for workers."""

    server: RedisServer
    home: Path
    app: Celery
    redis: Redis
    started: list[subprocess.Popen[bytes]]

    @property
    def env(self) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith("CANALGATE_")}
        return env | {"CANALGATE_CONFIG": str(self.home / "canalgate.yaml")}

    def worker(self, *options: str, name: str = "w1") -> subprocess.Popen[bytes]:
        """Start a worker by celery's own command line."""
        return self.celery(["worker", "-n", f"{name}@here", "--without-mingle", *options], self.env, name)

    def celery(
        self, words: list[str], env: dict[str, str], name: str, app: str = "gateway_worker.app"
    ) -> subprocess.Popen[bytes]:
        """Run ``celery -A <app> ...``."""
        command = [sys.executable, "-m", "celery", "-A", app, *words]
        with (self.home / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        self.started.append(process)
        return process

    def close(self) -> None:
        """End what is still running, and let stock Celery's results go while their server lives."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
        gc.collect()
        self.app.close()

    def send(self, name: str, arguments: dict[str, Any], tool: str = "a", **options: Any) -> Any:
        """Send a call as a stock producer."""
        payload = {
            "tenant": "t",
            "client": "c",
            "tool": tool,
            "method": "tools/call",
            "params": {"name": name, "arguments": arguments},
        }
        return self.app.send_task("gateway.invoke", args=[payload], **{"queue": f"tool.{tool}", **options})

    def inspect(self, what: str, name: str = "w1") -> Any:
        """Ask a worker something, as ``celery inspect`` does."""
        answers = getattr(self.app.control.inspect(destination=[f"{name}@here"], timeout=2.0), what)() or {}
        return answers.get(f"{name}@here")

    def heard(self) -> list[dict[str, Any]]:
        """What the backend received."""
        return logged(self.home / "heard.jsonl")

    def beginning(self, count: int) -> None:
        """Wait until the backend has received that many calls."""
        wait_until(
            lambda: sum(e.get("received", {}).get("method") == "tools/call" for e in self.heard()) >= count,
            description=f"{count} calls to reach the backend",
        )


@contextmanager
def celery_bench(redis_server: RedisServer, home: Path) -> Iterator[Bench]:
    """An empty Redis with the tools ``a`` and ``b`` registered."""
    env = {"ECHO_LOG": str(home / "heard.jsonl")}
    tool = {"command": COMMAND, "args": ARGS, "env": env}
    url = redis_server.url(DB)
    tenants = {"allow_unlisted": True}
    config = {"redis": {"url": url}, "tenants": tenants, "tools": {"a": tool, "b": tool}}
    (home / "canalgate.yaml").write_text(yaml.safe_dump(config))
    with redis_server.client(DB) as redis:
        redis.flushdb()
        register(home / "canalgate.yaml", url)
        broker = "redis+socket://" + url.removeprefix("unix://").replace("?db=", "?virtual_host=")
        app = Celery(broker=broker, backend=broker)
        found = Bench(redis_server, home, app, redis, [])
        yield found
        found.close()
        redis.flushdb()


def register(config: Path, url: str) -> None:
    """Put the file's tools into the registry."""
    from common.registry.registry import Registry
    from common.settings import load
    from common.store.client import StoreAddress, connect
    from common.store.keys import Keys

    with connect(StoreAddress(url=url)) as client:
        Registry(client, Keys(), ANYTHING).publish_file(load(config, {}).tools)


def serves(bench: Bench, queue: str, name: str = "w1") -> bool:
    """Whether the worker says that it consumes a queue."""
    return queue in {found["name"] for found in bench.inspect("active_queues", name) or []}


def stop(process: subprocess.Popen[bytes]) -> int:
    """SIGTERM, and how it ended."""
    if process.poll() is None:
        process.terminate()
    return process.wait(60)

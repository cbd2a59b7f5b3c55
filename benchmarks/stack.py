"""A gateway in its parts: Redis, workers and web processes, each started as an operator starts it.

The commands are those of ``canalgate web`` and ``canalgate worker``, the Redis server has the settings of
``canalgate up``. What ``canalgate up`` cannot do is done here: several workers with flags of their own, several web
servers side by side, and a Redis of its own for each alternative, so that CPU can be told apart.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import httpx
import yaml

from benchmarks.desk import Desk
from benchmarks.parts import Part, memory_bytes, parts_of
from benchmarks.processes import Process, cpu_seconds, free_port
from benchmarks.targets import REPOSITORY
from benchmarks.wire import Endpoint
from common.registry.registry import Registry
from common.settings import Settings, load
from common.store.client import StoreAddress, connect
from common.store.keys import Keys
from gateway_web.cli.programs import environment, web_command, worker_command
from gateway_web.supervisor import find_redis


class Redis:
    """A Redis server at a desk, set up as the embedded one."""

    def __init__(self, desk: Desk) -> None:
        """Start it.

        Raises:
            StartError: it does not answer.
        """
        state = desk.folder / "state"
        (state / "logs").mkdir(parents=True)
        server = find_redis(None, state)
        assert server.child is not None  # no server was configured, so it is ours to run
        self.address = StoreAddress(url=server.url.for_redis_py)
        self.celery_url = server.url.for_celery
        self.process = desk.spawn("redis", server.child.argv, cwd=server.child.cwd)
        self.process.wait_for(server.child.ready, "an answer to PING")


class Stack:
    """One gateway at one desk. Everything is ended by the desk's ``clear``."""

    def __init__(
        self, desk: Desk, tools: Mapping[str, Any], settings: Mapping[str, Any] | None = None
    ) -> None:
        """Start its Redis server. ``tools`` and ``settings`` are sections of the settings file.

        Raises:
            StartError: Redis does not answer.
        """
        self.desk = desk
        self.redis = Redis(desk)
        config = desk.folder / "canalgate.yaml"
        config.write_text(yaml.safe_dump({**(settings or {}), "tools": dict(tools)}), encoding="utf-8")
        added = environment(config, CANALGATE_REDIS__URL=self.redis.address.url, PYTHONPATH=str(REPOSITORY))
        self._environment = added
        self.settings: Settings = load(config, {**_without_ours(os.environ), **added})
        self.client = connect(self.redis.address, size=4)
        self.keys = Keys(self.settings.redis.key_prefix)
        self.ports: list[int] = []
        self.webs: list[Process] = []
        self.workers: list[Process] = []

    def start_worker(self, *extra: str, app: str | None = None, env: Mapping[str, str] | None = None) -> str:
        """Start a worker process and return its name, once it is a node of the gateway.

        Raises:
            StartError: it is not.
        """
        name = f"worker{len(self.workers) + 1}"
        command = worker_command(f"{name}@%h", extra)
        if app is not None:
            command[command.index("gateway_worker.app")] = app
        process = self.desk.spawn(name, command, env={**self._environment, **(env or {})}, cwd=REPOSITORY)
        self.workers.append(process)
        process.wait_for(lambda: self.node_of(name) is not None, "a node of that name")
        return name

    def node_of(self, name: str) -> str | None:
        """Return the node that the worker ``name`` is, None if it is none yet."""
        nodes: list[Any] = self.client.zrange(self.keys.nodes, 0, -1)
        return next((node.decode() for node in nodes if node.startswith(f"{name}@".encode())), None)

    def start_web(self, *extra: str, env: Mapping[str, str] | None = None) -> int:
        """Start a web process and return its port, once it is ready; ``env`` holds settings of its own.

        Raises:
            StartError: it is not.
        """
        port = free_port()
        command = web_command(self.settings, host="127.0.0.1", port=port, extra=extra)
        given = {**self._environment, "CANALGATE_WEB__PORT": str(port), **(env or {})}
        process = self.desk.spawn(f"web{len(self.webs) + 1}", command, env=given, cwd=REPOSITORY)
        self.webs.append(process)
        self.webs.append(process)
        self.ports.append(port)
        process.wait_for(lambda: _is_ready(port), f"`/readyz` answering 200 ({shlex.join(extra)})")
        return port

    def start_flower(self, port: int) -> None:
        """Start Flower at the port of the settings.

        Raises:
            StartError: it does not listen.
        """
        command = [sys.executable, "-m", "gateway_worker.monitor"]
        self.desk.spawn_server("flower", command, port=port, env=self._environment)

    @property
    def port(self) -> int:
        """The port of the first web process."""
        return self.ports[0]

    def publish_tools(self) -> None:
        """Register the settings' tools, as a web process does at its start; for stacks that have none."""
        Registry(self.client, self.keys).publish_file(self.settings.tools)

    def wait_discovered(self, timeout: float = 120.0) -> None:
        """Wait until every tool was asked what it offers.

        Raises:
            StartError: some have not answered.
        """
        registry = Registry(self.client, self.keys)
        wanted = {tool.id for tool in self.settings.tools}

        def known() -> bool:
            return {entry.id for entry in registry.entries() if entry.known is not None} >= wanted

        self.workers[0].wait_for(known, "the discovery of all tools", timeout)

    def memory(self) -> int:
        """Return the proportional memory of web and worker processes together, in bytes."""
        members = self.desk.members()
        parts = parts_of(members)
        return memory_bytes(it for it in members if parts.get(it.pid) in {Part.WEB, Part.WORKER})

    def close(self) -> None:
        """Let go of the connection to Redis."""
        self.client.close()


def endpoint(port: int, tool: str, **options: Any) -> Endpoint:
    """Return the door of one tool."""
    return Endpoint(port=port, path=f"/servers/{tool}/mcp", **options)


def stdio_tool(desk: Desk) -> dict[str, Any]:
    """Return the entry of the desk's stdio backend in the section ``tools``."""
    command, *args = desk.stdio_command()
    return {"command": command, "args": args}


def cpu_of(process: Process) -> float:
    """Return the CPU seconds of a program and all its descendants."""
    return sum(cpu_seconds(process.members()).values())


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5.0).status_code == 200
    except httpx.TransportError:
        return False


def _without_ours(values: Mapping[str, str]) -> dict[str, str]:
    """A developer's own settings are not the benchmark's."""
    return {name: value for name, value in values.items() if not name.startswith("CANALGATE_")}

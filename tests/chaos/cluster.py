"""A cluster of real processes that can be killed, frozen, cut off and set back; everything it does is written down."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import yaml
from redis import Redis
from redis.exceptions import RedisError

from common.audit.chain_store import ChainStore
from common.domain.errors import StoreUnavailable
from common.processes import ProcessGuard
from common.store.keys import Keys
from tests.chaos.journal import Journal
from tests.chaos.plan import Plan, ToolPlan, environment, web_command, worker_command
from tests.chaos.program import Program, lives
from tests.chaos.redis_server import ChaosRedis
from tests.chaos.watch import Watch, counters, dump, hurt
from tests.chaos.wire import Place
from tests.support.servers.process import free_port, server_command
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait import wait_until

READY_TIMEOUT = 90.0


class Cluster:
    """Web processes ``web0``..., workers ``worker0``..., Redis, and the HTTP backends by their tools' names."""

    def __init__(self, plan: Plan, home: Path) -> None:
        self.plan = plan
        self.home = home
        self.run = uuid.uuid4().hex
        self.journal = Journal(home / "harness.jsonl")
        self.keys = Keys()
        self.forgetful = False
        """Whether Redis lost writes that it had confirmed."""
        self.out: set[int] = set()
        """Ports of web processes that were started again and are not ready yet."""
        addresses = [space.redis_address for space in plan.namespaces.values()]
        self._guard = ProcessGuard(grace=1)
        self.redis = ChaosRedis(
            home, self.journal, self._guard, durability=plan.durability, addresses=addresses
        )
        self.proxies: dict[str, TcpProxy] = {}
        self.skews = {name: home / f"{name}.skew" for name in plan.skewed}
        self.backends: list[Program] = []
        self.webs: list[Program] = []
        self.workers: list[Program] = []
        self._places: list[Place] = []
        self._stack = ExitStack()
        self._watch = Watch(self)

    # -- starting and stopping --------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        for file in self.skews.values():
            file.write_text("0")
        self.redis.start()
        ports = {tool.name: self._http_backend(tool) for tool in self.plan.tools if tool.http}
        config = self.plan.config(self.home, self.run, ports)
        (self.home / "canalgate.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        for name in sorted(self.plan.proxied):
            self.proxies[name] = self._stack.enter_context(TcpProxy(self.redis.socket))
        for number in range(self.plan.webs):
            self.webs.append(self._web(f"web{number}"))
        for number in range(self.plan.workers):
            name = f"worker{number}"
            self.workers.append(self._program(name, "worker", worker_command(name)))
        for program in (*self.webs, *self.workers):
            program.start()
        self.wait_ready()
        wait_until(self._discovered, timeout=READY_TIMEOUT, description="what the tools offer to be known")
        self._watch.start(supervise=self.plan.supervised)

    def _discovered(self) -> bool:
        with self.client() as client:
            return bool(client.hlen(self.keys.registry_capabilities) == len(self.plan.tools))

    def _http_backend(self, tool: ToolPlan) -> int:
        port = free_port()
        command = server_command("recorder_http", "--port", port, "--era", tool.era)
        environment = {"PATH": "/usr/bin:/bin", **tool.environment(self.home, self.run)}
        log = self.home / f"{tool.name}.log"
        backend = Program(
            tool.name,
            "backend",
            command,
            env=environment,
            cwd=self.home,
            log=log,
            journal=self.journal,
            guard=self._guard,
            port=port,
        )
        self.backends.append(backend)
        backend.start()
        return port

    def _web(self, name: str) -> Program:
        space = self.plan.namespaces.get(name)
        host, port = "127.0.0.1" if space is None else space.own_address, free_port()
        self._places.append(Place(host=host, port=port))
        return self._program(name, "web", web_command(host, port), port=port)

    def move(self, program: Program, tree: Path) -> None:
        """Have a program run from another tree when it is started again."""
        program.move(self._environment(program.name, tree), tree)

    def _environment(self, name: str, tree: Path) -> dict[str, str]:
        space, proxy = self.plan.namespaces.get(name), self.proxies.get(name)
        url = self.redis.url() if space is None else self.redis.url(space.redis_address)
        redis = url if proxy is None else proxy.url
        return environment(self.home, self.run, redis=redis, skew=self.skews.get(name), source=tree)

    def _program(self, name: str, kind: str, command: list[str], *, port: int | None = None) -> Program:
        space = self.plan.namespaces.get(name)
        return Program(
            name,
            kind,
            command if space is None else [*space.prefix, *command],
            env=self._environment(name, self.plan.source),
            cwd=self.plan.source,
            log=self.home / f"{name}.log",
            journal=self.journal,
            guard=self._guard,
            port=port,
        )

    def close(self) -> None:
        """End everything. What the processes wrote stays."""
        self._watch.stop()
        gateways = [*self.webs, *self.workers]
        for program in gateways:
            program.thaw()
        for program in (*gateways, *self.backends, self.redis.program):
            program.close()
        self._guard.close()
        self._stack.close()
        for process in self.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.journal.close()

    # -- looking ----------------------------------------------------------------------------------------

    @property
    def places(self) -> list[Place]:
        """Where the web processes listen."""
        return self._places

    def program(self, name: str) -> Program:
        """A process by its name."""
        return next(found for found in self.programs() if found.name == name)

    def programs(self) -> Iterator[Program]:
        """All processes but Redis."""
        yield from (*self.webs, *self.workers, *self.backends)

    def worker_above(self, ancestors: list[int]) -> Program | None:
        """The worker below which a backend with these ancestors runs."""
        return next((worker for worker in self.workers if worker.pid in ancestors), None)

    def children(self) -> list[psutil.Process]:
        """The living recorders that workers started."""
        own = {backend.pid for backend in self.backends}
        found = (process for process in psutil.process_iter() if process.pid not in own)
        return [process for process in found if self._is_child(process)]

    def _is_child(self, process: psutil.Process) -> bool:
        try:
            environ = process.environ()
            return environ.get("CHAOS_RUN") == self.run and "RECORDER_LOG" in environ and lives(process)
        except (psutil.Error, OSError):
            return False

    def client(self) -> Redis:
        """A plain client of Redis."""
        return self.redis.client()

    def workers_ready(self) -> int:
        """Workers that the first web process which answers knows of; -1 if none is ready."""
        for place in self._places:
            with contextlib.suppress(httpx.TransportError):
                answer = httpx.get(f"http://{place.host}:{place.port}/readyz", timeout=5.0)
                if answer.status_code == 200:
                    return int(answer.json()["workers"])
        return -1

    def wait_ready(self) -> None:
        """Wait until every web process is ready and every worker known."""
        for place in self._places:
            url = f"http://{place.host}:{place.port}/readyz"
            wait_until(
                lambda url=url: self._ready(url),  # type: ignore[misc]
                timeout=READY_TIMEOUT,
                description=f"{url} to tell of {len(self.workers)} workers",
                interval=0.2,
            )

    def start_again(self, program: Program) -> None:
        """Start a program that ended; a web process gets no calls before it is ready."""
        if program.kind == "web" and program.port is not None:
            self.out.add(program.port)
        program.start()

    def let_in(self) -> None:
        """Look which web processes have become ready."""
        for place in self._places:
            if place.port in self.out and self._answers(f"http://{place.host}:{place.port}/readyz"):
                self.out.discard(place.port)

    @staticmethod
    def _answers(url: str) -> bool:
        try:
            return httpx.get(url, timeout=0.5).status_code == 200
        except httpx.TransportError:
            return False

    def serves(self, program: Program) -> bool:
        """Whether a process has come up: a web process is ready, a worker is a node that lives."""
        if program.kind == "web":
            return program.port not in self.out
        try:
            with self.client() as client:
                seconds, micros = client.time()  # type: ignore[misc]
                living = client.zrangebyscore(self.keys.nodes, seconds * 1000 + micros // 1000, "inf")
        except RedisError:
            return False
        return any(node.decode().startswith(f"{program.name}@") for node in living)

    def _ready(self, url: str) -> bool:
        try:
            answer = httpx.get(url, timeout=5.0)
        except httpx.TransportError:
            return False
        return answer.status_code == 200 and int(answer.json()["workers"]) >= len(self.workers)

    def holder_of(self, queue: str) -> str | None:
        """The name of the worker that holds a call of a queue, if one does."""
        with self.client() as client:
            for key in client.scan_iter(f"{self.keys.prefix}:unacked:*"):
                if any(queue.encode() in message for message in client.hvals(key)):
                    node = key.decode().removeprefix(f"{self.keys.prefix}:unacked:")
                    return str(node.replace("%40", "@").split("@")[0])
        return None

    def waiting(self) -> int:
        """Calls that wait for a worker, in all queues."""
        with self.client() as client:
            found = counters(client, self.keys)
        return sum(found["queues"].values()) + sum(found["direct"].values())

    # -- faults -----------------------------------------------------------------------------------------

    def kill(self, program: Program) -> float:
        """kill -9 a process; its descendants are looked for two seconds later. Returns the moment."""
        below = program.kill()
        if program.kind == "worker":
            self._watch.look_for_orphans(program.name, below)
        return time.monotonic()

    def redis_restart(self, *, down: float, lose: bool = False) -> None:
        """kill -9 Redis and start it after ``down`` seconds; with ``lose`` without the last second of its writes."""
        with self._watch.paused():
            before = self.redis.written()
            if lose:
                time.sleep(1.0)
            self.redis.kill()
            if lose:
                self.redis.lose_writes_since(before)
            self.forgetful |= lose or self.plan.durability == "none"
            time.sleep(down)
            self.redis.start()

    def set_skew(self, name: str, seconds: float) -> None:
        """Let the clock of a process be wrong by so many seconds from now on."""
        self.skews[name].write_text(str(seconds))
        self.journal.write("fault", what="skew", process=name, kind="clock", pid=0, port=None)

    def set_backend(self, tool: str, word: str) -> None:
        """``up`` or ``down``: whether a tool's calls are answered."""
        file = self.home / f"{tool}.control"
        file.with_suffix(".next").write_text(word)
        file.with_suffix(".next").replace(file)
        self.journal.write("fault", what=word, process=tool, kind="backend", pid=0, port=None)

    def delivered(self) -> bool:
        """Whether the file of the journal has all that the stream has."""
        try:
            with self.client() as client:
                store = ChainStore(client, self.keys)
                stream, state = store.stream(), store.state()
        except StoreUnavailable:
            return False
        head = state.head
        return stream.last == head.id and state.sinks.get("file") == head

    # -- the end ----------------------------------------------------------------------------------------

    def quiet(self, *, timeout: float = 30.0, children: int | None = None) -> Mapping[str, Any]:
        """Wait until nothing is under way any more, and write down what is left.

        With ``children`` the wait is also for no more than so many recorders.
        """
        end = time.monotonic() + timeout
        while True:
            with self.client() as client:
                left = counters(client, self.keys)
            alive = len(self.children()) if children is not None else 0
            if (not hurt(left) and alive <= (children or 0)) or time.monotonic() > end:
                break
            time.sleep(0.2)
        self.journal.write("rest", children=alive, children_allowed=children, **left)
        return left

    def keep_dump(self) -> None:
        """Write down all that Redis holds."""
        with contextlib.suppress(Exception), self.client() as client:
            (self.home / "redis-dump.txt").write_text(dump(client))

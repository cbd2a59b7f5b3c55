"""One web process and one worker, each with a way of its own to a Redis that can be disturbed; and load on them."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import httpx
import yaml
from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from common.calls.dead_letters import DeadLetters
from common.store.keys import Keys
from tests.e2e.celery_bench import ARGS, COMMAND
from tests.support.backends import EchoLog
from tests.support.mcp import modern
from tests.support.restartable_redis import RestartableRedis
from tests.support.servers.gateway import gateway_command
from tests.support.servers.process import ServerProcess, free_port, running
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait import wait_until

SLOTS = 8
DEADLINE = 6.0
ENDED_WITHIN = DEADLINE + 12.0
"""Seconds in which every accepted call has its end, whatever happens."""
SOCKET_TIMEOUT = 1.5
MAX_BODY = 64 * 1024
QUEUE = "tool.echo"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one call ended for its caller: the text it got, or the code of the error and what it said."""

    sent: str
    text: str | None
    code: str | None
    seconds: float
    unknown: bool = False
    said: str = ""

    @property
    def good(self) -> bool:
        """Whether it was answered by the tool."""
        return self.text is not None


@dataclass(slots=True)
class Rig:
    """The processes, the ways between them, and what the backend saw."""

    redis: RestartableRedis
    web_way: TcpProxy
    worker_way: TcpProxy
    web: ServerProcess
    worker: ServerProcess
    url: str
    log: EchoLog
    keys: Keys = field(default_factory=Keys)

    def executions(self) -> Counter[str]:
        """How often each text was executed."""
        return Counter(
            str(message["params"]["arguments"].get("text")) for message in self.log.received("tools/call")
        )

    def call(self, text: str, client: httpx.Client, seconds_at_the_tool: float = 0) -> Outcome:
        """One call, until its end. An answer must be the one to this call."""
        raw = modern(self.url)
        name, answered = (
            ("sleep", f"slept {seconds_at_the_tool:g} s") if seconds_at_the_tool else ("echo", text)
        )
        arguments = {"text": text, "seconds": seconds_at_the_tool}
        message = raw.message("tools/call", {"name": name, "arguments": arguments})
        begun = time.monotonic()
        answer = client.post(
            self.url, json=message, headers=raw.sent_headers("tools/call", message["params"])
        ).json()
        seconds = time.monotonic() - begun
        if "result" in answer:
            got = answer["result"]["content"][0]["text"]
            assert got == answered, (text, got)
            return Outcome(text, got, None, seconds)
        data = answer["error"].get("data") or {}
        unknown = data.get("outcome") == "unknown"
        return Outcome(text, None, data.get("code"), seconds, unknown=unknown, said=str(answer["error"]))

    def works(self) -> bool:
        """Whether a call is answered now."""
        with httpx.Client(timeout=ENDED_WITHIN + 1) as client:
            return self.call(f"works-{uuid4()}", client).good

    def letters(self, client: Redis) -> DeadLetters:
        """What is in the dead letters."""
        return DeadLetters(client, self.keys)

    def control(self) -> dict[str, Any]:
        """The worker's pool by Celery's remote control, once that answers (it too has to find its way back)."""
        with Celery(broker=self.redis.celery_url, set_as_current=False) as app:

            def stats() -> dict[str, Any]:
                try:
                    return app.control.inspect(timeout=1.0, limit=1).stats() or {}
                except (OSError, RedisError, OperationalError):  # its pools hold connections that broke
                    return {}

            (found,) = wait_until(stats, timeout=20, description="remote control to answer").values()
        pool: dict[str, Any] = found["pool"]
        return pool

    def unacked(self, client: Redis) -> int:
        """Messages that any node has begun and not ended."""
        return sum(client.hlen(key) for key in client.scan_iter(f"{self.keys.prefix}:unacked:*"))

    def require_rest(self) -> None:
        """Nothing queued, nothing begun, all slots free, and the processes that were there before."""
        with self.redis.client() as client:
            wait_until(lambda: client.llen(QUEUE) == 0, timeout=15, description="an empty queue")
            wait_until(
                lambda: self.unacked(client) == 0, timeout=15, description="every message acknowledged"
            )
        self._require_free_slots()
        self.web.require_alive()
        self.worker.require_alive()
        assert "engine_stopped" not in self.worker.output()

    def _require_free_slots(self) -> None:
        """As many calls as there are slots run at the same time."""
        names = {f"slot-{uuid4()}" for _ in range(SLOTS)}
        with httpx.Client(timeout=ENDED_WITHIN) as client:
            threads = [threading.Thread(target=self.call, args=(name, client, 0.6)) for name in names]
            for thread in threads:
                thread.start()
            with self.redis.client() as redis:
                wait_until(
                    lambda: self.unacked(redis) == SLOTS, timeout=5, description="all slots in use at once"
                )
            for thread in threads:
                thread.join()


class Load:
    """Callers in threads, each one call after the other, every text unique, until the block ends."""

    def __init__(self, rig: Rig, callers: int = 6) -> None:
        self.outcomes: list[Outcome] = []
        self._rig = rig
        self._name = uuid4().hex[:8]
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._faults: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, name="caller") for _ in range(callers)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.more(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert not self._faults, self._faults

    def more(self, good: int, *, timeout: float = 30.0) -> None:
        """Wait for so many more good answers from now on."""
        wanted = self.good() + good
        wait_until(
            lambda: self.good() >= wanted or self._faults, timeout=timeout, description=f"{good} more answers"
        )

    def good(self) -> int:
        """Good answers so far."""
        return sum(outcome.good for outcome in list(self.outcomes))

    def codes(self) -> Counter[str]:
        """The errors so far, by code."""
        return Counter(str(outcome.code) for outcome in list(self.outcomes) if not outcome.good)

    def _run(self) -> None:
        try:
            with httpx.Client(timeout=ENDED_WITHIN) as client:
                while not self._stop.is_set():
                    number = next(self._numbers)
                    # Some take their time, so that each fault finds calls at the tool.
                    outcome = self._rig.call(f"{self._name}-{number}", client, 0.2 if number % 5 == 0 else 0)
                    self.outcomes.append(outcome)
                    if outcome.code == "STORE_UNAVAILABLE":
                        self._stop.wait(0.02)
        except BaseException as error:
            self._faults.append(error)

    def require_each_once(self, *accepted: str) -> None:
        """No call lost and none run twice; errors only of the ``accepted`` codes, and what they say is true."""
        failed = [outcome for outcome in self.outcomes if not outcome.good]
        assert [outcome for outcome in failed if outcome.code not in accepted] == []
        assert all(outcome.seconds < ENDED_WITHIN for outcome in self.outcomes)
        ran = self._rig.executions()
        wrong = [
            (outcome, ran[outcome.sent])
            for outcome in self.outcomes
            if ran[outcome.sent] not in _truth(outcome)
        ]
        assert wrong == []


def _truth(outcome: Outcome) -> tuple[int, ...]:
    """How often the backend may have run a call, given what its caller was told."""
    if outcome.good:
        return (1,)
    return (0, 1) if outcome.unknown or outcome.code == "WORKER_LOST" else (0,)


@contextmanager
def running_rig(home: Path) -> Iterator[Rig]:
    """Start everything, and wait until a call is answered."""
    log = EchoLog(home / "echo.jsonl")
    with ExitStack() as stack:
        redis = stack.enter_context(RestartableRedis(home))
        ways = [stack.enter_context(TcpProxy(redis.socket)) for _ in range(2)]
        tool = {"command": COMMAND, "args": ARGS, "env": log.env, "request_timeout": DEADLINE}
        config = home / "canalgate.yaml"
        config.write_text(
            yaml.safe_dump(
                {
                    "redis": {"socket_timeout": SOCKET_TIMEOUT},
                    "web": {"max_body_bytes": MAX_BODY},
                    "worker": {"concurrency": SLOTS},
                    "discovery": {"ttl": 3600},
                    "tools": {"echo": tool},
                }
            )
        )
        port = free_port()

        def start(name: str, way: TcpProxy, *words: str) -> ServerProcess:
            command = [*gateway_command(), name, "--config", str(config), *words]
            env = {"CANALGATE_REDIS__URL": way.url, "CANALGATE_STATE_DIR": str(home / "state")}
            return stack.enter_context(
                running(command, log=home / f"{name}.log", env=env, remove="CANALGATE_")
            )

        web = start("web", ways[0], "--host", "127.0.0.1", "--port", str(port))
        worker = start("worker", ways[1])
        url = f"http://127.0.0.1:{port}/servers/echo/mcp"
        rig = Rig(redis, *ways, web, worker, url, log)
        wait_until(lambda: _answers(rig), timeout=60, description="the first call", interval=0.1)
        yield rig


def _answers(rig: Rig) -> bool:
    rig.web.require_alive()
    rig.worker.require_alive()
    try:
        return rig.works()
    except (httpx.TransportError, ValueError, KeyError):
        return False

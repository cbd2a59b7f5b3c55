"""What runs beside a cluster: a supervisor, a look for orphans, samples of Redis; and the look at its end."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psutil
from redis import Redis
from redis.exceptions import RedisError

from common.store.keys import Keys
from tests.chaos.program import Program, lives
from tests.support.redis import leaked_keys

if TYPE_CHECKING:
    from tests.chaos.cluster import Cluster

STEP = 0.1
RESTART_AFTER = 1.0
"""Seconds after which a supervisor starts a dead process again."""
ORPHANS_AFTER = 2.0
"""Seconds after a worker's death in which its descendants have to go."""
SAMPLE_EVERY = 0.3
CELERYS_OWN = ("_kombu.", "celery", "unacked", "gateway.")
"""How the names of Celery's own lasting keys begin: its bindings, its control and housekeeping queues."""


class Watch:
    """One thread beside a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")
        self._supervise = False
        self._dead: dict[str, float] = {}
        self._orphans: list[tuple[float, str, list[psutil.Process]]] = []
        self._paused = threading.Lock()
        self._sampled = 0.0

    def start(self, *, supervise: bool) -> None:
        """Begin; ``supervise`` starts dead processes again."""
        self._supervise = supervise
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is started again meanwhile."""
        with self._paused:
            yield

    def look_for_orphans(self, name: str, processes: list[psutil.Process]) -> None:
        """Look in two seconds which of these still live."""
        self._orphans.append((time.monotonic() + ORPHANS_AFTER, name, processes))

    def _run(self) -> None:
        while not self._stop.wait(STEP):
            if self._supervise and self._paused.acquire(blocking=False):
                try:
                    self._start_again()
                finally:
                    self._paused.release()
            self._count_orphans()
            self._cluster.let_in()
            if time.monotonic() - self._sampled >= SAMPLE_EVERY:
                self._sampled = time.monotonic()
                self._sample()

    def _start_again(self) -> None:
        for program in (*self._cluster.programs(), self._cluster.redis.program):
            if program.alive or not program.wanted:
                self._dead.pop(program.name, None)
            elif time.monotonic() - self._dead.setdefault(program.name, time.monotonic()) >= RESTART_AFTER:
                self._tell_exit(program)
                self._cluster.start_again(program)

    def _tell_exit(self, program: Program) -> None:
        status = program.status()
        if status is not None and status != -9:
            self._cluster.journal.write("exit", process=program.name, kind=program.kind, status=status)

    def _count_orphans(self) -> None:
        now = time.monotonic()
        due = [entry for entry in self._orphans if entry[0] <= now]
        self._orphans = [entry for entry in self._orphans if entry[0] > now]
        for _, name, processes in due:
            left = [process.pid for process in processes if lives(process)]
            self._cluster.journal.write("orphans", process=name, pids=left)

    def _sample(self) -> None:
        with (
            contextlib.suppress(RedisError),
            Redis(port=self._cluster.redis.port, socket_timeout=1.0) as client,
        ):
            self._cluster.journal.write("sample", **counters(client, self._cluster.keys))


def counters(client: Redis, keys: Keys) -> dict[str, Any]:
    """What Redis counts at this moment: all of it is 0 or empty when nothing is under way."""
    prefix = keys.prefix
    queues = {key.decode(): client.llen(key) for key in client.scan_iter("tool.*", count=1000)}
    lists = list(client.scan_iter(f"{prefix}:direct:*", count=1000))
    unacked = sum(client.hlen(key) for key in client.scan_iter(f"{prefix}:unacked:*", count=1000))
    in_flight = {
        key.decode().removeprefix(f"{prefix}:calls:"): client.hlen(key)
        for key in client.scan_iter(f"{prefix}:calls:*", count=1000)
    }
    permits = {
        key.decode().removeprefix(f"{prefix}:circuit-permits:"): client.zcard(key)
        for key in client.scan_iter(f"{prefix}:circuit-permits:*", count=1000)
    }
    return {
        "queues": queues,
        "direct": {key.decode(): client.llen(key) for key in lists},
        "nodes": client.zcard(keys.nodes),
        "unacked": unacked,
        "in_flight": {name: value for name, value in in_flight.items() if value},
        "permits": {name: value for name, value in permits.items() if value},
        "leaked": [key for key in leaked_keys(client) if not key.startswith(CELERYS_OWN)],
    }


def hurt(left: dict[str, Any]) -> bool:
    """Whether anything is left; the nodes are to be there."""
    return any(value for name, value in left.items() if name != "nodes")


def dump(client: Redis) -> str:
    """All keys with their values, for people."""
    readers = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"list": lambda key: client.lrange(key, 0, 200),
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, 200, withscores=True),
        b"stream": lambda key: client.xrevrange(key, count=200),
    }
    lines = []
    for key in sorted(client.scan_iter(count=1000)):
        kind = client.type(key)
        lines.append(f"{key.decode()} ({kind.decode()}, ttl {client.pttl(key)}): {readers[kind](key)!r}")
    return "\n".join(lines)

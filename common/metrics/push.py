"""Pushing figures to an OpenTelemetry collector, on a thread of its own: under gevent a greenlet.

Each process pushes what it counted itself. What Redis says of the cluster is the same whoever asks, so it is read and
pushed by one process at a time, the one that has the lease, and always under one identity: it is one series
in the collector, however often the lease changes hands.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable
from typing import Protocol

import structlog
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.resources import Resource

from common.domain.errors import StoreUnavailable
from common.metrics.figures import Figures, Sample
from common.metrics.points import of_cluster, of_process
from common.store.client import Client, store_errors
from common.store.keys import Keys
from common.store.scripts import run
from common.telemetry.plan import CLOSE_TIMEOUT, TELL_EVERY

log = structlog.get_logger(__name__)

LEASE_INTERVALS = 2.5
"""How long the lease lasts: who has it may miss one push, and is followed after two."""


class Exporter(Protocol):
    """Where figures go. Made and used in one thread."""

    def send(self, data: MetricsData) -> bool:
        """Send them; False if they were not taken. It may take its time, and raise anything."""

    def close(self) -> None:
        """Let go of the connection."""


class Cluster:
    """The cluster's figures, as long as it is this process that pushes them."""

    def __init__(
        self, client: Client, keys: Keys, owner: str, read: Callable[[], list[Sample]], interval: float
    ) -> None:
        """``owner`` names this process; ``read`` asks Redis and may raise :class:`StoreUnavailable`."""
        self.instance = f"cluster:{keys.prefix}"
        """The ``service.instance.id`` of what Redis says."""
        self._client = client
        self._lease = keys.figures_lease
        # Containers that share the machine's network share its name, and each has the same process id.
        self._owner = f"{owner}/{secrets.token_hex(4)}"
        self._read = read
        self._life = int(interval * LEASE_INTERVALS * 1000)

    def samples(self) -> list[Sample]:
        """What is to be pushed; nothing if another does it.

        Degrades: while Redis is away nobody has the lease, and each process says ``canalgate_redis_up`` 0 of it.
        """
        try:
            with store_errors("taking the lease of the cluster's figures"):
                mine = run(self._client, "lease_take", [self._lease], [self._owner, self._life])
            return self._read() if mine else []
        except StoreUnavailable as error:
            log.warning("metrics_without_redis", cause=repr(error.__cause__))
            return [("canalgate_redis_up", (), 0.0)]

    def give_back(self) -> None:
        """Another goes on at once. Degrades: if Redis does not take it, the lease runs out."""
        try:
            with store_errors("giving back the lease of the cluster's figures"):
                run(self._client, "lease_release", [self._lease], [self._owner])
        except StoreUnavailable as error:
            log.debug("lease_not_given_back", cause=repr(error.__cause__))


class Reading:
    """What one push has."""

    def __init__(
        self,
        figures: Figures,
        resource_of: Callable[[str], Resource],
        cluster: Cluster | None = None,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        """``resource_of`` an instance's name; ``now`` is the wall clock in ns."""
        self._figures = figures
        self._own = resource_of(figures.process)
        self._cluster = cluster
        self._shared = self._own if cluster is None else resource_of(cluster.instance)
        self._now = now
        self._since = now()

    def take(self, *, last: bool = False) -> MetricsData:
        """This moment's figures; the ``last`` of a process are its own alone, and another pushes the cluster's."""
        wire = self._figures.wire()
        found = [of_process(self._own, wire, since=self._since, now=self._now())]
        if self._cluster is None:
            return MetricsData(found)
        if last:
            self._cluster.give_back()
        elif samples := self._cluster.samples():
            found.append(of_cluster(self._shared, samples, now=self._now()))
        return MetricsData(found)

    def not_taken(self) -> None:
        """The collector did not take it from this process: it may take the cluster's figures from another."""
        if self._cluster is not None:
            self._cluster.give_back()


class Pusher:
    """Reads and sends every ``interval`` seconds, and once more at the end."""

    def __init__(
        self,
        reading: Reading,
        make: Callable[[], Exporter],
        *,
        interval: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """``make`` makes the exporter, in the thread that uses it; ``now`` is a clock."""
        self._reading = reading
        self._make = make
        self._interval = interval
        self._now = now
        self._told = -TELL_EVERY
        self.failed = 0
        """Pushes that the collector did not take, since that was last told."""
        self._closing = threading.Event()
        self._exporter: Exporter | None = None
        # A fork does not push its parent's figures a second time: under gevent the greenlet is copied, and idles there.
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Push once more and end; waits for nothing."""
        if self._is_own():
            self._closing.set()

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """The same, and wait for it, for ``timeout`` seconds at most."""
        self.stop()
        if self._is_own():
            self._thread.join(timeout)

    def _is_own(self) -> bool:
        return os.getpid() == self._pid

    def _run(self) -> None:
        # Whoever instruments the HTTP client as well would make spans of pushing.
        with suppress_instrumentation():
            while not self._closing.wait(self._interval):
                if self._is_own():
                    self._push()
            self._push(last=True)
            if self._exporter is not None:
                self._exporter.close()

    def _push(self, *, last: bool = False) -> None:
        try:
            if self._exporter is None:
                self._exporter = self._make()
            sent = self._exporter.send(self._reading.take(last=last))
        except Exception as error:  # noqa: BLE001 - whatever it is, the next push must be tried
            log.debug("metrics_not_sent", error=repr(error))
            sent = False
        if sent:
            return
        self.failed += 1
        if not last:
            self._reading.not_taken()
        if self._now() - self._told >= TELL_EVERY:
            log.warning("metrics_not_pushed", times=self.failed)
            self._told, self.failed = self._now(), 0

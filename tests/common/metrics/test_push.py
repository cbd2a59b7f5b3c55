"""Pushing figures: what is pushed, by whom, and that neither a collector nor Redis that is away stops anything."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.metrics.export import MetricsData
from redis import Redis

from common.domain.invocation import answer
from common.metrics.exporters import exporter_of, resources
from common.metrics.figures import Figures, Sample
from common.metrics.names import METRICS, OF_CLUSTER, OF_PROCESSES, SECONDS
from common.metrics.push import Cluster, Pusher, Reading
from common.metrics.start import figures_of
from common.settings import Settings
from common.store.client import StoreAddress, connect
from common.store.keys import Keys
from common.telemetry.metrics_plan import MetricsPlan
from common.telemetry.plan import TELL_EVERY
from tests.support.egress import ANYTHING
from tests.support.otlp_collector import Collector, collector
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

KEYS = Keys("push")
CLUSTER = f"cluster:{KEYS.prefix}"
WORKERS: list[Sample] = [("canalgate_workers", (), 2)]


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    with redis_server.client(3) as client:
        client.flushdb()
        yield client


def plan(found: Collector, protocol: str = "otlp_http") -> MetricsPlan:
    return MetricsPlan(
        exporter="otlp_grpc" if protocol == "otlp_grpc" else "otlp_http",
        endpoint=found.grpc_url if protocol == "otlp_grpc" else found.http_url,
        headers={"x-org": "acme"},
        resource={"service.name": "canalgate-web"},
    )


def call(figures: Figures, seconds: float = 0.02) -> None:
    figures.call("a", answer({}), seconds=seconds, waited=0.1, repeated=False)


@pytest.mark.parametrize("protocol", ["otlp_http", "otlp_grpc"])
def test_figures_arrive_by_the_names_and_labels_of_the_page(protocol: str) -> None:
    """Sums that only grow, histograms with their buckets, gauges; each of the process that counted it."""
    with collector() as found:
        figures = Figures("web-1@host")
        for seconds in (0.005, 0.02, 100.0):
            call(figures, seconds)
        figures.count("canalgate_streams", "websocket", by=2)
        wanted = plan(found, protocol)
        exporter = exporter_of(wanted, ANYTHING)()
        assert exporter.send(Reading(figures, resources(wanted)).take())
        exporter.close()
        (calls,) = found.latest("canalgate_calls")
        assert (calls.kind, calls.value, calls.monotonic, calls.cumulative) == ("sum", 3, True, True)
        assert calls.attributes == {"process": "web-1@host", "tool": "a", "outcome": "ok"}
        assert 0 < calls.since < calls.at
        (times,) = found.latest("canalgate_call_duration_seconds")
        assert (times.kind, times.unit, times.value, times.bounds) == ("histogram", "s", 3, SECONDS)
        assert times.sum == pytest.approx(100.025)
        assert [times.buckets[place] for place in (0, 2, len(SECONDS))] == [1, 1, 1]
        (streams,) = found.latest("canalgate_streams")
        assert (streams.kind, streams.value, streams.unit) == ("gauge", 2, "")
        assert {point.instance for point in found.points} == {"web-1@host"}
        assert calls.resource["service.name"] == "canalgate-web"
        assert {headers["x-org"] for headers in found.headers} == {"acme"}


def test_every_metric_there_is_can_be_pushed() -> None:
    """One sample of each, of a process or of the cluster."""
    with collector() as found:
        figures = Figures("p")
        for name, metric in OF_PROCESSES.items():
            labels = tuple("x" for _ in metric.labels)
            if metric.kind == "histogram":
                figures.time(name, 1.0, *labels)
            else:
                figures.count(name, *labels)
        samples = [(name, tuple("x" for _ in metric.labels), 1) for name, metric in OF_CLUSTER.items()]

        class Given(Cluster):
            def __init__(self) -> None:
                """Without a Redis."""
                self.instance = CLUSTER

            def samples(self) -> list[Sample]:
                return list(samples)

        exporter = exporter_of(plan(found), ANYTHING)()
        assert exporter.send(Reading(figures, resources(plan(found)), Given()).take())
        assert {point.name for point in found.points} == set(METRICS)
        labels_of = {point.name: set(point.attributes) for point in found.points}
        for name, metric in METRICS.items():
            assert labels_of[name] == {*metric.labels, *(("process",) if name in OF_PROCESSES else ())}


def points(data: MetricsData) -> dict[str, list[str]]:
    """The metrics of each instance."""
    return {
        str(of.resource.attributes["service.instance.id"]): [
            metric.name for metric in of.scope_metrics[0].metrics
        ]
        for of in data.resource_metrics
    }


def reading(redis: Any, name: str, read: Any = lambda: WORKERS, interval: float = 60) -> Reading:
    return Reading(
        Figures(name),
        resources(MetricsPlan(exporter="otlp_http")),
        Cluster(redis, KEYS, name, read, interval),
    )


def test_one_process_at_a_time_pushes_what_redis_says(redis: Redis) -> None:
    """The others do not even ask; always under one identity; who ends hands it over at once."""
    asked: list[str] = []

    def read(who: str) -> Any:
        return lambda: asked.append(who) or WORKERS

    one, two = reading(redis, "web-1", read("web-1")), reading(redis, "web-2", read("web-2"))
    assert points(one.take()) == {"web-1": [], CLUSTER: ["canalgate_workers"]}
    assert points(two.take()) == {"web-2": []}
    assert CLUSTER in points(one.take())
    assert asked == ["web-1", "web-1"]
    assert points(one.take(last=True)) == {"web-1": []}
    assert CLUSTER in points(two.take())
    assert CLUSTER not in points(one.take())


def test_processes_of_one_name_do_not_both_push_it(redis: Redis) -> None:
    """As of containers that share the network of their machine, and so its name."""
    one, two = reading(redis, "web-7@host"), reading(redis, "web-7@host")
    assert CLUSTER in points(one.take())
    assert CLUSTER not in points(two.take())


def test_a_process_that_died_is_followed_when_its_lease_runs_out(redis: Redis) -> None:
    """It lasts two and a half intervals."""
    reading(redis, "web-1", interval=4).take()
    assert 9_000 < redis.pttl(KEYS.figures_lease) <= 10_000
    two = reading(redis, "web-2")
    assert CLUSTER not in points(two.take())
    redis.delete(KEYS.figures_lease)
    assert CLUSTER in points(two.take())


def test_without_redis_it_says_so() -> None:
    """And pushes its own figures all the same."""
    client = connect(StoreAddress(url="redis://127.0.0.1:1/0", connect_timeout=0.2), size=1)
    data = reading(client, "web-1").take()
    assert points(data)[CLUSTER] == ["canalgate_redis_up"]
    (up,) = data.resource_metrics[1].scope_metrics[0].metrics
    assert [point.value for point in up.data.data_points] == [0]  # type: ignore[union-attr]


class Sent:
    """An exporter that keeps what it is given; refuses while it is ``down``, and takes nothing before it may ``go``."""

    def __init__(self) -> None:
        self.pushes: list[MetricsData] = []
        self.down = self.closed = False
        self.go = threading.Event()
        self.go.set()

    def send(self, data: MetricsData) -> bool:
        """As the pusher's thread calls it."""
        self.go.wait(10)
        if self.down:
            raise ConnectionError("down")
        self.pushes.append(data)
        return True

    def close(self) -> None:
        """As the pusher's thread calls it."""
        self.closed = True


def own(figures: Figures) -> Reading:
    return Reading(figures, resources(MetricsPlan(exporter="otlp_http")))


def test_it_is_pushed_again_and_again_and_a_failure_is_told_of_once_a_minute() -> None:
    """A collector that is back gets what was counted meanwhile: sums are cumulative."""
    sent, now = Sent(), 1000.0
    sent.down = True
    pusher = Pusher(own(Figures("p")), lambda: sent, interval=0.01, now=lambda: now)
    with structlog.testing.capture_logs() as lines:

        def told() -> int:
            return sum(line["event"] == "metrics_not_pushed" for line in lines)

        pusher.start()
        wait_until(lambda: pusher.failed > 3, description="some that failed")
        assert told() == 1
        now += TELL_EVERY
        wait_until(lambda: told() == 2, description="the second line")
        sent.down = False
        wait_until(lambda: len(sent.pushes) > 2, description="pushes")
    pusher.close()
    assert sent.closed


def test_a_collector_that_takes_nothing_from_it_may_take_the_cluster_s_from_another(redis: Redis) -> None:
    """The lease is given back with the push that failed."""
    sent = Sent()
    sent.down = True
    pusher = Pusher(reading(redis, "web-1", interval=60), lambda: sent, interval=0.01)
    pusher.start()
    wait_until(lambda: pusher.failed > 1, description="pushes that failed")
    wait_until(lambda: CLUSTER in points(reading(redis, "web-2").take()), description="the other's turn")
    pusher.close()


def test_a_process_that_ends_pushes_once_more_and_waits_no_longer_than_that() -> None:
    """Nor for ever."""
    sent, figures = Sent(), Figures("p")
    pusher = Pusher(own(figures), lambda: sent, interval=3600)
    pusher.start()
    call(figures)
    pusher.close()
    (push,) = sent.pushes
    assert "canalgate_calls" in points(push)["p"]
    stuck = Sent()
    stuck.go.clear()
    hangs = Pusher(own(figures), lambda: stuck, interval=0.01)
    hangs.start()
    began = time.monotonic()
    hangs.close(timeout=0.1)
    assert time.monotonic() - began < 2
    stuck.go.set()


FORKS = """
import os, sys, time
from common.metrics.start import figures_of, pusher_of
from common.settings import Settings
settings = Settings.model_validate({"telemetry": {
    "metrics_exporter": sys.argv[2], "endpoint": sys.argv[1], "metrics_interval": 0.2}})
figures = figures_of(settings, "parent", "web")
pusher_of(settings, figures, "web").start()
figures.count("canalgate_reloads", "taken")
if os.fork() == 0:
    figures.count("canalgate_reloads", "refused")
    time.sleep(0.6)  # three intervals in which a copied greenlet would push
    sys.exit()
os.wait()
"""


@pytest.mark.parametrize("gevent", [False, True], ids=["threads", "gevent"])
@pytest.mark.parametrize("exporter", ["otlp_http", "otlp_grpc"])
def test_a_fork_pushes_nothing_of_its_parent_s(exporter: str, gevent: bool) -> None:
    """Neither in between nor at its end; the parent goes on, and pushes at its end."""
    patch = "from gevent import monkey; monkey.patch_all()\n" if gevent else ""
    with collector() as found:
        url = found.http_url if exporter == "otlp_http" else found.grpc_url
        command = [sys.executable, "-c", patch + textwrap.dedent(FORKS), url, exporter]
        done = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert {point.attributes["outcome"] for point in found.points} == {"taken"}


def test_what_nobody_reads_is_not_counted() -> None:
    """Neither setting: no figures, and no exporter is loaded."""
    assert figures_of(Settings(), "p", "web") is None
    pushed = Settings.model_validate({"telemetry": {"metrics_exporter": "otlp_http"}})
    assert figures_of(pushed, "p", "web") is not None
    shown = Settings.model_validate({"metrics": {"allowed": ["127.0.0.1"]}})
    assert figures_of(shown, "p", "web") is not None
    code = """
    import sys
    import gateway_web.app, gateway_worker.worker
    off = ("opentelemetry.exporter", "opentelemetry.proto", "common.metrics.p")
    print([name for name in sys.modules if name.startswith(off)])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

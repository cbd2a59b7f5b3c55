"""The page: this process's figures as they are now, those of others as they told them, and what Redis says."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from common.domain.errors import QueueFull, ToolNotFound
from common.domain.ids import NodeId, TenantId, ToolId
from common.domain.invocation import answer, failed, rpc_failure
from common.domain.quota import Quota
from common.domain.tool import StdioTransport, Tool
from common.metrics import figures as module
from common.metrics.figures import Figures
from common.metrics.names import METRICS, OF_PROCESSES
from common.metrics.page import FRESH, Page
from common.metrics.told import EVERY, Teller
from common.registry.registry import Registry
from common.store.client import StoreAddress, connect
from common.store.keys import Keys
from tests.support.egress import ANYTHING
from tests.support.redis import RedisServer

KEYS = Keys("metrics")
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    with redis_server.client(3) as client:
        client.flushdb()
        yield client


def read(page: bytes) -> Samples:
    """Every sample of a page, by its name and labels; each stands there once."""
    found: Samples = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            place = sample.name, frozenset(sample.labels.items())
            assert place not in found
            found[place] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def call(figures: Figures, tool: str = "a", **options: object) -> None:
    figures.call(tool, answer({}), **{"seconds": 0.02, "waited": 3.0, "repeated": False, **options})  # type: ignore[arg-type]


def test_processes_are_told_apart(redis: Redis) -> None:
    """Two of them count the same: neither sum nor mixture, each has its own."""
    one, two = Figures("web-1@host"), Figures("worker1@host")
    call(two)
    call(two, repeated=True)
    Teller(redis, KEYS, two).tick()
    call(one)
    samples = read(Page(redis, KEYS, one).text())
    name = "canalgate_calls_total"
    assert value(samples, name, process="web-1@host", tool="a", outcome="ok") == 1
    assert value(samples, name, process="worker1@host", tool="a", outcome="ok") == 2
    assert value(samples, "canalgate_repeated_calls_total", process="worker1@host", tool="a") == 1


def test_its_own_figures_are_those_of_now(redis: Redis) -> None:
    """Not what it told some seconds ago, and not both."""
    own, clock = Figures("web-1@host"), Clock()
    call(own)
    Teller(redis, KEYS, own).tick()
    page = Page(redis, KEYS, own, clock=clock)
    call(own)
    assert (
        value(read(page.text()), "canalgate_calls_total", process="web-1@host", tool="a", outcome="ok") == 2
    )


def test_a_process_that_is_silent_is_gone(redis: Redis) -> None:
    """Its key ends by itself."""
    Teller(redis, KEYS, Figures("worker1@host")).tick()
    assert 0 < redis.pttl(KEYS.figures("worker1@host")) <= 30_000
    assert 0 < redis.pttl(KEYS.told_figures) <= 30_000
    redis.delete(KEYS.figures("worker1@host"))
    assert b"worker1" not in Page(redis, KEYS, Figures("web-1@host")).text()


def test_it_is_told_every_few_seconds_only(redis: Redis) -> None:
    """The tick comes each second."""
    figures, clock = Figures("p"), Clock()
    teller = Teller(redis, KEYS, figures, clock=clock)
    teller.tick()
    redis.delete(KEYS.figures("p"))
    clock.now += EVERY - 0.1
    teller.tick()
    assert not redis.exists(KEYS.figures("p"))
    clock.now += 0.2
    teller.tick()
    assert redis.exists(KEYS.figures("p"))


def test_times_are_buckets_that_hold_all_below(redis: Redis) -> None:
    """As Prometheus has them; what is beyond the last bound is in +Inf alone."""
    figures = Figures("p")
    for seconds in (0.005, 0.02, 100.0):
        call(figures, seconds=seconds)
    samples = read(Page(redis, KEYS, figures).text())
    name = "canalgate_call_duration_seconds"
    found = [
        value(samples, f"{name}_bucket", process="p", tool="a", le=le)
        for le in ("0.005", "0.025", "60.0", "+Inf")
    ]
    assert found == [1, 2, 2, 3]
    assert value(samples, f"{name}_count", process="p", tool="a") == 3
    assert value(samples, f"{name}_sum", process="p", tool="a") == pytest.approx(100.025)


def test_outcomes_are_words_of_a_bounded_set() -> None:
    """A backend's own codes are not among them, nor what an error's data says beyond a word."""
    figures = Figures("p")
    for result in (
        answer({}),
        answer({"isError": True}),
        rpc_failure({"code": -1234567, "message": "m"}),
        failed(ToolNotFound("no")),
    ):
        figures.call("a", result, seconds=0, waited=0, repeated=False)
    figures.refused("a", QueueFull("full", reason="length"))
    figures.refused("", QueueFull("full", reason="what anybody\nmay say"))
    counted = [(name, labels) for name, labels, _ in figures.wire()["counts"]]
    assert [labels[1] for name, labels in counted if name == "canalgate_calls"] == [
        *("ok", "tool_error", "rpc_error", "TOOL_NOT_FOUND"),
    ]
    refusals = [labels for name, labels in counted if name == "canalgate_refusals"]
    assert refusals == [("a", "QUEUE_FULL", "length"), ("", "QUEUE_FULL", "")]


def test_series_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is beyond is counted together, and nothing is lost."""
    monkeypatch.setattr(module, "MOST_SERIES", 3)
    figures = Figures("p")
    for number in range(10):
        call(figures, str(number))
    counts = {
        labels: number for name, labels, number in figures.wire()["counts"] if name == "canalgate_calls"
    }
    assert counts == {("0", "ok"): 1, ("1", "ok"): 1, ("2", "ok"): 1, ("other", "other"): 7}


def test_tenants_that_have_bounds_are_shown_with_what_they_use(redis: Redis) -> None:
    """Calls at a time of the one that has a bound on them, requests of the one that has a rate."""
    quotas = {TenantId("a"): Quota(max_calls=5), TenantId("b"): Quota(requests_per_minute=60, burst=9)}
    redis.zadd(KEYS.tenant_calls(TenantId("a")), {"1": (redis.time()[0] + 60) * 1000})
    samples = read(Page(redis, KEYS, Figures("p"), quotas=lambda: quotas).text())
    assert value(samples, "canalgate_tenant_calls", tenant="a") == 1
    assert value(samples, "canalgate_tenant_calls_limit", tenant="a") == 5
    assert value(samples, "canalgate_tenant_requests_left", tenant="b") == 9
    assert value(samples, "canalgate_tenant_requests_burst", tenant="b") == 9
    assert value(samples, "canalgate_tenant_calls", tenant="b") is None


def test_what_the_cluster_is_like(redis: Redis) -> None:
    """States are gauges: one of them is 1."""
    Registry(redis, KEYS, ANYTHING).put(
        Tool(id=ToolId("a"), transport=StdioTransport(command="cmd"), max_sessions=7, max_in_flight=5),
        actor="t",
    )
    seconds = redis.time()[0]
    redis.zadd(KEYS.nodes, {NodeId("w@h:1"): (seconds + 5) * 1000, NodeId("gone@h:1"): (seconds - 5) * 1000})
    redis.lpush("tool.a", f'{{"enqueued_at":{(seconds - 9) * 1000},')
    redis.xadd(KEYS.audit, {"kind": "x"})
    samples = read(Page(redis, KEYS, Figures("p")).text())
    states = ("enabled", "disabled", "degraded", "unavailable")
    assert [value(samples, "canalgate_tool_state", tool="a", state=state) for state in states] == [1, 0, 0, 0]
    circuits = ("closed", "open", "half_open")
    assert [value(samples, "canalgate_tool_circuit_state", tool="a", state=state) for state in circuits] == [
        1,
        0,
        0,
    ]
    assert value(samples, "canalgate_tool_sessions_limit", tool="a") == 7
    assert value(samples, "canalgate_calls_in_flight_limit", tool="a") == 5
    assert value(samples, "canalgate_queue_length", tool="a") == 1
    assert 8 <= (value(samples, "canalgate_queue_age_seconds", tool="a") or 0) < 30
    assert value(samples, "canalgate_workers") == 1
    assert value(samples, "canalgate_redis_up") == 1
    assert (value(samples, "canalgate_audit_events") or 0) >= 1


def test_scrapes_one_after_the_other_ask_redis_once(redis: Redis) -> None:
    """Whoever scrapes often costs Redis nothing."""
    clock = Clock()
    page = Page(redis, KEYS, Figures("p"), clock=clock)
    page.text()
    before = redis.info("stats")["total_commands_processed"]
    page.text()
    assert redis.info("stats")["total_commands_processed"] == before + 1  # INFO itself
    clock.now += FRESH + 0.1
    page.text()
    assert redis.info("stats")["total_commands_processed"] > before + 4


def test_without_redis_it_has_its_own_figures() -> None:
    """Scrapes go on, and say that Redis is away."""
    figures = Figures("p")
    call(figures)
    client = connect(StoreAddress(url="redis://127.0.0.1:1/0", connect_timeout=0.2), size=1)
    samples = read(Page(client, KEYS, figures).text())
    assert value(samples, "canalgate_redis_up") == 0
    assert value(samples, "canalgate_calls_total", process="p", tool="a", outcome="ok") == 1


def test_figures_of_another_version_are_left_out(redis: Redis) -> None:
    """During a roll-out processes of two versions tell theirs."""
    other = {
        "process": "w",
        "counts": [["canalgate_unheard_of", [], 1], ["canalgate_calls", ["a"], 1]],
        "times": [],
    }
    redis.set(KEYS.figures("w"), orjson.dumps(other), px=5000)
    redis.zadd(KEYS.told_figures, {"w": 1})
    assert b'process="w"' not in Page(redis, KEYS, Figures("p")).text()


@pytest.mark.parametrize(
    "text",
    [
        b"nonsense",
        b"[]",
        b"null",
        b"{}",
        b'{"process":"w","counts":5,"times":[]}',
        b'{"process":"w","counts":[["canalgate_calls"]],"times":[]}',
        b'{"process":"w","counts":[["canalgate_calls",["a","ok"],null]],"times":[]}',
        b'{"process":"w","counts":[],"times":[["canalgate_call_wait_seconds",["a"],["x"]]]}',
        b'{"process":"w","counts":[["canalgate_call_wait_seconds",["a"],1]],"times":[]}',
        b'{"process":"w","counts":[],"times":[["canalgate_calls",["a","ok"],[1]]]}',
        b"\xff",
    ],
)
def test_figures_that_cannot_be_read_hide_no_others(redis: Redis, text: bytes) -> None:
    """Those of a process of another release, or garbage; the log names whose they are."""
    other = Figures("worker1@host")
    call(other)
    Teller(redis, KEYS, other).tick()
    redis.set(KEYS.figures("w"), text, px=5000)
    redis.zadd(KEYS.told_figures, {"w": 1})
    with structlog.testing.capture_logs() as lines:
        samples = read(Page(redis, KEYS, Figures("p")).text())
    assert (
        value(samples, "canalgate_calls_total", process="worker1@host", tool="a", outcome="ok"),
        [line["process"] for line in lines],
    ) == (1, ["w"])


def test_a_name_that_cannot_be_read_hides_no_figures(redis: Redis) -> None:
    """It is nobody's."""
    Teller(redis, KEYS, Figures("worker1@host")).tick()
    redis.zadd(KEYS.told_figures, {b"\xff": 1})
    assert b"canalgate_redis_up 1.0" in Page(redis, KEYS, Figures("p")).text()


def test_histograms_of_other_bounds_are_left_out(redis: Redis) -> None:
    """What else their process told is shown; the log tells it of those, and not of metrics that are unknown here."""
    wire = {
        "process": "w",
        "counts": [["canalgate_calls", ["a", "ok"], 4]],
        "times": [[f"canalgate_{name}_seconds", ["a"], [1, 2, 3.5]] for name in ("call_wait", "unheard_of")],
    }
    redis.set(KEYS.figures("w"), orjson.dumps(wire), px=5000)
    redis.zadd(KEYS.told_figures, {"w": 1})
    with structlog.testing.capture_logs() as lines:
        samples = read(Page(redis, KEYS, Figures("p")).text())
    assert [(line["process"], line["count"]) for line in lines] == [("w", 1)]
    assert value(samples, "canalgate_calls_total", process="w", tool="a", outcome="ok") == 4
    assert value(samples, "canalgate_call_wait_seconds_count", process="w", tool="a") is None


@pytest.mark.parametrize("raw", ["nonsense", "1 2 3", "{}"])
def test_a_rate_that_cannot_be_read_hides_no_other(redis: Redis, raw: str) -> None:
    """Of that tenant there is none, and the page stands."""
    quotas = {TenantId(name): Quota(requests_per_minute=60, burst=9, max_calls=5) for name in "ab"}
    redis.set(KEYS.tenant_rate(TenantId("a")), raw, px=5000)
    samples = read(Page(redis, KEYS, Figures("p"), quotas=lambda: quotas).text())
    assert value(samples, "canalgate_tenant_requests_left", tenant="a") is None
    assert value(samples, "canalgate_tenant_calls", tenant="a") == 0
    assert value(samples, "canalgate_tenant_requests_left", tenant="b") == 9


def test_no_label_names_a_caller_and_a_tenant_only_where_its_bounds_are_shown() -> None:
    """Labels that grow with the callers would fill Prometheus, and tell who they are."""
    labels = {label for metric in METRICS.values() for label in metric.labels}
    assert labels.isdisjoint({"client", "subject", "session", "invocation"})
    named = {name for name, metric in METRICS.items() if "tenant" in metric.labels}
    assert all(name.startswith("canalgate_tenant_") for name in named)
    assert named.isdisjoint(OF_PROCESSES)

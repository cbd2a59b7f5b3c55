"""C11: the way to Redis is slow, uneven, cut, or swallows a reply. What was written once has its effect once."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random

import pytest

from tests.chaos.cluster import Cluster
from tests.chaos.load import Call
from tests.chaos.mixes import USUAL, everyday
from tests.chaos.plan import Plan
from tests.chaos.scene import Scene
from tests.support.tcp_proxy import TcpProxy

ROUND_TRIPS = 6
"""The most round trips to Redis, one after the other, that a call may take in both programs."""
TOOLS = tuple(replace(tool, fields={**tool.fields, "request_timeout": 30.0}) for tool in USUAL)
"""Time enough for several connections that fell silent, one after the other: no call ends by its deadline."""
ALL = frozenset({"web0", "web1", "worker0", "worker1"})
CODES = ("STORE_UNAVAILABLE", "WORKER_LOST", "unopened")
"""Ends that a broken way to Redis explains: also of a client that could not open its session meanwhile."""


@pytest.fixture
def cluster(scene: Scene) -> Cluster:
    """Every process has a way to Redis of its own.

    The proxy holds back one piece after the other, so an answer may take twice the delay: longer than the 2 s that the
    other scenes give Redis.
    """
    return scene.start(Plan(tools=TOOLS, proxied=ALL, settings={"redis": {"socket_timeout": 5.0}}))


def median(scene: Scene, calls: int = 25) -> float:
    """The seconds of a call in the middle of so many, one after the other."""
    return statistics.median(scene.load.call(Call(tool="web")).seconds for _ in range(calls))


@contextmanager
def delayed(cluster: Cluster, seconds: float) -> Iterator[None]:
    """All answers of Redis come so much later."""
    for proxy in cluster.proxies.values():
        proxy.delay = seconds
    try:
        yield
    finally:
        for proxy in cluster.proxies.values():
            proxy.delay = 0.0


@contextmanager
def uneven(cluster: Cluster, chance: Random, longest: float) -> Iterator[None]:
    """All answers of Redis come later, each way by another time that changes all the while."""
    end = threading.Event()

    def change() -> None:
        while not end.wait(0.03):
            for proxy in cluster.proxies.values():
                proxy.delay = chance.uniform(0, longest)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        with delayed(cluster, 0.0):
            yield
    finally:
        end.set()
        thread.join()
        for proxy in cluster.proxies.values():
            proxy.delay = 0.0


@pytest.mark.parametrize(
    "rounds",
    [
        pytest.param(3, marks=[pytest.mark.chaos_fast, pytest.mark.timeout(180)]),
        pytest.param(60, marks=[pytest.mark.chaos_full, pytest.mark.timeout(1800)]),
    ],
)
def test_a_bad_way(scene: Scene, cluster: Cluster, chance: Random, rounds: int) -> None:
    """Slow, each call takes at most six round trips longer; uneven, none is lost; and then connections break."""
    calm = median(scene)
    for delay, calls in ((0.05, 15), (0.25, 5), (1.0, 2)):
        with delayed(cluster, delay):
            added = median(scene, calls) - calm
        # Not another whole trip; what else the way carries meanwhile may hold one up for a part of its time.
        assert added <= (ROUND_TRIPS + 0.75) * delay + 0.05, f"{delay} s each way cost a call {added:.2f} s"
    scene.load.run(everyday(TOOLS), rate=15)
    with uneven(cluster, chance, 0.3):
        scene.answered_more(40, timeout=60)
    scene.expect_codes()
    for _ in range(rounds):
        for fault in chance.sample(["cut", "swallow", "silent"], 3):
            break_way(cluster.proxies[chance.choice(sorted(ALL))], fault)
            scene.answered_more(15 + chance.randrange(10), timeout=25)
    scene.judge()
    scene.expect_codes(*CODES)


def break_way(proxy: TcpProxy, fault: str) -> None:
    """Cut the connections, silence them, or lose one reply of which nobody knows whether it was done."""
    if fault == "cut":
        proxy.cut()
    elif fault == "swallow":
        proxy.swallow_next_reply()
    else:
        proxy.black_hole()

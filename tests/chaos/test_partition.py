"""C16: a worker, or a web process, is cut off from Redis: both ways, one way, again and again.

The worker that is cut off stops using its sessions before its lease ends; no session has two owners; all is well within
five seconds after it heals.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.chaos.cluster import Cluster
from tests.chaos.load import Call
from tests.chaos.mixes import TWICE, everyday
from tests.chaos.netns import Namespace
from tests.chaos.plan import Plan, ToolPlan
from tests.chaos.scene import Scene
from tests.support.wait import wait_until

SELF_FENCE, LEASE = 6.0, 8.0
HEALED_WITHIN = 5.0
STEADY = ToolPlan(
    name="steady", fields={"request_timeout": 30.0, "max_in_flight_per_session": 1, "circuit_failures": 1000}
)
"""One call of a session at a time: what its worker holds beside, it would go on sending while it is cut off."""

TOOLS = (STEADY, TWICE)


@pytest.fixture
def space() -> Iterator[Namespace]:
    """A network of its own for one process."""
    with Namespace() as space:
        yield space


@pytest.mark.parametrize(
    ("seconds", "one_way"),
    [
        pytest.param(12.0, False, marks=[pytest.mark.chaos_fast, pytest.mark.timeout(150)]),
        *(
            pytest.param(seconds, one_way, marks=[pytest.mark.chaos_full, pytest.mark.timeout(300)])
            for seconds in (5.0, 30.0, 90.0)
            for one_way in (False, True)
        ),
    ],
)
def test_a_worker_is_cut_off(scene: Scene, space: Namespace, seconds: float, one_way: bool) -> None:
    """It holds ten seconds of work of one session, all of it at hand, when it is cut off; before, it flaps."""
    cluster = scene.start(Plan(tools=TOOLS, namespaces={"worker0": space}))
    flap(scene, space)
    client = owned_by(scene, "worker0")
    waiting = [scene.load.begin(work(client)) for _ in range(14)]
    scene.wait_backend("got", len(scene.backend_events("got")) + 1)
    scene.load.run(everyday(TOOLS), rate=10)
    (space.cut_one_way if one_way else space.cut)()
    cut = time.monotonic()
    wait_until(
        lambda: time.monotonic() > cut + seconds, timeout=seconds + 5, description="the end of the cut"
    )
    space.heal()
    healed = time.monotonic()
    if seconds > LEASE + 4:
        assert all(future.done() or future.result(30).outcome for future in waiting)
    wait_until(lambda: back(cluster, "worker0"), timeout=HEALED_WITHIN + 5, description="worker0 to be back")
    took = time.monotonic() - healed
    assert took < HEALED_WITHIN, f"it was back {took:.1f} s after the cut was healed"
    scene.answered_more(10, timeout=HEALED_WITHIN)
    late = used_late(scene, client, cut)
    assert not late, f"worker0 used its session {late[-1] - cut:.1f} s after it was cut off"
    scene.judge()
    scene.expect_codes("WORKER_LOST", "TRANSPORT_FAILURE")


@pytest.mark.chaos_fast
@pytest.mark.timeout(150)
def test_a_web_process_is_cut_off(scene: Scene, space: Namespace) -> None:
    """It says that the store does not answer; the other serves; both serve when it is healed."""
    cluster = scene.start(Plan(tools=(TWICE,), namespaces={"web1": space}))
    scene.load.run(everyday((TWICE,)), rate=15)
    scene.answered_more(20)
    space.cut_one_way()
    cut = time.monotonic()
    refused = scene.load.call(Call(tool="twice", web=1, leave=True, deadline=TWICE.deadline))
    assert refused.code == "STORE_UNAVAILABLE", refused
    assert refused.seconds < 8.0
    assert all(scene.load.call(Call(tool="twice", web=0, leave=True)).good for _ in range(10))
    wait_until(lambda: time.monotonic() > cut + 8, timeout=20, description="the end of the cut")
    space.heal()
    healed = time.monotonic()
    wait_until(
        lambda: scene.load.call(Call(tool="twice", web=1, leave=True, deadline=TWICE.deadline)).good,
        timeout=20,
        description="web1 to serve again",
    )
    assert time.monotonic() - healed < HEALED_WITHIN
    assert len(cluster.webs) == 2
    scene.judge()
    scene.expect_codes("STORE_UNAVAILABLE", "unopened")


def flap(scene: Scene, space: Namespace) -> None:
    """Cut off and back every two seconds, six times: shorter than the lease, so nothing is taken from it."""
    scene.load.run(everyday((TWICE,)), rate=15)
    scene.answered_more(20)
    for number in range(6):
        begun = time.monotonic()
        if number % 2:
            space.heal()
        else:
            space.cut()
        wait_until(lambda begun=begun: time.monotonic() > begun + 2, description="two seconds")  # type: ignore[misc]
    space.heal()
    scene.answered_more(30, timeout=HEALED_WITHIN + 5)
    scene.load.finish()
    scene.expect_codes("WORKER_LOST")


def work(client: str) -> Call:
    """A second of a session's time."""
    return Call(tool="steady", client=client, ms=900, deadline=STEADY.deadline)


def owned_by(scene: Scene, name: str) -> str:
    """A client whose session at the tool ``steady`` is a worker's."""
    for number in range(40):
        ended = scene.load.call(Call(tool="steady", client=f"p{number}", deadline=STEADY.deadline))
        assert ended.good, ended
        if scene.owner(ended.id).name == name:
            return f"p{number}"
    raise AssertionError(f"{name} owns none of 40 sessions")


def back(cluster: Cluster, name: str) -> bool:
    """Whether a worker has a lease that lasts."""
    with cluster.client() as client:
        seconds, micros = client.time()  # type: ignore[misc]
        now = seconds * 1000 + micros // 1000
        return any(
            node.decode().startswith(name) and end > now + 7000
            for node, end in client.zrange(cluster.keys.nodes, 0, -1, withscores=True)
        )


def used_late(scene: Scene, client: str, cut: float) -> list[float]:
    """When the session's first backend was used after its owner had to stop."""
    calls = [event for event in scene.backend_events("got") if event["client"] == client]
    first = calls[0]["marker"]
    return [
        event["at"]
        for event in calls
        if event["marker"] == first and cut + SELF_FENCE + 0.2 < event["at"] < cut + LEASE + 4
    ]

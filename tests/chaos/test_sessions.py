"""Sessions without faults: who has which, how many there may be, and how they end. Two workers, two web processes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from common.domain.ids import ToolId
from common.registry.lifecycle import Lifecycle
from common.registry.registry import Registry
from tests.chaos.load import Call, Ended
from tests.chaos.plan import Plan, ToolPlan
from tests.chaos.scene import Scene
from tests.support.servers.peer import Json
from tests.support.wait import wait_until

pytestmark = [pytest.mark.chaos_fast, pytest.mark.timeout(120)]


def together(scene: Scene, calls: Sequence[Call]) -> list[Ended]:
    """Make calls at the same time, and wait for their ends."""
    return [future.result(60) for future in [scene.load.begin(call) for call in calls]]


def markers(scene: Scene) -> Counter[str]:
    """How many calls each session of a backend got."""
    return Counter(event["marker"] for event in scene.backend_events("got"))


def most_at_once(events: Sequence[Json], of: Callable[[Json], Any] = lambda _: None) -> int:
    """The most calls that were at a backend at the same time; ``of`` tells apart what is counted apart."""
    running: Counter[Any] = Counter()
    most = 0
    for event in sorted(events, key=lambda event: event["at"]):
        running[of(event)] += 1 if event["event"] == "got" else -1
        most = max(most, running[of(event)])
    return most


def children(scene: Scene) -> int:
    """Living children of workers."""
    return len(scene.cluster.children())


def test_a_caller_has_one_session_whoever_fetches(scene: Scene) -> None:
    """Twenty calls, ten at a time, over both web processes: one child, on one worker; another client has another."""
    scene.start(Plan(tools=(ToolPlan(name="a"),)))
    ended = together(scene, [Call(tool="a", web=n % 2, ms=50) for n in range(20)])
    assert all(call.good for call in ended)
    assert len(markers(scene)) == 1
    assert scene.load.call(Call(tool="a", client="b")).good
    assert sorted(markers(scene).values()) == [1, 20]
    scene.judge()


def test_each_mcp_session_has_its_own(scene: Scene) -> None:
    """With ``affinity: mcp_session`` thirty sessions that nobody closes leave no child behind once they are idle."""
    fields = {"affinity": "mcp_session", "idle_timeout": 2.0}
    scene.start(Plan(tools=(ToolPlan(name="a", fields=fields),)))
    calls = [Call(tool="a", era="legacy", reset=True, client="ab"[n % 2]) for n in range(30)]
    assert all(call.good for call in together(scene, calls))
    assert len(markers(scene)) == 30
    wait_until(lambda: children(scene) == 0, timeout=20, description="the idle children to end")
    sessions = scene.cluster.keys.sessions(ToolId("a"))
    with scene.cluster.client() as redis:
        wait_until(lambda: redis.hlen(sessions) == 0, description="the sessions to be free")


def test_a_cap_refuses_new_sessions_and_never_calls_of_living_ones(scene: Scene) -> None:
    """``max_sessions`` of a tool, exact with ten callers at once; a tenant's over its tools."""
    tools = (ToolPlan(name="a", fields={"max_sessions": 3}), ToolPlan(name="b"), ToolPlan(name="c"))
    scene.start(
        Plan(
            tools=tools,
            settings={"tenants": {"listed": ["acme", {"id": "umbra", "max_sessions": 1}]}},
        )
    )
    ended = together(scene, [Call(tool="a", client=f"c{n}", web=n % 2) for n in range(10)])
    assert Counter(call.code for call in ended) == {None: 3, "SESSION_LIMIT": 7}
    assert len(markers(scene)) == 3
    living = [n for n, call in enumerate(ended) if call.good]
    again = together(scene, [Call(tool="a", client=f"c{n}") for n in living * 3])
    assert all(call.good for call in again)
    assert scene.load.call(Call(tool="b", tenant="umbra")).good
    assert scene.load.call(Call(tool="c", tenant="umbra")).code == "SESSION_LIMIT"
    assert scene.load.call(Call(tool="b", tenant="umbra")).good
    scene.judge()


def test_a_pool_shares_its_sessions_by_load(scene: Scene) -> None:
    """``least_loaded``: thirty calls of ten callers on three sessions in the whole cluster, ten on each."""
    fields = {"routing": "least_loaded", "pool_size": 3}
    scene.start(Plan(tools=(ToolPlan(name="a", fields=fields),)))

    def full() -> bool:
        """One worker may take its share at once, and the rest a second later."""
        together(scene, [Call(tool="a", client=f"c{n}", ms=500) for n in range(3)])
        return len(markers(scene)) == 3

    wait_until(full, description="a full pool")
    before = markers(scene)
    calls = [Call(tool="a", client=f"c{n % 10}", web=n % 2, ms=1500) for n in range(30)]
    assert all(call.good for call in together(scene, calls))
    assert sorted((markers(scene) - before).values()) == [10, 10, 10]
    scene.judge()
    with scene.cluster.client() as redis:
        assert redis.hgetall(scene.cluster.keys.session_calls(ToolId("a"))) == {}


def test_calls_in_flight_are_bounded(scene: Scene) -> None:
    """``max_in_flight`` over the cluster, ``max_in_flight_per_session`` at each session; the others wait."""
    tools = (
        ToolPlan(name="a", fields={"max_in_flight": 2}),
        ToolPlan(name="b", fields={"max_in_flight_per_session": 1}),
    )
    scene.start(Plan(tools=tools))
    calls = [Call(tool="ab"[n % 2], client="xyz"[n % 3], ms=100) for n in range(36)]
    assert all(call.good for call in together(scene, calls))
    events = [*scene.backend_events("got"), *scene.backend_events("done")]
    narrow = [event for event in events if event["tool"] == "a"]
    assert most_at_once(narrow) == 2
    shared = [event for event in events if event["tool"] == "b"]
    assert most_at_once(shared, lambda event: event["marker"]) == 1
    assert most_at_once(shared) == 3
    scene.judge()


def test_sessions_end_by_age_and_by_idleness(scene: Scene) -> None:
    """A session older than ``max_session_age`` gets no further call; one without calls ends after ``idle_timeout``."""
    tools = (
        ToolPlan(name="old", fields={"max_session_age": 1.0, "idle_timeout": 1.0}),
        ToolPlan(name="idle", fields={"idle_timeout": 1.0}),
    )
    scene.start(Plan(tools=tools))
    assert scene.load.call(Call(tool="old", ms=1500)).good
    assert scene.load.call(Call(tool="old")).good
    assert len(markers(scene)) == 2
    assert scene.load.call(Call(tool="idle")).good
    wait_until(lambda: children(scene) == 0, timeout=15, description="all of them to end")
    assert scene.load.call(Call(tool="idle")).good
    scene.judge()


def test_the_idlest_session_ends_for_a_new_one(scene: Scene) -> None:
    """``worker.max_sessions``: with two sessions a worker, the third caller's takes the place of the idlest."""
    scene.start(Plan(tools=(ToolPlan(name="a"),), workers=1, settings={"worker": {"max_sessions": 2}}))
    for client in ("x", "y", "x", "z"):
        assert scene.load.call(Call(tool="a", client=client)).good
    wait_until(lambda: children(scene) == 2, timeout=15, description="the idlest to end")
    assert scene.load.call(Call(tool="a", client="x")).good
    assert Counter(event["client"] for event in scene.backend_events("got")) == {"x": 3, "y": 1, "z": 1}
    assert len(markers(scene)) == 3
    scene.judge()


def test_a_drained_tool_goes_on_with_its_sessions_only(scene: Scene) -> None:
    """Existing sessions are served, new ones refused, until it is undrained; then it is drained when they are idle."""
    scene.start(Plan(tools=(ToolPlan(name="a", fields={"idle_timeout": 3.0}),)))
    assert scene.load.call(Call(tool="a")).good
    with scene.cluster.client() as redis:
        lifecycle = Lifecycle(redis, scene.cluster.keys)
        lifecycle.drain(ToolId("a"), actor="test")
        numbers = itertools.count()
        wait_until(
            lambda: scene.load.call(Call(tool="a", client=f"new{next(numbers)}")).code == "TOOL_DRAINING",
            description="new sessions to be refused",
        )
        assert scene.load.call(Call(tool="a")).good
        assert lifecycle.wait_drained(ToolId("a"), timeout=15).sessions == 0
        assert scene.load.call(Call(tool="a")).code == "TOOL_DRAINING"
        lifecycle.undrain(ToolId("a"), actor="test")
        wait_until(lambda: scene.load.call(Call(tool="a", client="new")).good, description="new sessions")
    scene.judge()


def test_a_changed_or_removed_tool_ends_its_sessions_behind_their_calls(scene: Scene) -> None:
    """A call in flight ends as it began; the next has a session of the present definition; removed, none is left."""
    scene.start(Plan(tools=(ToolPlan(name="a"),)))
    running = scene.load.begin(Call(tool="a", ms=2000))
    scene.wait_backend("got")
    with scene.cluster.client() as redis:
        registry = Registry(redis, scene.cluster.keys)
        registry.update(ToolId("a"), lambda tool: replace(tool, description="another"))
        wait_until(
            lambda: scene.load.call(Call(tool="a")).good and len(markers(scene)) == 2,
            description="a session of the new definition",
        )
        assert running.result(10).good
        wait_until(lambda: children(scene) == 1, timeout=15, description="the session of the old one to end")
        before = len(scene.backend_events("got"))
        last = scene.load.begin(Call(tool="a", ms=2000))
        wait_until(lambda: len(scene.backend_events("got")) > before, description="the last call")
        registry.remove(ToolId("a"))
        assert last.result(10).good
        wait_until(lambda: children(scene) == 0, timeout=15, description="no child")
        sessions = scene.cluster.keys.sessions(ToolId("a"))
        wait_until(lambda: redis.hlen(sessions) == 0, description="the session to be free")


def test_what_waits_for_a_removed_tool_is_told_so(scene: Scene) -> None:
    """The one in flight ends, the others are refused at once, long before their deadline."""
    scene.start(Plan(tools=(ToolPlan(name="a", fields={"max_in_flight": 1}),)))
    running = scene.load.begin(Call(tool="a", ms=1500))
    scene.wait_backend("got")
    waiting = [scene.load.begin(Call(tool="a", client="ab"[n % 2])) for n in range(6)]
    wait_until(lambda: scene.cluster.waiting() == 6, description="the others to wait")
    with scene.cluster.client() as redis:
        Registry(redis, scene.cluster.keys).remove(ToolId("a"))
    assert running.result(15).good
    assert {call.result(15).code for call in waiting} == {"TOOL_NOT_FOUND"}
    assert max(call.result(0).seconds for call in waiting) < 8


def test_a_worker_that_leaves_hands_its_sessions_over(scene: Scene) -> None:
    """SIGTERM: the call in flight ends there, the next is served by the other worker at once."""
    cluster = scene.start(Plan(tools=(ToolPlan(name="a"),), supervised=False))
    running = scene.load.begin(Call(tool="a", id="long", ms=2000))
    owner = scene.owner("long")
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(owner.terminate)
        wait_until(lambda: "draining" in owner.output(), description="the worker to take no more")
        waiting = scene.load.begin(Call(tool="a", id="next"))
        assert running.result(15).good
        assert waiting.result(15).good
        assert ended.result(30) == 0
    assert scene.owner("next") is not owner
    assert len(cluster.children()) == 1

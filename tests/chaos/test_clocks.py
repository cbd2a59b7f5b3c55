"""C15: clocks that are wrong, and one that steps back while it runs: only Redis' clock and the monotonic one count."""

from __future__ import annotations

import pytest

from tests.chaos.load import Call
from tests.chaos.mixes import USUAL, everyday
from tests.chaos.plan import Plan, ToolPlan
from tests.chaos.scene import Scene

HOUR = 3600.0
SHORT = ToolPlan(name="short", fields={"request_timeout": 3.0, "circuit_failures": 1000})


@pytest.mark.chaos_fast
@pytest.mark.timeout(150)
def test_wrong_clocks(scene: Scene) -> None:
    """One web process an hour ahead, one worker an hour behind, another worker steps back by ten minutes.

    No lease ends early, no deadline is missed or forgotten, and no call goes wrong.
    """
    tools = (*USUAL, SHORT)
    cluster = scene.start(Plan(tools=tools, skewed=frozenset({"web0", "worker0", "worker1"})))
    scene.load.run(everyday(), rate=25)
    scene.answered_more(25)
    cluster.set_skew("web0", HOUR)
    cluster.set_skew("worker0", -HOUR)
    scene.answered_more(60)
    cluster.set_skew("worker1", -600.0)
    scene.answered_more(60)
    hanging = [
        scene.load.begin(Call(tool="short", action="hang", client=client, web=web, deadline=3.0))
        for web in (0, 1)
        for client in "abc"
    ]
    for ended in (future.result(30) for future in hanging):
        assert ended.code == "INVOCATION_TIMEOUT", ended
        assert 2.5 < ended.seconds < 5.0, ended
    assert set(scene.codes()) <= {"answered", "FORBIDDEN", "INVOCATION_TIMEOUT"}
    cluster.kill(cluster.workers[1])  # the survivor, an hour behind, ends its lease neither early nor late
    cluster.set_skew("web0", 0.0)
    cluster.wait_ready()
    scene.answered_more(60)
    scene.judge()
    scene.expect_codes("INVOCATION_TIMEOUT", "WORKER_LOST")
    assert scene.codes()["INVOCATION_TIMEOUT"] == 6

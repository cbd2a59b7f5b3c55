"""C13: kill -9 of a web process with calls and streams on it."""

from __future__ import annotations

import pytest

from tests.chaos.load import Call, Ended
from tests.chaos.mixes import USUAL, everyday
from tests.chaos.plan import Plan
from tests.chaos.scene import Scene
from tests.support.history import History
from tests.support.wait import wait_until

GONE_WITHIN = 30.0
STARTING = ("TOOL_UNAVAILABLE", "unopened")
"""Ends at a web process that listens and has not read the registry yet."""


@pytest.mark.parametrize(
    "many",
    [
        pytest.param(40, marks=[pytest.mark.chaos_fast, pytest.mark.timeout(120)]),
        pytest.param(200, marks=[pytest.mark.chaos_full, pytest.mark.timeout(240)]),
    ],
)
def test_a_web_process_dies(scene: Scene, many: int) -> None:
    """The other process notices nothing; the workers finish what was begun; all counters go back."""
    cluster = scene.start(Plan(tools=USUAL, slots=2 * many + 50))
    for tool in USUAL:  # their sessions stand, and the circuits have nothing to say about it
        for client in "abcd":
            assert scene.load.call(Call(tool=tool.name, client=client)).good
    scene.load.run(everyday(), rate=10)
    before = len(scene.backend_events("got"))
    doomed = [
        scene.load.begin(
            Call(tool=USUAL[number % 2 * 2].name, client="abcd"[number % 4], web=0, ms=4000, steps=steps)
        )
        for steps in (0, 8)
        for number in range(many)
    ]
    scene.wait_backend("got", before + 2 * many, timeout=30)
    beside = [scene.load.begin(Call(tool="web", web=1, ms=3000)) for _ in range(5)]
    cluster.kill(cluster.webs[0])
    ends: list[Ended] = [future.result(30) for future in doomed]
    assert {end.outcome for end in ends} == {"closed"}
    assert all(future.result(30).good for future in beside)
    wait_until(
        lambda: all(finished(scene, end.id) for end in ends), timeout=GONE_WITHIN, description="their ends"
    )
    history = scene.judge(quiet=GONE_WITHIN)
    scene.expect_codes("closed", *STARTING)
    assert closed_streams(history) >= 2 * many


def finished(scene: Scene, call: str) -> bool:
    """Whether the backend finished a call."""
    return bool(scene.backend_events("done", call))


def closed_streams(history: History) -> int:
    """Calls whose stream was closed."""
    return sum(end.outcome == "closed" for end in history.ended)

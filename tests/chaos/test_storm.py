"""The storms: 3,000 calls in CI, C24 with 20,000 by hand. Faults by chance; then quiet, and nothing is left."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from tests.chaos.load import Call, Mix
from tests.chaos.mixes import NARROW, PLAIN, POOL, TOXIC, TWICE, WEB, everyday
from tests.chaos.plan import Plan
from tests.chaos.scene import Scene
from tests.chaos.storm import Storm
from tests.support.wait import wait_until

TOOLS = tuple(
    replace(tool, fields={**tool.fields, "idle_timeout": 15.0})
    for tool in (PLAIN, TWICE, WEB, POOL, NARROW, TOXIC)
)
LEAVING = 0.02
"""The share of modern callers who go away in the middle."""
ENDS = (
    *(
        "WORKER_LOST",
        "STORE_UNAVAILABLE",
        "TRANSPORT_FAILURE",
        "INVOCATION_TIMEOUT",
        "QUEUE_FULL",
        "TOOL_UNAVAILABLE",
    ),
    *("SESSION_NOT_FOUND", "CIRCUIT_OPEN", "closed", "left", "unopened", "unreachable"),
)


@pytest.mark.parametrize(
    ("calls", "rate", "within"),
    [
        pytest.param(3000, 50, 150, id="small", marks=[pytest.mark.chaos_fast, pytest.mark.timeout(300)]),
        pytest.param(20_000, 80, 330, id="full", marks=[pytest.mark.chaos_full, pytest.mark.timeout(600)]),
    ],
)
def test_storm(scene: Scene, chance: Random, calls: int, rate: float, within: float) -> None:
    """Two web processes, three workers. How many calls are answered is the machine's affair, but some are."""
    scene.start(Plan(tools=TOOLS, workers=3))
    scene.load.run(stormy(), rate=rate, most=calls)
    storm = Storm(scene, chance)
    storm.rage(lambda: scene.load.sending, most=within)
    scene.cluster.wait_ready()
    for tool in TOOLS:
        # What waited behind the last absence of Redis may still be too old for one more.
        wait_until(
            lambda tool=tool: (
                scene.load.call(Call(tool=tool.name, client="after", deadline=tool.deadline)).good
            ),
            description=f"{tool.name} to be called again",
        )
    scene.judge(quiet=60, children=0)
    scene.expect_codes(*ENDS)
    assert scene.codes()["answered"] > calls / 20


def stormy() -> Mix:
    """The usual calls, some of whose callers go away."""
    usual = everyday(TOOLS[:5])

    def mix(chance: Random) -> Call:
        call = usual(chance)
        if call.era == "modern" and call.allowed and chance.random() < LEAVING:
            return replace(call, leave_after=chance.uniform(0.01, 0.5), reset=chance.random() < 0.5)
        return call

    return mix

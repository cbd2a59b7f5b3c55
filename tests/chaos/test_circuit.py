"""C22: a backend that works and fails in turn. Its circuit opens, and in the whole cluster one call at a time tries."""

from __future__ import annotations

import time
from random import Random

import pytest

from tests.chaos.load import Call
from tests.chaos.mixes import WEB
from tests.chaos.plan import Plan, ToolPlan
from tests.chaos.scene import Scene
from tests.support.wait import wait_until

FLAPPY = ToolPlan(
    name="flappy",
    http=True,
    fields={
        "request_timeout": 5.0,
        "circuit_failures": 3,
        "circuit_open_for": 1.0,
        "circuit_probes": 1,
        "health_interval": 0,
        "retry": "never",
    },
)
EVERY = 7.0


def flapping(chance: Random) -> Call:
    """A call that takes long enough for another to come beside it."""
    return Call(tool="flappy", client=chance.choice("abcd"), ms=chance.choice((100, 300)), deadline=5.0)


@pytest.mark.parametrize(
    "flaps",
    [
        pytest.param(1, marks=[pytest.mark.chaos_fast, pytest.mark.timeout(150)]),
        pytest.param(40, marks=[pytest.mark.chaos_full, pytest.mark.timeout(1200)]),
    ],
)
def test_a_backend_flaps(scene: Scene, chance: Random, flaps: int) -> None:
    """Two web processes and four workers: never two tries at a time, and calls pass soon after it works again."""
    cluster = scene.start(Plan(tools=(FLAPPY, WEB), workers=4))
    scene.load.run(flapping, rate=40)
    scene.answered_more(40)
    for _ in range(flaps):
        for word in ("down", "up"):
            cluster.set_backend("flappy", word)
            turned, answered = time.monotonic(), scene.load.answered
            wait_until(lambda turned=turned: time.monotonic() > turned + EVERY, description="its turn")  # type: ignore[misc]
            if word == "up":
                assert scene.load.answered > answered + 40, "few calls passed although it worked"
    scene.load.finish()
    assert scene.codes()["CIRCUIT_OPEN"] > 40 * flaps
    holder_dies(scene, chance)
    scene.judge()
    scene.expect_codes("CIRCUIT_OPEN", "TRANSPORT_FAILURE", "WORKER_LOST")


def holder_dies(scene: Scene, chance: Random) -> None:
    """A worker dies with the only permit: it comes back, and the circuit closes again."""
    cluster = scene.cluster
    wait_until(lambda: scene.load.call(Call(tool="flappy")).good, timeout=15, description="a closed circuit")
    cluster.set_backend("flappy", "down")
    wait_until(
        lambda: scene.load.call(Call(tool="flappy")).code == "CIRCUIT_OPEN", description="an open circuit"
    )
    cluster.set_backend("flappy", "up")
    wait_until(lambda: permit_taken(scene), timeout=15, description="a permit")
    cluster.kill(cluster.program(str(cluster.holder_of("tool.flappy"))))
    died = time.monotonic()
    wait_until(
        lambda: scene.load.call(Call(tool="flappy", client=chance.choice("abcd"))).good,
        timeout=30,
        description="the circuit to close",
        interval=0.2,
    )
    assert time.monotonic() - died < 20


def permit_taken(scene: Scene) -> bool:
    """Whether a call that takes long tries the half-open circuit now."""
    waiting = scene.load.begin(Call(tool="flappy", client="t", ms=3000))
    wait_until(
        lambda: waiting.done() or scene.cluster.holder_of("tool.flappy"),
        timeout=5,
        description="what becomes of it",
    )
    return not waiting.done()
